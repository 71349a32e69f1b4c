#include "attack.h"

struct shared *shared;
unsigned long seed = 1;

double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

void nap(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

void wrong(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (__atomic_add_fetch(&shared->wrong, 1, __ATOMIC_RELAXED) <= 20)
        dprintf(1, "WRONG: %s\n", text);
}

void must(int ok, const char *what)
{
    if (!ok) {
        dprintf(1, "CANNOT: %s: %s\n", what, strerror(errno));
        __atomic_add_fetch(&shared->wrong, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
        _exit(3);
    }
}

int stopped(void)
{
    return __atomic_load_n(&shared->stop, __ATOMIC_RELAXED);
}

void last(double seconds, const long *count, long least)
{
    double began = now();
    while (!stopped() && now() < began + seconds + PATIENCE &&
           (now() < began + seconds || __atomic_load_n(count, __ATOMIC_RELAXED) < least))
        nap(20);
}

/* xorshift64* */
unsigned long dice(unsigned long *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717UL;
}

struct sockaddr_in local(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

int listener(int *port, int backlog)
{
    struct sockaddr_in address = local(0);
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    must(fd >= 0, "socket of a listener");
    must(bind(fd, (void *)&address, sizeof address) == 0, "bind of a listener");
    must(listen(fd, backlog) == 0, "listen");
    must(getsockname(fd, (void *)&address, &length) == 0, "getsockname of a listener");
    *port = ntohs(address.sin_port);
    return fd;
}

/* A blocking connection, or -1. */
int caller(int port)
{
    struct sockaddr_in address = local(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd >= 0 && connect(fd, (void *)&address, sizeof address) < 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

int readable(int fd, int ms)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, ms) > 0;
}

pid_t start(void (*body)(void))
{
    pid_t pid = fork();
    must(pid >= 0, "fork");
    if (pid == 0) {
        body();
        _exit(0);
    }
    return pid;
}

/* Another user, where the sandbox has one. */
void become_attacker(void)
{
    if (geteuid() != 0)
        return;
    /* A user namespace of one user has no second: then two processes of one user stand for two users. */
    if (setgid(ATTACKER) == 0 && setuid(ATTACKER) == 0)
        must(geteuid() == ATTACKER, "change the user");
}

void spawn(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    must(pthread_create(&thread, NULL, body, argument) == 0, "make a thread");
    pthread_detach(thread);
}

void checkpoint(const char *name)
{
    char path[64];
    double end = now() + 2 * PATIENCE;
    snprintf(path, sizeof path, "seen-%s", name);
    dprintf(1, "checkpoint %s\n", name);
    while (access(path, F_OK) != 0 && now() < end)
        nap(5);
    must(access(path, F_OK) == 0, "be seen by the driver");
}

/* ---- the canary: small requests and responses, all the time */

static int canary_port, canary_reconnects;
static pid_t canary_server, canary_client, canary_pulse;

static void serve_canary(void)
{
    int fds[64], n = 0, l = 0;
    /* The listener is inherited. */
    l = (int)shared->count[15];
    struct pollfd polled[65];
    while (!stopped()) {
        polled[0] = (struct pollfd){.fd = l, .events = POLLIN};
        for (int i = 0; i < n; i++)
            polled[i + 1] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        if (poll(polled, (nfds_t)n + 1, 100) <= 0)
            continue;
        int known = n;
        if (polled[0].revents && n < 64) {
            int fd = accept(l, NULL, NULL);
            if (fd >= 0)
                fds[n++] = fd;
        }
        for (int i = known - 1; i >= 0; i--) {
            char bytes[64];
            if (!polled[i + 1].revents)
                continue;
            ssize_t got = read(fds[i], bytes, sizeof bytes);
            if (got <= 0 || write(fds[i], bytes, (size_t)got) != got) {
                close(fds[i]);
                fds[i] = fds[--n];
            }
        }
    }
}

/* Does nothing but to note how late it is woken: so long the machine was busy with something else. */
static void feel_pulse(void)
{
    while (!stopped()) {
        double began = now();
        nap(2);
        long us = (long)((now() - began) * 1e6);
        if (us > shared->machine_longest)
            shared->machine_longest = us;
    }
}

static void note_wait(double began)
{
    long us = (long)((now() - began) * 1e6);
    if (us > shared->canary_longest)
        shared->canary_longest = us;
    shared->canary_rounds++;
}

/* One call of its own that the sentry must answer, then a request and its response. */
static void run_canary(void)
{
    int fd = -1;
    for (unsigned round = 0; !stopped(); round++) {
        double began = now();
        char sent[8], got[8];
        if (fd >= 0 && canary_reconnects && round % 8 == 0) {
            close(fd);
            fd = -1;
        }
        if (fd < 0) {
            fd = caller(canary_port);
            if (fd < 0) {
                if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ECONNREFUSED &&
                    errno != ENOMEM)
                    wrong("the canary cannot connect: %s", strerror(errno));
                shared->canary_refused++;
                note_wait(began);
                nap(5);
                continue;
            }
        }
        struct sockaddr_in peer;
        socklen_t length = sizeof peer;
        if (getpeername(fd, (void *)&peer, &length) < 0 && errno != ENOTCONN)
            wrong("the canary's getpeername: %s", strerror(errno));
        snprintf(sent, sizeof sent, "%07u", round % 10000000);
        if (write(fd, sent, 8) != 8 || !readable(fd, 15000) || recv(fd, got, 8, MSG_WAITALL) != 8) {
            /* The server may have had no room for the connection. */
            note_wait(began);
            shared->canary_refused++;
            close(fd);
            fd = -1;
            continue;
        }
        if (memcmp(sent, got, 8) != 0)
            wrong("the canary sent %.8s and got %.8s", sent, got);
        note_wait(began);
        __atomic_add_fetch(&shared->canary_served, 1, __ATOMIC_RELAXED);
        nap(2);
    }
}

void canary_start(int reconnects)
{
    canary_reconnects = reconnects;
    shared->count[15] = listener(&canary_port, 16);
    canary_server = start(serve_canary);
    close((int)shared->count[15]);
    canary_client = start(run_canary);
    canary_pulse = start(feel_pulse);
}

/* Whether the canary lived. */
int canary_end(void)
{
    last(0, &shared->canary_served, 10);
    __atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
    waitpid(canary_client, NULL, 0);
    waitpid(canary_server, NULL, 0);
    waitpid(canary_pulse, NULL, 0);
    long rounds = shared->canary_rounds, ms = shared->canary_longest / 1000, pulse = shared->machine_longest / 1000;
    dprintf(1, "canary: %ld rounds, %ld refused, longest wait %ld ms, where the machine itself was late by %ld ms\n",
            rounds, shared->canary_refused, ms, pulse);
    if (shared->canary_served < 10)
        wrong("the canary came round only %ld times, and was refused %ld times", rounds, shared->canary_refused);
    /* A round has some six turns of processes that may each come late. */
    if (ms > 2000 + 6 * pulse)
        wrong("the canary waited for %ld ms, and the machine was late by %ld ms", ms, pulse);
    return shared->wrong == 0;
}

/* ---- */

static const struct {
    const char *name;
    void (*run)(double seconds);
    int reconnects;
} attacks[] = {
    {"takeover", takeover, 1}, {"pressure", pressure, 0}, {"blocking", blocking, 1}, {"in_flight", in_flight, 0},
    {"flood", flood, 0},       {"hog", hog, 0},          {"rights", rights, 1},     {"linger", linger, 1},     {"fuse", fuse, 1},
    {"reused", reused, 1},     {"fuzz", fuzz, 1},        {"stall", stall, 1},       {"forge", forge, 1},
};

int main(int count, char **words)
{
    must(count >= 3, "usage: attack NAME SECONDS [SEED]");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        return 3;
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    double seconds = atof(words[2]);
    if (count > 3)
        seed = strtoul(words[3], NULL, 0) | 1;
    for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++) {
        if (strcmp(words[1], attacks[i].name) != 0)
            continue;
        canary_start(attacks[i].reconnects);
        attacks[i].run(seconds);
        int lived = canary_end();
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        printf("%s\n", lived ? "HELD" : "BROKEN");
        return lived ? 0 : 1;
    }
    printf("CANNOT: no attack %s\n", words[1]);
    return 3;
}
