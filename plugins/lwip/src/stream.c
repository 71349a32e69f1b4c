/* TCP sockets on lwIP's raw interface. Linux's behaviour (tcp(7)) is what they show. */
#include <stdlib.h>

#include "stack.h"

/* The room below which a socket is not called writable: a quarter of lwIP's buffer. */
#define LOW_ROOM (TCP_SND_BUF / 4)
/* Buffers that a send queue may hold, as lwIP was built; a margin is left for what lwIP itself queues. */
#define QUEUE_LIMIT (TCP_SND_QUEUELEN - 8)

/* The first retransmission time-out in lwIP's ticks: 1 s (RFC 6298 section 2.1). */
#define FIRST_RTO (1000 / TCP_SLOW_INTERVAL)
/* Ticks after which a host that does not answer on the link is given up: 3 s. */
#define WAIT_FOR_NEIGHBOR (3000 / TCP_SLOW_INTERVAL)
/* Received buffers that may wait in a chain before they are copied into one. */
#define PARTS_MAX 64

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err);
static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len);
static void on_error(void *arg, err_t err);

static void hook(struct sock *s, struct tcp_pcb *pcb)
{
    s->pcb.tcp = pcb;
    tcp_arg(pcb, s);
    tcp_recv(pcb, on_recv);
    tcp_sent(pcb, on_sent);
    tcp_err(pcb, on_error);
}

/* Lets lwIP finish the connection alone. */
static struct tcp_pcb *unhook(struct sock *s)
{
    struct tcp_pcb *pcb = s->pcb.tcp;
    s->pcb.tcp = NULL;
    if (pcb && pcb->state != LISTEN) {
        tcp_arg(pcb, NULL);
        tcp_recv(pcb, NULL);
        tcp_sent(pcb, NULL);
        tcp_err(pcb, NULL);
        tcp_poll(pcb, NULL, 0);
    }
    return pcb;
}

int32_t stream_open(struct sock *s)
{
    struct tcp_pcb *pcb = tcp_new_ip_type(s->family == NETGRAFT_FAMILY_V6 ? IPADDR_TYPE_V6 : IPADDR_TYPE_V4);
    if (!pcb) {
        return NETGRAFT_E_NO_MEMORY;
    }
    hook(s, pcb);
    pcb->rto = FIRST_RTO;
    stream_apply(s);
    return 0;
}

/* Brings the options to the control block. */
void stream_apply(struct sock *s)
{
    struct tcp_pcb *pcb = s->pcb.tcp;
    if (!pcb) {
        return;
    }
    pcb->ttl = IP_IS_V6_VAL(pcb->remote_ip) ? s->opt.hops6 : s->opt.ttl;
    pcb->tos = IP_IS_V6_VAL(pcb->remote_ip) ? s->opt.class6 : s->opt.tos;
    pcb->so_options = (u8_t)((s->opt.reuse ? SOF_REUSEADDR : 0) | (s->opt.keep_alive ? SOF_KEEPALIVE : 0));
    if (pcb->state == LISTEN) {
        return; /* the rest is no part of a listener's smaller block */
    }
    pcb->keep_idle = s->opt.keep_idle * 1000;
    pcb->keep_intvl = s->opt.keep_interval * 1000;
    pcb->keep_cnt = s->opt.keep_count;
    if (s->phase == PHASE_OPEN && !s->opt.cork) {
        port_tcp_output(pcb); /* what was held back */
    }
    if (s->opt.no_delay) {
        tcp_nagle_disable(pcb);
        if (s->phase == PHASE_OPEN) {
            port_tcp_output(pcb);
        }
    } else {
        tcp_nagle_enable(pcb);
    }
    if (pcb->state == CLOSED && s->opt.receive_buffer < TCP_WND) {
        pcb->rcv_wnd = pcb->rcv_ann_wnd = (tcpwnd_size_t)s->opt.receive_buffer;
    }
}

