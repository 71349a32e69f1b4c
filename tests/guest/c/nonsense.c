/* A program that makes socket calls with arguments drawn at random. Whatever the answers are, everybody else's
 * sockets go on working. */
#include "guest.h"
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static uint64_t state;

static uint64_t draw(void)
{
    /* xorshift64: the same calls in every run. */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static char room[4096];

static long pointer(void)
{
    switch (draw() % 6) {
    case 0: return 0;
    case 1: return 8;
    case 2: return -1;
    case 3: return (long)(room + sizeof room - 1 - draw() % 64);
    default: return (long)(room + draw() % 2048);
    }
}

static long number(void)
{
    const long choices[] = {0, 1, 2, 4, 16, 28, 128, 1024, 65536, 0x7fffffff, -1, (long)0x8000000000000000, 1L << 40};
    return draw() % 2 ? (long)(draw() % 40) : choices[draw() % (sizeof choices / sizeof *choices)];
}

/* Looks like an address often enough for the call to get further than its first check. */
static void fill_room(void)
{
    for (size_t at = 0; at < sizeof room; at += 64) {
        for (size_t byte = 0; byte < 64; byte++)
            room[at + byte] = (char)draw();
        if (draw() % 2) {
            struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(40000 + draw() % 16)),
                                          .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
            memcpy(room + at, &address, sizeof address);
        }
    }
}

static void one_call(void)
{
    const int calls[] = {SYS_socket,     SYS_bind,       SYS_listen,     SYS_accept,   SYS_accept4,  SYS_connect,
                         SYS_getsockname, SYS_getpeername, SYS_shutdown, SYS_sendto,   SYS_recvfrom, SYS_sendmsg,
                         SYS_recvmsg,    SYS_sendmmsg,   SYS_recvmmsg,   SYS_getsockopt, SYS_setsockopt, SYS_ioctl,
                         SYS_close,      SYS_dup};
    const int families[] = {AF_INET, AF_INET6, AF_UNIX, AF_UNSPEC, 99};
    int call = calls[draw() % (sizeof calls / sizeof *calls)];
    int fd = 3 + (int)(draw() % 24);
    long a[6] = {fd, pointer(), number(), number(), pointer(), pointer()};

    if (call == SYS_socket) {
        a[0] = families[draw() % 5];
        a[1] = (long)(1 + draw() % 3) | SOCK_NONBLOCK;
        a[2] = draw() % 3 ? 0 : number();
    } else if (call == SYS_listen || call == SYS_shutdown) {
        a[1] = number();
    } else if (call == SYS_accept || call == SYS_getsockname || call == SYS_getpeername || call == SYS_accept4) {
        a[2] = pointer();
    } else if (call == SYS_getsockopt || call == SYS_setsockopt) {
        const long levels[] = {SOL_SOCKET, IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6, 99};
        a[1] = levels[draw() % 5], a[2] = (long)(draw() % 80), a[3] = pointer();
        a[4] = call == SYS_getsockopt ? pointer() : number();
    } else if (call == SYS_ioctl) {
        a[1] = (long)(0x8900 + draw() % 256), a[2] = pointer();
    } else if (call == SYS_sendmsg || call == SYS_recvmsg) {
        a[2] = (long)draw() % 65536 | MSG_DONTWAIT;
    } else if (call == SYS_sendmmsg || call == SYS_recvmmsg) {
        a[3] = (long)draw() % 65536 | MSG_DONTWAIT, a[4] = 0;
    } else if (call == SYS_sendto || call == SYS_recvfrom) {
        a[3] = (long)draw() % 65536 | MSG_DONTWAIT, a[5] = call == SYS_sendto ? number() : pointer();
    }
    syscall(call, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void nonsense(void)
{
    for (int seed = 1; seed <= 4; seed++) {
        pid_t child = fork();
        if (child == 0) {
            struct rlimit files = {128, 128};
            setrlimit(RLIMIT_NOFILE, &files);
            signal(SIGPIPE, SIG_IGN);
            state = (uint64_t)seed * 0x9e3779b97f4a7c15u;
            alarm(3); /* a call that blocks, or a socket made blocking by FIONBIO, ends with the process */
            for (int i = 0; i < 4000; i++) {
                if (i % 16 == 0)
                    fill_room();
                one_call();
            }
            _exit(0);
        }
        int status = -1;
        SAME(waitpid(child, &status, 0), child);
        CHECK(WIFEXITED(status) || WTERMSIG(status) == SIGALRM);

        int ends[2];
        char data[8];
        tcp_pair(seed % 2 ? AF_INET : AF_INET6, ends);
        SAME(write(ends[0], "sound", 5), 5);
        SAME(recv(ends[1], data, 5, MSG_WAITALL), 5);
        close(ends[0]);
        close(ends[1]);
    }
}

/* The header of a message as the kernel has it: a libc's own may have narrower lengths. */
struct kernel_message {
    void *name;
    int name_length;
    struct iovec *part;
    size_t parts;
    void *control;
    size_t control_length;
    unsigned flags;
};

/* Vectors and lengths that ask for more than there is memory. */
static void huge_lengths(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    int sock = datagram(AF_INET, &address, &length);
    struct iovec parts[1024];
    for (int i = 0; i < 1024; i++)
        parts[i] = (struct iovec){room, (size_t)1 << 40};
    struct kernel_message message = {&address, (int)length, parts, 1024, NULL, 0, 0};
    CHECK(syscall(SYS_sendmsg, sock, &message, MSG_DONTWAIT) < 0);
    message.parts = (size_t)1 << 50;
    FAILS(syscall(SYS_sendmsg, sock, &message, MSG_DONTWAIT), EMSGSIZE);
    message.parts = 1;
    message.control = room;
    message.control_length = (size_t)1 << 40;
    CHECK(syscall(SYS_sendmsg, sock, &message, MSG_DONTWAIT) < 0);
    CHECK(setsockopt(sock, SOL_SOCKET, SO_RCVBUF, room, 0x7fffffff) == 0 || errno != 0);
    CHECK(sendto(sock, room, (size_t)1 << 45, MSG_DONTWAIT, (struct sockaddr *)&address, length) < 0);
    /* And it works. */
    SAME(sendto(sock, "x", 1, 0, (struct sockaddr *)&address, length), 1);
    SAME(recv(sock, room, sizeof room, 0), 1);
}

const struct guest_case nonsense_cases[] = {
    {"nonsense", nonsense},
    {"huge_lengths", huge_lengths},
    {NULL, NULL},
};
