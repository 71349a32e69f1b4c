/* What the tests share: a stack that is driven through the public header only. */
#ifndef DRIVER_H
#define DRIVER_H

#include <dlfcn.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <netgraft.h>

#define MS 1000000ull
#define SECOND (1000 * MS)

#define CHECK(condition) check(condition, #condition, __FILE__, __LINE__)
#define EQUAL(got, wanted) equal((long long)(got), (long long)(wanted), #got, __FILE__, __LINE__)

static const struct netgraft_stack_v1 *table;
static void *stack;

static void check(bool holds, const char *what, const char *file, int line)
{
    if (!holds) {
        fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
        exit(1);
    }
}

static void equal(long long got, long long wanted, const char *what, const char *file, int line)
{
    if (got != wanted) {
        fprintf(stderr, "%s:%d: %s is %lld, not %lld\n", file, line, what, got, wanted);
        exit(1);
    }
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void show(void *context, uint32_t level, const char *text, size_t length)
{
    (void)context;
    fprintf(stderr, "log %u: %.*s\n", level, (int)length, text);
}

static const struct netgraft_host host = {
    .size = sizeof(struct netgraft_host), .version = NETGRAFT_VERSION, .log = show
};

/* Loads the object, and brings an instance up as the launcher and the sentry would. */
static void start(const char *path, const struct netgraft_config *config)
{
    char why[256] = "", text[256];
    int32_t fds[4];
    struct netgraft_handover handover = { .text = text, .text_capacity = sizeof text, .fds = fds, .fd_capacity = 4 };
    if (!table) {
        void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!object) {
            fprintf(stderr, "%s\n", dlerror());
            exit(1);
        }
        const struct netgraft_stack_v1 *(*entry)(uint32_t);
        *(void **)&entry = dlsym(object, "netgraft_stack");
        CHECK(entry != NULL);
        CHECK(entry(2u << 16) == NULL);
        table = entry(NETGRAFT_VERSION);
        CHECK(table && table->size >= sizeof *table && table->version >> 16 == NETGRAFT_VERSION_MAJOR);
    }
    int32_t error = table->create(config, &host, &stack, why, sizeof why);
    if (!error) {
        error = table->pre_init(stack, 1, &handover, why, sizeof why);
        table->destroy(stack);
    }
    if (!error) {
        error = table->create(config, &host, &stack, why, sizeof why);
    }
    if (!error) {
        error = table->init(stack, text, handover.text_length, fds, handover.fd_count, now(), why, sizeof why);
    }
    if (error) {
        fprintf(stderr, "set-up: %d: %s\n", error, why);
        exit(1);
    }
}

/* Lets the stack run once; waits for its descriptors at most `wait` nanoseconds. */
static void turn(uint64_t wait)
{
    struct netgraft_wake_fd wake[4];
    int64_t count = table->wake_fds(stack, wake, 4);
    struct pollfd fds[4];
    for (int64_t i = 0; i < count; i++) {
        fds[i] = (struct pollfd){ .fd = wake[i].fd, .events = POLLIN };
    }
    uint64_t at = table->next_deadline(stack), time = now();
    uint64_t until = at == NETGRAFT_NEVER ? wait : at <= time ? 0 : at - time;
    until = until < wait ? until : wait;
    struct timespec timeout = { .tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND) };
    ppoll(fds, (nfds_t)count, &timeout, NULL);
    table->poll(stack, now());
}

static uint64_t open_socket(uint16_t family, uint8_t kind, uint8_t protocol)
{
    struct netgraft_socket_spec spec = { .family = family, .kind = kind, .protocol = protocol };
    uint64_t handle = 0;
    EQUAL(table->socket(stack, &spec, &handle), 0);
    return handle;
}

static uint64_t tcp(uint16_t family)
{
    return open_socket(family, NETGRAFT_KIND_STREAM, NETGRAFT_PROTOCOL_TCP);
}

static uint64_t udp(uint16_t family)
{
    return open_socket(family, NETGRAFT_KIND_DATAGRAM, NETGRAFT_PROTOCOL_UDP);
}

static struct netgraft_address v4(unsigned a, unsigned b, unsigned c, unsigned d, uint16_t port)
{
    struct netgraft_address address = { .ip.family = NETGRAFT_FAMILY_V4, .port = port };
    uint8_t bytes[4] = { (uint8_t)a, (uint8_t)b, (uint8_t)c, (uint8_t)d };
    memcpy(address.ip.bytes, bytes, 4);
    return address;
}

static inline struct netgraft_address local(uint16_t family, uint16_t port)
{
    if (family == NETGRAFT_FAMILY_V4) {
        return v4(127, 0, 0, 1, port);
    }
    struct netgraft_address address = { .ip.family = NETGRAFT_FAMILY_V6, .port = port };
    address.ip.bytes[15] = 1;
    return address;
}

/* Waits until a socket is ready for one of these. */
static uint32_t await(uint64_t handle, uint32_t events)
{
    uint64_t end = now() + 30 * SECOND;
    int64_t ready;
    while (!((ready = table->readiness(stack, handle)) & events)) {
        CHECK(ready >= 0);
        CHECK(now() < end);
        turn(100 * MS);
    }
    return (uint32_t)ready;
}

static uint64_t accept_one(uint64_t listener)
{
    uint64_t connection = 0;
    struct netgraft_address peer;
    await(listener, NETGRAFT_READY_IN);
    EQUAL(table->accept(stack, listener, &connection, &peer), 0);
    return connection;
}

static uint64_t listener_at(struct netgraft_address *address, uint32_t backlog)
{
    uint64_t handle = tcp(address->ip.family);
    EQUAL(table->bind(stack, handle, address), 0);
    EQUAL(table->listen(stack, handle, backlog), 0);
    EQUAL(table->local_addr(stack, handle, address), 0);
    return handle;
}

static uint64_t connect_to(const struct netgraft_address *address)
{
    uint64_t handle = tcp(address->ip.family);
    EQUAL(table->connect(stack, handle, address, now()), NETGRAFT_E_IN_PROGRESS);
    return handle;
}

static int32_t receive(uint64_t handle, void *buffer, size_t capacity, struct netgraft_received *received)
{
    memset(received, 0, sizeof *received);
    return table->recv(stack, handle, buffer, capacity, 0, now(), received);
}

/* Byte number `at` of a stream that never repeats in step with anything. */
static uint8_t pattern(uint64_t at)
{
    return (uint8_t)(at * 31 + (at >> 8) * 7 + (at >> 16));
}

#endif
