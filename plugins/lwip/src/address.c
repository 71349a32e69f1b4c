/* Addresses between the interface and lwIP, and the errors of lwIP. */
#include "lwip/etharp.h"
#include "lwip/priv/nd6_priv.h"
#include "stack.h"

/* Converts; an IPv4-mapped IPv6 address becomes IPv4. False for no address. */
bool ip_from(const struct netgraft_ip *ip, ip_addr_t *out)
{
    static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
    memset(out, 0, sizeof *out);
    if (ip->family == NETGRAFT_FAMILY_V4 ||
        (ip->family == NETGRAFT_FAMILY_V6 && memcmp(ip->bytes, mapped, sizeof mapped) == 0)) {
        uint32_t word;
        memcpy(&word, ip->bytes + (ip->family == NETGRAFT_FAMILY_V6 ? 12 : 0), 4);
        ip_addr_set_ip4_u32(out, word);
        return true;
    }
    if (ip->family == NETGRAFT_FAMILY_V6) {
        uint32_t words[4];
        memcpy(words, ip->bytes, 16);
        IP_ADDR6(out, words[0], words[1], words[2], words[3]);
        return true;
    }
    return false;
}

void ip_to(const ip_addr_t *ip, struct netgraft_ip *out)
{
    memset(out, 0, sizeof *out);
    if (IP_IS_V6(ip) || IP_IS_ANY_TYPE_VAL(*ip)) {
        out->family = NETGRAFT_FAMILY_V6;
        memcpy(out->bytes, ip_2_ip6(ip)->addr, 16);
    } else {
        out->family = NETGRAFT_FAMILY_V4;
        uint32_t word = ip4_addr_get_u32(ip_2_ip4(ip));
        memcpy(out->bytes, &word, 4);
    }
}

/* As a socket of `family` shows it: IPv4 is mapped for a socket of IPv6 (RFC 4291 section 2.5.5.2). */
void ip_to_family(const ip_addr_t *ip, uint8_t family, struct netgraft_ip *out)
{
    ip_to(ip, out);
    if (family == NETGRAFT_FAMILY_V6 && out->family == NETGRAFT_FAMILY_V4) {
        memcpy(out->bytes + 12, out->bytes, 4);
        memset(out->bytes, 0, 10);
        memset(out->bytes + 10, 0xff, 2);
        out->family = NETGRAFT_FAMILY_V6;
    }
}

/* Whether an address is one of the stack's own, the loopback's among them. */
bool is_own(struct stack *st, const ip_addr_t *ip)
{
    struct netif *netifs[] = { &st->lo, st->link.kind ? &st->nic : NULL };
    for (size_t i = 0; i < 2 && netifs[i]; i++) {
        if (!IP_IS_V6(ip)) {
            if (ip4_addr_cmp(ip_2_ip4(ip), netif_ip4_addr(netifs[i])) && !ip4_addr_isany(ip_2_ip4(ip))) {
                return true;
            }
        } else if (netif_get_ip6_addr_match(netifs[i], ip_2_ip6(ip)) >= 0) {
            return true;
        }
    }
    return false;
}

static bool on_link6(struct stack *st, const ip6_addr_t *ip)
{
    for (int i = 0; i < LWIP_IPV6_NUM_ADDRESSES; i++) {
        if (ip6_addr_isvalid(netif_ip6_addr_state(&st->nic, i)) && ip6_addr_netcmp(ip, netif_ip6_addr(&st->nic, i))) {
            return true;
        }
    }
    return false;
}

/*
 * Where a socket is to connect or send to: checks the family and that there is a way. The unspecified address is
 * this host. A link-local address gets the link as its zone.
 */
