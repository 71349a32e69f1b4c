/*
 * A small level 1 stack: TCP and UDP in memory, on 127.0.0.0/8, for programs of one sandbox that talk to each other.
 * docs/stack-authors.md goes through it step by step. It needs netgraft.h and a C compiler:
 *
 *     cc -shared -fPIC -fvisibility=hidden -I crates/netgraft-abi/include -o libloop.so tests/plugins/loop.c
 */
#include <netgraft.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RING 65536u    /* bytes that a stream holds in one direction */
#define DATAGRAMS 256u /* datagrams that a socket holds */
#define BUCKETS 1024u
#define LINGERING 64u          /* addresses in TIME-WAIT; of more the oldest is free before its time */
#define TIME_WAIT 60000000000u /* ns, as on Linux */

struct datagram {
    struct datagram *next;
    struct netgraft_address from;
    size_t length;
    unsigned char bytes[];
};

enum state { FRESH, LISTENING, TRYING /* for a listener with room */, CONNECTED, RESET };

struct sock {
    uint64_t handle;
    struct netgraft_socket_spec spec;
    enum state state;
    struct netgraft_address local, remote;
    struct sock *bucket_next, *all_next, *all_prev;

    /* A stream: what came in, from where, and what ended. */
    struct sock *other; /* the other end, while it is open */
    unsigned char *ring;
    size_t start, used;
    bool fin_received, fin_sent, read_shut, closed_first;
    int32_t error;

    /* A listener: connections that wait. */
    struct sock *waiting_first, *waiting_last, *waiting_next;
    uint32_t waiting, backlog;

    /* A datagram socket. */
    struct datagram *first, *last;
    uint32_t datagrams;

    /* Readiness. */
    bool added, queued;
    uint32_t mask;
    struct sock *queue_next;
    uint64_t options[NETGRAFT_O_CONGESTION + 1];
};

/* A connection that this end closed first: its address stays taken for a while (TIME-WAIT, RFC 9293 section 3.6.1), from the
 * close of its socket. */
struct lingering {
    struct netgraft_address local, remote;
    bool share;
    uint64_t until;
};

struct stack {
    const struct netgraft_host *host;
    uint64_t next_handle;
    uint16_t next_port;
    struct sock *buckets[BUCKETS];
    struct sock *all;
    struct sock *queue_first, *queue_last;
    uint64_t now; /* the latest that the caller has said */
    struct lingering lingering[LINGERING];
    size_t next_lingering;
    struct netgraft_statistics statistics;
};

/* ---- Sockets by handle and by address --------------------------------------------------------------------- */

static struct sock *find(struct stack *stack, uint64_t handle) {
    struct sock *sock = stack->buckets[handle % BUCKETS];
    while (sock && sock->handle != handle) sock = sock->bucket_next;
    return sock;
}

static bool is_any(const struct netgraft_ip *ip) {
    static const uint8_t zero[4];
    return memcmp(ip->bytes, zero, 4) == 0;
}

static bool is_ours(const struct netgraft_ip *ip) {
    return ip->family == NETGRAFT_FAMILY_V4 && (ip->bytes[0] == 127 || is_any(ip));
}

static bool same(const struct netgraft_address *a, const struct netgraft_address *b) {
    return a->port == b->port && memcmp(a->ip.bytes, b->ip.bytes, 4) == 0;
}

/* Whether a socket is bound to a port, and to the address itself or to any. */
static bool is_bound_to(const struct sock *sock, uint8_t kind, const struct netgraft_address *address) {
    if (sock->spec.kind != kind || sock->local.port != address->port || address->port == 0) return false;
    if (kind == NETGRAFT_KIND_STREAM && sock->state != LISTENING && sock->state != FRESH) return false;
    return is_any(&sock->local.ip) || is_any(&address->ip) ||
           memcmp(sock->local.ip.bytes, address->ip.bytes, 4) == 0;
}

static void linger(struct stack *stack, const struct sock *sock) {
    stack->lingering[stack->next_lingering++ % LINGERING] =
        (struct lingering){.local = sock->local,
                           .remote = sock->remote,
                           .share = sock->options[NETGRAFT_O_REUSE_ADDRESS],
                           .until = stack->now + TIME_WAIT};
}

/* A reset from this socket ends what lingers at its peer. */
static void forget_peer(struct stack *stack, const struct sock *sock) {
    for (struct lingering *at = stack->lingering; at < stack->lingering + LINGERING; at++)
        if (same(&at->local, &sock->remote) && same(&at->remote, &sock->local)) at->until = 0;
}

