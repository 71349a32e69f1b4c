/* What makes a careless server wait: full queues, blocking descriptors, peers that do not read. */
#include "attack.h"

static int contested, foreign, target;

static void *swap(void *unused)
{
    (void)unused;
    while (!stopped()) {
        dup2(foreign, contested);
        dup2(__atomic_load_n(&target, __ATOMIC_RELAXED), contested);
    }
    return NULL;
}

/* Blocking sockets, half of them taken over by the kernel's own calls in the middle of the sentry's. */
static void *connect_and_swap(void *unused)
{
    (void)unused;
    int port, own = listener(&port, 1);
    struct sockaddr_in to = local(port);
    struct timeval short_time = {0, 20000};
    while (!stopped()) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) {
            nap(1);
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &short_time, sizeof short_time);
        __atomic_store_n(&target, fd, __ATOMIC_RELAXED);
        for (int i = 0; i < 10; i++) {
            connect(contested, (void *)&to, sizeof to);
            fcntl(contested, F_SETFL, i % 2 ? O_NONBLOCK : 0);
            listen(contested, 0);
            shutdown(contested, i % 3);
        }
        close(fd);
        int got = readable(own, 0) ? accept(own, NULL, NULL) : -1;
        if (got >= 0)
            close(got);
    }
    return NULL;
}

/* A listener that accepts nothing, with a queue of one, and one whose mode changes while its queue is read. */
static void *fill_queues(void *unused)
{
    (void)unused;
    int port, own = listener(&port, 0);
    struct sockaddr_in to = local(port);
    int fds[64], n = 0;
    while (!stopped()) {
        fds[n] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (fds[n] >= 0) {
            connect(fds[n], (void *)&to, sizeof to);
            send(fds[n], "x", 1, MSG_DONTWAIT);
            n++;
        }
        if (n == 64 || (n > 0 && fds[n - 1] < 0)) {
            struct sockaddr_in from;
            socklen_t length = sizeof from;
            fcntl(own, F_SETFL, O_NONBLOCK);
            for (int i = 0; i < 4; i++) {
                int got = accept(own, (void *)&from, &length);
                if (got >= 0)
                    close(got);
            }
            fcntl(own, F_SETFL, 0);
            while (n > 0)
                close(fds[--n]);
        }
        if (n % 16 == 0)
            nap(1);
    }
    return NULL;
}

/* A stream that is written to until nothing goes, on a blocking socket, and never read. */
static void *fill_streams(void *unused)
{
    (void)unused;
    static char bytes[65536];
    int port, own = listener(&port, 4);
    while (!stopped()) {
        int fd = caller(port);
        int got = fd >= 0 && readable(own, 1000) ? accept(own, NULL, NULL) : -1;
        if (fd < 0) {
            nap(1);
            continue;
        }
        for (int i = 0; i < 200 && send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0; i++)
            ;
        struct msghdr message = {0};
        struct iovec part = {bytes, sizeof bytes};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        sendmsg(fd, &message, MSG_DONTWAIT);
        shutdown(fd, SHUT_WR);
        close(fd);
        if (got >= 0)
            close(got);
    }
    return NULL;
}

/* Reads of the program's memory that fault for long, or for ever. */
static void *slow_memory(void *unused)
{
    (void)unused;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    size_t size = 64 << 20;
    struct sockaddr_in to = local(9);
    while (!stopped()) {
        char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            continue;
        sendto(fd, memory, 60000, MSG_DONTWAIT, (void *)&to, sizeof to);
        sendto(fd, memory, size, MSG_DONTWAIT, (void *)&to, sizeof to);
        munmap(memory, size);
        nap(1);
    }
    return NULL;
}

static void attack(void)
{
    int pipes[2];
    become_attacker();
    must(pipe(pipes) == 0, "pipe");
    foreign = pipes[0];
    contested = dup(foreign);
    target = foreign;
    spawn(swap, NULL);
    spawn(connect_and_swap, NULL);
    spawn(fill_queues, NULL);
    spawn(fill_streams, NULL);
    spawn(slow_memory, NULL);
    while (!stopped())
        nap(20);
    _exit(0);
}

void blocking(double seconds)
{
    pid_t attacker = start(attack);
    last(seconds, &shared->canary_rounds, 1);
    kill(attacker, SIGKILL);
    waitpid(attacker, NULL, 0);
    /* What the attacker left does not stop the sentry either. */
    nap(500);
}
