/* The load of the HTTP/2 cases: a closed loop over connections with several streams each, one thread.
 *
 *     calls PORT get|unary|bidi|send CONNECTIONS STREAMS SECS CERT|- KEY|- 'name: value'...
 *
 * get    each stream is a request; 1 KiB must come back with status 200
 * unary  each stream is a gRPC call with one small message (or what `@send` says), which must come back, with status 200 and
 *        grpc-status 0
 * bidi   each stream stays open and sends its next message when the last one has come back; at the end all are ended in peace
 * send   each stream is a request by POST of what a file holds, to a path, and what another file holds must come back: exactly
 *        that, or with trailers a frame of gRPC-Web's behind it. Four fields that no one is sent say so: `@path`, `@send`,
 *        `@expect`, and perhaps `@trailers: 1`
 *
 * A field whose value is `*` gets another number in each request. With a certificate the connections are TLS 1.3, one cipher
 * suite for all contenders, ALPN h2. Prints one line of JSON; an answer that is not as it must be, and every stream that was
 * reset or lost, is an error. Waits for what is under way when the time is up, and counts it.
 *
 * The few functions of OpenSSL and nghttp2 (only its reader of field blocks) are declared here, as their ABI has them, so that
 * no headers are needed to build this.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "h2.h"

void *TLS_client_method(void), *SSL_CTX_new(const void *), *SSL_new(void *);
int SSL_CTX_use_certificate_chain_file(void *, const char *), SSL_CTX_use_PrivateKey_file(void *, const char *, int);
long SSL_CTX_ctrl(void *, int, long, void *);
int SSL_CTX_set_ciphersuites(void *, const char *), SSL_CTX_set_alpn_protos(void *, const unsigned char *, unsigned int);
int SSL_set_fd(void *, int), SSL_connect(void *), SSL_read(void *, void *, int), SSL_write(void *, const void *, int);
int SSL_get_error(const void *, int);
enum { SET_MODE = 33, SET_MIN_PROTO_VERSION = 123, TLS_1_3 = 0x0304, PEM = 1, PARTIAL_AND_MOVING = 3, WANT_READ = 2, WANT_WRITE = 3 };
#define SUITE "TLS_AES_256_GCM_SHA384"

struct pair { /* nghttp2_nv */
    uint8_t *name, *value;
    size_t name_length, value_length;
    uint8_t flags;
};
int nghttp2_hd_inflate_new(void **), nghttp2_hd_inflate_end_headers(void *);
long nghttp2_hd_inflate_hd2(void *, struct pair *, int *, const uint8_t *, size_t, int);
enum { INFLATED_ALL = 1, INFLATED_ONE = 2 };

enum { READ = 256 * 1024, BATCH = 64, SMALL = 1024, NUMBERS = 1000, BUCKET_US = 10, BUCKETS = 1000000, TOO_MANY = 1000 };
static const unsigned char message[] = "\0\0\0\0\x40" "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
enum { MESSAGE = sizeof message - 1 };
enum kind { GET, UNARY, BIDI, SEND };
struct body {
    const unsigned char *at;
    size_t length;
};

struct call {
    unsigned int stream; /* 0: none here */
    char status[4], grpc_status[4];
    size_t got, to_send;
    int differs, trailers; /* from what was expected; came behind it */
    double began;
    char said[160]; /* what came instead, where it differs */
};

struct connection {
    int fd, waits_to_write;
    void *tls, *inflater;
    struct octets out;
    size_t written;
    struct windows windows;
    struct table table;
    unsigned int next_stream;
    struct call calls[SLOTS];
    size_t have;
    unsigned char in[READ];
};

static enum kind kind;
static const char *path;
static struct body sent = {message, MESSAGE}, expected = {message, MESSAGE};
static int field_count, with_trailers;
static char *names[FIELDS], *values[FIELDS], authority[32];
static long finished, errors, under_way, number;
static unsigned int latencies[BUCKETS];
static double ends_at, last_done;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "calls: %s\n", what);
    exit(1);
}

/* -- calls ------------------------------------------------------------------------------------------------------------- */

static void put_literal(struct octets *to, const char *name, const char *value) /* one that stays out of the table */
{
    put(to, "\0", 1);
    put_string(to, name);
    put_string(to, value);
}

