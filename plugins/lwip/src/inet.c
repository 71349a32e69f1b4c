/* Interfaces, addresses, routes, sizes and counters. */
#include <stdio.h>

#include "stack.h"

#define LO 1
#define NIC 2

int64_t inet_interfaces(void *self, struct netgraft_interface *out, size_t capacity)
{
    struct stack *st = self;
    struct netgraft_interface list[2] = {
        { .index = LO, .mtu = LOOPBACK_MTU, .name = "lo", .up = 1, .loopback = 1 },
        { .index = NIC, .mtu = st->link.mtu, .up = !st->link.down, .has_hardware_address = 1 },
    };
    size_t count = st->link.kind ? 2 : 1;
    memcpy(list[1].name, st->link.name, sizeof list[1].name);
    memcpy(list[1].hardware_address, st->link.mac, 6);
    for (size_t i = 0; i < count && i < capacity; i++) {
        out[i] = list[i];
    }
    return (int64_t)count;
}

static const struct netgraft_cidr loopback[2] = {
    { .ip = { .family = NETGRAFT_FAMILY_V4, .bytes = { 127, 0, 0, 1 } }, .prefix = 8 },
    { .ip = { .family = NETGRAFT_FAMILY_V6, .bytes = { [15] = 1 } }, .prefix = 128 },
};

int64_t inet_addresses(void *self, uint32_t index, struct netgraft_cidr *out, size_t capacity)
{
    struct stack *st = self;
    struct netgraft_cidr list[ADDRESSES_MAX + 1];
    size_t count = 0;
    if (index == LO) {
        memcpy(list, loopback, sizeof loopback);
        count = 2;
    } else if (index == NIC && st->link.kind) {
        memcpy(list, st->addresses, sizeof st->addresses);
        count = st->address_count;
        if (st->up) {
            ip_addr_t local;
            ip_addr_copy_from_ip6(local, *netif_ip6_addr(&st->nic, 0));
            memset(&list[count], 0, sizeof list[count]);
            ip_to(&local, &list[count].ip);
            list[count++].prefix = 64;
        }
    } else {
        return NETGRAFT_E_NOT_FOUND;
    }
    for (size_t i = 0; i < count && i < capacity; i++) {
        out[i] = list[i];
    }
    return (int64_t)count;
}

static struct netgraft_route network_of(const struct netgraft_cidr *address, uint32_t index)
{
    struct netgraft_route route = { .destination = *address, .interface_index = index };
    for (unsigned bit = address->prefix; bit < 128; bit++) {
        route.destination.ip.bytes[bit / 8] &= (uint8_t)~(0x80 >> bit % 8);
    }
    return route;
}

int64_t inet_routes(void *self, struct netgraft_route *out, size_t capacity)
{
    struct stack *st = self;
    struct netgraft_route list[ADDRESSES_MAX + 4];
    size_t count = 0;
    list[count++] = network_of(&loopback[1], LO);
    list[count++] = network_of(&loopback[0], LO);
    for (size_t i = 0; st->link.kind && i < st->address_count; i++) {
        /* The most specific first. */
        struct netgraft_route route = network_of(&st->addresses[i], NIC);
        size_t at = count++;
        for (; at > 0 && list[at - 1].destination.prefix < route.destination.prefix; at--) {
            list[at] = list[at - 1];
        }
        list[at] = route;
    }
    const struct netgraft_ip *gateways[] = { &st->gateway4, &st->gateway6 };
    for (size_t i = 0; i < 2; i++) {
        if (st->link.kind && gateways[i]->family) {
            list[count] = (struct netgraft_route){ .gateway = *gateways[i], .interface_index = NIC };
            list[count++].destination.ip.family = gateways[i]->family;
        }
    }
    for (size_t i = 0; i < count && i < capacity; i++) {
        out[i] = list[i];
    }
    return (int64_t)count;
}

int32_t inet_buffer(void *self, struct netgraft_buffer_sizes *out)
{
    (void)self;
    *out = (struct netgraft_buffer_sizes){ .min = 2048, .default_size = TCP_WND, .max = TCP_WND };
    return 0;
}

int32_t inet_sack(void *self)
{
    (void)self;
    return 0;
}

int32_t inet_recovery(void *self)
{
    (void)self;
    return NETGRAFT_RECOVERY_NEW_RENO;
}

int32_t inet_statistics(void *self, struct netgraft_statistics *out)
{
    struct stack *st = self;
    *out = st->stats;
    out->sockets = st->socket_count;
    for (struct tcp_pcb *pcb = st->up ? tcp_active_pcbs : NULL; pcb; pcb = pcb->next) {
        out->tcp_established += pcb->state == ESTABLISHED || pcb->state == CLOSE_WAIT;
    }
    return 0;
}

int32_t inet_port_range(void *self, uint16_t *first, uint16_t *last)
{
    struct stack *st = self;
    *first = st->port_first;
    *last = st->port_last;
    return 0;
}

int32_t inet_set_port_range(void *self, uint16_t first, uint16_t last)
{
    struct stack *st = self;
    if (first == 0 || first > last) {
        return NETGRAFT_E_INVALID;
    }
    st->port_first = first;
    st->port_last = last;
    return 0;
}

/* The library forwards between links; there is but one, and lwIP sends nothing back on the link it came from. */
int32_t inet_forwarding(void *self, uint32_t family)
{
    (void)self;
    (void)family;
    return 0;
}

int32_t inet_pause(void *self)
{
    struct stack *st = self;
    st->paused = true;
    return 0;
}

int32_t inet_resume(void *self)
{
    struct stack *st = self;
    st->paused = false;
    st->more_input = true;
    return 0;
}
