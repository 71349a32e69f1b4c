/* Reaches AF_UNIX sockets of the host's file system although it may make none: a second thread turns a descriptor between a
 * file of the program's own and a surrogate, which is an AF_UNIX socket, while the first connects it or sends to a path.
 *
 * usage: paths PATH SECONDS own|pipe|stream|packets|netlink|datagrams
 * PATH listens, PATH.d takes datagrams. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int contested, foreign, target, stop;

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
    return pair[0];
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
    foreign = make(words[3]);
    target = socket(AF_INET, SOCK_STREAM, 0);
    contested = dup(foreign);
    pthread_t other;
    if (foreign < 0 || target < 0 || contested < 0 || pthread_create(&other, NULL, swap, NULL) != 0)
        return 3;
    long tries = 0, taken = 0;
    while (now() < end || (taken == 0 && strcmp(words[3], "own") == 0 && now() < end + 60)) {
        tries++;
        if (connect(contested, (void *)&path, sizeof path) != 0 && errno != EISCONN)
            continue;
        /* Which of the two was it? One that has no peer says ENOTCONN; the peer may be gone. */
        if (send(target, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 || errno == EPIPE || errno == ECONNRESET) {
            taken++;
            int fresh = socket(AF_INET, SOCK_STREAM, 0), old = target;
            __atomic_store_n(&target, fresh, __ATOMIC_RELAXED);
            close(old);
        }
    }
    /* A datagram socket sends where the address says. What arrives is the host's to count. */
    int fresh = socket(AF_INET, SOCK_DGRAM, 0);
    __atomic_store_n(&target, fresh, __ATOMIC_RELAXED);
    struct iovec part = {.iov_base = "x", .iov_len = 1};
    struct msghdr message = {.msg_name = &datagrams, .msg_namelen = sizeof datagrams, .msg_iov = &part, .msg_iovlen = 1};
    for (end = now() + atof(words[2]); now() < end && strcmp(words[3], "own") != 0;) {
        sendmsg(contested, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        sendto(contested, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (void *)&datagrams, sizeof datagrams);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(other, NULL);
    printf("%ld of %ld\nend\n", taken, tries);
    return 0;
}
