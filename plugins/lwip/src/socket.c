/* The table of sockets, their events, and binding. */
#include <stdlib.h>

#include "stack.h"

/* A handle is a slot and how often it was used, so no number comes twice. */
struct sock *find(struct stack *st, uint64_t handle)
{
    uint32_t index = (uint32_t)handle;
    if (index >= st->slot_count || st->slots[index].generation != (uint32_t)(handle >> 32)) {
        return NULL;
    }
    return st->slots[index].sock;
}

static bool grow(struct stack *st)
{
    uint32_t capacity = st->slot_capacity ? st->slot_capacity * 2 : 64;
    struct slot *slots = realloc(st->slots, capacity * sizeof *slots);
    if (slots) {
        st->slots = slots;
    }
    uint32_t *free_slots = realloc(st->free_slots, capacity * sizeof *free_slots);
    if (free_slots) {
        st->free_slots = free_slots;
    }
    if (!slots || !free_slots) {
        return false;
    }
    st->slot_capacity = capacity;
    return true;
}

struct sock *sock_new(struct stack *st, uint8_t family, uint8_t protocol)
{
    if (st->free_count == 0 && st->slot_count == st->slot_capacity && !grow(st)) {
        return NULL;
    }
    struct sock *s = calloc(1, sizeof *s);
    if (!s) {
        return NULL;
    }
    uint32_t index = st->free_count ? st->free_slots[--st->free_count] : st->slot_count;
    if (index == st->slot_count) {
        st->slots[st->slot_count++] = (struct slot){ .generation = 1 };
    }
    st->slots[index].sock = s;
    s->handle = (uint64_t)st->slots[index].generation << 32 | index;
    s->family = family;
    s->protocol = protocol;
    s->local.ip.family = family;
    s->final_state = NETGRAFT_TCP_CLOSED;
    options_default(s);
    st->socket_count++;
    return s;
}

static void wait_remove(struct stack *st, struct sock *s)
{
    if (!s->waiting) {
        return;
    }
    *(s->wait_prev ? &s->wait_prev->wait_next : &st->wait_first) = s->wait_next;
    *(s->wait_next ? &s->wait_next->wait_prev : &st->wait_last) = s->wait_prev;
    s->wait_next = s->wait_prev = NULL;
    s->waiting = false;
}

static void wait_add(struct stack *st, struct sock *s)
{
    s->waiting = true;
    s->wait_next = NULL;
    s->wait_prev = st->wait_last;
    *(st->wait_last ? &st->wait_last->wait_next : &st->wait_first) = s;
    st->wait_last = s;
}

void sock_free(struct stack *st, struct sock *s)
{
    uint32_t index = (uint32_t)s->handle;
    wait_remove(st, s);
    st->slots[index].sock = NULL;
    if (++st->slots[index].generation != 0) {
        st->free_slots[st->free_count++] = index; /* a slot that was used 2^32 times is not used again */
    }
    st->socket_count--;
    if (s->rx) {
        pbuf_free(s->rx);
    }
    free(s);
}

static uint32_t reportable(const struct sock *s)
{
    return s->added ? s->ready & (s->mask | NETGRAFT_READY_ERR | NETGRAFT_READY_HUP) : 0;
}

/*
 * The socket may have become ready for something. With `news` it is reported even if it was ready for that before:
 * more data came, or more room appeared.
 */
void sock_changed(struct stack *st, struct sock *s, bool news)
{
    uint32_t before = reportable(s);
    s->ready = ready_now(s);
    uint32_t after = reportable(s);
    if (!s->waiting && after && (news || after & ~before)) {
        wait_add(st, s);
    }
}

uint32_t ready_now(struct sock *s)
{
    if (s->protocol == NETGRAFT_PROTOCOL_TCP) {
        return stream_ready(s);
    }
    uint32_t ready = NETGRAFT_READY_OUT;
    ready |= s->first || s->shut_in ? NETGRAFT_READY_IN : 0;
    ready |= s->shut_in ? NETGRAFT_READY_RDHUP : 0;
    ready |= s->shut_in && s->shut_out ? NETGRAFT_READY_HUP : 0;
    return ready | (s->error ? NETGRAFT_READY_ERR : 0);
}

