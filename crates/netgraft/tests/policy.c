// A program that may reach one address and tries to reach another one: by an address that a second thread changes while the call is
// served, by every call that has one, from a child, and by sockets that write addresses themselves.
//
//   policy ALLOWED DENIED PORT TRIES
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in allowed, denied;
// What both threads have, an address that is one or the other.
static union {
    struct sockaddr_in address;
    volatile uint32_t words[4];
} shared;
static atomic_int over;

static void *flip(void *unused) {
    (void)unused;
    while (!atomic_load(&over)) {
        shared.words[1] = allowed.sin_addr.s_addr;
        shared.words[1] = denied.sin_addr.s_addr;
    }
    return NULL;
}

static void fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static int open_socket(int kind) {
    int fd = socket(AF_INET, kind | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    return fd;
}

// What meets the denied address is the test's question: nothing arrives there.
static void race(int tries) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, flip, NULL) != 0)
        fail("pthread_create");
    int datagrams = open_socket(SOCK_DGRAM);
    char byte = 'x';
    struct iovec part = {&byte, 1};
    struct mmsghdr messages[2] = {0};
    for (int i = 0; i < 2; i++)
        messages[i].msg_hdr = (struct msghdr){.msg_name = &shared, .msg_namelen = sizeof shared.address, .msg_iov = &part, .msg_iovlen = 1};
    for (int i = 0; i < tries; i++) {
        switch (i % 4) {
        case 0:
            sendto(datagrams, &byte, 1, MSG_DONTWAIT, (struct sockaddr *)&shared, sizeof shared.address);
            break;
        case 1:
            sendmsg(datagrams, &messages[0].msg_hdr, MSG_DONTWAIT);
            break;
        case 2:
            sendmmsg(datagrams, messages, 2, MSG_DONTWAIT);
            break;
        default:
            if (connect(datagrams, (struct sockaddr *)&shared, sizeof shared.address) == 0) {
                send(datagrams, &byte, 1, MSG_DONTWAIT);
                struct sockaddr none = {.sa_family = AF_UNSPEC};
                connect(datagrams, &none, sizeof none);
            }
        }
    }
    for (int i = 0; i < tries / 500; i++) {
        int stream = open_socket(SOCK_STREAM);
        connect(stream, (struct sockaddr *)&shared, sizeof shared.address);
        close(stream);
    }
    atomic_store(&over, 1);
    pthread_join(thread, NULL);
    // What may be still is.
    int stream = open_socket(SOCK_STREAM);
    if (connect(stream, (struct sockaddr *)&allowed, sizeof allowed) != 0)
        fail("connect to the allowed address");
    if (sendto(datagrams, &byte, 1, 0, (struct sockaddr *)&allowed, sizeof allowed) != 1)
        fail("sendto the allowed address");
    close(stream);
    close(datagrams);
}

static void expect_denied(const char *what, int result) {
    if (result >= 0) {
        printf("%s is allowed\n", what);
        exit(1);
    }
    if (errno != EACCES && errno != EPERM)
        fail(what);
}

static void plain(int port) {
    int datagrams = open_socket(SOCK_DGRAM), stream = open_socket(SOCK_STREAM);
    struct sockaddr *to = (struct sockaddr *)&denied;
    expect_denied("connect", connect(stream, to, sizeof denied));
    expect_denied("sendto", sendto(datagrams, "x", 1, 0, to, sizeof denied));
    expect_denied("connect of datagrams", connect(datagrams, to, sizeof denied));
    // Without a peer of its own it has nowhere to send to.
    if (send(datagrams, "x", 1, 0) >= 0) {
        printf("a denied connect has left a peer\n");
        exit(1);
    }
    expect_denied("a raw socket", socket(AF_INET, SOCK_RAW, IPPROTO_UDP));
    expect_denied("a raw socket with headers", socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
    // A source route leads to the denied one by way of the allowed one, or the other way round.
    unsigned char route[] = {IPOPT_NOP, IPOPT_LSRR, 7, 4, 0, 0, 0, 0};
    memcpy(route + 4, &denied.sin_addr, 4);
    if (setsockopt(stream, IPPROTO_IP, IP_OPTIONS, route, sizeof route) == 0) {
        printf("source routes are taken\n");
        exit(1);
    }
    close(datagrams);
    close(stream);
    (void)port;
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    int port = atoi(argv[3]), tries = atoi(argv[4]);
    allowed.sin_family = denied.sin_family = AF_INET;
    allowed.sin_port = denied.sin_port = htons(port);
    inet_pton(AF_INET, argv[1], &allowed.sin_addr);
    inet_pton(AF_INET, argv[2], &denied.sin_addr);
    shared.address = allowed;
    plain(port);
    int status;
    pid_t child = fork();
    if (child == 0) {
        plain(port);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        fail("the child");
    race(tries);
    puts("done");
    return 0;
}