static void note_addresses(struct sock *s, const struct tcp_pcb *pcb)
{
    ip_to_family(&pcb->local_ip, s->family, &s->local.ip);
    s->local.port = pcb->local_port;
    ip_to_family(&pcb->remote_ip, s->family, &s->peer.ip);
    s->peer.port = pcb->remote_port;
    if (IP_IS_V6_VAL(pcb->remote_ip) && ip6_addr_has_zone(ip_2_ip6(&pcb->remote_ip))) {
        s->peer.scope_id = 2;
    }
}

static uint32_t state_of(const struct tcp_pcb *pcb)
{
    static const uint8_t states[] = {
        [CLOSED] = NETGRAFT_TCP_CLOSED,           [LISTEN] = NETGRAFT_TCP_LISTEN,
        [SYN_SENT] = NETGRAFT_TCP_SYN_SENT,       [SYN_RCVD] = NETGRAFT_TCP_SYN_RECEIVED,
        [ESTABLISHED] = NETGRAFT_TCP_ESTABLISHED, [FIN_WAIT_1] = NETGRAFT_TCP_FIN_WAIT_1,
        [FIN_WAIT_2] = NETGRAFT_TCP_FIN_WAIT_2,   [CLOSE_WAIT] = NETGRAFT_TCP_CLOSE_WAIT,
        [CLOSING] = NETGRAFT_TCP_CLOSING,         [LAST_ACK] = NETGRAFT_TCP_LAST_ACK,
        [TIME_WAIT] = NETGRAFT_TCP_CLOSED, /* Linux keeps these elsewhere and says CLOSE of the socket */
    };
    return (size_t)pcb->state < sizeof states ? states[pcb->state] : NETGRAFT_TCP_CLOSED;
}

/* The connection is over; `error` is 0 after an orderly end. */
static void ended(struct sock *s, int32_t error)
{
    s->phase = PHASE_OVER;
    s->has_peer = false;
    s->fin_in = true;
    s->final_state = NETGRAFT_TCP_CLOSED;
    if (error) {
        s->was_reset = true;
        s->error = error;
    }
    sock_changed(running, s, true);
}

static err_t on_recv(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
    struct sock *s = arg;
    (void)err;
    if (!p) {
        s->fin_in = true;
        /* lwIP frees a block in TIME-WAIT without a word, so it is let go now. */
        if (pcb->state == TIME_WAIT || pcb->state == CLOSING) {
            unhook(s);
            ended(s, 0);
        } else {
            sock_changed(running, s, true);
        }
        return ERR_OK;
    }
    s->bytes_in += p->tot_len;
    s->rx_len += p->tot_len;
    s->rx_parts += pbuf_clen(p);
    if (s->rx) {
        pbuf_cat(s->rx, p);
    } else {
        s->rx = p;
    }
    if (s->rx_parts > PARTS_MAX) {
        /* Many small segments would cost much memory, and time to walk along. */
        s->rx = pbuf_coalesce(s->rx, PBUF_RAW);
        s->rx_parts = 1;
    }
    sock_changed(running, s, true);
    return ERR_OK;
}

static err_t on_sent(void *arg, struct tcp_pcb *pcb, u16_t len)
{
    struct sock *s = arg;
    (void)pcb;
    (void)len;
    if (s->ready & NETGRAFT_READY_OUT) {
        return ERR_OK; /* nobody can be waiting for room */
    }
    sock_changed(running, s, true);
    return ERR_OK;
}

static void on_error(void *arg, err_t err)
{
    struct sock *s = arg;
    if (!s) {
        return;
    }
    s->pcb.tcp = NULL;
    if (s->phase == PHASE_CONNECTING) {
        running->stats.tcp_attempt_fails++;
        s->last_was_refused = true;
        ended(s, err == ERR_RST ? NETGRAFT_E_CONNECTION_REFUSED : error_of(err));
    } else if (err == ERR_CLSD) {
        ended(s, 0);
    } else {
        running->stats.tcp_resets_received += err == ERR_RST;
        /* A reset after the peer's end means that it has closed (tcp_reset of Linux). */
        ended(s, s->shut_out && s->fin_in ? 0 : s->fin_in && err == ERR_RST ? NETGRAFT_E_BROKEN_PIPE : error_of(err));
    }
}

