/* Takes all that there is: sockets in flight in messages, and connections that are opened and closed. */
#include "attack.h"

enum { HELD = 0, LAST_ERROR = 1, HONEST = 2, FLOODED = 3, FAILED = 4 };

/* Whether an error is that of a system that has no room. */
static int is_full(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

/* Sends a descriptor into a stream of AF_UNIX; 0 if it is in flight. */
static int pass(int through, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {"x", 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                                          .msg_controllen = sizeof control}};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message.msg_hdr);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmmsg(through, &message, 1, MSG_DONTWAIT) == 1 ? 0 : -1;
}

/* Connections in flight: the program holds a few descriptors, and has thousands of sockets. */
static void hoard(void)
{
    int port, pair[2], own = listener(&port, 64), pairs[200][2], count = 0;
    become_attacker();
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    pairs[0][0] = pair[0];
    pairs[0][1] = pair[1];
    count = 1;
    int refusals = 0;
    for (long tries = 0; tries < 100000 && refusals < 20; tries++) {
        int fd = tries % 3 == 0 ? socket(AF_INET, SOCK_DGRAM, 0) : caller(port);
        if (fd < 0) {
            shared->count[LAST_ERROR] = errno;
            if (!is_full(errno) && errno != ECONNREFUSED && errno != ETIMEDOUT)
                wrong("out of room, socket or connect says %s", strerror(errno));
            refusals++;
            nap(2);
            continue;
        }
        int domain = 0;
        socklen_t length = sizeof domain;
        if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_INET)
            wrong("the kernel's own answer: a socket of family %d", domain);
        int got = tries % 3 && readable(own, 2000) ? accept(own, NULL, NULL) : -1;
        int sent = pass(pairs[count - 1][0], fd);
        if (got >= 0 && sent == 0)
            pass(pairs[count - 1][0], got);
        if (sent != 0 && errno == EAGAIN && count < 200 &&
            socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[count]) == 0) {
            /* This one is full. */
            sent = pass(pairs[count][0], fd);
            count++;
        }
        if (sent == 0)
            shared->count[HELD]++;
        else if (errno == ETOOMANYREFS)
            refusals++;
        if (got >= 0)
            close(got);
        close(fd);
    }
    checkpoint("peak");
    _exit(0);
}

void in_flight(double seconds)
{
    (void)seconds;
    checkpoint("base");
    pid_t attacker = start(hoard);
    int status;
    waitpid(attacker, &status, 0);
    printf("in_flight: %ld sockets held, last answer %s\n", shared->count[HELD],
           strerror((int)shared->count[LAST_ERROR]));
    if (shared->count[HELD] < 50)
        wrong("the attack held only %ld sockets", shared->count[HELD]);
    /* The kernel collects what was in flight in its own time. */
    int works = 0;
    for (double end = now() + 2 * PATIENCE; !works && now() < end; nap(50)) {
        int port, own = listener(&port, 4), fd = caller(port);
        works = fd >= 0;
        close(own);
        if (fd >= 0)
            close(fd);
    }
    if (!works)
        wrong("no connection is possible after the hoard has ended");
    checkpoint("end");
}

/* ---- an honest proxy under a flood */

static int proxy_port, backend_port, proxy_listener, backend_listener;

static void serve_backend(void)
{
    while (!stopped()) {
        char bytes[8];
        int fd = readable(backend_listener, 100) ? accept(backend_listener, NULL, NULL) : -1;
        if (fd < 0)
            continue;
        if (readable(fd, 1000 * PATIENCE) && recv(fd, bytes, 8, MSG_WAITALL) == 8)
            send(fd, bytes, 8, 0);
        close(fd);
    }
}

/* A connection to the backend for each of a client's, both closed when one is. */
static void *carry(void *argument)
{
    int client = (int)(intptr_t)argument;
    char bytes[8];
    int backend = readable(client, 1000 * PATIENCE) ? caller(backend_port) : -1;
    if (backend >= 0 && recv(client, bytes, 8, MSG_WAITALL) == 8 && send(backend, bytes, 8, 0) == 8 &&
        readable(backend, 1000 * PATIENCE) && recv(backend, bytes, 8, MSG_WAITALL) == 8)
        send(client, bytes, 8, 0);
    if (backend >= 0)
        close(backend);
    close(client);
    __atomic_sub_fetch(&shared->count[8], 1, __ATOMIC_RELAXED);
    return NULL;
}

static void serve_proxy(void)
{
    while (!stopped()) {
        if (__atomic_load_n(&shared->count[8], __ATOMIC_RELAXED) >= 64 || !readable(proxy_listener, 50)) {
            nap(1);
            continue;
        }
        int fd = accept(proxy_listener, NULL, NULL);
        if (fd < 0)
            continue;
        __atomic_add_fetch(&shared->count[8], 1, __ATOMIC_RELAXED);
        spawn(carry, (void *)(intptr_t)fd);
    }
}

static void flood_proxy(void)
{
    struct sockaddr_in to = local(proxy_port);
    close(proxy_listener);
    close(backend_listener);
    become_attacker();
    while (!stopped()) {
        int fds[16], n = 0;
        for (int i = 0; i < 16; i++) {
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
            if (fd < 0) {
                if (!is_full(errno))
                    wrong("socket: %s", strerror(errno));
                break;
            }
            if (connect(fd, (void *)&to, sizeof to) < 0 && errno != EINPROGRESS && !is_full(errno) &&
                errno != ECONNREFUSED && errno != EADDRNOTAVAIL)
                wrong("connect: %s", strerror(errno));
            fds[n++] = fd;
        }
        nap(1);
        while (n > 0) {
            shared->count[FLOODED]++;
            close(fds[--n]);
        }
    }
    _exit(0);
}

void flood(double seconds)
{
    proxy_listener = listener(&proxy_port, 128);
    backend_listener = listener(&backend_port, 128);
    pid_t backend = start(serve_backend), proxy = start(serve_proxy);
    checkpoint("base");
    pid_t attackers[2] = {start(flood_proxy), start(flood_proxy)};
    double end = now() + seconds;
    while (now() < end && !stopped())
        nap(20);
    checkpoint("peak");
    for (int i = 0; i < 2; i++) {
        kill(attackers[i], SIGKILL);
        waitpid(attackers[i], NULL, 0);
    }
    /* Those that were queued are worked off. */
    for (end = now() + 2 * PATIENCE; now() < end && __atomic_load_n(&shared->count[8], __ATOMIC_RELAXED) > 0;)
        nap(50);
    for (int i = 0; i < 20; i++) {
        char bytes[8] = {0};
        int fd = caller(proxy_port);
        if (fd >= 0 && send(fd, "honestly", 8, 0) == 8 && readable(fd, 1000 * PATIENCE) && recv(fd, bytes, 8, 0) == 8 &&
            memcmp(bytes, "honestly", 8) == 0)
            shared->count[HONEST]++;
        if (fd >= 0)
            close(fd);
    }
    printf("flood: %ld connections, %ld of 20 requests afterwards\n", shared->count[FLOODED],
           shared->count[HONEST]);
    if (shared->count[HONEST] != 20)
        wrong("%ld of 20 requests worked after the flood", shared->count[HONEST]);
    kill(proxy, SIGKILL);
    kill(backend, SIGKILL);
    waitpid(proxy, NULL, 0);
    waitpid(backend, NULL, 0);
    checkpoint("end");
}