static bool lingers(const struct stack *stack, const struct sock *of, const struct netgraft_address *address) {
    if (of->spec.kind != NETGRAFT_KIND_STREAM) return false;
    for (const struct lingering *at = stack->lingering; at < stack->lingering + LINGERING; at++) {
        if (at->until <= stack->now || at->local.port != address->port) continue;
        bool share = at->share && of->options[NETGRAFT_O_REUSE_ADDRESS];
        if (!share && (is_any(&address->ip) || memcmp(at->local.ip.bytes, address->ip.bytes, 4) == 0)) return true;
    }
    return false;
}

/* Whether something keeps a socket from an address. Two that both ask for it share one, but listeners never do. */
static bool in_the_way(struct stack *stack, const struct sock *of, const struct netgraft_address *address) {
    for (struct sock *sock = stack->all; sock; sock = sock->all_next) {
        bool share = sock->options[NETGRAFT_O_REUSE_ADDRESS] && of->options[NETGRAFT_O_REUSE_ADDRESS] &&
                     sock->state != LISTENING && of->state != LISTENING;
        if (sock != of && !share && is_bound_to(sock, of->spec.kind, address)) return true;
    }
    return lingers(stack, of, address);
}

/* The socket that a datagram from `from` to `to` reaches. Of several the one that fits best: connected to the sender,
 * bound to the very address, listening, or the last that was made. */
static struct sock *reached(struct stack *stack, uint8_t kind, const struct netgraft_address *to,
                            const struct netgraft_address *from) {
    struct sock *best = NULL;
    int best_fit = -1;
    for (struct sock *sock = stack->all; sock; sock = sock->all_next) {
        bool connected = sock->remote.ip.family != NETGRAFT_FAMILY_NONE;
        if (!is_bound_to(sock, kind, to) || (connected && !same(&sock->remote, from))) continue;
        int fit = 4 * connected + 2 * (sock->state == LISTENING) + !is_any(&sock->local.ip);
        if (fit > best_fit) best_fit = fit, best = sock;
    }
    return best;
}

static struct sock *make(struct stack *stack, const struct netgraft_socket_spec *spec) {
    struct sock *sock = calloc(1, sizeof *sock);
    if (!sock) return NULL;
    if (spec->kind == NETGRAFT_KIND_STREAM && !(sock->ring = malloc(RING))) {
        free(sock);
        return NULL;
    }
    sock->spec = *spec;
    sock->handle = stack->next_handle++;
    sock->local.ip.family = NETGRAFT_FAMILY_V4;
    sock->options[NETGRAFT_O_LINGER] = NETGRAFT_NO_LINGER;
    sock->bucket_next = stack->buckets[sock->handle % BUCKETS];
    stack->buckets[sock->handle % BUCKETS] = sock;
    sock->all_next = stack->all;
    if (stack->all) stack->all->all_prev = sock;
    stack->all = sock;
    stack->statistics.sockets++;
    return sock;
}

static void unmake(struct stack *stack, struct sock *sock) {
    struct sock **link = &stack->buckets[sock->handle % BUCKETS];
    while (*link != sock) link = &(*link)->bucket_next;
    *link = sock->bucket_next;
    if (sock->all_next) sock->all_next->all_prev = sock->all_prev;
    if (sock->all_prev) sock->all_prev->all_next = sock->all_next;
    else stack->all = sock->all_next;
    if (sock->queued) {
        struct sock *before = NULL, *at = stack->queue_first;
        while (at != sock) before = at, at = at->queue_next;
        if (before) before->queue_next = sock->queue_next;
        else stack->queue_first = sock->queue_next;
        if (stack->queue_last == sock) stack->queue_last = before;
    }
    while (sock->first) {
        struct datagram *next = sock->first->next;
        free(sock->first);
        sock->first = next;
    }
    free(sock->ring);
    free(sock);
    stack->statistics.sockets--;
}

/* A port for a socket that has none. */
static int32_t choose_port(struct stack *stack, struct sock *sock) {
    for (uint32_t tries = 0; tries < 28232; tries++) {
        struct netgraft_address address = sock->local;
        address.port = stack->next_port++;
        if (stack->next_port > 60999 || stack->next_port < 32768) stack->next_port = 32768;
        if (address.port >= 32768 && !in_the_way(stack, sock, &address)) {
            sock->local.port = address.port;
            return NETGRAFT_OK;
        }
    }
    return NETGRAFT_E_ADDRESS_NOT_AVAILABLE;
}

/* ---- Readiness -------------------------------------------------------------------------------------------- */

