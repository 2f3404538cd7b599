/* HTTP/2 (RFC 9113) as far as a yardstick needs it, for h2backend.c and calls.c: frames, the field blocks that they write, and
 * the windows of what they send. Fields are written as every encoder does (RFC 7541): literal and into the table the first time
 * on a connection, by number from then on. It trusts its peers to be proxies, not attackers: what it does not expect it calls
 * broken.
 */
#ifndef H2_H
#define H2_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8, WITH_PRIORITY = 32 };
enum { FRAME_HEAD = 9, MOST_FRAME = 16384, SLOTS = 4096, FIELDS = 16 };
enum { STREAM_WINDOW = (1 << 24) - 1, CONNECTION_WINDOW = (1 << 26) - 1, FIRST_WINDOW = 65535 }; /* what we allow; 6.9.2 */

#define PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

struct octets {
    unsigned char *at;
    size_t have, room;
};

static void put(struct octets *to, const void *from, size_t length)
{
    if (to->have + length > to->room) {
        to->room = (to->have + length) * 2;
        to->at = realloc(to->at, to->room);
        if (!to->at)
            exit(1);
    }
    memcpy(to->at + to->have, from, length);
    to->have += length;
}

static void put_u32(struct octets *to, unsigned int value)
{
    unsigned char wire[4] = {value >> 24, value >> 16, value >> 8, value};
    put(to, wire, 4);
}

static void put_frame(struct octets *to, size_t length, int type, int flags, unsigned int stream)
{
    unsigned char wire[5] = {length >> 16, length >> 8, length, type, flags};
    put(to, wire, 5);
    put_u32(to, stream);
}

static unsigned int get_u32(const unsigned char *at)
{
    return (unsigned int)at[0] << 24 | (unsigned int)at[1] << 16 | (unsigned int)at[2] << 8 | at[3];
}

/* -- frames ----------------------------------------------------------------------------------------------------------- */

struct frame {
    size_t length;
    int type, flags;
    unsigned int stream;
    const unsigned char *payload;
};

/* The frame at the front. Returns its octets, 0 when it is not all there yet, -1 when it is larger than we allow. */
static long next_frame(const unsigned char *at, size_t have, struct frame *frame)
{
    if (have < FRAME_HEAD)
        return 0;
    frame->length = (size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2];
    frame->type = at[3];
    frame->flags = at[4];
    frame->stream = get_u32(at + 5) & 0x7fffffff;
    frame->payload = at + FRAME_HEAD;
    if (frame->length > MOST_FRAME)
        return -1;
    return have < FRAME_HEAD + frame->length ? 0 : (long)(FRAME_HEAD + frame->length);
}

/* Takes padding and priority off a DATA or HEADERS frame. Returns -1 when there is less than they claim. */
static int strip(struct frame *frame)
{
    size_t before = 0, after = 0;
    if (frame->flags & PADDED) {
        if (!frame->length)
            return -1;
        before = 1;
        after = frame->payload[0];
    }
    if (frame->type == HEADERS && frame->flags & WITH_PRIORITY)
        before += 5;
    if (before + after > frame->length)
        return -1;
    frame->payload += before;
    frame->length -= before + after;
    return 0;
}

/* -- fields that we write --------------------------------------------------------------------------------------------- */

struct table {
    int inserted;
    int position[FIELDS]; /* of a field among those inserted, from 1; 0: not yet */
};

static void put_string(struct octets *to, const char *text)
{
    unsigned char length = (unsigned char)strlen(text); /* ours are all shorter than the 127 that one octet can say */
    put(to, &length, 1);
    put(to, text, length);
}

/* Field `number` of the caller's. The newest entry of the table has index 62 (RFC 7541, 2.3.3). */
static void put_field(struct octets *to, struct table *table, int number, const char *name, const char *value)
{
    if (table->position[number]) {
        unsigned char index = (unsigned char)(0x80 | (62 + table->inserted - table->position[number]));
        put(to, &index, 1);
    } else {
        put(to, "\x40", 1);
        put_string(to, name);
        put_string(to, value);
        table->position[number] = ++table->inserted;
    }
}

/* -- windows ---------------------------------------------------------------------------------------------------------- */

struct windows {
    long connection, initial; /* what we may send: on all streams together, and on a new one */
    struct {
        unsigned int stream;
        long moved; /* credited less sent, beside `initial` */
    } streams[SLOTS];
    size_t unacknowledged; /* octets read since we last widened the window of the connection */
};

static long *moved(struct windows *windows, unsigned int stream)
{
    size_t slot = stream / 2 % SLOTS;
    if (windows->streams[slot].stream != stream) {
        windows->streams[slot].stream = stream;
        windows->streams[slot].moved = 0;
    }
    return &windows->streams[slot].moved;
}

static size_t may_send(struct windows *windows, unsigned int stream, size_t wanted)
{
    long own = windows->initial + *moved(windows, stream), most = own < windows->connection ? own : windows->connection;
    return most <= 0 ? 0 : wanted < (size_t)most ? wanted : (size_t)most;
}

/* One DATA frame; the caller asked may_send. */
static void put_data(struct octets *to, struct windows *windows, unsigned int stream, const void *from, size_t length, int flags)
{
    put_frame(to, length, DATA, flags, stream);
    put(to, from, length);
    windows->connection -= (long)length;
    *moved(windows, stream) -= (long)length;
}

/* SETTINGS and the window of the connection: what either side says first. Streams of a run never use up theirs. */
static void put_hello(struct octets *to, struct windows *windows)
{
    static const unsigned char settings[] = {0, 3, 0, 0, 4, 0, 0, 4, STREAM_WINDOW >> 24, STREAM_WINDOW >> 16 & 255, 255, 255};
    windows->connection = windows->initial = FIRST_WINDOW;
    put_frame(to, sizeof settings, SETTINGS, 0, 0);
    put(to, settings, sizeof settings);
    put_frame(to, 4, WINDOW_UPDATE, 0, 0);
    put_u32(to, CONNECTION_WINDOW - FIRST_WINDOW);
}

/* DATA came, padding included: the window of the connection is widened again before it is half used. */
static void took(struct octets *to, struct windows *windows, size_t length)
{
    windows->unacknowledged += length;
    if (windows->unacknowledged > CONNECTION_WINDOW / 2) {
        put_frame(to, 4, WINDOW_UPDATE, 0, 0);
        put_u32(to, (unsigned int)windows->unacknowledged);
        windows->unacknowledged = 0;
    }
}

/* Frames about the connection. Returns 1 when it was one and done with, 0 when it is for the caller, -1 when it is broken. */
static int control(const struct frame *frame, struct octets *to, struct windows *windows)
{
    const unsigned char *at = frame->payload;
    switch (frame->type) {
    case SETTINGS:
        if (frame->flags & ACK)
            return 1;
        for (size_t i = 0; i + 6 <= frame->length; i += 6) {
            if (at[i + 1] == 1 && get_u32(at + i + 2) < 4096)
                return -1; /* put_field counts on the default table */
            if (at[i + 1] == 4)
                windows->initial = (long)get_u32(at + i + 2);
        }
        put_frame(to, 0, SETTINGS, ACK, 0);
        return 1;
    case PING:
        if (!(frame->flags & ACK)) {
            put_frame(to, frame->length, PING, ACK, 0);
            put(to, at, frame->length);
        }
        return 1;
    case WINDOW_UPDATE:
        if (frame->length != 4)
            return -1;
        if (frame->stream)
            *moved(windows, frame->stream) += (long)get_u32(at);
        else
            windows->connection += (long)get_u32(at);
        return 1;
    default:
        return 0;
    }
}

#endif
