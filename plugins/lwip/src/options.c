/* Socket options: those that lwIP can do, and no others. */
#include "stack.h"

#define SECOND 1000000000ull
#define BUFFER_LEAST 2048
#define UDP_BUFFER 212992 /* net.core.rmem_default */
#define BUFFER_MOST (4u << 20)

const uint32_t option_names[OPTION_COUNT] = {
    NETGRAFT_O_REUSE_ADDRESS, NETGRAFT_O_KEEP_ALIVE,    NETGRAFT_O_LINGER,        NETGRAFT_O_SEND_BUFFER,
    NETGRAFT_O_RECEIVE_BUFFER, NETGRAFT_O_BROADCAST,    NETGRAFT_O_TTL,           NETGRAFT_O_TYPE_OF_SERVICE,
    NETGRAFT_O_MULTICAST_TTL, NETGRAFT_O_MULTICAST_LOOP, NETGRAFT_O_PATH_MTU,     NETGRAFT_O_V6_ONLY,
    NETGRAFT_O_UNICAST_HOPS,  NETGRAFT_O_TRAFFIC_CLASS, NETGRAFT_O_NO_DELAY,      NETGRAFT_O_KEEP_IDLE,
    NETGRAFT_O_KEEP_INTERVAL, NETGRAFT_O_KEEP_COUNT,    NETGRAFT_O_MAX_SEGMENT,   NETGRAFT_O_CORK,
};

void options_default(struct sock *s)
{
    bool tcp = s->protocol == NETGRAFT_PROTOCOL_TCP;
    s->opt = (struct options){
        .linger = NETGRAFT_NO_LINGER,
        .send_buffer = tcp ? TCP_SND_BUF : UDP_BUFFER,
        .receive_buffer = tcp ? TCP_WND : UDP_BUFFER,
        .keep_idle = 7200,
        .keep_interval = 75,
        .keep_count = 9,
        .ttl = 64,
        .hops6 = 64,
        .multicast_ttl = 1,
        .multicast_loop = true,
        .reuse = s->protocol == NETGRAFT_PROTOCOL_ICMP || s->protocol == NETGRAFT_PROTOCOL_ICMPV6,
    };
}

/* Whether an option exists for this kind of socket. */
static bool fits(const struct sock *s, uint32_t name)
{
    bool tcp = s->protocol == NETGRAFT_PROTOCOL_TCP, v6 = s->family == NETGRAFT_FAMILY_V6;
    switch (name) {
    case NETGRAFT_O_REUSE_ADDRESS:
    case NETGRAFT_O_KEEP_ALIVE:
    case NETGRAFT_O_LINGER:
    case NETGRAFT_O_SEND_BUFFER:
    case NETGRAFT_O_RECEIVE_BUFFER:
    case NETGRAFT_O_BROADCAST:
    case NETGRAFT_O_TTL:
    case NETGRAFT_O_TYPE_OF_SERVICE:
    case NETGRAFT_O_PATH_MTU: return true;
    case NETGRAFT_O_MULTICAST_TTL:
    case NETGRAFT_O_MULTICAST_LOOP: return s->protocol == NETGRAFT_PROTOCOL_UDP;
    case NETGRAFT_O_V6_ONLY:
    case NETGRAFT_O_UNICAST_HOPS:
    case NETGRAFT_O_TRAFFIC_CLASS: return v6;
    case NETGRAFT_O_NO_DELAY:
    case NETGRAFT_O_CORK:
    case NETGRAFT_O_KEEP_IDLE:
    case NETGRAFT_O_KEEP_INTERVAL:
    case NETGRAFT_O_KEEP_COUNT:
    case NETGRAFT_O_MAX_SEGMENT: return tcp;
    default: return false;
    }
}

static int32_t set_seconds(uint64_t nanoseconds, uint32_t *out)
{
    uint64_t seconds = nanoseconds / SECOND;
    if (seconds < 1 || seconds > 32767) {
        return NETGRAFT_E_INVALID;
    }
    *out = (uint32_t)seconds;
    return 0;
}

static int32_t set_byte(uint64_t value, uint64_t least, uint8_t *out)
{
    if (value < least || value > 255) {
        return NETGRAFT_E_INVALID;
    }
    *out = (uint8_t)value;
    return 0;
}

static int32_t set_buffer(uint64_t value, uint32_t *out)
{
    *out = value < BUFFER_LEAST ? BUFFER_LEAST : value > BUFFER_MOST ? BUFFER_MOST : (uint32_t)value;
    return 0;
}

static int32_t set_v6_only(struct sock *s, bool on)
{
    if (s->bound || s->phase != PHASE_FRESH) {
        return NETGRAFT_E_INVALID;
    }
    s->opt.v6_only = on;
    return 0;
}