static uint32_t level(const struct sock *sock) {
    uint32_t ready = 0;
    if (sock->error) ready |= NETGRAFT_READY_ERR;
    if (sock->spec.kind == NETGRAFT_KIND_DATAGRAM)
        return ready | NETGRAFT_READY_OUT | (sock->first ? NETGRAFT_READY_IN : 0);
    switch (sock->state) {
    case FRESH:
        return ready | NETGRAFT_READY_OUT | NETGRAFT_READY_HUP;
    case TRYING:
        return ready;
    case LISTENING:
        return ready | (sock->waiting_first ? NETGRAFT_READY_IN : 0);
    case RESET:
        return ready | NETGRAFT_READY_IN | NETGRAFT_READY_OUT | NETGRAFT_READY_HUP | NETGRAFT_READY_RDHUP;
    case CONNECTED:
        break;
    }
    if (sock->used || sock->fin_received || sock->read_shut) ready |= NETGRAFT_READY_IN;
    if (sock->fin_received || sock->read_shut) ready |= NETGRAFT_READY_RDHUP;
    if (sock->fin_sent || !sock->other || sock->other->used < RING) ready |= NETGRAFT_READY_OUT;
    if ((sock->fin_received || sock->read_shut) && sock->fin_sent) ready |= NETGRAFT_READY_HUP;
    return ready;
}

static uint32_t reportable(const struct sock *sock) {
    if (!sock->added) return 0;
    return level(sock) & (sock->mask | NETGRAFT_READY_ERR | NETGRAFT_READY_HUP);
}

/* The socket's readiness may have changed: queues its event, once until it is fetched. */
static void changed(struct stack *stack, struct sock *sock) {
    if (sock->queued || !reportable(sock)) return;
    sock->queued = true;
    sock->queue_next = NULL;
    if (stack->queue_last) stack->queue_last->queue_next = sock;
    else stack->queue_first = sock;
    stack->queue_last = sock;
}

static int64_t loop_drain_events(void *self, struct netgraft_event *events, size_t capacity) {
    struct stack *stack = self;
    size_t count = 0;
    while (count < capacity && stack->queue_first) {
        struct sock *sock = stack->queue_first;
        stack->queue_first = sock->queue_next;
        if (!stack->queue_first) stack->queue_last = NULL;
        sock->queued = false;
        uint32_t ready = reportable(sock);
        if (ready) events[count++] = (struct netgraft_event){.handle = sock->handle, .events = ready};
    }
    return (int64_t)count;
}

static int32_t loop_add_fd(void *self, uint64_t handle, uint32_t mask) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (sock->added) return NETGRAFT_E_EXISTS;
    sock->added = true;
    sock->mask = mask;
    changed(self, sock);
    return NETGRAFT_OK;
}

static int32_t loop_update_fd(void *self, uint64_t handle, uint32_t mask) {
    struct sock *sock = find(self, handle);
    if (!sock || !sock->added) return NETGRAFT_E_BAD_HANDLE;
    sock->mask = mask;
    changed(self, sock);
    return NETGRAFT_OK;
}

static int32_t loop_remove_fd(void *self, uint64_t handle) {
    struct sock *sock = find(self, handle);
    if (!sock || !sock->added) return NETGRAFT_E_BAD_HANDLE;
    sock->added = false;
    return NETGRAFT_OK;
}

static int64_t loop_readiness(void *self, uint64_t handle) {
    struct sock *sock = find(self, handle);
    return sock ? (int64_t)level(sock) : NETGRAFT_E_BAD_HANDLE;
}

/* ---- Calls ------------------------------------------------------------------------------------------------ */

static int32_t loop_socket(void *self, const struct netgraft_socket_spec *spec, uint64_t *handle) {
    if (spec->family != NETGRAFT_FAMILY_V4) return NETGRAFT_E_FAMILY_NOT_SUPPORTED;
    if (spec->kind == NETGRAFT_KIND_RAW) return NETGRAFT_E_KIND_NOT_SUPPORTED;
    bool stream = spec->kind == NETGRAFT_KIND_STREAM;
    if (spec->protocol != (stream ? NETGRAFT_PROTOCOL_TCP : NETGRAFT_PROTOCOL_UDP))
        return NETGRAFT_E_PROTOCOL_NOT_SUPPORTED;
    struct sock *sock = make(self, spec);
    if (!sock) return NETGRAFT_E_NO_MEMORY;
    *handle = sock->handle;
    return NETGRAFT_OK;
}

static int32_t loop_bind(void *self, uint64_t handle, const struct netgraft_address *address) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (address->ip.family != NETGRAFT_FAMILY_V4) return NETGRAFT_E_FAMILY_NOT_SUPPORTED;
    if (sock->local.port || sock->state != FRESH) return NETGRAFT_E_INVALID;
    if (!is_ours(&address->ip)) return NETGRAFT_E_ADDRESS_NOT_AVAILABLE;
    if (address->port && in_the_way(self, sock, address)) return NETGRAFT_E_ADDRESS_IN_USE;
    sock->local = *address;
    return address->port ? NETGRAFT_OK : choose_port(self, sock);
}