static err_t on_connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct sock *s = arg;
    (void)err;
    s->phase = PHASE_OPEN;
    s->has_peer = true;
    s->ready = 0;
    tcp_poll(pcb, NULL, 0);
    note_addresses(s, pcb);
    sock_changed(running, s, true);
    return ERR_OK;
}

/*
 * Called each 500 ms while connecting: lwIP repeats a SYN without the back-off of RFC 6298 section 5.5, and says nothing
 * of a host that does not answer on the link, which Linux gives up after three questions of a second each.
 */
static err_t on_waiting(void *arg, struct tcp_pcb *pcb)
{
    struct sock *s = arg;
    if (pcb->state != SYN_SENT) {
        return ERR_OK;
    }
    pcb->rto = (s16_t)(FIRST_RTO << LWIP_MIN(pcb->nrtx, 6));
    if (++s->waited < WAIT_FOR_NEIGHBOR || is_own(running, &pcb->remote_ip) ||
        neighbor_known(running, &pcb->remote_ip)) {
        return ERR_OK;
    }
    unhook(s);
    tcp_abort(pcb);
    running->stats.tcp_attempt_fails++;
    s->last_was_refused = true;
    ended(s, NETGRAFT_E_HOST_UNREACHABLE);
    return ERR_ABRT;
}

/* A fresh control block for a socket whose attempt failed. */
static int32_t reopen(struct stack *st, struct sock *s)
{
    int32_t error = stream_open(s);
    if (error) {
        return error;
    }
    s->phase = PHASE_FRESH;
    s->fin_in = s->was_reset = s->last_was_refused = s->bound = false;
    s->error = 0;
    if (s->by_program) {
        ip_addr_t ip;
        if (!s->explicit_ip || !ip_from(&s->local.ip, &ip)) {
            ip = s->pcb.tcp->local_ip;
        }
        error = bind_port(st, s, &ip, s->local.port);
    }
    return error;
}

static void set_type(struct tcp_pcb *pcb, const ip_addr_t *like)
{
    if (ip_addr_isany(&pcb->local_ip)) {
        IP_SET_TYPE_VAL(pcb->local_ip, IP_GET_TYPE(like));
    }
    IP_SET_TYPE_VAL(pcb->remote_ip, IP_GET_TYPE(like));
}

int32_t stream_connect(struct stack *st, struct sock *s, const struct netgraft_address *address)
{
    switch (s->phase) {
    case PHASE_CONNECTING: return NETGRAFT_E_ALREADY;
    case PHASE_OPEN:
    case PHASE_LISTENING: return NETGRAFT_E_IS_CONNECTED;
    case PHASE_OVER:
        if (s->error) {
            return take_pending(st, s);
        }
        if (!s->last_was_refused) {
            return NETGRAFT_E_IS_CONNECTED;
        }
        break;
    case PHASE_FRESH: break;
    }
    ip_addr_t to;
    int32_t error = target(st, s, address, &to);
    if (!error && s->phase == PHASE_OVER) {
        error = reopen(st, s);
    }
    if (error) {
        return error;
    }
    if ((!IP_IS_V6(&to) && (ip4_addr_isbroadcast(ip_2_ip4(&to), st->link.kind ? &st->nic : &st->lo) ||
                            ip4_addr_get_u32(ip_2_ip4(&to)) == PP_HTONL(0x7fffffff))) ||
        ip_addr_ismulticast(&to)) {
        return NETGRAFT_E_NETWORK_UNREACHABLE;
    }
    struct tcp_pcb *pcb = s->pcb.tcp;
    if (s->explicit_ip && IP_IS_V6(&pcb->local_ip) != IP_IS_V6(&to)) {
        return NETGRAFT_E_NETWORK_UNREACHABLE;
    }
    set_type(pcb, &to);
    if (!s->bound) {
        ip_addr_t any = pcb->local_ip;
        error = bind_port(st, s, &any, 0);
        if (error) {
            return error == NETGRAFT_E_ADDRESS_IN_USE ? NETGRAFT_E_ADDRESS_NOT_AVAILABLE : error;
        }
    }
    if (ip_addr_isany(&pcb->local_ip) && is_own(st, &to)) {
        ip_addr_copy(pcb->local_ip, to); /* what goes to this host comes from the same address */
    }
    stream_apply(s);
    err_t err = tcp_connect(pcb, &to, address->port, on_connected);
    if (err != ERR_OK) {
        return err == ERR_USE ? NETGRAFT_E_ADDRESS_NOT_AVAILABLE : error_of(err);
    }
    s->waited = 0;
    tcp_poll(pcb, on_waiting, 1);
    pcb->ttl = IP_IS_V6(&to) ? s->opt.hops6 : s->opt.ttl;
    if (s->opt.receive_buffer < TCP_WND) {
        pcb->rcv_wnd = pcb->rcv_ann_wnd = (tcpwnd_size_t)s->opt.receive_buffer;
    }
    note_addresses(s, pcb);
    s->phase = PHASE_CONNECTING;
    st->stats.tcp_active_opens++;
    sock_changed(st, s, false);
    return NETGRAFT_E_IN_PROGRESS;
}