static void put_request(struct connection *c, unsigned int stream)
{
    size_t at = c->out.have;
    put_frame(&c->out, 0, HEADERS, END_HEADERS | (kind == GET ? END_STREAM : 0), stream);
    put(&c->out, kind == GET ? "\x82" : "\x83", 1);  /* :method GET, POST */
    put(&c->out, c->tls ? "\x87" : "\x86", 1);       /* :scheme https, http */
    put_field(&c->out, &c->table, 0, ":authority", authority);
    put_field(&c->out, &c->table, 1, ":path", path);
    for (int i = 0; i < field_count; i++) {
        char fresh[16];
        if (strcmp(values[i], "*")) {
            put_field(&c->out, &c->table, i + 2, names[i], values[i]);
        } else {
            snprintf(fresh, sizeof fresh, "%ld", number++ % NUMBERS);
            put_literal(&c->out, names[i], fresh);
        }
    }
    size_t length = c->out.have - at - FRAME_HEAD;
    c->out.at[at + 1] = (unsigned char)(length >> 8);
    c->out.at[at + 2] = (unsigned char)length;
}

static void send_message(struct connection *c, struct call *call)
{
    while (call->to_send) {
        size_t length = may_send(&c->windows, call->stream, call->to_send);
        if (!length)
            return;
        call->to_send -= length;
        const unsigned char *from = sent.at + sent.length - call->to_send - length;
        put_data(&c->out, &c->windows, call->stream, from, length, kind != BIDI && !call->to_send ? END_STREAM : 0);
    }
}

static void begin(struct connection *c)
{
    unsigned int stream = c->next_stream;
    struct call *call = &c->calls[stream / 2 % SLOTS];
    if (call->stream)
        die("a stream is still open after thousands of later ones on its connection");
    c->next_stream += 2;
    *call = (struct call){.stream = stream, .began = now(), .to_send = kind == GET ? 0 : sent.length};
    under_way++;
    put_request(c, stream);
    send_message(c, call);
}

