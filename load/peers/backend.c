/* backend PORT: the module behind every measured proxy.
 *
 * Answers each HTTP/1.1 request that has no body with 1 KiB, or with 1 MiB when its path starts with /1m. One thread, epoll, no copying
 * of answers, so that what it costs is small and the same for every contender. While an answer is being written nothing more is read from
 * that connection. It trusts its callers: it is a yardstick, not a server.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_OCTETS = 16384, SMALL = 1024, LARGE = 1024 * 1024, BATCH = 256 };

struct answer {
    char *octets;
    size_t length;
};

struct connection {
    int fd;
    int waits_to_write;
    size_t have;         /* octets of requests read and not yet answered */
    const char *rest;    /* what is left of the answer being written */
    size_t left;
    char in[HEAD_OCTETS];
};

static struct answer make_answer(size_t body)
{
    struct answer answer = {malloc(body + 256), 0};
    if (!answer.octets)
        exit(1);
    int head = sprintf(answer.octets,
                       "HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n", body);
    memset(answer.octets + head, 'x', body);
    answer.length = (size_t)head + body;
    return answer;
}

static void watch(int epoll, int operation, struct connection *c, unsigned int for_what)
{
    struct epoll_event event = {.events = for_what, .data = {.ptr = c}};
    if (epoll_ctl(epoll, operation, c->fd, &event) < 0)
        perror("epoll_ctl");
}

/* Writes what it can. Returns -1 when the connection is broken, 0 when the kernel's buffer is full, 1 when the answer is out. */
static int write_answer(struct connection *c)
{
    while (c->left) {
        ssize_t sent = send(c->fd, c->rest, c->left, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? 0 : -1;
        c->rest += sent;
        c->left -= (size_t)sent;
    }
    return 1;
}

/* Answers every whole request that is there. Returns as write_answer does. */
static int serve(struct connection *c, const struct answer *small, const struct answer *large)
{
    int done = write_answer(c);
    while (done == 1) {
        char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
        if (!end)
            return c->have == sizeof c->in ? -1 : 1;
        char *target = memchr(c->in, ' ', c->have);
        const struct answer *answer = target && target + 3 < end && !memcmp(target, " /1m", 4) ? large : small;
        size_t used = (size_t)(end + 4 - c->in);
        memmove(c->in, c->in + used, c->have - used);
        c->have -= used;
        c->rest = answer->octets;
        c->left = answer->length;
        done = write_answer(c);
    }
    return done;
}

static void accept_all(int epoll, int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            exit(1);
        c->fd = fd;
        watch(epoll, EPOLL_CTL_ADD, c, EPOLLIN);
    }
}

static void on_event(int epoll, struct connection *c, const struct answer *small, const struct answer *large)
{
    int done = -1;
    ssize_t got = 0;
    if (!c->waits_to_write)
        got = recv(c->fd, c->in + c->have, sizeof c->in - c->have, 0);
    if (got > 0 || c->waits_to_write || (got < 0 && errno == EAGAIN)) {
        c->have += got > 0 ? (size_t)got : 0;
        done = serve(c, small, large);
    }
    if (done < 0) {
        close(c->fd);
        free(c);
    } else if (c->waits_to_write != !done) {
        c->waits_to_write = !done;
        watch(epoll, EPOLL_CTL_MOD, c, done ? EPOLLIN : EPOLLOUT);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: backend PORT\n");
        return 2;
    }
    struct answer small = make_answer(SMALL), large = make_answer(LARGE);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1, epoll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 4096) < 0) {
        perror("backend");
        return 1;
    }
    struct epoll_event first = {.events = EPOLLIN, .data = {.ptr = NULL}}, events[BATCH];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &first);
    for (;;) {
        int count = epoll_wait(epoll, events, BATCH, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                on_event(epoll, events[i].data.ptr, &small, &large);
            else
                accept_all(epoll, listener);
        }
    }
}
