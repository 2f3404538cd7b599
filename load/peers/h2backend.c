/* The module behind the proxies under measurement where they call it by HTTP/2 (prior knowledge): answers a request without a
 * body with 1 KiB, and anything else as a gRPC echo: each DATA as it came, and `grpc-status: 0` when the caller is done. That
 * serves unary calls and bidirectional streams alike, and no field of a request needs to be read for it. Given a file, it answers
 * every call with what that holds instead, when the caller is done.
 *
 * One thread, epoll, one write per read. While octets wait to be written nothing more is read from that connection; what a
 * window does not admit waits in order. It trusts its callers: it is a yardstick, not a server.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "h2.h"

enum { SMALL = 1024, READ = 256 * 1024, BATCH = 256 };
enum { SERVER, TEXT, LENGTH, GRPC, ENCODINGS, FINE };
enum after { NOTHING, END, TRAILERS };

static const char *const fields[][2] = {
    {"server", "backend"},
    {"content-type", "text/plain"},
    {"content-length", "1024"},
    {"content-type", "application/grpc"},
    {"grpc-accept-encoding", "identity, deflate, gzip"},
    {"grpc-status", "0"},
};

struct waiting {
    struct waiting *next;
    unsigned int stream;
    enum after after;
    size_t length, done;
    unsigned char octets[];
};

struct connection {
    int fd, greeted, waits_to_write;
    struct octets out;
    size_t written;
    struct windows windows;
    struct table table;
    unsigned char headed[SLOTS]; /* the stream in this slot has had its response head */
    struct waiting *first, *last;
    size_t have;
    unsigned char in[READ];
};

static unsigned char small[SMALL], fixed[READ];
static size_t fixed_length;

static void put_head(struct connection *c, unsigned int stream, int flags, const int *which, int count)
{
    size_t at = c->out.have;
    put_frame(&c->out, 0, HEADERS, END_HEADERS | flags, stream);
    if (!(flags & END_STREAM))
        put(&c->out, "\x88", 1); /* :status 200 */
    for (int i = 0; i < count; i++)
        put_field(&c->out, &c->table, which[i], fields[which[i]][0], fields[which[i]][1]);
    size_t length = c->out.have - at - FRAME_HEAD;
    c->out.at[at + 1] = (unsigned char)(length >> 8);
    c->out.at[at + 2] = (unsigned char)length;
}

/* Sends what the windows admit. Returns the octets sent; when all are out, so is what comes after them. */
static size_t send_body(struct connection *c, unsigned int stream, const unsigned char *octets, size_t length, enum after after)
{
    size_t sent = 0;
    while (sent < length) {
        size_t now = may_send(&c->windows, stream, length - sent < MOST_FRAME ? length - sent : MOST_FRAME);
        if (!now)
            return sent;
        put_data(&c->out, &c->windows, stream, octets + sent, now, after == END && sent + now == length ? END_STREAM : 0);
        sent += now;
    }
    if (after == TRAILERS)
        put_head(c, stream, END_STREAM, (const int[]){FINE}, 1);
    return sent;
}

static void answer(struct connection *c, unsigned int stream, const unsigned char *octets, size_t length, enum after after)
{
    size_t sent = c->first ? 0 : send_body(c, stream, octets, length, after);
    if (!c->first && sent == length)
        return;
    struct waiting *w = malloc(sizeof *w + length - sent);
    if (!w)
        exit(1);
    *w = (struct waiting){.stream = stream, .after = after, .length = length - sent};
    memcpy(w->octets, octets + sent, length - sent);
    if (c->first)
        c->last->next = w;
    else
        c->first = w;
    c->last = w;
}

static void go_on(struct connection *c)
{
    for (struct waiting *w; (w = c->first);) {
        w->done += send_body(c, w->stream, w->octets + w->done, w->length - w->done, w->after);
        if (w->done < w->length)
            return;
        c->first = w->next;
        free(w);
    }
}