/* Takes the pending error. */
int32_t take_pending(struct stack *st, struct sock *s)
{
    int32_t error = s->error;
    if (error) {
        s->error = 0;
        sock_changed(st, s, false);
    }
    return error;
}

void list_add(struct sock **head, struct sock *s)
{
    s->kind_prev = NULL;
    s->kind_next = *head;
    if (*head) {
        (*head)->kind_prev = s;
    }
    *head = s;
}

void list_remove(struct sock **head, struct sock *s)
{
    if (*head == s) {
        *head = s->kind_next;
    } else if (s->kind_prev) {
        s->kind_prev->kind_next = s->kind_next;
    }
    if (s->kind_next) {
        s->kind_next->kind_prev = s->kind_prev;
    }
    s->kind_next = s->kind_prev = NULL;
}

/* Whether two sockets' addresses overlap; IPv6's unspecified address is IPv4's too unless the socket is v6 only. */
static bool overlap(const struct sock *a, const ip_addr_t *ip, const struct sock *b)
{
    ip_addr_t other;
    if (!ip_from(&b->local.ip, &other)) {
        return false;
    }
    bool a_any = ip_addr_isany(ip), b_any = ip_addr_isany(&other);
    bool a_v6 = IP_IS_V6(ip) || IP_IS_ANY_TYPE_VAL(*ip), b_v6 = IP_IS_V6(&other);
    if (a_v6 != b_v6) {
        const struct sock *wide = a_v6 ? a : b;
        return (a_v6 ? a_any : b_any) && !wide->opt.v6_only;
    }
    return a_any || b_any || ip_addr_cmp_zoneless(ip, &other);
}

/* What lwIP does not see: sockets for both families, and that a listener shares with nobody. */
static bool taken(struct stack *st, const struct sock *s, const ip_addr_t *ip, uint16_t port)
{
    for (uint32_t i = 0; i < st->slot_count; i++) {
        const struct sock *other = st->slots[i].sock;
        if (other && other != s && other->bound && other->protocol == s->protocol && other->local.port == port &&
            !(s->opt.reuse && other->opt.reuse && other->phase != PHASE_LISTENING) && overlap(s, ip, other)) {
            return true;
        }
    }
    return false;
}

static err_t bind_exact(struct stack *st, struct sock *s, const ip_addr_t *ip, uint16_t port)
{
    switch (s->protocol) {
    case NETGRAFT_PROTOCOL_TCP: return tcp_bind(s->pcb.tcp, ip, port);
    case NETGRAFT_PROTOCOL_UDP: return udp_bind(s->pcb.udp, ip, port);
    default: return echo_bind(st, s, port) ? ERR_USE : ERR_OK;
    }
}

/* Binds the control block; port 0 takes the next free one of the range. */
int32_t bind_port(struct stack *st, struct sock *s, const ip_addr_t *ip, uint16_t port)
{
    err_t err = ERR_USE;
    if (port && s->protocol <= NETGRAFT_PROTOCOL_UDP && taken(st, s, ip, port)) {
        return NETGRAFT_E_ADDRESS_IN_USE;
    }
    if (port) {
        err = bind_exact(st, s, ip, port);
    } else {
        uint32_t range = (uint32_t)st->port_last - st->port_first + 1;
        /* A chosen port is never shared, whatever SO_REUSEADDR says. */
        bool reuse = s->protocol == NETGRAFT_PROTOCOL_TCP || s->protocol == NETGRAFT_PROTOCOL_UDP;
        if (reuse) {
            ip_reset_option(s->pcb.udp, SOF_REUSEADDR);
        }
        for (uint32_t i = 0; i < range && err == ERR_USE; i++) {
            if (st->port_next < st->port_first || st->port_next > st->port_last) {
                st->port_next = st->port_first;
            }
            port = st->port_next++;
            err = bind_exact(st, s, ip, port);
        }
        if (reuse && s->opt.reuse) {
            ip_set_option(s->pcb.udp, SOF_REUSEADDR);
        }
    }
    if (err != ERR_OK) {
        return error_of(err);
    }
    s->bound = true;
    s->local.port = port;
    s->local.ip.family = s->family;
    if (!IP_IS_ANY_TYPE_VAL(*ip)) {
        ip_to_family(ip, s->family, &s->local.ip);
    }
    return 0;
}
