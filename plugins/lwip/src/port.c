/*
 * lwIP's port: clock, locks, checksums. Debian builds lwIP with the Unix port, which reads the clock itself and hands
 * loopback packets to a thread of its own. The functions below take the place of that port's: `port_install` writes
 * their addresses to the table through which the library makes its calls (the procedure linkage table of the System
 * V ABI). So no thread is started, no lock is taken, and time is what the caller says. It does not matter who
 * loaded the library, or when.
 */
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "lwip/inet_chksum.h"
#include "lwip/init.h"
#include "lwip/ip4.h"
#include "lwip/ip6.h"
#include "lwip/prot/tcp.h"
#include "lwip/sys.h"
#include "lwip/tcpip.h"
#include "lwip/timeouts.h"
#include "stack.h"

struct stack *running;
bool input_is_trusted;

static uint64_t iss_key[2];

static u32_t port_sys_now(void)
{
    return running ? (u32_t)(running->now / NANOS_PER_MS) : 0;
}

/* One thread at a time runs in an instance, so nothing needs protection. */
static sys_prot_t port_sys_arch_protect(void)
{
    return 0;
}

static void port_sys_arch_unprotect(sys_prot_t level)
{
    (void)level;
}

static void port_sys_check_core_locking(void)
{
}

/* netif_loop_output asks that netif_poll be called: the next poll does it. */
static err_t port_tcpip_try_callback(tcpip_callback_fn function, void *context)
{
    (void)function;
    (void)context;
    if (running) {
        running->loop_pending = true;
    }
    return ERR_OK;
}

/* lwIP has connections that need its timer. */
static void port_tcp_timer_needed(void)
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

err_t port_ip_input(struct pbuf *p, struct netif *netif)
{
    if (p->len < 20) {
        pbuf_free(p);
        return ERR_OK;
    }
    const uint8_t *bytes = p->payload;
    bool v6 = bytes[0] >> 4 == 6;
    /* lwIP aborts on a bad length in UDP-Lite, which no socket here uses. */
    if (turned_away(p, v6) || bytes[v6 ? 6 : 9] == IP_PROTO_UDPLITE) {
        pbuf_free(p);
        return ERR_OK;
    }
    return v6 ? ip6_input(p, netif) : ip4_input(p, netif);
}

/*
 * lwIP holds an acknowledgement that is due back as long as Nagle's algorithm holds data back that could carry it:
 * two ends that do so wait for each other until a retransmission. So what is still due after its output is sent.
 */
err_t port_tcp_output(struct tcp_pcb *pcb)
{
    err_t err = tcp_output(pcb);
    if (err == ERR_OK && pcb->flags & TF_ACK_NOW && pcb != tcp_input_pcb && pcb->state >= ESTABLISHED) {
        return tcp_send_empty_ack(pcb);
    }
    return err;
}

/* The ones' complement sum of 16-bit words as they lie in memory (RFC 1071), not complemented. */
u16_t port_lwip_standard_chksum(const void *data, int len)
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
    uint64_t sum = port_lwip_standard_chksum(src, addr_len);
    sum += port_lwip_standard_chksum(dst, addr_len);
    sum += lwip_htons(proto);
    sum += lwip_htons(length);
    bool odd = false;
    for (; p; p = p->next) {
        u16_t part = port_lwip_standard_chksum(p->payload, p->len);
        sum += odd ? (u16_t)(part << 8 | part >> 8) : part;
        odd ^= p->len & 1;
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (u16_t)~sum;
}

static u16_t port_inet_chksum_pseudo(struct pbuf *p, u8_t proto, u16_t length, const ip4_addr_t *src,
                                    const ip4_addr_t *dest)
{
    return skips_check(src) ? 0 : pseudo_sum(p, proto, length, &src->addr, &dest->addr, 4);
}

u16_t port_ip6_chksum_pseudo(struct pbuf *p, u8_t proto, u16_t length, const ip6_addr_t *src,
                                   const ip6_addr_t *dest)
{
    return skips_check(src) ? 0 : pseudo_sum(p, proto, length, src->addr, dest->addr, 16);
}