/* An attempt to connect arrives at the listener on its address: it is queued there, waits until there is room, as one whose
 * SYN was dropped would, or is refused. */
static void try_listener(struct stack *stack, struct sock *sock) {
    struct sock *listener = reached(stack, NETGRAFT_KIND_STREAM, &sock->remote, &sock->local);
    bool listens = listener && listener->state == LISTENING;
    if (listens && listener->waiting >= listener->backlog) return;
    struct sock *end = listens ? make(stack, &sock->spec) : NULL;
    if (!end) {
        sock->state = RESET;
        sock->error = NETGRAFT_E_CONNECTION_REFUSED;
        changed(stack, sock);
        return;
    }
    stack->statistics.tcp_passive_opens++;
    sock->state = end->state = CONNECTED;
    end->local = sock->remote;
    end->remote = sock->local;
    memcpy(end->options, listener->options, sizeof end->options);
    sock->other = end;
    end->other = sock;
    if (listener->waiting_last) listener->waiting_last->waiting_next = end;
    else listener->waiting_first = end;
    listener->waiting_last = end;
    listener->waiting++;
    changed(stack, listener);
    changed(stack, sock);
}

/* A listener has room, or is gone. */
static void try_again(struct stack *stack) {
    for (struct sock *sock = stack->all; sock; sock = sock->all_next)
        if (sock->state == TRYING) try_listener(stack, sock);
}

static int32_t loop_listen(void *self, uint64_t handle, uint32_t backlog) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (sock->spec.kind != NETGRAFT_KIND_STREAM) return NETGRAFT_E_NOT_SUPPORTED;
    if (sock->state != FRESH && sock->state != LISTENING) return NETGRAFT_E_INVALID;
    if (!sock->local.port) {
        int32_t result = choose_port(self, sock);
        if (result) return result;
    }
    for (struct sock *other = ((struct stack *)self)->all; other; other = other->all_next)
        if (other != sock && other->state == LISTENING && is_bound_to(other, NETGRAFT_KIND_STREAM, &sock->local))
            return NETGRAFT_E_ADDRESS_IN_USE;
    sock->state = LISTENING;
    sock->backlog = backlog ? backlog : 1;
    try_again(self);
    return NETGRAFT_OK;
}

static int32_t loop_accept(void *self, uint64_t handle, uint64_t *connection, struct netgraft_address *peer) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (sock->state != LISTENING) return NETGRAFT_E_INVALID;
    struct sock *first = sock->waiting_first;
    if (!first) return NETGRAFT_E_AGAIN;
    sock->waiting_first = first->waiting_next;
    if (!sock->waiting_first) sock->waiting_last = NULL;
    sock->waiting--;
    try_again(self);
    *connection = first->handle;
    *peer = first->remote;
    return NETGRAFT_OK;
}

/* The pending error, which is reported once. */
static int32_t take_error(struct sock *sock) {
    int32_t error = sock->error;
    sock->error = NETGRAFT_OK;
    return error;
}

/* A simultaneous open of one socket with itself (RFC 9293 section 3.5): what it sends it receives. */
static int32_t connect_to_itself(struct stack *stack, struct sock *sock) {
    sock->state = CONNECTED;
    sock->remote = sock->local;
    sock->other = sock;
    changed(stack, sock);
    return NETGRAFT_E_IN_PROGRESS;
}

static int32_t connect_stream(struct stack *stack, struct sock *sock, const struct netgraft_address *to) {
    if (sock->error) return take_error(sock);
    if (sock->state == TRYING) return NETGRAFT_E_ALREADY;
    if (sock->state == CONNECTED) return NETGRAFT_E_IS_CONNECTED;
    if (sock->state == LISTENING) return NETGRAFT_E_IS_CONNECTED;
    if (is_any(&sock->local.ip)) memcpy(sock->local.ip.bytes, (uint8_t[]){127, 0, 0, 1}, 4);
    if (!sock->local.port) {
        int32_t result = choose_port(stack, sock);
        if (result) return result;
    }
    for (struct sock *other = stack->all; other; other = other->all_next)
        if (other->state == CONNECTED && same(&other->local, &sock->local) && same(&other->remote, to))
            return NETGRAFT_E_ADDRESS_NOT_AVAILABLE;
    stack->statistics.tcp_active_opens++;
    if (same(&sock->local, to)) return connect_to_itself(stack, sock);
    sock->state = TRYING;
    sock->remote = *to;
    if (is_any(&to->ip)) memcpy(sock->remote.ip.bytes, (uint8_t[]){127, 0, 0, 1}, 4);
    try_listener(stack, sock);
    return NETGRAFT_E_IN_PROGRESS;
}

