/* Fills the sentry's memory: connections with large buffers whose bytes nobody reads. */
#include "attack.h"

enum { HELD = 0, REFUSED = 1, CONNECTIONS = 2, OVER = 3 };
#define MOST 14

/* Sends what goes, until nothing has gone for a while. */
static void fill(int fd)
{
    static char bytes[65536];
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    while (poll(&one, 1, 50) > 0) {
        ssize_t sent = send(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (sent > 0)
            shared->count[HELD] += sent;
        else if (errno != EAGAIN && errno != ENOBUFS)
            return;
    }
}

/* Whether there is no room for a socket. That it is the kernel's own answer would be seen in its family. */
static int is_refused(void)
{
    int domain = 0, fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t length = sizeof domain;
    if (fd < 0) {
        if (errno != ENOBUFS)
            wrong("out of memory, socket says %s", strerror(errno));
        return 1;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_INET)
        wrong("the kernel's own answer: a socket of family %d", domain);
    close(fd);
    return 0;
}

static void hoard(void)
{
    int port, size = 8 << 20, own = listener(&port, 16);
    become_attacker();
    setsockopt(own, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    for (int i = 0; i < MOST && !shared->count[REFUSED]; i++) {
        struct sockaddr_in to = local(port);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) {
            if (errno != ENOBUFS)
                wrong("out of memory, socket says %s", strerror(errno));
            shared->count[REFUSED] = 1;
            break;
        }
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        if (connect(fd, (void *)&to, sizeof to) < 0) {
            shared->count[REFUSED] = errno == ENOBUFS;
            break;
        }
        if (accept(own, NULL, NULL) < 0)
            break;
        shared->count[CONNECTIONS]++;
        fill(fd);
        shared->count[REFUSED] = is_refused();
    }
    checkpoint("peak");
    _exit(0);
}

void hog(double seconds)
{
    (void)seconds;
    checkpoint("base");
    pid_t attacker = start(hoard);
    waitpid(attacker, NULL, 0);
    printf("hog: %ld connections hold %ld MiB, sockets are %s\n", shared->count[CONNECTIONS],
           shared->count[HELD] >> 20, shared->count[REFUSED] ? "refused" : "made as before");
    /* What it held is given back, and others are served again. */
    int works = 0;
    for (double end = now() + 2 * PATIENCE; !works && now() < end; nap(20)) {
        char bytes[8] = {0};
        int port, own, fd = -1, got = -1;
        if (is_refused())
            continue;
        own = listener(&port, 4);
        fd = caller(port);
        got = fd >= 0 && readable(own, 5000) ? accept(own, NULL, NULL) : -1;
        works = got >= 0 && send(fd, "honestly", 8, 0) == 8 && readable(got, 5000) && recv(got, bytes, 8, 0) == 8 &&
                memcmp(bytes, "honestly", 8) == 0;
        close(own);
        if (fd >= 0)
            close(fd);
        if (got >= 0)
            close(got);
    }
    if (!works)
        wrong("no connection is served after the hog has ended");
    checkpoint("end");
}
