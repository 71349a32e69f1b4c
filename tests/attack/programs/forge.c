/* Connects under another's address: a surrogate is bound to the name that an earlier connection's had, and then connected to a
 * victim's listener, which would be told the addresses of that connection. */
#include "attack.h"

enum { TRIED = 0, BOUND = 1, ACCEPTED = 2, LEARNED = 3 };
/* Loopback addresses that only the attacker's own connection has. */
#define CLIENT 0x7f000063
#define SERVER 0x7f000007
#define TRIES 5000
static int victim_listener, victim_port, contested, foreign, target, turning;

static void serve_victim(void)
{
    while (!stopped()) {
        struct sockaddr_in from = {0}, peer = {0}, own = {0};
        socklen_t lengths[3] = {sizeof from, sizeof peer, sizeof own};
        int fd = readable(victim_listener, 50) ? accept(victim_listener, (void *)&from, &lengths[0]) : -1;
        if (fd < 0)
            continue;
        if (from.sin_addr.s_addr == htonl(CLIENT))
            wrong("the victim accepts a connection of an address that never called it");
        if (getpeername(fd, (void *)&peer, &lengths[1]) == 0 && peer.sin_addr.s_addr == htonl(CLIENT))
            wrong("the victim's peer has an address that never called it");
        /* Port 0 is that of a connection past the sentry, which has no addresses (SECURITY.md). */
        if (getsockname(fd, (void *)&own, &lengths[2]) == 0 && own.sin_port != 0 && own.sin_port != htons((uint16_t)victim_port))
            wrong("the victim's connection is one to port %d", ntohs(own.sin_port));
        close(fd);
        __atomic_add_fetch(&shared->count[ACCEPTED], 1, __ATOMIC_RELAXED);
    }
}

static void *swap(void *unused)
{
    (void)unused;
    while (!stopped()) {
        if (!__atomic_load_n(&turning, __ATOMIC_RELAXED)) {
            nap(1);
            continue;
        }
        dup2(__atomic_load_n(&foreign, __ATOMIC_RELAXED), contested);
        dup2(__atomic_load_n(&target, __ATOMIC_RELAXED), contested);
    }
    return NULL;
}

/* The name of the surrogate of a connection, which the kernel tells where it answers `recvfrom`; 0 if it does not. */
static socklen_t learn(struct sockaddr_un *name)
{
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(SERVER)}, client = server;
    client.sin_addr.s_addr = htonl(CLIENT);
    socklen_t length = sizeof server;
    int own = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    /* lwIP has no loopback address but one: there a false port of the victim's own side is what would tell. */
    int one_only = bind(own, (void *)&server, sizeof server) != 0 && errno == EADDRNOTAVAIL;
    if (one_only)
        server = client = local(0);
    must((!one_only || bind(own, (void *)&server, sizeof server) == 0) && listen(own, 4) == 0, "listen on an address of its own");
    must(getsockname(own, (void *)&server, &length) == 0, "getsockname of its listener");
    must(bind(fd, (void *)&client, sizeof client) == 0, "bind to an address of its own");
    must(connect(fd, (void *)&server, sizeof server) == 0, "connect from an address of its own");
    int accepted = accept(own, NULL, NULL);
    char byte;
    must(accepted >= 0 && send(fd, "x", 1, 0) == 1 && readable(accepted, 1000 * PATIENCE), "be sent a byte");
    length = sizeof *name;
    must(recvfrom(accepted, &byte, 1, 0, (void *)name, &length) == 1, "read a byte");
    close(fd);
    close(accepted);
    close(own);
    nap(50);
    return name->sun_family == AF_UNIX && length > (socklen_t)offsetof(struct sockaddr_un, sun_path) ? length : 0;
}

static void attack(void)
{
    close(victim_listener);
    become_attacker();
    struct sockaddr_un name = {0}, mine = {.sun_family = AF_UNIX};
    struct sockaddr_in to = local(victim_port);
    int foreigns[2] = {socket(AF_INET, SOCK_DGRAM, 0), socket(AF_UNIX, SOCK_STREAM, 0)};
    must(foreigns[0] >= 0 && foreigns[1] >= 0, "sockets of its own");
    /* It has a name already, so only a surrogate takes another. */
    must(bind(foreigns[1], (void *)&mine, sizeof(sa_family_t)) == 0, "bind an AF_UNIX socket");
    foreign = target = foreigns[0];
    contested = dup(foreign);
    must(contested >= 0, "a descriptor to turn");
    spawn(swap, NULL);
    for (unsigned round = 0; !stopped(); round++) {
        socklen_t length = learn(&name);
        shared->count[LEARNED] += length > 0;
        int fd = socket(AF_INET, SOCK_STREAM, 0), bound = 0;
        must(fd >= 0, "socket");
        __atomic_store_n(&foreign, foreigns[round % 2], __ATOMIC_RELAXED);
        __atomic_store_n(&target, fd, __ATOMIC_RELAXED);
        __atomic_store_n(&turning, 1, __ATOMIC_RELAXED);
        for (int i = 0; i < TRIES && length > 0 && !bound && !stopped(); i++)
            bound = bind(contested, (void *)&name, length) == 0;
        __atomic_store_n(&turning, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&target, foreigns[0], __ATOMIC_RELAXED);
        nap(2);
        dup2(foreigns[0], contested);
        shared->count[BOUND] += bound;
        connect(fd, (void *)&to, sizeof to);
        nap(2);
        close(fd);
        __atomic_add_fetch(&shared->count[TRIED], 1, __ATOMIC_RELAXED);
    }
    _exit(0);
}

void forge(double seconds)
{
    victim_listener = listener(&victim_port, 16);
    pid_t victim = start(serve_victim), attacker = start(attack);
    last(seconds, &shared->count[TRIED], 4);
    kill(attacker, SIGKILL);
    waitpid(attacker, NULL, 0);
    __atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
    waitpid(victim, NULL, 0);
    printf("forge: %ld names learned, %ld surrogates bound to them, %ld calls, %ld accepted\n", shared->count[LEARNED],
           shared->count[BOUND], shared->count[TRIED], shared->count[ACCEPTED]);
    if (shared->count[TRIED] == 0)
        wrong("the victim was never called");
}