static int32_t change(struct sock *s, uint32_t name, uint64_t value)
{
    struct options *opt = &s->opt;
    switch (name) {
    case NETGRAFT_O_REUSE_ADDRESS: opt->reuse = value; return 0;
    case NETGRAFT_O_KEEP_ALIVE: opt->keep_alive = value; return 0;
    case NETGRAFT_O_LINGER: opt->linger = value; return 0;
    case NETGRAFT_O_SEND_BUFFER: return set_buffer(value, &opt->send_buffer);
    case NETGRAFT_O_RECEIVE_BUFFER: return set_buffer(value, &opt->receive_buffer);
    case NETGRAFT_O_BROADCAST: opt->broadcast = value; return 0;
    case NETGRAFT_O_TTL: return set_byte(value, 1, &opt->ttl);
    case NETGRAFT_O_TYPE_OF_SERVICE: return set_byte(value, 0, &opt->tos);
    case NETGRAFT_O_MULTICAST_TTL: return set_byte(value, 0, &opt->multicast_ttl);
    case NETGRAFT_O_MULTICAST_LOOP: opt->multicast_loop = value; return 0;
    case NETGRAFT_O_V6_ONLY: return set_v6_only(s, value);
    case NETGRAFT_O_UNICAST_HOPS: return set_byte(value, 0, &opt->hops6);
    case NETGRAFT_O_TRAFFIC_CLASS: return set_byte(value, 0, &opt->class6);
    case NETGRAFT_O_NO_DELAY: opt->no_delay = value; return 0;
    case NETGRAFT_O_CORK: opt->cork = value; return 0;
    case NETGRAFT_O_KEEP_IDLE: return set_seconds(value, &opt->keep_idle);
    case NETGRAFT_O_KEEP_INTERVAL: return set_seconds(value, &opt->keep_interval);
    case NETGRAFT_O_KEEP_COUNT:
        if (value < 1 || value > 127) {
            return NETGRAFT_E_INVALID;
        }
        opt->keep_count = (uint32_t)value;
        return 0;
    case NETGRAFT_O_PATH_MTU:
    case NETGRAFT_O_MAX_SEGMENT: /* lwIP's is fixed when it is built */
    default: return NETGRAFT_E_UNKNOWN_OPTION;
    }
}

int32_t option_set(void *self, uint64_t handle, const struct netgraft_option *option)
{
    struct stack *st = self;
    struct sock *s = find(st, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    if (!fits(s, option->name)) {
        return NETGRAFT_E_UNKNOWN_OPTION;
    }
    int32_t error = change(s, option->name, option->value.number);
    if (error) {
        return error;
    }
    if (s->protocol == NETGRAFT_PROTOCOL_TCP) {
        stream_apply(s);
    } else if (s->protocol == NETGRAFT_PROTOCOL_UDP) {
        datagram_apply(s);
    }
    sock_changed(st, s, false);
    return 0;
}

static int32_t path_mtu(struct stack *st, const struct sock *s, uint64_t *out)
{
    if (!s->has_peer) {
        return NETGRAFT_E_NOT_CONNECTED;
    }
    ip_addr_t peer;
    bool own = ip_from(&s->peer.ip, &peer) && is_own(st, &peer);
    *out = own || !st->link.kind ? st->lo.mtu : st->nic.mtu;
    return 0;
}

int32_t option_get(void *self, uint64_t handle, struct netgraft_option *out)
{
    struct stack *st = self;
    struct sock *s = find(st, handle);
    if (!s) {
        return NETGRAFT_E_BAD_HANDLE;
    }
    if (!fits(s, out->name)) {
        return NETGRAFT_E_UNKNOWN_OPTION;
    }
    const struct options *opt = &s->opt;
    uint64_t *value = &out->value.number;
    switch (out->name) {
    case NETGRAFT_O_REUSE_ADDRESS: *value = opt->reuse; return 0;
    case NETGRAFT_O_KEEP_ALIVE: *value = opt->keep_alive; return 0;
    case NETGRAFT_O_LINGER: *value = opt->linger; return 0;
    case NETGRAFT_O_SEND_BUFFER: *value = opt->send_buffer; return 0;
    case NETGRAFT_O_RECEIVE_BUFFER: *value = opt->receive_buffer; return 0;
    case NETGRAFT_O_BROADCAST: *value = opt->broadcast; return 0;
    case NETGRAFT_O_TTL: *value = opt->ttl; return 0;
    case NETGRAFT_O_TYPE_OF_SERVICE: *value = opt->tos; return 0;
    case NETGRAFT_O_MULTICAST_TTL: *value = opt->multicast_ttl; return 0;
    case NETGRAFT_O_MULTICAST_LOOP: *value = opt->multicast_loop; return 0;
    case NETGRAFT_O_PATH_MTU: return path_mtu(st, s, value);
    case NETGRAFT_O_V6_ONLY: *value = opt->v6_only; return 0;
    case NETGRAFT_O_UNICAST_HOPS: *value = opt->hops6; return 0;
    case NETGRAFT_O_TRAFFIC_CLASS: *value = opt->class6; return 0;
    case NETGRAFT_O_NO_DELAY: *value = opt->no_delay; return 0;
    case NETGRAFT_O_CORK: *value = opt->cork; return 0;
    case NETGRAFT_O_KEEP_IDLE: *value = opt->keep_idle * SECOND; return 0;
    case NETGRAFT_O_KEEP_INTERVAL: *value = opt->keep_interval * SECOND; return 0;
    case NETGRAFT_O_KEEP_COUNT: *value = opt->keep_count; return 0;
    case NETGRAFT_O_MAX_SEGMENT: *value = s->phase == PHASE_OPEN && s->pcb.tcp ? s->pcb.tcp->mss : TCP_MSS; return 0;
    default: return NETGRAFT_E_UNKNOWN_OPTION;
    }
}
