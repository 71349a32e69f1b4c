/* The stack on its own loopback: what a program would see. No rights are needed. */
#include "driver.h"

#define MEGABYTE (1u << 20)

static uint16_t family;

struct pair {
    uint64_t listener, client, server;
    struct netgraft_address address;
};

static struct pair connection(void)
{
    struct pair p = { .address = local(family, 0) };
    p.listener = listener_at(&p.address, 8);
    p.client = connect_to(&p.address);
    await(p.client, NETGRAFT_READY_OUT);
    EQUAL(table->take_error(stack, p.client), 0);
    p.server = accept_one(p.listener);
    return p;
}

static void end(struct pair p)
{
    EQUAL(table->close(stack, p.client, now()), 0);
    EQUAL(table->close(stack, p.server, now()), 0);
    EQUAL(table->close(stack, p.listener, now()), 0);
    EQUAL(table->close(stack, p.listener, now()), NETGRAFT_E_BAD_HANDLE);
    for (int i = 0; i < 4; i++) {
        turn(0);
    }
}

/* A megabyte each way at once, each byte checked. */
static void megabytes(void)
{
    struct pair p = connection();
    uint64_t ends[2] = { p.client, p.server }, sent[2] = { 0 }, got[2] = { 0 };
    static uint8_t buffer[65536];
    uint64_t stop = now() + 60 * SECOND;
    while (got[0] < MEGABYTE || got[1] < MEGABYTE) {
        CHECK(now() < stop);
        for (int i = 0; i < 2; i++) {
            size_t want = MEGABYTE - sent[i] < sizeof buffer ? MEGABYTE - sent[i] : sizeof buffer;
            for (size_t at = 0; at < want; at++) {
                buffer[at] = pattern(sent[i] + at);
            }
            int64_t count = want ? table->send(stack, ends[i], buffer, want, NULL, 0, now()) : 0;
            CHECK(count >= 0 || count == NETGRAFT_E_AGAIN);
            sent[i] += count > 0 ? (uint64_t)count : 0;
            struct netgraft_received r;
            while (receive(ends[1 - i], buffer, sizeof buffer, &r) == 0) {
                for (size_t at = 0; at < r.len; at++) {
                    CHECK(buffer[at] == pattern(got[i] + at));
                }
                got[i] += r.len;
            }
        }
        turn(10 * MS);
    }
    end(p);
}

static void half_close(void)
{
    struct pair p = connection();
    struct netgraft_received r;
    char buffer[16];
    EQUAL(table->send(stack, p.client, "last", 4, NULL, 0, now()), 4);
    EQUAL(table->shutdown(stack, p.client, NETGRAFT_SHUTDOWN_WRITE, now()), 0);
    EQUAL(table->send(stack, p.client, "x", 1, NULL, 0, now()), NETGRAFT_E_BROKEN_PIPE);
    await(p.server, NETGRAFT_READY_RDHUP);
    EQUAL(receive(p.server, buffer, sizeof buffer, &r), 0);
    CHECK(r.len == 4 && memcmp(buffer, "last", 4) == 0);
    EQUAL(receive(p.server, buffer, sizeof buffer, &r), 0);
    EQUAL(r.len, 0);
    EQUAL(table->send(stack, p.server, "answer", 6, NULL, 0, now()), 6);
    await(p.client, NETGRAFT_READY_IN);
    EQUAL(receive(p.client, buffer, sizeof buffer, &r), 0);
    EQUAL(r.len, 6);
    EQUAL(table->shutdown(stack, p.server, NETGRAFT_SHUTDOWN_WRITE, now()), 0);
    await(p.client, NETGRAFT_READY_HUP);
    await(p.server, NETGRAFT_READY_HUP);
    end(p);
}