/* The room in bytes that lwIP is sure to take. */
uint32_t stream_room(const struct sock *s)
{
    const struct tcp_pcb *pcb = s->pcb.tcp;
    if (s->phase != PHASE_OPEN || !pcb || s->shut_out || pcb->snd_queuelen >= QUEUE_LIMIT) {
        return 0;
    }
    uint32_t room = tcp_sndbuf(pcb);
    uint32_t used = TCP_SND_BUF > room ? TCP_SND_BUF - room : 0;
    uint32_t limit = s->opt.send_buffer < TCP_SND_BUF ? s->opt.send_buffer : TCP_SND_BUF;
    room = limit > used ? LWIP_MIN(room, limit - used) : 0;
    uint32_t half = pcb->snd_wnd_max / 2, segment = half && half < pcb->mss ? half : pcb->mss;
    uint64_t by_queue = (uint64_t)(QUEUE_LIMIT - pcb->snd_queuelen) * segment / 2;
    return by_queue < room ? (uint32_t)by_queue : room;
}

uint32_t stream_ready(struct sock *s)
{
    uint32_t ready = s->error ? NETGRAFT_READY_ERR : 0;
    bool in_over = s->fin_in || s->shut_in, out_over = s->shut_out || s->was_reset;
    switch (s->phase) {
    case PHASE_FRESH: return ready | NETGRAFT_READY_OUT | NETGRAFT_READY_HUP;
    case PHASE_CONNECTING: return ready;
    case PHASE_LISTENING: return ready | (s->queue_first ? NETGRAFT_READY_IN : 0);
    case PHASE_OVER:
        return ready | NETGRAFT_READY_IN | NETGRAFT_READY_OUT | NETGRAFT_READY_HUP | NETGRAFT_READY_RDHUP;
    case PHASE_OPEN: break;
    }
    ready |= s->rx_len || in_over ? NETGRAFT_READY_IN : 0;
    ready |= in_over ? NETGRAFT_READY_RDHUP : 0;
    ready |= s->shut_in && s->shut_out ? NETGRAFT_READY_HUP : 0;
    uint32_t low = LWIP_MIN(LOW_ROOM, s->opt.send_buffer / 4);
    return ready | (out_over || stream_room(s) >= LWIP_MAX(low, 1) ? NETGRAFT_READY_OUT : 0);
}