int32_t target(struct stack *st, struct sock *s, const struct netgraft_address *address, ip_addr_t *out)
{
    if (address->ip.family != s->family || !ip_from(&address->ip, out)) {
        return NETGRAFT_E_FAMILY_NOT_SUPPORTED;
    }
    if (s->family == NETGRAFT_FAMILY_V6 && !IP_IS_V6(out) && s->opt.v6_only) {
        return NETGRAFT_E_NETWORK_UNREACHABLE;
    }
    if (!IP_IS_V6(out)) {
        ip4_addr_t *ip = ip_2_ip4(out);
        if (ip4_addr_isany(ip)) {
            ip4_addr_set_loopback(ip);
        }
        bool loopback = ip4_addr_isloopback(ip);
        uint32_t last = PP_HTONL(0x7fffffff);
        if (loopback) {
            bool known = is_own(st, out) || ip4_addr_get_u32(ip) == last;
            return known ? 0 : NETGRAFT_E_NETWORK_UNREACHABLE;
        }
        return st->link.kind && netif_is_link_up(&st->nic) ? 0 : NETGRAFT_E_NETWORK_UNREACHABLE;
    }
    ip6_addr_t *ip = ip_2_ip6(out);
    if (ip6_addr_isany(ip)) {
        ip6_addr_set_loopback(ip);
    }
    if (ip6_addr_isloopback(ip) || is_own(st, out)) {
        return 0;
    }
    if (!st->link.kind || !netif_is_link_up(&st->nic)) {
        return NETGRAFT_E_NETWORK_UNREACHABLE;
    }
    if (ip6_addr_islinklocal(ip) || ip6_addr_ismulticast(ip)) {
        ip6_addr_assign_zone(ip, IP6_UNKNOWN, &st->nic);
        return 0;
    }
    bool routed = st->gateway6.family != NETGRAFT_FAMILY_NONE || on_link6(st, ip);
    return routed ? 0 : NETGRAFT_E_NETWORK_UNREACHABLE;
}

/* Whether the host to which packets for `ip` go on the link has answered who it is (RFC 826, RFC 4861). */
bool neighbor_known(struct stack *st, const ip_addr_t *ip)
{
    ip_addr_t gateway;
    if (!IP_IS_V6(ip)) {
        const ip4_addr_t *next = ip_2_ip4(ip), *found;
        struct eth_addr *hardware;
        if (!ip4_addr_netcmp(next, netif_ip4_addr(&st->nic), netif_ip4_netmask(&st->nic))) {
            next = netif_ip4_gw(&st->nic);
        }
        return etharp_find_addr(&st->nic, next, &hardware, &found) >= 0;
    }
    const ip6_addr_t *next = ip_2_ip6(ip);
    if (!on_link6(st, next) && ip_from(&st->gateway6, &gateway)) {
        next = ip_2_ip6(&gateway);
    }
    for (int i = 0; i < LWIP_ND6_NUM_NEIGHBORS; i++) {
        const struct nd6_neighbor_cache_entry *entry = &neighbor_cache[i];
        if (entry->state != ND6_NO_ENTRY && ip6_addr_cmp_zoneless(&entry->next_hop_address, next)) {
            return entry->state != ND6_INCOMPLETE;
        }
    }
    return false;
}

int32_t error_of(err_t err)
{
    switch (err) {
    case ERR_OK: return NETGRAFT_OK;
    case ERR_MEM: return NETGRAFT_E_NO_MEMORY;
    case ERR_BUF: return NETGRAFT_E_NO_BUFFERS;
    case ERR_TIMEOUT: return NETGRAFT_E_TIMED_OUT;
    case ERR_RTE: return NETGRAFT_E_NETWORK_UNREACHABLE;
    case ERR_INPROGRESS: return NETGRAFT_E_IN_PROGRESS;
    case ERR_VAL: return NETGRAFT_E_INVALID;
    case ERR_WOULDBLOCK: return NETGRAFT_E_AGAIN;
    case ERR_USE: return NETGRAFT_E_ADDRESS_IN_USE;
    case ERR_ALREADY: return NETGRAFT_E_ALREADY;
    case ERR_ISCONN: return NETGRAFT_E_IS_CONNECTED;
    case ERR_CONN: return NETGRAFT_E_NOT_CONNECTED;
    case ERR_IF: return NETGRAFT_E_NETWORK_DOWN;
    case ERR_ABRT: return NETGRAFT_E_TIMED_OUT; /* lwIP's timers gave up */
    case ERR_RST: return NETGRAFT_E_CONNECTION_RESET;
    default: return NETGRAFT_E_IO;
    }
}