static u16_t port_ip_chksum_pseudo(struct pbuf *p, u8_t proto, u16_t length, const ip_addr_t *src,
                                  const ip_addr_t *dest)
{
    return IP_IS_V6(dest) ? port_ip6_chksum_pseudo(p, proto, length, ip_2_ip6(src), ip_2_ip6(dest))
                          : port_inet_chksum_pseudo(p, proto, length, ip_2_ip4(src), ip_2_ip4(dest));
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
static u32_t port_tcp_next_iss(struct tcp_pcb *pcb)
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

#define REPLACED(name) { #name, (void (*)(void))port_##name }

static const struct {
    const char *name;
    void (*function)(void);
} replaced[] = {
    REPLACED(sys_now),           REPLACED(sys_arch_protect),     REPLACED(sys_arch_unprotect),
    REPLACED(tcpip_try_callback), REPLACED(tcp_timer_needed),    REPLACED(sys_check_core_locking),
    REPLACED(ip_input),          REPLACED(tcp_output),           REPLACED(tcp_next_iss),
    REPLACED(inet_chksum_pseudo), REPLACED(ip6_chksum_pseudo),   REPLACED(ip_chksum_pseudo),
    REPLACED(lwip_standard_chksum),
};
#define REPLACED_COUNT (sizeof replaced / sizeof *replaced)

#if defined(__x86_64__)
#define JUMP_SLOT R_X86_64_JUMP_SLOT
#define GLOB_DAT R_X86_64_GLOB_DAT
#elif defined(__aarch64__)
#define JUMP_SLOT R_AARCH64_JUMP_SLOT
#define GLOB_DAT R_AARCH64_GLOB_DAT
#else
#error "the number of this architecture's jump slot relocation is not known here"
#endif

/* The dynamic linker relocates these entries in place on the architectures above (glibc). */
static uintptr_t entry_of(const ElfW(Dyn) *dynamic, ElfW(Sxword) tag)
{
    for (; dynamic->d_tag != DT_NULL; dynamic++) {
        if (dynamic->d_tag == tag) {
            return dynamic->d_un.d_ptr;
        }
    }
    return 0;
}

struct range {
    uintptr_t base, begin, end;
};

/* Finds what the linker made read-only after it had relocated the object at `base`, in whole pages. */
static int find_read_only(struct dl_phdr_info *info, size_t size, void *data)
{
    struct range *range = data;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    (void)size;
    for (int i = 0; info->dlpi_addr == range->base && i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type == PT_GNU_RELRO) {
            uintptr_t begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            range->begin = begin & ~(page - 1);
            range->end = (begin + info->dlpi_phdr[i].p_memsz) & ~(page - 1);
        }
    }
    return range->end != 0;
}

static bool protect(const struct range *range, int protection)
{
    return range->end == range->begin || mprotect((void *)range->begin, range->end - range->begin, protection) == 0;
}

/* Writes the functions' addresses where the relocations of one table put lwIP's own. */
static void replace(const struct link_map *map, ElfW(Sxword) table, ElfW(Sxword) table_size, bool *found)
{
    const ElfW(Rela) *relocation = (const ElfW(Rela) *)entry_of(map->l_ld, table);
    const ElfW(Sym) *symbols = (const ElfW(Sym) *)entry_of(map->l_ld, DT_SYMTAB);
    const char *texts = (const char *)entry_of(map->l_ld, DT_STRTAB);
    size_t count = relocation ? entry_of(map->l_ld, table_size) / sizeof *relocation : 0;
    for (; count; count--, relocation++) {
        unsigned long type = ELF64_R_TYPE(relocation->r_info);
        if (type != JUMP_SLOT && type != GLOB_DAT) {
            continue;
        }
        const char *name = texts + symbols[ELF64_R_SYM(relocation->r_info)].st_name;
        for (size_t i = 0; i < REPLACED_COUNT; i++) {
            if (strcmp(name, replaced[i].name) == 0) {
                *(void (**)(void))(map->l_addr + relocation->r_offset) = replaced[i].function;
                found[i] = true;
            }
        }
    }
}

/* Makes lwIP call the functions above. Answers null, or the name of one that it would not call. */
const char *port_install(void)
{
    Dl_info info;
    struct link_map *map = NULL;
    bool found[REPLACED_COUNT] = { false };
    if (!dladdr1((void *)(uintptr_t)&lwip_init, &info, (void **)&map, RTLD_DL_LINKMAP) || !map) {
        return "lwip_init";
    }
    struct range read_only = { .base = map->l_addr };
    dl_iterate_phdr(find_read_only, &read_only);
    if (!protect(&read_only, PROT_READ | PROT_WRITE)) {
        return "anything";
    }
    replace(map, DT_JMPREL, DT_PLTRELSZ, found);
    replace(map, DT_RELA, DT_RELASZ, found);
    if (!protect(&read_only, PROT_READ)) {
        return "anything";
    }
    for (size_t i = 0; i < REPLACED_COUNT; i++) {
        if (!found[i]) {
            return replaced[i].name;
        }
    }
    return NULL;
}
