/* The link: a TAP device or an AF_PACKET socket, opened by the launcher, served by poll. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lwip/etharp.h"
#include "netif/ethernet.h"
#include "stack.h"

#define SOCKET_BUFFER (8 << 20)
#define RETRY_NANOS (500 * 1000ull) /* when the kernel takes no more frames */
#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

static bool interface_ioctl(unsigned long code, struct ifreq *request)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool done = fd >= 0 && ioctl(fd, code, request) == 0;
    int error = errno;
    if (fd >= 0) {
        close(fd);
    }
    errno = error;
    return done;
}

static struct ifreq named(const struct link *link)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    memcpy(request.ifr_name, link->name, sizeof request.ifr_name);
    return request;
}

/* Sets the interface up and asks for its MTU. */
static bool ready_interface(struct link *link)
{
    struct ifreq request = named(link);
    if (!interface_ioctl(SIOCGIFFLAGS, &request)) {
        return false;
    }
    if (!(request.ifr_flags & IFF_UP)) {
        request.ifr_flags |= IFF_UP;
        if (!interface_ioctl(SIOCSIFFLAGS, &request)) {
            return false;
        }
    }
    request = named(link);
    if (!interface_ioctl(SIOCGIFMTU, &request)) {
        return false;
    }
    link->mtu = (uint32_t)request.ifr_mtu;
    return true;
}

static const char *open_tap(struct link *link)
{
    struct ifreq request = named(link);
    link->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (link->fd < 0) {
        return "/dev/net/tun cannot be opened (load the module tun, or run as root)";
    }
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(link->fd, TUNSETIFF, &request) < 0) {
        return "the TAP device cannot be made or attached to (it needs CAP_NET_ADMIN and must be free)";
    }
    if (ioctl(link->fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6) < 0) {
        return "the offloads of the TAP device cannot be set";
    }
    if (!ready_interface(link)) {
        return "the TAP device cannot be set up";
    }
    if (getrandom(link->mac, sizeof link->mac, 0) != sizeof link->mac) {
        return "there are no random numbers for a hardware address";
    }
    link->mac[0] = (uint8_t)((link->mac[0] & 0xfc) | 2);
    return NULL;
}

static const char *open_packet(struct link *link)
{
    struct ifreq request = named(link);
    int one = 1, size = SOCKET_BUFFER;
    if (!interface_ioctl(SIOCGIFHWADDR, &request) || request.ifr_hwaddr.sa_family != ARPHRD_ETHER) {
        return "there is no Ethernet interface of this name";
    }
    memcpy(link->mac, request.ifr_hwaddr.sa_data, sizeof link->mac);
    if (!ready_interface(link) || !interface_ioctl(SIOCGIFINDEX, &request)) {
        return "the interface cannot be set up";
    }
    link->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (link->fd < 0) {
        return "AF_PACKET needs CAP_NET_RAW (run as root)";
    }
    struct sockaddr_ll to = { .sll_family = AF_PACKET,
                              .sll_protocol = lwip_htons(ETH_P_ALL),
                              .sll_ifindex = request.ifr_ifindex };
    (void)setsockopt(link->fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size); /* only speed depends on these */
    (void)setsockopt(link->fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    if (setsockopt(link->fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) < 0 ||
        setsockopt(link->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) < 0 ||
        bind(link->fd, (struct sockaddr *)&to, sizeof to) < 0) {
        return "the AF_PACKET socket cannot be bound to the interface";
    }
    return NULL;
}

/* With --trust-pre-init: opens the device in the caller's network namespace; the text for init is "tap NAME HARDWARE-ADDRESS MTU", as
 * netgraft writes it. */
int32_t link_pre_init(void *self, uint32_t pid, struct netgraft_handover *out, char *why, size_t why_capacity)
{
    struct stack *st = self;
    struct link *link = &st->link;
    (void)pid;
    if (link->kind == NETGRAFT_LINK_NONE || out->fd_count == 1) {
        return 0; /* There is nothing to open, or netgraft has opened it. */
    }
    if (out->fd_capacity < 1) {
        return explain(why, why_capacity, NETGRAFT_E_NO_BUFFERS, "no room to hand over the link");
    }
    const char *problem = link->kind == NETGRAFT_LINK_TAP ? open_tap(link) : open_packet(link);
    if (problem) {
        int32_t error = explain(why, why_capacity, NETGRAFT_E_IO, "link %s: %s: %s", link->name, problem,
                                strerror(errno));
        link_close(st);
        return error;
    }
    const uint8_t *m = link->mac;
    int length = snprintf(out->text, out->text_capacity, "%s %s %02x:%02x:%02x:%02x:%02x:%02x %u",
                          link->kind == NETGRAFT_LINK_TAP ? "tap" : "packet", link->name, m[0], m[1], m[2], m[3],
                          m[4], m[5], link->mtu);
    if (length < 0 || (size_t)length >= out->text_capacity) {
        link_close(st);
        return explain(why, why_capacity, NETGRAFT_E_NO_BUFFERS, "no room for the description of the link");
    }
    out->text_length = (size_t)length;
    out->fds[0] = link->fd;
    out->fd_count = 1;
    link->fd = -1;
    return 0;
}

/* Takes over what pre_init or netgraft opened. */
int32_t link_adopt(struct stack *st, const char *text, size_t length, const int32_t *fds, size_t fd_count, char *why,
                   size_t why_capacity)
{
    struct link *link = &st->link;
    char copy[96] = { 0 };
    unsigned m[6], mtu;
    if (length < sizeof copy) {
        memcpy(copy, text, length);
    }
    if (fd_count != 1 || sscanf(copy, "%*s %*s %2x:%2x:%2x:%2x:%2x:%2x %u", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5],
                                &mtu) != 7 || mtu < 576) {
        return explain(why, why_capacity, NETGRAFT_E_INVALID, "the launcher handed over no usable link");
    }
    link->rx = malloc((size_t)RX_SLOTS * SLOT);
    link->tx = malloc((size_t)TX_SLOTS * SLOT);
    if (!link->rx || !link->tx) {
        return explain(why, why_capacity, NETGRAFT_E_NO_MEMORY, "no memory for the link's buffers");
    }
    for (int i = 0; i < 6; i++) {
        link->mac[i] = (uint8_t)m[i];
    }
    link->mtu = LWIP_MIN(mtu, 65000); /* lwIP counts the bytes of a frame in 16 bits */
    link->fd = fds[0];
    return 0;
}