static void count_one(struct call *call)
{
    last_done = now();
    long bucket = (long)((last_done - call->began) * 1e6 / BUCKET_US);
    latencies[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    finished++;
}

static void ended(struct connection *c, struct call *call, int in_peace)
{
    int fine = in_peace && !strcmp(call->status, "200");
    if (kind == GET)
        fine &= call->got == SMALL;
    else if (kind == SEND)
        fine &= !call->differs && (with_trailers ? call->trailers : call->got == expected.length);
    else
        fine &= !strcmp(call->grpc_status, "0") && (kind == BIDI || call->got == sent.length);
    if (kind == BIDI && now() < ends_at)
        fine = 0; /* nobody asked it to end */
    if (!fine && !errors++)
        fprintf(stderr, "calls: the first error: status %s, grpc-status %s, %zu octets%s: %.*s\n", *call->status ? call->status : "-",
                *call->grpc_status ? call->grpc_status : "-", call->got, in_peace ? "" : ", reset", (int)sizeof call->said, call->said);
    if (errors > TOO_MANY)
        die("too many errors");
    if (fine && kind != BIDI)
        count_one(call);
    call->stream = 0;
    under_way--;
    if (now() < ends_at)
        begin(c);
}

static void differs(struct call *call, const unsigned char *octets, size_t length) /* keeps what was said instead */
{
    call->differs = 1;
    memset(call->said, 0, sizeof call->said);
    for (size_t i = 0; i < length && i < sizeof call->said - 1; i++)
        call->said[i] = octets[i] < ' ' || octets[i] > '~' ? '.' : (char)octets[i];
}

static void compare(struct call *call, const unsigned char *octets, size_t length)
{
    static const char *const ends[] = {"grpc-status:0\r\n", "grpc-status: 0\r\n"};
    size_t left = call->got < expected.length ? expected.length - call->got : 0, now = length < left ? length : left;
    if (memcmp(octets, expected.at + call->got, now) || (now < length && !with_trailers))
        differs(call, octets, length);
    for (size_t i = 0; i < 2 && now < length; i++)
        if (memmem(octets + now, length - now, ends[i], strlen(ends[i])))
            call->trailers = 1;
}

static void on_data(struct connection *c, struct call *call, const unsigned char *octets, size_t length)
{
    if (kind == SEND)
        compare(call, octets, length);
    call->got += length;
    if (kind != BIDI || !length || call->got % MESSAGE)
        return;
    count_one(call);
    if (last_done < ends_at) {
        call->began = last_done;
        call->to_send = MESSAGE;
        send_message(c, call);
    } else {
        put_frame(&c->out, 0, DATA, END_STREAM, call->stream);
    }
}

static void on_fields(struct connection *c, struct call *call, const unsigned char *at, size_t length)
{
    int flags = 0;
    while (!(flags & INFLATED_ALL)) {
        struct pair pair;
        flags = 0;
        long used = nghttp2_hd_inflate_hd2(c->inflater, &pair, &flags, at, length, 1);
        if (used < 0)
            die("a field block that cannot be read");
        at += used;
        length -= (size_t)used;
        if (call && flags & INFLATED_ONE) {
            int is_status = pair.name_length == 7 && !memcmp(pair.name, ":status", 7);
            if (is_status || (pair.name_length == 11 && !memcmp(pair.name, "grpc-status", 11)))
                snprintf(is_status ? call->status : call->grpc_status, 4, "%.*s", (int)pair.value_length, pair.value);
        }
    }
    nghttp2_hd_inflate_end_headers(c->inflater);
}

static void on_frame(struct connection *c, struct frame *frame)
{
    int known = control(frame, &c->out, &c->windows);
    if (known < 0)
        die("a frame that breaks the connection");
    if (frame->type == GOAWAY)
        die("the proxy is going away");
    struct call *call = &c->calls[frame->stream / 2 % SLOTS];
    if (!frame->stream || call->stream != frame->stream)
        call = NULL;
    if (frame->type == WINDOW_UPDATE && call)
        send_message(c, call);
    if (frame->type == WINDOW_UPDATE && !frame->stream)
        for (int i = 0; i < SLOTS; i++)
            if (c->calls[i].to_send)
                send_message(c, &c->calls[i]);
    if (frame->type == DATA) {
        took(&c->out, &c->windows, frame->length);
        if (strip(frame))
            die("padding that is longer than its frame");
        if (call)
            on_data(c, call, frame->payload, frame->length);
    } else if (frame->type == HEADERS) {
        if (strip(frame) || !(frame->flags & END_HEADERS))
            die("a field block in several frames");
        on_fields(c, call, frame->payload, frame->length);
    }
    if (call && (frame->type == RST_STREAM || (frame->type <= HEADERS && frame->flags & END_STREAM)))
        ended(c, call, frame->type != RST_STREAM);
}

/* -- connections ------------------------------------------------------------------------------------------------------- */

static void *context_of(const char *certificate, const char *key)
{
    void *context = SSL_CTX_new(TLS_client_method());
    if (!context || SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, PEM) != 1 ||
        SSL_CTX_ctrl(context, SET_MIN_PROTO_VERSION, TLS_1_3, NULL) != 1 || SSL_CTX_set_ciphersuites(context, SUITE) != 1 ||
        SSL_CTX_set_alpn_protos(context, (const unsigned char *)"\x02h2", 3) != 0)
        die("cannot use the certificate or its key");
    SSL_CTX_ctrl(context, SET_MODE, PARTIAL_AND_MOVING, NULL);
    return context;
}

