/*
 * lwIP's timers, run from poll. lwIP's own list of them is not used: it wakes up ten times a second for groups that
 * nobody has joined.
 */
#include "lwip/etharp.h"
#include "lwip/igmp.h"
#include "lwip/ip4_frag.h"
#include "lwip/ip6_frag.h"
#include "lwip/mld6.h"
#include "lwip/nd6.h"
#include "lwip/prot/icmp6.h"
#include "lwip/prot/ip6.h"
#include "lwip/prot/nd6.h"
#include "stack.h"

#define SLOW (1000 * NANOS_PER_MS) /* ARP, neighbour discovery, fragments */
#define FAST (100 * NANOS_PER_MS)  /* reports of group memberships */
#define TCP (TCP_TMR_INTERVAL * NANOS_PER_MS)
#define ROUTER_LIFETIME 9000 /* seconds (RFC 4861 section 6.2.1) */
#define CATCH_UP 8
#define TIME_WAIT_MAX 4096

/* Whether a tick is due. Late ticks are made up for, unless there are very many. */
static bool due(uint64_t *at, uint64_t now, uint64_t interval)
{
    if (*at > now) {
        return false;
    }
    *at += interval;
    if (now - *at > CATCH_UP * interval && *at < now) {
        *at = now;
    }
    return true;
}

static bool reports_pending(struct stack *st)
{
    for (struct igmp_group *g = netif_igmp_data(&st->nic); g; g = g->next) {
        if (g->timer) {
            return true;
        }
    }
    for (struct mld_group *g = netif_mld6_data(&st->nic); g; g = g->next) {
        if (g->timer) {
            return true;
        }
    }
    return false;
}

/* The oldest connections in TIME-WAIT make way for others, as with net.ipv4.tcp_max_tw_buckets of Linux. */
static void trim_time_wait(void)
{
    struct tcp_pcb *pcb = tcp_tw_pcbs;
    for (int count = 0; pcb && count < TIME_WAIT_MAX; count++) {
        pcb = pcb->next; /* the newest come first */
    }
    while (pcb) {
        struct tcp_pcb *next = pcb->next;
        tcp_abort(pcb);
        pcb = next;
    }
}

void timers_run(struct stack *st)
{
    uint64_t now = st->now;
    while (due(&st->tcp_due, now, TCP)) {
        tcp_tmr();
        trim_time_wait();
        if (!tcp_active_pcbs && !tcp_tw_pcbs) {
            st->tcp_due = NETGRAFT_NEVER;
        }
    }
    if (!st->link.kind) {
        return;
    }
    while (due(&st->slow_due, now, SLOW)) {
        etharp_tmr();
        ip_reass_tmr();
        ip6_reass_tmr();
        nd6_tmr();
    }
    if (st->router_due <= now) {
        router_announce(st);
    }
    if (!reports_pending(st)) {
        st->fast_due = NETGRAFT_NEVER;
        return;
    }
    if (st->fast_due == NETGRAFT_NEVER) {
        st->fast_due = now + FAST;
    }
    while (due(&st->fast_due, now, FAST)) {
        igmp_tmr();
        mld6_tmr();
    }
}

uint64_t timers_due(struct stack *st)
{
    uint64_t at = st->tcp_due;
    at = LWIP_MIN(at, st->slow_due);
    at = LWIP_MIN(at, st->fast_due);
    return LWIP_MIN(at, st->router_due);
}

/*
 * lwIP has no call to set an IPv6 gateway: it learns routers from their advertisements (RFC 4861 section 4.2). So it
 * gets one, from the gateway of the configuration, before the last one has expired.
 */
void router_announce(struct stack *st)
{
    struct pbuf *p = pbuf_alloc(PBUF_RAW, IP6_HLEN + sizeof(struct ra_header), PBUF_RAM);
    ip_addr_t from, to;
    st->router_due = NETGRAFT_NEVER;
    if (!p || !ip_from(&st->gateway6, &from)) {
        return;
    }
    st->router_due = st->now + ROUTER_LIFETIME / 3 * 1000 * NANOS_PER_MS;
    memset(p->payload, 0, p->len);
    struct ip6_hdr *ip = p->payload;
    struct ra_header *ra = (struct ra_header *)((uint8_t *)p->payload + IP6_HLEN);
    ip6_addr_set_allnodes_linklocal(ip_2_ip6(&to));
    IP6H_VTCFL_SET(ip, 6, 0, 0);
    IP6H_PLEN_SET(ip, sizeof *ra);
    IP6H_NEXTH_SET(ip, IP6_NEXTH_ICMP6);
    IP6H_HOPLIM_SET(ip, 255);
    ip6_addr_copy_to_packed(ip->src, *ip_2_ip6(&from));
    ip6_addr_copy_to_packed(ip->dest, *ip_2_ip6(&to));
    ra->type = ICMP6_TYPE_RA;
    ra->current_hop_limit = 64;
    ra->router_lifetime = lwip_htons(ROUTER_LIFETIME);
    input_is_trusted = true; /* it has no checksum */
    if (ip6_input(p, &st->nic) != ERR_OK) {
        pbuf_free(p);
    }
    input_is_trusted = false;
}