static int32_t loop_connect(void *self, uint64_t handle, const struct netgraft_address *to, uint64_t now) {
    struct stack *stack = self;
    stack->now = now;
    struct sock *sock = find(stack, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (to->ip.family != NETGRAFT_FAMILY_V4) return NETGRAFT_E_FAMILY_NOT_SUPPORTED;
    if (!is_ours(&to->ip)) return NETGRAFT_E_NETWORK_UNREACHABLE;
    if (sock->spec.kind == NETGRAFT_KIND_STREAM) return connect_stream(stack, sock, to);
    if (!sock->local.port) {
        int32_t result = choose_port(stack, sock);
        if (result) return result;
    }
    if (is_any(&sock->local.ip)) memcpy(sock->local.ip.bytes, (uint8_t[]){127, 0, 0, 1}, 4);
    sock->remote = *to;
    return NETGRAFT_OK;
}

static int32_t loop_disconnect(void *self, uint64_t handle) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (sock->spec.kind == NETGRAFT_KIND_STREAM) return NETGRAFT_E_NOT_SUPPORTED;
    memset(&sock->remote, 0, sizeof sock->remote);
    return NETGRAFT_OK;
}

static int32_t loop_local_addr(void *self, uint64_t handle, struct netgraft_address *address) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    *address = sock->local;
    return NETGRAFT_OK;
}

static int32_t loop_peer_addr(void *self, uint64_t handle, struct netgraft_address *address) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    bool stream = sock->spec.kind == NETGRAFT_KIND_STREAM;
    if (sock->remote.ip.family == NETGRAFT_FAMILY_NONE) return NETGRAFT_E_NOT_CONNECTED;
    if (stream && sock->state != CONNECTED) return NETGRAFT_E_NOT_CONNECTED;
    if (sock->fin_received && sock->fin_sent) return NETGRAFT_E_NOT_CONNECTED;
    *address = sock->remote;
    return NETGRAFT_OK;
}

static int64_t send_stream(struct stack *stack, struct sock *sock, const unsigned char *data, size_t length) {
    if (sock->error) return take_error(sock);
    if (sock->state != CONNECTED || sock->fin_sent) return NETGRAFT_E_BROKEN_PIPE;
    struct sock *other = sock->other;
    if (!other) {
        /* Nobody is there any more: the data go, and a reset comes back. */
        forget_peer(stack, sock);
        sock->state = RESET;
        sock->error = NETGRAFT_E_BROKEN_PIPE;
        changed(stack, sock);
        return (int64_t)length;
    }
    size_t sent = 0;
    while (sent < length && other->used < RING) {
        size_t at = (other->start + other->used) % RING;
        size_t piece = RING - at;
        if (piece > RING - other->used) piece = RING - other->used;
        if (piece > length - sent) piece = length - sent;
        memcpy(other->ring + at, data + sent, piece);
        other->used += piece;
        sent += piece;
    }
    if (length && !sent) return NETGRAFT_E_AGAIN;
    changed(stack, other);
    return (int64_t)sent;
}

static int64_t send_datagram(struct stack *stack, struct sock *sock, const unsigned char *data, size_t length,
                             const struct netgraft_address *to) {
    if (!to) to = &sock->remote;
    if (to->ip.family == NETGRAFT_FAMILY_NONE) return NETGRAFT_E_DESTINATION_REQUIRED;
    if (sock->fin_sent) return NETGRAFT_E_BROKEN_PIPE;
    if (to->ip.family != NETGRAFT_FAMILY_V4) return NETGRAFT_E_FAMILY_NOT_SUPPORTED;
    if (to->port == 0) return NETGRAFT_E_INVALID;
    if (!is_ours(&to->ip)) return NETGRAFT_E_NETWORK_UNREACHABLE;
    if (length > 65507) return NETGRAFT_E_MESSAGE_TOO_LONG;
    if (!sock->local.port) {
        int32_t result = choose_port(stack, sock);
        if (result) return result;
    }
    stack->statistics.udp_sent++;
    struct netgraft_address from = sock->local;
    if (is_any(&from.ip)) memcpy(from.ip.bytes, (uint8_t[]){127, 0, 0, 1}, 4);
    struct sock *other = reached(stack, NETGRAFT_KIND_DATAGRAM, to, &from);
    if (!other) {
        stack->statistics.udp_no_port++;
        if (sock->remote.ip.family) sock->error = NETGRAFT_E_CONNECTION_REFUSED, changed(stack, sock);
        return (int64_t)length;
    }
    struct datagram *datagram = other->datagrams < DATAGRAMS ? malloc(sizeof *datagram + length) : NULL;
    if (!datagram) {
        stack->statistics.udp_receive_overflows++;
        return (int64_t)length;
    }
    datagram->next = NULL;
    datagram->from = from;
    datagram->length = length;
    memcpy(datagram->bytes, data, length);
    if (other->last) other->last->next = datagram;
    else other->first = datagram;
    other->last = datagram;
    other->datagrams++;
    stack->statistics.udp_received++;
    changed(stack, other);
    return (int64_t)length;
}