/* Returns -1 when the connection is to be given up. */
static int on_frame(struct connection *c, struct frame *frame)
{
    int known = control(frame, &c->out, &c->windows);
    if (known)
        return known;
    unsigned char *headed = &c->headed[frame->stream / 2 % SLOTS];
    if (frame->type == HEADERS) {
        if (!(frame->flags & END_HEADERS))
            return -1;
        *headed = 0;
        if (frame->flags & END_STREAM) {
            put_head(c, frame->stream, 0, (const int[]){SERVER, TEXT, LENGTH}, 3);
            answer(c, frame->stream, small, SMALL, END);
        }
    } else if (frame->type == DATA) {
        took(&c->out, &c->windows, frame->length);
        if (strip(frame))
            return -1;
        if (!*headed) {
            put_head(c, frame->stream, 0, (const int[]){SERVER, GRPC, ENCODINGS}, 3);
            *headed = 1;
        }
        if (!fixed_length)
            answer(c, frame->stream, frame->payload, frame->length, frame->flags & END_STREAM ? TRAILERS : NOTHING);
        else if (frame->flags & END_STREAM)
            answer(c, frame->stream, fixed, fixed_length, TRAILERS);
    }
    return 0; /* RST_STREAM: what still waits is sent in vain, which a peer ignores; GOAWAY: it will close */
}

static void watch(int epoll, int operation, struct connection *c, unsigned int for_what)
{
    struct epoll_event event = {.events = for_what, .data = {.ptr = c}};
    if (epoll_ctl(epoll, operation, c->fd, &event) < 0)
        perror("epoll_ctl");
}

/* Returns -1 when the connection is broken, 0 when the kernel's buffer is full, 1 when everything is out. */
static int write_out(struct connection *c)
{
    while (c->written < c->out.have) {
        ssize_t sent = send(c->fd, c->out.at + c->written, c->out.have - c->written, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? 0 : -1;
        c->written += (size_t)sent;
    }
    c->written = c->out.have = 0;
    return 1;
}

static int serve(struct connection *c)
{
    size_t at = 0;
    if (!c->greeted) {
        if (c->have < sizeof PREFACE - 1)
            return 1;
        if (memcmp(c->in, PREFACE, sizeof PREFACE - 1))
            return -1;
        c->greeted = 1;
        at = sizeof PREFACE - 1;
        put_hello(&c->out, &c->windows);
    }
    struct frame frame;
    long used;
    while ((used = next_frame(c->in + at, c->have - at, &frame)) > 0) {
        if (on_frame(c, &frame) < 0)
            return -1;
        at += (size_t)used;
    }
    if (used < 0)
        return -1;
    memmove(c->in, c->in + at, c->have - at);
    c->have -= at;
    go_on(c);
    return write_out(c);
}

static void end(struct connection *c)
{
    close(c->fd);
    for (struct waiting *w; (w = c->first); free(w))
        c->first = w->next;
    free(c->out.at);
    free(c);
}

static void on_event(int epoll, struct connection *c)
{
    int done;
    if (c->waits_to_write) {
        done = write_out(c);
    } else {
        ssize_t got = recv(c->fd, c->in + c->have, sizeof c->in - c->have, 0);
        c->have += got > 0 ? (size_t)got : 0;
        done = got > 0 ? serve(c) : got < 0 && errno == EAGAIN ? 1 : -1;
    }
    if (done < 0) {
        end(c);
    } else if (c->waits_to_write != !done) {
        c->waits_to_write = !done;
        watch(epoll, EPOLL_CTL_MOD, c, done ? EPOLLIN : EPOLLOUT);
    }
}

static void accept_all(int epoll, int listener)
{
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            exit(1);
        c->fd = fd;
        watch(epoll, EPOLL_CTL_ADD, c, EPOLLIN);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: h2backend PORT [FILE]\n");
        return 2;
    }
    if (argc == 3) {
        FILE *from = fopen(argv[2], "rb");
        if (!from || !(fixed_length = fread(fixed, 1, sizeof fixed, from))) {
            perror("h2backend");
            return 1;
        }
        fclose(from);
    }
    memset(small, 'x', SMALL);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1, epoll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0) {
        perror("h2backend");
        return 1;
    }
    struct epoll_event first = {.events = EPOLLIN, .data = {.ptr = NULL}}, events[BATCH];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &first);
    for (;;) {
        int count = epoll_wait(epoll, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                on_event(epoll, events[i].data.ptr);
            else
                accept_all(epoll, listener);
        }
    }
}