static struct connection *opened(int port, void *context)
{
    struct connection *c = calloc(1, sizeof *c);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int on = 1;
    if (!c || nghttp2_hd_inflate_new(&c->inflater))
        die("no memory");
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("cannot connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (context) {
        c->tls = SSL_new(context);
        SSL_set_fd(c->tls, c->fd);
        if (SSL_connect(c->tls) != 1)
            die("no TLS connection");
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->next_stream = 1;
    put(&c->out, PREFACE, sizeof PREFACE - 1);
    put_hello(&c->out, &c->windows);
    return c;
}

/* Octets moved, 0 when it must wait; the end of the connection is the end of the run: it may not close while it is used. */
static size_t moved_octets(struct connection *c, long moved)
{
    if (moved > 0)
        return (size_t)moved;
    int wait = c->tls ? SSL_get_error(c->tls, (int)moved) : moved < 0 && errno == EAGAIN ? WANT_READ : 0;
    if (wait != WANT_READ && wait != WANT_WRITE)
        die("a connection was closed");
    return 0;
}

static int write_out(struct connection *c) /* 0 when the kernel's buffer is full */
{
    while (c->written < c->out.have) {
        const unsigned char *from = c->out.at + c->written;
        size_t left = c->out.have - c->written;
        size_t sent = moved_octets(c, c->tls ? SSL_write(c->tls, from, (int)left) : send(c->fd, from, left, MSG_NOSIGNAL));
        if (!sent)
            return 0;
        c->written += sent;
    }
    c->written = c->out.have = 0;
    return 1;
}

static void read_in(struct connection *c)
{
    size_t got;
    do {
        size_t room = sizeof c->in - c->have, at = 0;
        got = moved_octets(c, c->tls ? SSL_read(c->tls, c->in + c->have, (int)room) : recv(c->fd, c->in + c->have, room, 0));
        c->have += got;
        struct frame frame;
        long used;
        while ((used = next_frame(c->in + at, c->have - at, &frame)) > 0) {
            on_frame(c, &frame);
            at += (size_t)used;
        }
        if (used < 0)
            die("a frame that is larger than allowed");
        memmove(c->in, c->in + at, c->have - at);
        c->have -= at;
    } while (got && c->tls); /* OpenSSL gives one record at a time, and epoll does not see what it holds */
}

static void on_event(int epoll, struct connection *c)
{
    read_in(c);
    int done = write_out(c);
    if (c->waits_to_write != !done) {
        c->waits_to_write = !done;
        struct epoll_event event = {.events = EPOLLIN | (done ? 0 : EPOLLOUT), .data = {.ptr = c}};
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
    }
}

static struct body file(const char *name)
{
    FILE *from = fopen(name, "rb");
    unsigned char *at = malloc(1 << 20);
    if (!from || !at)
        die("cannot read what is to be sent or expected");
    struct body body = {at, fread(at, 1, 1 << 20, from)};
    fclose(from);
    return body;
}

static void told(const char *name, const char *value) /* what a field that begins with @ says */
{
    if (!strcmp(name, "@path"))
        path = value;
    else if (!strcmp(name, "@send"))
        sent = file(value);
    else if (!strcmp(name, "@expect"))
        expected = file(value);
    else if (!strcmp(name, "@trailers"))
        with_trailers = 1;
    else
        die("a field with @ that nobody knows");
}

static double percentile_ms(double share)
{
    double wanted = share * (double)finished, seen = 0;
    for (long i = 0; i < BUCKETS; i++)
        if ((seen += latencies[i]) >= wanted)
            return (double)(i + 1) * BUCKET_US / 1e3;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 8) {
        fprintf(stderr, "usage: calls PORT get|unary|bidi|send CONNECTIONS STREAMS SECS CERT|- KEY|- 'name: value'...\n");
        return 2;
    }
    int port = atoi(argv[1]), connections = atoi(argv[3]), streams = atoi(argv[4]);
    double secs = atof(argv[5]);
    kind = !strcmp(argv[2], "get") ? GET : !strcmp(argv[2], "unary") ? UNARY : !strcmp(argv[2], "send") ? SEND : BIDI;
    path = kind == GET ? "/items/7" : kind == BIDI ? "/shop.Stock/Chat" : "/shop.Stock/Reserve";
    snprintf(authority, sizeof authority, "127.0.0.1:%d", port);
    for (char **field = argv + 8; *field; field++) {
        char *colon = strstr(*field, ": ");
        if (!colon)
            die("a field that is not `name: value`");
        *colon = 0;
        if (**field == '@') {
            told(*field, colon + 2);
            continue;
        }
        if (strlen(colon + 2) > 127 || strlen(*field) > 127 || field_count == FIELDS - 2)
            die("a field that is long, or one too many");
        names[field_count] = *field;
        values[field_count++] = colon + 2;
    }
    signal(SIGPIPE, SIG_IGN);
    void *context = strcmp(argv[6], "-") ? context_of(argv[6], argv[7]) : NULL;
    struct epoll_event events[BATCH];
    int epoll = epoll_create1(0);
    struct connection *all[connections];
    for (int i = 0; i < connections; i++)
        all[i] = opened(port, context);
    double began = now();
    ends_at = began + secs;
    for (int i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = all[i]}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i]->fd, &event);
        for (int k = 0; k < streams; k++)
            begin(all[i]);
        on_event(epoll, all[i]);
    }
    while (under_way && now() < ends_at + 5) {
        int count = epoll_wait(epoll, events, BATCH, 1000);
        for (int i = 0; i < count; i++)
            on_event(epoll, events[i].data.ptr);
    }
    printf("{\"requests\": %ld, \"secs\": %.4f, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"errors\": %ld}\n", finished,
           (last_done > began ? last_done : now()) - began, percentile_ms(0.5), percentile_ms(0.99), errors + under_way);
    return 0;
}