static int64_t loop_send(void *self, uint64_t handle, const void *data, size_t length,
                         const struct netgraft_address *to, uint32_t flags, uint64_t now) {
    (void)now;
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (flags & NETGRAFT_SEND_OUT_OF_BAND) return NETGRAFT_E_NOT_SUPPORTED;
    if (sock->spec.kind == NETGRAFT_KIND_STREAM) return send_stream(self, sock, data, length);
    if (sock->error) return take_error(sock);
    return send_datagram(self, sock, data, length, to);
}

static int32_t recv_stream(struct stack *stack, struct sock *sock, unsigned char *buffer, size_t capacity,
                           bool peek, struct netgraft_received *received) {
    if (!sock->used && sock->error) return take_error(sock);
    if (sock->state == FRESH || sock->state == LISTENING) return NETGRAFT_E_NOT_CONNECTED;
    if (!sock->used && capacity) {
        bool ended = sock->fin_received || sock->read_shut || sock->state == RESET;
        return ended ? NETGRAFT_OK : NETGRAFT_E_AGAIN;
    }
    bool was_full = sock->used == RING;
    size_t length = capacity < sock->used ? capacity : sock->used;
    size_t piece = RING - sock->start < length ? RING - sock->start : length;
    memcpy(buffer, sock->ring + sock->start, piece);
    memcpy(buffer + piece, sock->ring, length - piece);
    received->len = received->full_len = length;
    if (peek) return NETGRAFT_OK;
    sock->start = (sock->start + length) % RING;
    sock->used -= length;
    /* The other end may send again. */
    if (was_full && sock->other) changed(stack, sock->other);
    return NETGRAFT_OK;
}

static int32_t loop_recv(void *self, uint64_t handle, void *buffer, size_t capacity, uint32_t flags, uint64_t now,
                         struct netgraft_received *received) {
    (void)now;
    struct sock *sock = find(self, handle);
    bool peek = flags & NETGRAFT_RECV_PEEK;
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (sock->spec.kind == NETGRAFT_KIND_STREAM)
        return recv_stream(self, sock, buffer, capacity, peek, received);
    struct datagram *first = sock->first;
    if (sock->error) return take_error(sock);
    if (!first) return NETGRAFT_E_AGAIN;
    received->len = first->length < capacity ? first->length : capacity;
    received->full_len = first->length;
    received->from = first->from;
    received->to = sock->local.ip;
    if (is_any(&received->to)) memcpy(received->to.bytes, (uint8_t[]){127, 0, 0, 1}, 4);
    received->interface_index = 1;
    received->hop_limit = 64;
    memcpy(buffer, first->bytes, received->len);
    if (peek) return NETGRAFT_OK;
    sock->first = first->next;
    if (!sock->first) sock->last = NULL;
    sock->datagrams--;
    free(first);
    return NETGRAFT_OK;
}

static void reset_other(struct stack *stack, struct sock *sock) {
    struct sock *other = sock->other;
    if (sock->state == CONNECTED) forget_peer(stack, sock), sock->closed_first = false;
    if (!other) return;
    other->state = RESET;
    other->error = NETGRAFT_E_CONNECTION_RESET;
    other->other = NULL;
    sock->other = NULL;
    changed(stack, other);
}

/* Connections that were not accepted are reset with their listener. */
static void drop_waiting(struct stack *stack, struct sock *sock) {
    while (sock->waiting_first) {
        struct sock *next = sock->waiting_first->waiting_next;
        reset_other(stack, sock->waiting_first);
        unmake(stack, sock->waiting_first);
        sock->waiting_first = next;
    }
    sock->waiting_last = NULL;
    sock->waiting = 0;
}

static void send_fin(struct stack *stack, struct sock *sock) {
    if (sock->fin_sent) return;
    sock->fin_sent = true;
    sock->closed_first = !sock->fin_received;
    if (sock->other) {
        sock->other->fin_received = true;
        changed(stack, sock->other);
    }
}