void link_close(struct stack *st)
{
    struct link *link = &st->link;
    if (link->fd >= 0) {
        close(link->fd);
    }
    free(link->rx);
    free(link->tx);
    link->rx = link->tx = NULL;
    link->fd = -1;
}

static void failed(struct stack *st, const char *call)
{
    if (!st->link.down) {
        st->link.down = true;
        say(st, NETGRAFT_LOG_ERROR, "link %s: %s: %s", st->link.name, call, strerror(errno));
        netif_set_link_down(&st->nic);
    }
}

/* lwIP has a frame to send. ERR_MEM makes TCP keep its segment and try again. */
err_t link_output(struct netif *netif, struct pbuf *p)
{
    struct stack *st = netif->state;
    struct link *link = &st->link;
    if (link->down) {
        return ERR_IF;
    }
    st->flush_due = st->now;
    st->stats.packets_sent++;
    st->stats.bytes_sent += p->tot_len;
    if (link->tx_count) {
        uint32_t last = (link->tx_first + link->tx_count - 1) % TX_SLOTS;
        if (offload_append(&link->frames[last], link->tx + (size_t)last * SLOT, p)) {
            return ERR_OK;
        }
    }
    if (link->tx_count == TX_SLOTS) {
        link_flush(st);
        if (link->tx_count == TX_SLOTS) {
            st->stats.packets_dropped++;
            return ERR_MEM;
        }
    }
    uint32_t next = (link->tx_first + link->tx_count) % TX_SLOTS;
    uint8_t *slot = link->tx + (size_t)next * SLOT;
    link->frames[next].len = pbuf_copy_partial(p, slot + VNET_LEN, p->tot_len, 0);
    offload_begin(&link->frames[next], slot);
    link->tx_count++;
    return ERR_OK;
}

