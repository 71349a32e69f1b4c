/*
 * The stack on a link, against the kernel on the other side. Two roles, started by namespaces.sh:
 *   link stack OBJECT KIND INTERFACE ADDRESS PREFIX PEER MEGABYTES
 *   link kernel STACK-ADDRESS OWN-ADDRESS MEGABYTES
 * The stack connects to the kernel and gives it a stream, then gets one, then both at once; then the kernel connects
 * to the stack and gives it one. Each byte is checked at both ends. Then datagrams, and an echo request. Then the stack
 * answers pings until SIGTERM.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "driver.h"

#define CHUNK 65536
#define KERNEL_PORT 5001
#define STACK_PORT 5002
#define UDP_PORT 5003
#define MODES 4

enum { STACK_SENDS = 1, KERNEL_SENDS = 2 };
static const int modes[MODES] = { STACK_SENDS, KERNEL_SENDS, STACK_SENDS | KERNEL_SENDS, KERNEL_SENDS };

static uint64_t total;

static void fill(uint8_t *buffer, size_t count, uint64_t at)
{
    for (size_t i = 0; i < count; i++) {
        buffer[i] = pattern(at + i);
    }
}

static void compare(const uint8_t *buffer, size_t count, uint64_t at)
{
    for (size_t i = 0; i < count; i++) {
        CHECK(buffer[i] == pattern(at + i));
    }
}

static bool parse(const char *text, struct netgraft_ip *ip)
{
    memset(ip, 0, sizeof *ip);
    ip->family = strchr(text, ':') ? NETGRAFT_FAMILY_V6 : NETGRAFT_FAMILY_V4;
    return inet_pton(ip->family == NETGRAFT_FAMILY_V6 ? AF_INET6 : AF_INET, text, ip->bytes) == 1;
}

/* ---- The stack ---- */

static void stack_stream(uint64_t handle, int mode, const char *what)
{
    static uint8_t out[CHUNK], in[CHUNK];
    uint64_t sent = mode & STACK_SENDS ? 0 : total, got = mode & KERNEL_SENDS ? 0 : total, began = now(), progress = began;
    bool over = false;
    size_t have = 0, at = 0;
    while (!over) {
        bool moved = false;
        while (sent < total) {
            if (!have) {
                at = 0;
                have = total - sent < CHUNK ? (size_t)(total - sent) : CHUNK;
                fill(out, have, sent);
            }
            int64_t count = table->send(stack, handle, out + at, have, NULL, 0, now());
            if (count == NETGRAFT_E_AGAIN) {
                break;
            }
            CHECK(count > 0);
            sent += (uint64_t)count;
            have -= (size_t)count;
            at += (size_t)count;
            moved = true;
            if (sent == total) {
                EQUAL(table->shutdown(stack, handle, NETGRAFT_SHUTDOWN_WRITE, now()), 0);
            }
        }
        struct netgraft_received r;
        int32_t error;
        while ((error = receive(handle, in, sizeof in, &r)) == 0) {
            if (r.len == 0) {
                over = sent == total;
                break;
            }
            compare(in, r.len, got);
            got += r.len;
            moved = true;
        }
        CHECK(error == 0 || error == NETGRAFT_E_AGAIN);
        progress = moved ? now() : progress;
        CHECK(now() - progress < 20 * SECOND);
        turn(moved ? 0 : 100 * MS);
    }
    EQUAL(got, total);
    EQUAL(sent, total);
    double seconds = (double)(now() - began) / 1e9;
    printf("  %-28s ok, %.2f Gbit/s\n", what, (double)total * 8 / seconds / 1e9);
    EQUAL(table->close(stack, handle, now()), 0);
}