int64_t stream_send(struct stack *st, struct sock *s, const void *data, size_t length, uint32_t flags)
{
    if (flags & NETGRAFT_SEND_OUT_OF_BAND) {
        return NETGRAFT_E_NOT_SUPPORTED;
    }
    if (s->error) {
        return take_pending(st, s);
    }
    if (s->phase == PHASE_CONNECTING) {
        return NETGRAFT_E_AGAIN;
    }
    if (s->phase != PHASE_OPEN || s->shut_out || !s->pcb.tcp) {
        return NETGRAFT_E_BROKEN_PIPE;
    }
    if (length == 0) {
        return 0;
    }
    struct tcp_pcb *pcb = s->pcb.tcp;
    uint32_t room = stream_room(s);
    size_t take = length < room ? length : room;
    err_t err = ERR_MEM;
    while (take) {
        u8_t more = take < length || flags & NETGRAFT_SEND_MORE ? TCP_WRITE_FLAG_MORE : 0;
        err = tcp_write(pcb, data, (u16_t)take, TCP_WRITE_FLAG_COPY | more);
        if (err != ERR_MEM) {
            break;
        }
        take /= 2;
    }
    if (take == 0) {
        port_tcp_output(pcb);
        sock_changed(st, s, false);
        return NETGRAFT_E_AGAIN;
    }
    if (err != ERR_OK) {
        return error_of(err);
    }
    /* TCP_CORK: less than a segment waits for more, or for lwIP's slow timer (tcp(7)). */
    if (!s->opt.cork || pcb->snd_lbb - pcb->snd_nxt >= pcb->mss) {
        port_tcp_output(pcb);
    }
    s->bytes_out += take;
    sock_changed(st, s, false);
    return (int64_t)take;
}

/* Takes `count` bytes off the front of the queue. */
static void consume(struct sock *s, uint32_t count)
{
    s->rx_len -= count;
    uint32_t left = count;
    while (left && s->rx) {
        struct pbuf *first = s->rx;
        if (left < first->len) {
            pbuf_remove_header(first, left);
            break;
        }
        left -= first->len;
        s->rx = first->next;
        s->rx_parts -= s->rx_parts > 0;
        first->next = NULL; /* pbuf_dechain would free the rest too */
        first->tot_len = first->len;
        pbuf_free(first);
    }
    for (left = count; s->pcb.tcp && left; ) {
        u16_t part = (u16_t)LWIP_MIN(left, 0xffff);
        tcp_recved(s->pcb.tcp, part);
        left -= part;
    }
}

int32_t stream_recv(struct stack *st, struct sock *s, void *buffer, size_t capacity, uint32_t flags,
                    struct netgraft_received *received)
{
    if (s->rx_len) {
        uint32_t take = capacity < s->rx_len ? (uint32_t)capacity : s->rx_len, done = 0;
        for (struct pbuf *p = s->rx; p && done < take; p = p->next) {
            uint32_t part = LWIP_MIN(p->len, take - done);
            memcpy((uint8_t *)buffer + done, p->payload, part);
            done += part;
        }
        if (!(flags & NETGRAFT_RECV_PEEK)) {
            consume(s, done);
            sock_changed(st, s, false);
        }
        received->len = received->full_len = done;
        return 0;
    }
    if (s->error) {
        return take_pending(st, s);
    }
    switch (s->phase) {
    case PHASE_FRESH:
    case PHASE_LISTENING: return NETGRAFT_E_NOT_CONNECTED;
    case PHASE_CONNECTING: return NETGRAFT_E_AGAIN;
    case PHASE_OVER: return 0;
    case PHASE_OPEN: break;
    }
    return s->fin_in || s->shut_in ? 0 : NETGRAFT_E_AGAIN;
}

/* Shows the first received bytes where lwIP has them: up to 16 buffers of the chain. */
int64_t stream_recv_with(struct stack *st, struct sock *s, netgraft_lend take, void *caller)
{
    struct netgraft_piece pieces[16];
    size_t count = 0;
    for (struct pbuf *p = s->rx_len ? s->rx : NULL; p && count < LWIP_ARRAYSIZE(pieces); p = p->next) {
        if (p->len) {
            pieces[count++] = (struct netgraft_piece){.bytes = p->payload, .length = p->len};
        }
    }
    if (count == 0) {
        /* What is to be said of an empty queue: 0 at the end of the stream. */
        struct netgraft_received nothing = {0};
        return stream_recv(st, s, NULL, 0, 0, &nothing);
    }
    uint64_t taken = take(caller, pieces, count);
    if (taken) {
        consume(s, (uint32_t)taken);
        sock_changed(st, s, false);
    }
    return (int64_t)taken;
}