/* Sends waiting frames; answers how many the kernel took, or -1. */
static int send_frames(struct link *link)
{
    struct mmsghdr messages[TX_SLOTS];
    struct iovec parts[TX_SLOTS];
    if (link->kind == NETGRAFT_LINK_TAP) {
        uint32_t at = link->tx_first;
        offload_finish(&link->frames[at], link->tx + (size_t)at * SLOT);
        return write(link->fd, link->tx + (size_t)at * SLOT, VNET_LEN + link->frames[at].len) < 0 ? -1 : 1;
    }
    memset(messages, 0, sizeof messages[0] * link->tx_count);
    for (uint32_t i = 0; i < link->tx_count; i++) {
        uint32_t at = (link->tx_first + i) % TX_SLOTS;
        uint8_t *slot = link->tx + (size_t)at * SLOT;
        offload_finish(&link->frames[at], slot);
        parts[i] = (struct iovec){ .iov_base = slot, .iov_len = VNET_LEN + link->frames[at].len };
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    return sendmmsg(link->fd, messages, link->tx_count, MSG_DONTWAIT);
}

void link_flush(struct stack *st)
{
    struct link *link = &st->link;
    st->flush_due = NETGRAFT_NEVER;
    while (link->tx_count) {
        int sent = send_frames(link);
        if (sent <= 0 && (errno == EAGAIN || errno == ENOBUFS)) {
            /* What the kernel has seen of it must not grow. */
            link->frames[(link->tx_first + link->tx_count - 1) % TX_SLOTS].headers = 0;
            st->flush_due = st->now + RETRY_NANOS;
            return;
        }
        if (sent <= 0 && errno == EINTR) {
            continue;
        }
        if (sent <= 0) {
            /* A frame that the kernel does not want is lost, and a link that is down loses all. */
            st->stats.packets_dropped++;
            sent = 1;
            if (errno == EBADFD || errno == ENXIO || errno == ENODEV) {
                failed(st, "send");
                link->tx_count = 0;
                return;
            }
        }
        link->tx_first = (link->tx_first + (uint32_t)sent) % TX_SLOTS;
        link->tx_count -= (uint32_t)sent;
    }
}

/* Whether a packet says that this stack has sent it: nobody else speaks for it (RFC 2827). */
static bool is_own_source(struct stack *st, const uint8_t *packet, size_t length, bool v4)
{
    if (v4) {
        return !ip4_addr_isany_val(*netif_ip4_addr(&st->nic)) && memcmp(packet + 12, netif_ip4_addr(&st->nic), 4) == 0;
    }
    for (int i = 0; length >= 40 && i < LWIP_IPV6_NUM_ADDRESSES; i++) {
        if (ip6_addr_isvalid(netif_ip6_addr_state(&st->nic, i)) && memcmp(packet + 8, netif_ip6_addr(&st->nic, i)->addr, 16) == 0) {
            return true;
        }
    }
    return false;
}

/* Gives a frame to lwIP. Buffers are of the kind PBUF_RAM: the library's pools are smaller than its headers say. */
static void deliver(struct stack *st, const uint8_t *slot, size_t length)
{
    struct virtio_net_hdr header;
    const uint8_t *frame = slot + VNET_LEN;
    if (length < VNET_LEN + SIZEOF_ETH_HDR) {
        return;
    }
    length -= VNET_LEN;
    memcpy(&header, slot, sizeof header);
    st->stats.packets_received++;
    st->stats.bytes_received += length;
    bool group = frame[0] & 1;
    if (!group && memcmp(frame, st->link.mac, 6) != 0) {
        return;
    }
    unsigned type = (unsigned)frame[12] << 8 | frame[13];
    size_t skip = type == ETHTYPE_ARP ? 0 : SIZEOF_ETH_HDR;
    bool v4 = type == ETHTYPE_IP && length >= SIZEOF_ETH_HDR + 20, v6 = type == ETHTYPE_IPV6;
    if (skip && is_own_source(st, frame + skip, length - skip, v4)) {
        st->stats.packets_dropped++;
        return;
    }
    /* Addresses of the loopback never come from a wire (RFC 1122 section 3.2.1.3). */
    if ((!v4 && !v6 && skip) || (v4 && (frame[26] == 127 || frame[30] == 127)) || length - skip > 65000 + 500) {
        st->stats.packets_dropped++;
        return;
    }
    struct pbuf *p = pbuf_alloc(PBUF_RAW, (u16_t)(length - skip), PBUF_RAM);
    if (!p) {
        st->stats.packets_dropped++;
        return;
    }
    memcpy(p->payload, frame + skip, length - skip);
    if (group) {
        static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
        p->flags |= memcmp(frame, all, 6) == 0 ? PBUF_FLAG_LLBCAST : PBUF_FLAG_LLMCAST;
    }
    input_is_trusted = header.flags & (VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID);
    if (!skip) {
        if (ethernet_input(p, &st->nic) != ERR_OK) {
            pbuf_free(p);
        }
    } else if (port_ip_input(p, &st->nic) != ERR_OK) {
        pbuf_free(p);
    }
    input_is_trusted = false;
}

static int receive_batch(struct link *link, uint32_t *lengths)
{
    struct mmsghdr messages[RX_SLOTS];
    struct iovec parts[RX_SLOTS];
    if (link->kind == NETGRAFT_LINK_TAP) {
        ssize_t got = read(link->fd, link->rx, SLOT);
        lengths[0] = got > 0 ? (uint32_t)got : 0;
        return got < 0 ? -1 : 1;
    }
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < RX_SLOTS; i++) {
        parts[i] = (struct iovec){ .iov_base = link->rx + (size_t)i * SLOT, .iov_len = SLOT };
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int got = recvmmsg(link->fd, messages, RX_SLOTS, MSG_DONTWAIT, NULL);
    for (int i = 0; i < got; i++) {
        lengths[i] = messages[i].msg_len;
    }
    return got;
}

/* Takes what has come, up to RX_PER_POLL frames; `more_input` says that there may be more. */
void link_receive(struct stack *st)
{
    struct link *link = &st->link;
    uint32_t lengths[RX_SLOTS];
    st->more_input = false;
    for (int total = 0; !link->down; ) {
        if (total >= RX_PER_POLL) {
            st->more_input = true;
            return;
        }
        int got = receive_batch(link, lengths);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0 && errno != EAGAIN && errno != ENETDOWN) {
            failed(st, "receive");
        }
        if (got <= 0) {
            return;
        }
        for (int i = 0; i < got; i++) {
            deliver(st, link->rx + (size_t)i * SLOT, lengths[i]);
        }
        total += got;
        if (link->kind == NETGRAFT_LINK_PACKET && got < RX_SLOTS) {
            return;
        }
    }
}