static int32_t loop_shutdown(void *self, uint64_t handle, uint32_t how, uint64_t now) {
    (void)now;
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    bool stream = sock->spec.kind == NETGRAFT_KIND_STREAM;
    if (sock->state == LISTENING) {
        /* It stops listening and keeps its address; it has no half to send with. */
        if (how == NETGRAFT_SHUTDOWN_WRITE) return NETGRAFT_OK;
        drop_waiting(self, sock);
        sock->state = FRESH;
        try_again(self);
        changed(self, sock);
        return NETGRAFT_OK;
    }
    if (stream ? sock->state != CONNECTED : sock->remote.ip.family == 0) return NETGRAFT_E_NOT_CONNECTED;
    if (sock->fin_received && sock->fin_sent) return NETGRAFT_E_NOT_CONNECTED;
    if (!stream) {
        sock->fin_sent |= how != NETGRAFT_SHUTDOWN_READ;
        return NETGRAFT_OK;
    }
    if (how != NETGRAFT_SHUTDOWN_READ) send_fin(self, sock);
    if (how != NETGRAFT_SHUTDOWN_WRITE) sock->read_shut = true;
    changed(self, sock);
    return NETGRAFT_OK;
}

static int32_t end(struct stack *stack, uint64_t handle, bool reset) {
    struct sock *sock = find(stack, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    drop_waiting(stack, sock);
    /* What is left unread, and a linger time of zero, make a reset. */
    if (reset || sock->used || sock->options[NETGRAFT_O_LINGER] == 0) reset_other(stack, sock);
    if (sock->other) {
        send_fin(stack, sock);
        sock->other->other = NULL;
        changed(stack, sock->other);
    }
    if (sock->state == CONNECTED && sock->closed_first) linger(stack, sock);
    bool listened = sock->state == LISTENING;
    unmake(stack, sock);
    if (listened) try_again(stack);
    return NETGRAFT_OK;
}

static int32_t loop_close(void *self, uint64_t handle, uint64_t now) {
    ((struct stack *)self)->now = now;
    return end(self, handle, false);
}

static int32_t loop_abort(void *self, uint64_t handle, uint64_t now) {
    ((struct stack *)self)->now = now;
    return end(self, handle, true);
}

static int64_t loop_queued_in(void *self, uint64_t handle) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (sock->spec.kind == NETGRAFT_KIND_STREAM) return (int64_t)sock->used;
    return sock->first ? (int64_t)sock->first->length : 0;
}

static int32_t loop_take_error(void *self, uint64_t handle) {
    struct sock *sock = find(self, handle);
    return sock ? take_error(sock) : NETGRAFT_OK;
}

/* Options that a connection without loss, delay and silence keeps by doing nothing. */
static const uint32_t OPTIONS[] = {
    NETGRAFT_O_REUSE_ADDRESS, NETGRAFT_O_KEEP_ALIVE,    NETGRAFT_O_LINGER,     NETGRAFT_O_NO_DELAY,
    NETGRAFT_O_KEEP_IDLE,     NETGRAFT_O_KEEP_INTERVAL, NETGRAFT_O_KEEP_COUNT, NETGRAFT_O_USER_TIMEOUT,
};

static bool known(const struct sock *sock, uint32_t name) {
    /* Those of TCP come last. */
    if (name >= NETGRAFT_O_NO_DELAY && sock->spec.kind != NETGRAFT_KIND_STREAM) return false;
    for (size_t i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++)
        if (OPTIONS[i] == name) return true;
    return false;
}

/* What Linux takes (tcp(7)): from 1 to 32767 s, from 1 to 127 probes. */
static bool in_range(const struct netgraft_option *option) {
    switch (option->name) {
    case NETGRAFT_O_KEEP_IDLE:
    case NETGRAFT_O_KEEP_INTERVAL:
        return option->value.number >= 1000000000 && option->value.number <= 32767 * (uint64_t)1000000000;
    case NETGRAFT_O_KEEP_COUNT:
        return option->value.number >= 1 && option->value.number <= 127;
    default:
        return true;
    }
}

static int32_t loop_set_option(void *self, uint64_t handle, const struct netgraft_option *option) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (!known(sock, option->name)) return NETGRAFT_E_UNKNOWN_OPTION;
    if (!in_range(option)) return NETGRAFT_E_INVALID;
    sock->options[option->name] = option->value.number;
    return NETGRAFT_OK;
}

static int32_t loop_get_option(void *self, uint64_t handle, struct netgraft_option *out) {
    struct sock *sock = find(self, handle);
    if (!sock) return NETGRAFT_E_BAD_HANDLE;
    if (!known(sock, out->name)) return NETGRAFT_E_UNKNOWN_OPTION;
    out->value.number = sock->options[out->name];
    return NETGRAFT_OK;
}

/* ---- The stack -------------------------------------------------------------------------------------------- */