static void queue_remove(struct sock *s)
{
    struct sock *listener = s->listener, **at = &listener->queue_first;
    struct sock *before = NULL;
    while (*at != s) {
        before = *at;
        at = &(*at)->queue_next;
    }
    *at = s->queue_next;
    if (listener->queue_last == s) {
        listener->queue_last = before;
    }
    listener->queue_len--;
    s->listener = NULL;
}

int32_t stream_shutdown(struct stack *st, struct sock *s, uint32_t how)
{
    if (s->phase == PHASE_LISTENING) {
        if (how == NETGRAFT_SHUTDOWN_WRITE) {
            return 0;
        }
        stream_close(st, s, true);
        s->phase = PHASE_FRESH;
        s->bound = false;
        int32_t error = stream_open(s);
        sock_changed(st, s, true);
        return error;
    }
    if (s->phase != PHASE_OPEN || !s->has_peer) {
        return NETGRAFT_E_NOT_CONNECTED;
    }
    bool out = how != NETGRAFT_SHUTDOWN_READ && !s->shut_out;
    s->shut_in |= how != NETGRAFT_SHUTDOWN_WRITE;
    s->shut_out |= how != NETGRAFT_SHUTDOWN_READ;
    if (out && s->pcb.tcp) {
        tcp_shutdown(s->pcb.tcp, 0, 1);
    }
    sock_changed(st, s, true);
    return 0;
}

static err_t on_accept(void *arg, struct tcp_pcb *pcb, err_t err)
{
    struct sock *listener = arg;
    if (err != ERR_OK || !pcb || !listener) {
        return ERR_VAL;
    }
    struct stack *st = running;
    struct sock *s = sock_new(st, listener->family, NETGRAFT_PROTOCOL_TCP);
    if (!s) {
        return ERR_MEM; /* lwIP resets the connection */
    }
    s->opt = listener->opt;
    s->phase = PHASE_OPEN;
    s->has_peer = s->bound = true;
    hook(s, pcb);
    stream_apply(s);
    if (s->opt.receive_buffer < TCP_WND) {
        pcb->rcv_wnd = pcb->rcv_ann_wnd = (tcpwnd_size_t)s->opt.receive_buffer;
    }
    note_addresses(s, pcb);
    s->listener = listener;
    *(listener->queue_last ? &listener->queue_last->queue_next : &listener->queue_first) = s;
    listener->queue_last = s;
    listener->queue_len++;
    st->stats.tcp_passive_opens++;
    s->ready = ready_now(s);
    sock_changed(st, listener, true);
    return ERR_OK;
}

/* Whether the listener that a SYN for this address would reach has no place for one more connection. */
bool listener_full(const ip_addr_t *to, uint16_t port)
{
    for (struct sock *s = running->listeners; s; s = s->kind_next) {
        struct tcp_pcb *pcb = s->pcb.tcp;
        if (s->local.port != port || !(IP_IS_ANY_TYPE_VAL(pcb->local_ip) || (IP_IS_V6_VAL(pcb->local_ip) ==
            IP_IS_V6(to) && (ip_addr_isany(&pcb->local_ip) || ip_addr_cmp_zoneless(&pcb->local_ip, to))))) {
            continue;
        }
        uint32_t half_open = 0;
        for (struct tcp_pcb *p = tcp_active_pcbs; p; p = p->next) {
            half_open += p->state == SYN_RCVD && (void *)p->listener == (void *)pcb;
        }
        if (s->queue_len + half_open > s->backlog) {
            running->stats.tcp_listen_overflows++;
            return true;
        }
    }
    return false;
}