static void refused_and_reset(void)
{
    struct pair p = connection();
    struct netgraft_address dead = p.address;
    struct netgraft_received r;
    char buffer[4];
    EQUAL(table->abort(stack, p.client, now()), 0);
    await(p.server, NETGRAFT_READY_ERR);
    EQUAL(receive(p.server, buffer, sizeof buffer, &r), NETGRAFT_E_CONNECTION_RESET);
    EQUAL(receive(p.server, buffer, sizeof buffer, &r), 0);
    EQUAL(table->close(stack, p.server, now()), 0);
    EQUAL(table->close(stack, p.listener, now()), 0);
    uint64_t late = connect_to(&dead);
    await(late, NETGRAFT_READY_ERR);
    EQUAL(table->take_error(stack, late), NETGRAFT_E_CONNECTION_REFUSED);
    EQUAL(table->take_error(stack, late), 0);
    EQUAL(table->close(stack, late, now()), 0);
}

/* A full queue turns SYNs away, which come again. */
static void backlog(void)
{
    struct netgraft_address address = local(family, 0);
    uint64_t listener = listener_at(&address, 1), clients[4], servers[4];
    for (int i = 0; i < 4; i++) {
        clients[i] = connect_to(&address);
    }
    for (int i = 0; i < 4; i++) {
        turn(0);
    }
    int connected = 0;
    for (int i = 0; i < 4; i++) {
        connected += table->readiness(stack, clients[i]) == NETGRAFT_READY_OUT;
    }
    EQUAL(connected, 2);
    for (int i = 0; i < 4; i++) {
        servers[i] = accept_one(listener);
    }
    for (int i = 0; i < 4; i++) {
        await(clients[i], NETGRAFT_READY_OUT);
        table->close(stack, clients[i], now());
        table->close(stack, servers[i], now());
    }
    table->close(stack, listener, now());
}

#define MANY 1000

static void thousand_connections(void)
{
    struct netgraft_address address = local(family, 0);
    uint64_t listener = listener_at(&address, MANY);
    static uint64_t clients[MANY], servers[MANY];
    struct netgraft_statistics statistics = { 0 };
    for (int i = 0; i < MANY; i++) {
        clients[i] = connect_to(&address);
    }
    for (int i = 0; i < MANY; i++) {
        servers[i] = accept_one(listener);
        EQUAL(table->add_fd(stack, servers[i], NETGRAFT_READY_IN), 0);
    }
    table->statistics(stack, &statistics);
    EQUAL(statistics.tcp_established, 2 * MANY);
    for (int i = 0; i < MANY; i++) {
        EQUAL(table->send(stack, clients[i], &i, sizeof i, NULL, 0, now()), sizeof i);
    }
    uint64_t sum = 0, stop = now() + 60 * SECOND;
    for (int received = 0; received < MANY; ) {
        struct netgraft_event events[64];
        CHECK(now() < stop);
        turn(10 * MS);
        int64_t count = table->drain_events(stack, events, 64);
        for (int64_t i = 0; i < count; i++, received++) {
            struct netgraft_received r;
            int number = -1;
            EQUAL(events[i].events, NETGRAFT_READY_IN);
            EQUAL(receive(events[i].handle, &number, sizeof number, &r), 0);
            sum += (uint64_t)number;
        }
    }
    EQUAL(sum, (uint64_t)MANY * (MANY - 1) / 2);
    for (int i = 0; i < MANY; i++) {
        EQUAL(table->close(stack, clients[i], now()), 0);
        EQUAL(table->close(stack, servers[i], now()), 0);
    }
    EQUAL(table->close(stack, listener, now()), 0);
}

static void datagrams(void)
{
    struct netgraft_address address = local(family, 0), from;
    uint64_t server = udp(family), client = udp(family);
    struct netgraft_received r;
    static uint8_t buffer[65536], big[60000];
    EQUAL(table->bind(stack, server, &address), 0);
    EQUAL(table->local_addr(stack, server, &address), 0);
    EQUAL(table->send(stack, client, "x", 1, NULL, 0, now()), NETGRAFT_E_DESTINATION_REQUIRED);
    for (size_t i = 0; i < sizeof big; i++) {
        big[i] = pattern(i);
    }
    EQUAL(table->send(stack, client, big, sizeof big, &address, 0, now()), sizeof big);
    await(server, NETGRAFT_READY_IN);
    EQUAL(receive(server, buffer, sizeof buffer, &r), 0);
    CHECK(r.len == sizeof big && memcmp(buffer, big, sizeof big) == 0);
    EQUAL(table->local_addr(stack, client, &from), 0);
    EQUAL(r.from.port, from.port);
    EQUAL(receive(server, buffer, sizeof buffer, &r), NETGRAFT_E_AGAIN);
    EQUAL(table->close(stack, server, now()), 0);
    EQUAL(table->connect(stack, client, &address, now()), 0);
    EQUAL(table->send(stack, client, "x", 1, NULL, 0, now()), 1);
    await(client, NETGRAFT_READY_ERR);
    EQUAL(table->take_error(stack, client), NETGRAFT_E_CONNECTION_REFUSED);
    EQUAL(table->close(stack, client, now()), 0);
}

