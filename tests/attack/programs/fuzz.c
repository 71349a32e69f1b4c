/* Every call that the sentry answers, with wild arguments, by several threads of several processes. */
#include "attack.h"

enum { CALLS = 0, GENERATIONS = 1, WORKED = 2 };
#define LEAST 1000
#define THREADS 3
#define PROCESSES 3
#define FDS 48
static int fds[FDS];
static char *good;      /* pages that exist, before one that does not */
static const size_t good_size = 16 * 4096;
static unsigned long generation;

static unsigned long pick(unsigned long *state, unsigned long below)
{
    return dice(state) % below;
}

static int an_fd(unsigned long *state)
{
    switch (pick(state, 12)) {
    case 0: return -1;
    case 1: return (int)(dice(state) | 64);
    case 2: return 3 + (int)pick(state, 64);
    default: return fds[pick(state, FDS)];
    }
}

static unsigned long a_length(unsigned long *state)
{
    static const unsigned long lengths[] = {0, 1, 2, 3, 4, 8, 16, 28, 110, 128, 1024, 4096, 65507, 65536, 1 << 20,
                                            0x7fffffff, 0x80000000, 0xffffffff, 0xffffffffffffffff};
    return pick(state, 4) ? lengths[pick(state, sizeof lengths / sizeof *lengths)] : dice(state) >> pick(state, 64);
}

static void *a_pointer(unsigned long *state)
{
    switch (pick(state, 10)) {
    case 0: return NULL;
    case 1: return (void *)dice(state);
    case 2: return good + good_size - pick(state, 64);
    case 3: return (void *)0xffffffff81000000UL;
    default: return good + (pick(state, good_size - 4096) & ~7UL);
    }
}

/* An address that may mean something, often. */
static void *an_address(unsigned long *state, socklen_t *length)
{
    char *at = good + (pick(state, good_size - 4096) & ~7UL);
    *length = (socklen_t)(pick(state, 5) ? 16 : a_length(state));
    if (pick(state, 8) == 0)
        return a_pointer(state);
    if (pick(state, 3)) {
        struct sockaddr_in to = local(20000 + (int)pick(state, 8));
        memcpy(at, &to, sizeof to);
    } else {
        struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)(20000 + pick(state, 8))),
                                  .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        memcpy(at, &to, sizeof to);
        *length = sizeof to;
    }
    if (pick(state, 6) == 0)
        *(uint16_t *)at = (uint16_t)pick(state, 50);
    return at;
}

static void *a_message(unsigned long *state)
{
    struct iovec *parts = (void *)(good + 8192);
    struct msghdr *message = (void *)(good + 4096 + pick(state, 8) * 64);
    int count = (int)pick(state, 8);
    for (int i = 0; i < 8; i++) {
        parts[i].iov_base = a_pointer(state);
        parts[i].iov_len = a_length(state);
    }
    socklen_t length;
    memset(message, 0, sizeof *message);
    if (pick(state, 2)) {
        message->msg_name = an_address(state, &length);
        message->msg_namelen = length;
    }
    message->msg_iov = pick(state, 10) ? parts : a_pointer(state);
    message->msg_iovlen = pick(state, 10) ? (size_t)count : a_length(state);
    if (pick(state, 3) == 0) {
        struct cmsghdr *control = (void *)(good + 12288);
        control->cmsg_len = pick(state, 3) ? CMSG_LEN(4) : a_length(state);
        control->cmsg_level = pick(state, 2) ? SOL_SOCKET : (int)pick(state, 50);
        control->cmsg_type = (int)pick(state, 80);
        memcpy(CMSG_DATA(control), &fds[pick(state, FDS)], sizeof(int));
        message->msg_control = control;
        message->msg_controllen = pick(state, 3) ? CMSG_SPACE(4) : a_length(state);
    }
    return pick(state, 12) ? message : a_pointer(state);
}

static void make_socket(unsigned long *state)
{
    static const int kinds[] = {SOCK_STREAM, SOCK_STREAM, SOCK_STREAM, SOCK_DGRAM, SOCK_DGRAM, SOCK_RAW};
    int domain = pick(state, 12) ? (pick(state, 2) ? AF_INET : AF_INET6) : (int)pick(state, 48);
    int kind = kinds[pick(state, 6)] | SOCK_NONBLOCK;
    int protocol = pick(state, 4) ? 0 : (int)pick(state, 256);
    int fd = socket(domain, kind, protocol), slot = (int)pick(state, FDS), seen = 0;
    if (fd < 0)
        return;
    socklen_t length = sizeof seen;
    if ((domain == AF_INET || domain == AF_INET6) && getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &seen, &length) == 0 &&
        seen != domain)
        wrong("a socket of family %d says that it is of family %d", domain, seen);
    int old = __atomic_exchange_n(&fds[slot], fd, __ATOMIC_RELAXED);
    if (old > 2)
        close(old);
}