int32_t stream_listen(struct stack *st, struct sock *s, uint32_t backlog)
{
    if (s->phase == PHASE_LISTENING) {
        s->backlog = backlog;
        return 0;
    }
    if (s->phase != PHASE_FRESH || !s->pcb.tcp) {
        return NETGRAFT_E_INVALID;
    }
    if (!s->bound) {
        bool dual = s->family == NETGRAFT_FAMILY_V6 && !s->opt.v6_only;
        if (dual) {
            IP_SET_TYPE_VAL(s->pcb.tcp->local_ip, IPADDR_TYPE_ANY);
        }
        int32_t error = bind_port(st, s, dual ? IP_ANY_TYPE : &s->pcb.tcp->local_ip, 0);
        if (error) {
            return error;
        }
    }
    err_t err = ERR_OK;
    struct tcp_pcb *pcb = tcp_listen_with_backlog_and_err(s->pcb.tcp, 255, &err);
    if (!pcb) {
        return err == ERR_CLSD ? NETGRAFT_E_INVALID : error_of(err);
    }
    s->pcb.tcp = pcb;
    tcp_arg(pcb, s);
    tcp_accept(pcb, on_accept);
    s->phase = PHASE_LISTENING;
    s->backlog = backlog;
    list_add(&st->listeners, s);
    sock_changed(st, s, false);
    return 0;
}

int32_t stream_accept(struct stack *st, struct sock *s, uint64_t *connection, struct netgraft_address *peer)
{
    if (s->phase != PHASE_LISTENING) {
        return NETGRAFT_E_INVALID;
    }
    struct sock *first = s->queue_first;
    if (!first) {
        return NETGRAFT_E_AGAIN;
    }
    queue_remove(first);
    *connection = first->handle;
    *peer = first->peer;
    sock_changed(st, s, false);
    return 0;
}

/* Takes the connection from the socket; the socket itself is freed by the caller. */
void stream_close(struct stack *st, struct sock *s, bool abort)
{
    if (s->phase == PHASE_LISTENING) {
        list_remove(&st->listeners, s);
        while (s->queue_first) {
            struct sock *waiting = s->queue_first;
            queue_remove(waiting);
            stream_close(st, waiting, true);
            sock_free(st, waiting);
        }
    }
    bool unread = s->rx_len != 0;
    struct tcp_pcb *pcb = unhook(s);
    if (s->rx) {
        pbuf_free(s->rx);
        s->rx = NULL;
    }
    s->rx_len = 0;
    if (!pcb) {
        return;
    }
    if (s->phase == PHASE_OPEN && (abort || unread || s->opt.linger == 0)) {
        st->stats.tcp_resets_sent++;
        tcp_abort(pcb);
        return;
    }
    if (pcb->state != LISTEN) {
        pcb->rcv_wnd = TCP_WND_MAX(pcb); /* lwIP takes a smaller window for unread data, and would reset */
    }
    if (tcp_close(pcb) != ERR_OK) {
        tcp_abort(pcb);
    }
}

int32_t stream_info(struct sock *s, struct netgraft_tcp_info *out)
{
    const struct tcp_pcb *pcb = s->pcb.tcp;
    out->state = pcb ? state_of(pcb) : s->final_state;
    out->bytes_sent = s->bytes_out;
    out->bytes_received = s->bytes_in;
    if (!pcb || pcb->state == LISTEN || pcb->state == CLOSED) {
        return 0;
    }
    /* lwIP keeps times in ticks of 500 ms; the average is scaled by 8, the deviation by 4 (tcp_receive). */
    uint64_t tick = TCP_SLOW_INTERVAL * NANOS_PER_MS;
    out->rtt = pcb->sa > 0 ? (uint64_t)pcb->sa * tick / 8 : 0;
    out->rtt_variance = pcb->sv > 0 ? (uint64_t)pcb->sv * tick / 4 : 0;
    out->rto = pcb->rto > 0 ? (uint64_t)pcb->rto * tick : 0;
    out->send_mss = pcb->mss;
    out->receive_mss = TCP_MSS;
    out->congestion_window = pcb->cwnd;
    out->unacknowledged = pcb->snd_nxt - pcb->lastack;
    out->retransmits = pcb->nrtx;
    out->send_window = pcb->snd_wnd;
    out->receive_window = pcb->rcv_wnd;
    return 0;
}
