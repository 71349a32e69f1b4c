/* Reaches AF_UNIX sockets of the host's file system although it may make none: a second thread turns a descriptor between a
 * file of the program's own and a surrogate, which is an AF_UNIX socket, while the first connects it or sends to a path.
 *
 * usage: paths PATH SECONDS own|left|pipe|stream|packets|netlink|datagrams
 *        paths PATH SECONDS bound|bound-stream|bound-netlink|bound-inet
 * PATH listens, PATH.d takes datagrams. With the second PATH is where a surrogate is bound, to be a listener there. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Surrogates that are made before the program leaves the sandbox's network, where it gets no more. */
#define POOL 64
static int contested, foreign, target, stop, pool[POOL], pooled;

static void *swap(void *unused)
{
    (void)unused;
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        dup2(foreign, contested);
        dup2(__atomic_load_n(&target, __ATOMIC_RELAXED), contested);
    }
    return NULL;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int make(const char *kind)
{
    int pair[2] = {-1, -1};
    /* The kernel connects it, or rather does not: what listens is of another type. */
    if (strcmp(kind, "own") == 0)
        pair[0] = socket(AF_UNIX, SOCK_DGRAM, 0);
    else if (strcmp(kind, "pipe") == 0 && pipe(pair) != 0)
        return -1;
    else if (strcmp(kind, "stream") == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        return -1;
    else if (strcmp(kind, "packets") == 0 && socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) != 0)
        return -1;
    else if (strcmp(kind, "netlink") == 0)
        pair[0] = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    else if (strcmp(kind, "inet") == 0)
        pair[0] = socket(AF_INET, SOCK_DGRAM, 0);
    else if (strcmp(kind, "named") == 0) {
        /* The kernel binds it, or rather does not: it has a name. */
        struct sockaddr_un any = {.sun_family = AF_UNIX};
        pair[0] = socket(AF_UNIX, SOCK_STREAM, 0);
        if (bind(pair[0], (void *)&any, sizeof(sa_family_t)) != 0)
            return -1;
    }
    return pair[0];
}

static int fresh_target(void)
{
    return pooled > 0 ? pool[--pooled] : socket(AF_INET, SOCK_STREAM, 0);
}

/* Goes to a network namespace of its own, in which internet sockets are the kernel's. Returns 0 there; where every way is
 * refused, 1. Where a child goes, the parent ends as that does. */
static int leave(void)
{
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 || unshare(CLONE_NEWNET) == 0)
        return 0;
    /* clone3(2): the flags, then the signal as the fifth. */
    unsigned long long words[8] = {CLONE_NEWUSER | CLONE_NEWNET, 0, 0, 0, SIGCHLD};
    for (int kind = 0; kind < 3; kind++) {
        long child = kind < 2 ? syscall(SYS_clone, (kind ? 0 : CLONE_NEWUSER) | CLONE_NEWNET | SIGCHLD, 0, 0, 0, 0)
                              : syscall(SYS_clone3, words, sizeof words);
        int status = 0;
        if (child == 0)
            return 0;
        if (child > 0)
            _exit(waitpid((pid_t)child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 4);
    }
    /* The kernel says EBADF of it. */
    if ((setns(-1, CLONE_NEWNET) == 0 || errno == EPERM) && (setns(-1, 0) == 0 || errno == EPERM))
        return 1;
    puts("setns is not refused");
    return 1;
}

/* Binds a surrogate to a path. */
static int bind_to(const struct sockaddr_un *path, const char *kind, double seconds)
{
    foreign = make(kind);
    target = socket(AF_INET, SOCK_STREAM, 0);
    contested = dup(foreign);
    pthread_t other;
    if (foreign < 0 || target < 0 || contested < 0 || pthread_create(&other, NULL, swap, NULL) != 0)
        return 3;
    double end = now() + seconds + (strcmp(kind, "named") == 0 ? 60 : 0);
    int bound = 0;
    for (; !bound && now() < end; bound = access(path->sun_path, F_OK) == 0)
        bind(contested, (const void *)path, sizeof *path);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(other, NULL);
    printf("%d bound\nend\n", bound);
    return 0;
}

int main(int count, char **words)
{
    if (count != 4)
        return 2;
    struct sockaddr_un path = {.sun_family = AF_UNIX}, datagrams = {.sun_family = AF_UNIX};
    snprintf(path.sun_path, sizeof path.sun_path, "%s", words[1]);
    snprintf(datagrams.sun_path, sizeof datagrams.sun_path, "%s.d", words[1]);
    double end = now() + atof(words[2]);
    if (strcmp(words[3], "datagrams") == 0) {
        /* Both of a pair of datagram sockets can send elsewhere. */
        int pair[2];
        for (int kind = SOCK_DGRAM; kind <= SOCK_RAW; kind++) {
            if (socketpair(AF_UNIX, kind, 0, pair) != 0)
                continue;
            sendto(pair[0], "x", 1, 0, (void *)&datagrams, sizeof datagrams);
            if (connect(pair[0], (void *)&datagrams, sizeof datagrams) == 0)
                send(pair[0], "x", 1, 0);
        }
        puts("end");
        return 0;
    }
    if (strncmp(words[3], "bound", 5) == 0)
        return bind_to(&path, words[3][5] ? words[3] + 6 : "named", atof(words[2]));
    int left = strcmp(words[3], "left") == 0, waits = left || strcmp(words[3], "own") == 0;
    if (left) {
        while (pooled < POOL)
            pool[pooled++] = socket(AF_INET, SOCK_STREAM, 0);
        if (leave() != 0) {
            puts("0 of 0\nend");
            return 0;
        }
        foreign = socket(AF_INET, SOCK_STREAM, 0);
    } else {
        foreign = make(words[3]);
    }
    target = fresh_target();
    contested = dup(foreign);
    pthread_t other;
    if (foreign < 0 || target < 0 || contested < 0 || pthread_create(&other, NULL, swap, NULL) != 0)
        return 3;
    long tries = 0, taken = 0;
    while (now() < end || (taken == 0 && waits && now() < end + 60)) {
        tries++;
        if (connect(contested, (void *)&path, sizeof path) != 0 && errno != EISCONN)
            continue;
        /* Which of the two was it? One that has no peer says ENOTCONN; the peer may be gone. */
        if (send(target, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 || errno == EPIPE || errno == ECONNRESET) {
            taken++;
            if (left && pooled == 0)
                break;
            int fresh = fresh_target(), old = target;
            __atomic_store_n(&target, fresh, __ATOMIC_RELAXED);
            close(old);
        }
    }
    /* A datagram socket sends where the address says. What arrives is the host's to count. */
    int fresh = socket(AF_INET, SOCK_DGRAM, 0);
    __atomic_store_n(&target, fresh, __ATOMIC_RELAXED);
    struct iovec part = {.iov_base = "x", .iov_len = 1};
    struct msghdr message = {.msg_name = &datagrams, .msg_namelen = sizeof datagrams, .msg_iov = &part, .msg_iovlen = 1};
    for (end = now() + atof(words[2]); now() < end && !waits;) {
        sendmsg(contested, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        sendto(contested, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (void *)&datagrams, sizeof datagrams);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(other, NULL);
    printf("%ld of %ld\nend\n", taken, tries);
    return 0;
}
