/*
 * lwIP's port: clock, locks, random numbers, checksums. Debian builds lwIP with the Unix port, which reads the
 * clock itself and hands loopback packets to a thread of its own. This object exports the port's functions under the
 * same names; it comes before liblwip.so in the order in which the dynamic linker looks symbols up for liblwip.so,
 * so lwIP calls these. No thread is started, no lock is taken, and time is what the caller says.
 * `port_takes_effect` checks that the linker saw it the same way.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/random.h>

#include "lwip/inet_chksum.h"
#include "lwip/ip4.h"
#include "lwip/ip6.h"
#include "lwip/prot/tcp.h"
#include "lwip/sys.h"
#include "lwip/tcpip.h"
#include "lwip/timeouts.h"
#include "stack.h"

#define INTERPOSED NETGRAFT_EXPORT __attribute__((used))

struct stack *running;
bool input_is_trusted;

static uint64_t iss_key[2];
static bool probing;
static bool protect_seen;

INTERPOSED u32_t sys_now(void)
{
    return running ? (u32_t)(running->now / NANOS_PER_MS) : 0;
}

/* One thread at a time runs in an instance, so nothing needs protection. */
INTERPOSED sys_prot_t sys_arch_protect(void)
{
    protect_seen = true;
    return 0;
}

INTERPOSED void sys_arch_unprotect(sys_prot_t level)
{
    (void)level;
}

INTERPOSED void sys_check_core_locking(void)
{
}

/* netif_loop_output asks that netif_poll be called: the next poll does it. */
INTERPOSED err_t tcpip_try_callback(tcpip_callback_fn function, void *context)
{
    (void)function;
    (void)context;
    if (probing || !running) {
        return ERR_OK;
    }
    running->loop_pending = true;
    return ERR_OK;
}

/* lwIP has connections that need its timer. */
INTERPOSED void tcp_timer_needed(void)
{
    if (running && running->tcp_due == NETGRAFT_NEVER && (tcp_active_pcbs || tcp_tw_pcbs)) {
        running->tcp_due = running->now + TCP_TMR_INTERVAL * NANOS_PER_MS;
    }
}