/* The kernel's side may not listen yet. */
static uint64_t connect_retrying(const struct netgraft_address *peer)
{
    for (uint64_t until = now() + 10 * SECOND;;) {
        uint64_t handle = connect_to(peer);
        await(handle, NETGRAFT_READY_OUT);
        int32_t error = table->take_error(stack, handle);
        if (!error) {
            return handle;
        }
        CHECK(error == NETGRAFT_E_CONNECTION_REFUSED && now() < until);
        EQUAL(table->close(stack, handle, now()), 0);
        for (uint64_t pause = now() + 100 * MS; now() < pause; ) {
            turn(100 * MS);
        }
    }
}

static volatile sig_atomic_t told_to_end;

static void end(int signal)
{
    (void)signal;
    told_to_end = 1;
}

static void stack_role(char **args)
{
    signal(SIGTERM, end);
    struct netgraft_cidr address = { .prefix = (uint8_t)atoi(args[4]) };
    struct netgraft_address peer = { .port = KERNEL_PORT }, own = { .port = STACK_PORT }, from;
    struct netgraft_config config = { .size = sizeof config, .link_name = args[2], .addresses = &address, .address_count = 1 };
    config.link_kind = strcmp(args[1], "tap") == 0 ? NETGRAFT_LINK_TAP : NETGRAFT_LINK_PACKET;
    CHECK(parse(args[3], &address.ip) && parse(args[5], &peer.ip));
    total = strtoull(args[6], NULL, 10) << 20;
    start(args[0], &config);
    own.ip.family = address.ip.family;
    uint64_t listener = listener_at(&own, 4), socket = udp(own.ip.family);
    struct netgraft_address echo_address = own;
    echo_address.port = UDP_PORT;
    EQUAL(table->bind(stack, socket, &echo_address), 0);
    printf("ready\n");
    fflush(stdout);
    static const char *const names[MODES] = { "to the kernel", "from the kernel", "both ways", "accepted, from the kernel" };
    for (int i = 0; i < MODES; i++) {
        uint64_t handle;
        if (i < 3) {
            handle = connect_retrying(&peer);
        } else {
            handle = accept_one(listener);
        }
        stack_stream(handle, modes[i], names[i]);
    }
    /* Datagrams come and go back. */
    static uint8_t buffer[CHUNK];
    for (int i = 0; i < 100; i++) {
        struct netgraft_received r;
        await(socket, NETGRAFT_READY_IN);
        EQUAL(receive(socket, buffer, sizeof buffer, &r), 0);
        EQUAL(table->send(stack, socket, buffer, r.len, &r.from, 0, now()), r.len);
        turn(0);
    }
    printf("  %-28s ok\n", "datagrams");
    bool v6 = own.ip.family == NETGRAFT_FAMILY_V6;
    uint64_t ping = open_socket(own.ip.family, NETGRAFT_KIND_DATAGRAM, v6 ? NETGRAFT_PROTOCOL_ICMPV6 : NETGRAFT_PROTOCOL_ICMP);
    uint8_t request[1000] = { v6 ? 128 : 8 };
    struct netgraft_received r;
    EQUAL(table->send(stack, ping, request, sizeof request, &peer, 0, now()), sizeof request);
    await(ping, NETGRAFT_READY_IN);
    EQUAL(receive(ping, buffer, sizeof buffer, &r), 0);
    EQUAL(r.len, sizeof request);
    EQUAL(buffer[0], v6 ? 129 : 0);
    printf("  %-28s ok\n", "echo");
    EQUAL(table->close(stack, ping, now()), 0);
    /* A port where nobody listens, and a network without a way. */
    peer.port = 9;
    uint64_t refused = connect_to(&peer);
    await(refused, NETGRAFT_READY_ERR);
    EQUAL(table->take_error(stack, refused), NETGRAFT_E_CONNECTION_REFUSED);
    EQUAL(table->peer_addr(stack, refused, &from), NETGRAFT_E_NOT_CONNECTED);
    /* The kernel pings until it has seen enough, and says so. */
    for (uint64_t until = now() + 60 * SECOND; !told_to_end; ) {
        CHECK(now() < until);
        turn(100 * MS);
    }
    table->destroy(stack);
}