static void echo(void)
{
    bool v6 = family == NETGRAFT_FAMILY_V6;
    uint64_t ping = open_socket(family, NETGRAFT_KIND_DATAGRAM, v6 ? NETGRAFT_PROTOCOL_ICMPV6 : NETGRAFT_PROTOCOL_ICMP);
    struct netgraft_address to = local(family, 0);
    struct netgraft_received r;
    uint8_t request[12] = { v6 ? 128 : 8, 0, 0, 0, 0, 0, 0, 7, 'p', 'i', 'n', 'g' }, reply[64];
    EQUAL(table->send(stack, ping, request, sizeof request, &to, 0, now()), sizeof request);
    await(ping, NETGRAFT_READY_IN);
    EQUAL(receive(ping, reply, sizeof reply, &r), 0);
    EQUAL(r.len, sizeof request);
    EQUAL(reply[0], v6 ? 129 : 0);
    CHECK(memcmp(reply + 6, request + 6, 6) == 0);
    EQUAL(table->close(stack, ping, now()), 0);
}

static void options(void)
{
    struct pair p = connection();
    struct netgraft_option o = { .name = NETGRAFT_O_KEEP_IDLE, .type = NETGRAFT_VALUE_DURATION, .value.number = 9 * SECOND };
    EQUAL(table->set_option(stack, p.client, &o), 0);
    o.value.number = 0;
    EQUAL(table->get_option(stack, p.client, &o), 0);
    EQUAL(o.value.number, 9 * SECOND);
    o.name = NETGRAFT_O_QUICK_ACK;
    EQUAL(table->set_option(stack, p.client, &o), NETGRAFT_E_UNKNOWN_OPTION);
    o = (struct netgraft_option){ .name = NETGRAFT_O_CORK, .type = NETGRAFT_VALUE_BOOL, .value.number = 1 };
    EQUAL(table->set_option(stack, p.client, &o), 0);
    EQUAL(table->send(stack, p.client, "corked", 6, NULL, 0, now()), 6);
    char held[6];
    struct netgraft_received got;
    turn(20 * MS);
    EQUAL(receive(p.server, held, sizeof held, &got), NETGRAFT_E_AGAIN);
    o.value.number = 0;
    EQUAL(table->set_option(stack, p.client, &o), 0);
    await(p.server, NETGRAFT_READY_IN);
    EQUAL(receive(p.server, held, sizeof held, &got), 0);
    CHECK(got.len == 6 && memcmp(held, "corked", 6) == 0);
    end(p);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        { "a megabyte each way", megabytes }, { "half-closed", half_close },
        { "refused and reset", refused_and_reset }, { "backlog", backlog },
        { "1,000 connections", thousand_connections }, { "datagrams", datagrams },
        { "echo", echo }, { "options", options },
    };
    struct netgraft_config config = { .size = sizeof config, .link_kind = NETGRAFT_LINK_NONE, .link_name = "" };
    if (argc != 2) {
        fprintf(stderr, "usage: %s OBJECT\n", argv[0]);
        return 2;
    }
    for (int round = 0; round < 2; round++) {
        family = round ? NETGRAFT_FAMILY_V6 : NETGRAFT_FAMILY_V4;
        for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
            struct netgraft_statistics statistics = { 0 };
            uint64_t began = now();
            start(argv[1], &config);
            tests[i].run();
            table->statistics(stack, &statistics);
            EQUAL(statistics.sockets, 0);
            table->destroy(stack);
            printf("IPv%d %-24s ok, %llu ms\n", round ? 6 : 4, tests[i].name,
                   (unsigned long long)((now() - began) / MS));
        }
    }
    return 0;
}