/* A SYN for a listener whose queue is full is dropped, as Linux does, and comes again. */
static bool turned_away(const struct pbuf *p, bool v6)
{
    const uint8_t *bytes = p->payload;
    size_t header = v6 ? 40 : (size_t)(bytes[0] & 15) * 4;
    if (p->len < header + 20 || bytes[v6 ? 6 : 9] != IP_PROTO_TCP || (!v6 && (bytes[6] & 0x1f || bytes[7]))) {
        return false;
    }
    const uint8_t *tcp = bytes + header;
    if ((tcp[13] & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_SYN) {
        return false;
    }
    struct netgraft_ip to = { .family = v6 ? NETGRAFT_FAMILY_V6 : NETGRAFT_FAMILY_V4 };
    ip_addr_t ip;
    memcpy(to.bytes, bytes + (v6 ? 24 : 16), v6 ? 16 : 4);
    return ip_from(&to, &ip) && listener_full(&ip, (uint16_t)(tcp[2] << 8 | tcp[3]));
}

INTERPOSED err_t ip_input(struct pbuf *p, struct netif *netif)
{
    if (p->len < 20) {
        pbuf_free(p);
        return ERR_OK;
    }
    bool v6 = *(const uint8_t *)p->payload >> 4 == 6;
    if (turned_away(p, v6)) {
        pbuf_free(p);
        return ERR_OK;
    }
    return v6 ? ip6_input(p, netif) : ip4_input(p, netif);
}

static err_t (*lwip_tcp_output)(struct tcp_pcb *);

/*
 * lwIP holds an acknowledgement that is due back as long as Nagle's algorithm holds data back that could carry it:
 * two ends that do so wait for each other until a retransmission. So what is still due after its output is sent.
 */
INTERPOSED err_t tcp_output(struct tcp_pcb *pcb)
{
    err_t err = lwip_tcp_output(pcb);
    if (err == ERR_OK && pcb->flags & TF_ACK_NOW && pcb != tcp_input_pcb && pcb->state >= ESTABLISHED) {
        return tcp_send_empty_ack(pcb);
    }
    return err;
}

/* The ones' complement sum of 16-bit words as they lie in memory (RFC 1071), not complemented. */
INTERPOSED u16_t lwip_standard_chksum(const void *data, int len)
{
    const uint8_t *bytes = data;
    uint64_t sum = 0;
    int at = 0;
    for (; at + 4 <= len; at += 4) {
        uint32_t word;
        memcpy(&word, bytes + at, 4);
        sum += word;
    }
    if (len - at >= 2) {
        uint16_t word;
        memcpy(&word, bytes + at, 2);
        sum += word;
        at += 2;
    }
    if (at < len) {
        uint16_t word = 0;
        memcpy(&word, bytes + at, 1);
        sum += word;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (u16_t)sum;
}

/* lwIP calls this to make a checksum and to check one; only a check is of the current packet's source. */
static bool skips_check(const void *src)
{
    return input_is_trusted && src == (const void *)ip_current_src_addr();
}

/* The sum of a chain and its pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), complemented. */
static u16_t pseudo_sum(struct pbuf *p, uint8_t proto, u16_t length, const void *src, const void *dst, int addr_len)
{
    uint64_t sum = lwip_standard_chksum(src, addr_len);
    sum += lwip_standard_chksum(dst, addr_len);
    sum += lwip_htons(proto);
    sum += lwip_htons(length);
    bool odd = false;
    for (; p; p = p->next) {
        u16_t part = lwip_standard_chksum(p->payload, p->len);
        sum += odd ? (u16_t)(part << 8 | part >> 8) : part;
        odd ^= p->len & 1;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (u16_t)~sum;
}

INTERPOSED u16_t inet_chksum_pseudo(struct pbuf *p, u8_t proto, u16_t length, const ip4_addr_t *src,
                                    const ip4_addr_t *dest)
{
    return skips_check(src) ? 0 : pseudo_sum(p, proto, length, &src->addr, &dest->addr, 4);
}

INTERPOSED u16_t ip6_chksum_pseudo(struct pbuf *p, u8_t proto, u16_t length, const ip6_addr_t *src,
                                   const ip6_addr_t *dest)
{
    return skips_check(src) ? 0 : pseudo_sum(p, proto, length, src->addr, dest->addr, 16);
}

INTERPOSED u16_t ip_chksum_pseudo(struct pbuf *p, u8_t proto, u16_t length, const ip_addr_t *src,
                                  const ip_addr_t *dest)
{
    return IP_IS_V6(dest) ? ip6_chksum_pseudo(p, proto, length, ip_2_ip6(src), ip_2_ip6(dest))
                          : inet_chksum_pseudo(p, proto, length, ip_2_ip4(src), ip_2_ip4(dest));
}

static uint64_t rotate(uint64_t x, int by)
{
    return x << by | x >> (64 - by);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1], v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1], v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

/* SipHash-2-4 of whole words (Aumasson and Bernstein, 2012). */
static uint64_t sip(const uint64_t *words, size_t count)
{
    uint64_t v[4] = { iss_key[0] ^ 0x736f6d6570736575, iss_key[1] ^ 0x646f72616e646f6d,
                      iss_key[0] ^ 0x6c7967656e657261, iss_key[1] ^ 0x7465646279746573 };
    for (size_t i = 0; i <= count; i++) {
        uint64_t word = i < count ? words[i] : (uint64_t)(count * 8) << 56;
        v[3] ^= word;
        sip_round(v);
        sip_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* The first sequence number of a connection (RFC 6528): a secret function of its addresses, and a clock of 4 us. */
INTERPOSED u32_t tcp_next_iss(struct tcp_pcb *pcb)
{
    uint64_t words[5] = { 0 };
    struct netgraft_ip ip;
    ip_to(&pcb->local_ip, &ip);
    memcpy(words, ip.bytes, 16);
    ip_to(&pcb->remote_ip, &ip);
    memcpy(words + 2, ip.bytes, 16);
    words[4] = (uint64_t)pcb->local_port << 16 | pcb->remote_port;
    return (u32_t)sip(words, 5) + (u32_t)((running ? running->now : 0) / 4000);
}

void port_seed(void)
{
    unsigned seed = 0;
    if (getrandom(iss_key, sizeof iss_key, 0) != sizeof iss_key || getrandom(&seed, sizeof seed, 0) < 0) {
        abort(); /* cannot happen for requests of up to 256 bytes (getrandom(2)) */
    }
    srand(seed); /* LWIP_RAND is rand(3) */
}

/* Whether lwIP calls the functions above: freeing a buffer protects its reference count. */
bool port_takes_effect(void)
{
    *(void **)&lwip_tcp_output = dlsym(RTLD_NEXT, "tcp_output");
    if (!lwip_tcp_output) {
        return false;
    }
    probing = true;
    protect_seen = false;
    struct pbuf *p = pbuf_alloc(PBUF_RAW, 16, PBUF_RAM);
    if (p) {
        pbuf_free(p);
    }
    probing = false;
    return p && protect_seen;
}