/* ---- The kernel ---- */

static void *kernel_send(void *arg)
{
    int fd = *(int *)arg;
    static uint8_t buffer[CHUNK];
    for (uint64_t sent = 0; sent < total; ) {
        size_t count = total - sent < CHUNK ? (size_t)(total - sent) : CHUNK;
        fill(buffer, count, sent);
        for (size_t at = 0; at < count; ) {
            ssize_t done = send(fd, buffer + at, count - at, 0);
            CHECK(done > 0);
            at += (size_t)done;
        }
        sent += count;
    }
    CHECK(shutdown(fd, SHUT_WR) == 0);
    return NULL;
}

static void kernel_stream(int fd, int mode)
{
    static uint8_t buffer[CHUNK];
    pthread_t sender;
    if (mode & KERNEL_SENDS) {
        CHECK(pthread_create(&sender, NULL, kernel_send, &fd) == 0);
    }
    uint64_t got = 0;
    ssize_t count;
    while ((count = recv(fd, buffer, sizeof buffer, 0)) > 0) {
        compare(buffer, (size_t)count, got);
        got += (uint64_t)count;
    }
    CHECK(count == 0);
    EQUAL(got, mode & STACK_SENDS ? total : 0);
    if (mode & KERNEL_SENDS) {
        pthread_join(sender, NULL);
    }
    close(fd);
}

static socklen_t host_address(const char *text, uint16_t port, struct sockaddr_storage *out)
{
    struct sockaddr_in *in4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    memset(out, 0, sizeof *out);
    if (strchr(text, ':')) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        CHECK(inet_pton(AF_INET6, text, &in6->sin6_addr) == 1);
        return sizeof *in6;
    }
    in4->sin_family = AF_INET;
    in4->sin_port = htons(port);
    CHECK(inet_pton(AF_INET, text, &in4->sin_addr) == 1);
    return sizeof *in4;
}

static void kernel_role(char **args)
{
    struct sockaddr_storage own, peer;
    socklen_t length = host_address(args[1], KERNEL_PORT, &own);
    total = strtoull(args[2], NULL, 10) << 20;
    int listener = socket(own.ss_family, SOCK_STREAM, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    CHECK(bind(listener, (struct sockaddr *)&own, length) == 0 && listen(listener, 4) == 0);
    for (int i = 0; i < MODES; i++) {
        int fd;
        if (i < 3) {
            fd = accept(listener, NULL, NULL);
        } else {
            host_address(args[0], STACK_PORT, &peer);
            fd = socket(peer.ss_family, SOCK_STREAM, 0);
            CHECK(connect(fd, (struct sockaddr *)&peer, length) == 0);
        }
        CHECK(fd >= 0);
        kernel_stream(fd, modes[i]);
    }
    int fd = socket(own.ss_family, SOCK_DGRAM, 0);
    host_address(args[0], UDP_PORT, &peer);
    CHECK(connect(fd, (struct sockaddr *)&peer, length) == 0);
    uint8_t out[4000], in[4000];
    for (int i = 0; i < 100; i++) {
        size_t count = (size_t)(1 + i * 39);
        fill(out, count, (uint64_t)i);
        EQUAL(send(fd, out, count, 0), count);
        EQUAL(recv(fd, in, sizeof in, 0), count);
        compare(in, count, (uint64_t)i);
    }
    close(fd);
    close(listener);
}

int main(int argc, char **argv)
{
    if (argc == 9 && strcmp(argv[1], "stack") == 0) {
        stack_role(argv + 2);
    } else if (argc == 5 && strcmp(argv[1], "kernel") == 0) {
        alarm(600);
        kernel_role(argv + 2);
    } else {
        fprintf(stderr, "usage: see the source\n");
        return 2;
    }
    return 0;
}