static void one_call(unsigned long *state)
{
    int fd = an_fd(state);
    socklen_t length;
    void *address;
    long done = -1;
    switch (pick(state, 24)) {
    case 0: case 1: case 2: make_socket(state); break;
    case 3: address = an_address(state, &length); done = syscall(SYS_bind, fd, address, length); break;
    case 4: done = syscall(SYS_listen, fd, dice(state)); break;
    case 5: case 6: address = an_address(state, &length); done = syscall(SYS_connect, fd, address, length); break;
    case 7: done = syscall(SYS_accept, fd, a_pointer(state), a_pointer(state)); break;
    case 8: done = syscall(SYS_accept4, fd, a_pointer(state), a_pointer(state),
                           pick(state, 3) ? SOCK_NONBLOCK : (int)dice(state)); break;
    case 9: done = syscall(SYS_getsockname, fd, a_pointer(state), a_pointer(state)); break;
    case 10: done = syscall(SYS_getpeername, fd, a_pointer(state), a_pointer(state)); break;
    case 11: done = syscall(SYS_shutdown, fd, (int)pick(state, 5) - 1); break;
    case 12: done = syscall(SYS_getsockopt, fd, pick(state, 60), pick(state, 80), a_pointer(state), a_pointer(state)); break;
    case 13: done = syscall(SYS_setsockopt, fd, pick(state, 60), pick(state, 80), a_pointer(state), a_length(state)); break;
    case 14: address = an_address(state, &length);
        done = syscall(SYS_sendto, fd, a_pointer(state), a_length(state), dice(state) | MSG_DONTWAIT, address, length); break;
    case 15: done = syscall(SYS_recvfrom, fd, a_pointer(state), a_length(state), dice(state) | MSG_DONTWAIT,
                            a_pointer(state), a_pointer(state)); break;
    case 16: done = syscall(SYS_sendmsg, fd, a_message(state), MSG_DONTWAIT | (pick(state, 2) ? dice(state) : 0)); break;
    case 17: done = syscall(SYS_recvmsg, fd, a_message(state), MSG_DONTWAIT | (pick(state, 2) ? dice(state) : 0)); break;
    case 18: done = syscall(SYS_sendmmsg, fd, a_message(state), a_length(state), MSG_DONTWAIT); break;
    case 19: done = syscall(SYS_recvmmsg, fd, a_message(state), a_length(state), MSG_DONTWAIT,
                            pick(state, 2) ? NULL : a_pointer(state)); break;
    case 20: done = syscall(SYS_ioctl, fd, pick(state, 8) ? 0x8900 + pick(state, 256) : 0x5411, a_pointer(state)); break;
    case 21: fcntl(fd, F_SETFL, O_NONBLOCK); done = write(fd, good, pick(state, 65536)); break;
    case 22: done = read(fd, good, 4096); break;
    default:
        /* A number that another thread may be in a call with. */
        fd = fds[pick(state, FDS)];
        if (fd > 2)
            dup2(fds[pick(state, FDS)], fd);
    }
    __atomic_add_fetch(&shared->count[CALLS], 1, __ATOMIC_RELAXED);
    if (done >= 0)
        __atomic_add_fetch(&shared->count[WORKED], 1, __ATOMIC_RELAXED);
}

static void *fuzz_on(void *number)
{
    unsigned long state = (seed + generation * 1000003 + (unsigned long)(uintptr_t)number * 7919) | 1;
    for (;;)
        one_call(&state);
    return NULL;
}

static void attack(void)
{
    become_attacker();
    good = mmap(NULL, good_size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(good != MAP_FAILED && munmap(good + good_size, 4096) == 0, "map pages");
    for (size_t i = 0; i < good_size; i++)
        good[i] = (char)(i * 31);
    for (int i = 0; i < FDS; i++)
        fds[i] = -1;
    struct rlimit limit = {256, 256};
    setrlimit(RLIMIT_NOFILE, &limit);
    for (uintptr_t i = 0; i < THREADS; i++)
        spawn(fuzz_on, (void *)i);
    /* Killed by its parent, in the middle of calls. */
    for (;;)
        pause();
}

void fuzz(double seconds)
{
    pid_t running[PROCESSES] = {0};
    unsigned long state = seed;
    printf("fuzz: seed %lu\n", seed);
    checkpoint("base");
    double end = now() + seconds;
    int halved = 0;
    while ((now() < end || (shared->count[CALLS] < LEAST && now() < end + PATIENCE)) && !stopped()) {
        int i = (int)pick(&state, PROCESSES);
        if (running[i] > 0) {
            kill(running[i], SIGKILL);
            waitpid(running[i], NULL, 0);
        }
        generation++;
        shared->count[GENERATIONS]++;
        running[i] = start(attack);
        nap(150);
        if (!halved && now() > end - seconds / 2) {
            halved = 1;
            checkpoint("half");
        }
    }
    for (int i = 0; i < PROCESSES; i++)
        if (running[i] > 0) {
            kill(running[i], SIGKILL);
            waitpid(running[i], NULL, 0);
        }
    printf("fuzz: %ld calls, %ld worked, %ld processes\n", shared->count[CALLS], shared->count[WORKED],
           shared->count[GENERATIONS]);
    checkpoint("end");
    if (shared->count[CALLS] < LEAST)
        wrong("only %ld calls were made", shared->count[CALLS]);
}