static int32_t loop_create(const struct netgraft_config *config, const struct netgraft_host *host, void **self,
                           char *why, size_t why_capacity) {
    if (config->link_kind != NETGRAFT_LINK_NONE || config->address_count || config->gateway_count) {
        snprintf(why, why_capacity, "it has a loopback only: leave --link, --address and --gateway out");
        return NETGRAFT_E_INVALID;
    }
    struct stack *stack = calloc(1, sizeof *stack);
    if (!stack) return NETGRAFT_E_NO_MEMORY;
    stack->host = host;
    stack->next_handle = 1;
    stack->next_port = 32768;
    *self = stack;
    return NETGRAFT_OK;
}

static void loop_destroy(void *self) {
    struct stack *stack = self;
    while (stack->all) {
        stack->all->other = NULL;
        unmake(stack, stack->all);
    }
    free(stack);
}

static int32_t loop_init(void *self, const char *text, size_t text_length, const int32_t *fds, size_t fd_count,
                         uint64_t now, char *why, size_t why_capacity) {
    (void)text, (void)text_length, (void)fds, (void)fd_count, (void)why, (void)why_capacity;
    static const char line[] = "up, in memory";
    struct stack *stack = self;
    stack->now = now;
    stack->host->log(stack->host->context, NETGRAFT_LOG_INFO, line, sizeof line - 1);
    return NETGRAFT_OK;
}

/* No packets move here; what lingers ends by the clock alone. */
static void loop_poll(void *self, uint64_t now) {
    ((struct stack *)self)->now = now;
}

static uint64_t loop_next_deadline(void *self) {
    struct stack *stack = self;
    uint64_t next = NETGRAFT_NEVER;
    for (size_t i = 0; i < LINGERING; i++)
        if (stack->lingering[i].until > stack->now && stack->lingering[i].until < next) next = stack->lingering[i].until;
    return next;
}

static int64_t loop_interfaces(void *self, struct netgraft_interface *out, size_t capacity) {
    (void)self;
    if (capacity) *out = (struct netgraft_interface){.index = 1, .mtu = 65536, .name = "lo", .up = 1, .loopback = 1};
    return 1;
}

static int64_t loop_addresses(void *self, uint32_t index, struct netgraft_cidr *out, size_t capacity) {
    (void)self;
    if (index != 1) return 0;
    if (capacity)
        *out = (struct netgraft_cidr){.ip = {.family = NETGRAFT_FAMILY_V4, .bytes = {127, 0, 0, 1}}, .prefix = 8};
    return 1;
}

static int32_t loop_statistics(void *self, struct netgraft_statistics *out) {
    *out = ((struct stack *)self)->statistics;
    return NETGRAFT_OK;
}

static const struct netgraft_socket_spec SOCKETS[] = {
    {.family = NETGRAFT_FAMILY_V4, .kind = NETGRAFT_KIND_STREAM, .protocol = NETGRAFT_PROTOCOL_TCP},
    {.family = NETGRAFT_FAMILY_V4, .kind = NETGRAFT_KIND_DATAGRAM, .protocol = NETGRAFT_PROTOCOL_UDP},
};

static const struct netgraft_stack_v1 LOOP = {
    .size = sizeof(struct netgraft_stack_v1),
    .version = NETGRAFT_VERSION,
    .name = "loop",
    .version_text = "1.0",
    .needs = "",
    .sockets = SOCKETS,
    .socket_count = sizeof SOCKETS / sizeof *SOCKETS,
    .options = OPTIONS,
    .option_count = sizeof OPTIONS / sizeof *OPTIONS,
    .create = loop_create,
    .destroy = loop_destroy,
    .init = loop_init,
    .poll = loop_poll,
    .drain_events = loop_drain_events,
    .add_fd = loop_add_fd,
    .update_fd = loop_update_fd,
    .remove_fd = loop_remove_fd,
    .socket = loop_socket,
    .bind = loop_bind,
    .connect = loop_connect,
    .local_addr = loop_local_addr,
    .peer_addr = loop_peer_addr,
    .send = loop_send,
    .recv = loop_recv,
    .shutdown = loop_shutdown,
    .close = loop_close,
    .readiness = loop_readiness,
    .next_deadline = loop_next_deadline,
    .listen = loop_listen,
    .accept = loop_accept,
    .disconnect = loop_disconnect,
    .abort = loop_abort,
    .queued_in = loop_queued_in,
    .take_error = loop_take_error,
    .set_option = loop_set_option,
    .get_option = loop_get_option,
    .interfaces = loop_interfaces,
    .addresses = loop_addresses,
    .statistics = loop_statistics,
};

#ifndef LOOP_AS_A_PART /* hostile.c has an entry point of its own */
const struct netgraft_stack_v1 *netgraft_stack(uint32_t requested) {
    return requested >> 16 == NETGRAFT_VERSION_MAJOR ? &LOOP : NULL;
}
#endif
