/*
 * Segments of one connection that leave one after the other go to the kernel as one large frame, which it cuts
 * itself or hands on whole (struct virtio_net_hdr, linux/virtio_net.h).
 */
#include <linux/virtio_net.h>

#include "lwip/prot/ethernet.h"
#include "lwip/prot/ip4.h"
#include "lwip/prot/ip6.h"
#include "stack.h"

_Static_assert(sizeof(struct virtio_net_hdr) == VNET_LEN, "the header in front of each frame");

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* The bytes of the IP header if the frame is a plain TCP data segment without options, or 0. */
static uint32_t plain_segment(const uint8_t *frame, uint32_t len)
{
    const uint8_t *ip = frame + SIZEOF_ETH_HDR;
    uint32_t header = 0;
    if (len < SIZEOF_ETH_HDR + 40) {
        return 0;
    }
    if (frame[12] == 8 && frame[13] == 0 && ip[0] == 0x45 && ip[9] == IP_PROTO_TCP && !(ip[6] & 0x3f) && !ip[7]) {
        header = 20;
    } else if (frame[12] == 0x86 && frame[13] == 0xdd && ip[6] == IP_PROTO_TCP && len >= SIZEOF_ETH_HDR + 60) {
        header = 40;
    }
    const uint8_t *tcp = ip + header;
    bool plain = header && tcp[12] >> 4 == 5 && (tcp[13] & ~TCP_PSH) == TCP_ACK;
    return plain && len > SIZEOF_ETH_HDR + header + 20 ? header : 0;
}

/* Notes what can be added to a frame that was just put into a slot. */
void offload_begin(struct frame *frame, const uint8_t *slot)
{
    const uint8_t *bytes = slot + VNET_LEN;
    frame->segments = 1;
    frame->ip = plain_segment(bytes, frame->len);
    frame->headers = frame->ip ? SIZEOF_ETH_HDR + frame->ip + 20 : 0;
    if (frame->headers) {
        frame->segment = frame->len - frame->headers;
        frame->next_seq = get32(bytes + frame->headers - 16) + frame->segment;
    }
}

/* Adds a frame to the last one, if it continues it. */
bool offload_append(struct frame *last, uint8_t *slot, const struct pbuf *p)
{
    const uint8_t *more = p->payload;
    uint32_t payload = p->tot_len - last->headers;
    if (!last->headers || p->next || p->tot_len <= last->headers || payload > last->segment ||
        last->len + payload > SIZEOF_ETH_HDR + 65535 || plain_segment(more, p->tot_len) != last->ip) {
        return false;
    }
    uint8_t *bytes = slot + VNET_LEN;
    uint32_t addresses = last->ip == 20 ? 12 : 8, tcp = SIZEOF_ETH_HDR + last->ip;
    if (memcmp(bytes, more, SIZEOF_ETH_HDR) != 0 || get32(more + tcp + 4) != last->next_seq ||
        memcmp(bytes + SIZEOF_ETH_HDR + addresses, more + SIZEOF_ETH_HDR + addresses, last->ip - addresses + 4) != 0) {
        return false;
    }
    memcpy(bytes + last->len, more + last->headers, payload);
    memcpy(bytes + tcp + 8, more + tcp + 8, 4); /* the newest acknowledgement, flags and window */
    bytes[tcp + 13] |= more[tcp + 13];
    memcpy(bytes + tcp + 14, more + tcp + 14, 2);
    last->len += payload;
    last->next_seq += payload;
    last->segments++;
    if (payload < last->segment) {
        last->headers = 0; /* a short segment is the last one */
    }
    return true;
}

/* Writes the virtio-net header, and the lengths and checksums of a frame with several segments. */
void offload_finish(const struct frame *frame, uint8_t *slot)
{
    struct virtio_net_hdr header = { 0 };
    if (frame->segments > 1) {
        uint8_t *ip = slot + VNET_LEN + SIZEOF_ETH_HDR;
        uint32_t packet = frame->len - SIZEOF_ETH_HDR, payload = packet - frame->ip;
        uint64_t sum = IP_PROTO_TCP + payload;
        bool v4 = frame->ip == 20;
        if (v4) {
            put16(ip + 2, packet);
            put16(ip + 10, 0);
            uint16_t check = (uint16_t)~port_lwip_standard_chksum(ip, 20);
            memcpy(ip + 10, &check, 2);
        } else {
            put16(ip + 4, payload);
        }
        sum += lwip_ntohs(port_lwip_standard_chksum(ip + (v4 ? 12 : 8), v4 ? 8 : 32));
        while (sum >> 16) {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        put16(ip + frame->ip + 16, (uint32_t)sum);
        header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        header.gso_type = v4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
        header.hdr_len = (uint16_t)(SIZEOF_ETH_HDR + frame->ip + 20);
        header.gso_size = (uint16_t)frame->segment;
        header.csum_start = (uint16_t)(SIZEOF_ETH_HDR + frame->ip);
        header.csum_offset = 16;
    }
    memcpy(slot, &header, sizeof header);
}
