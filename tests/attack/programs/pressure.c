/* Connections while descriptors are scarce: every one is whole, or not there at all. */
#include "attack.h"

enum { DONE = 0, REFUSED = 1, SERVED = 2 };
static int port, listening;

/* Says after whom a caller is: the bytes of one are nobody else's. */
static void echo(void)
{
    int fds[100], n = 0;
    struct pollfd polled[101];
    while (!stopped()) {
        polled[0] = (struct pollfd){.fd = listening, .events = POLLIN};
        for (int i = 0; i < n; i++)
            polled[i + 1] = (struct pollfd){.fd = fds[i], .events = POLLIN};
        if (poll(polled, (nfds_t)n + 1, 50) <= 0)
            continue;
        for (int i = n - 1; i >= 0; i--) {
            char bytes[8];
            if (!polled[i + 1].revents)
                continue;
            if (recv(fds[i], bytes, 8, MSG_WAITALL) != 8 || send(fds[i], bytes, 8, 0) != 8) {
                close(fds[i]);
                fds[i] = fds[--n];
            } else {
                shared->count[SERVED]++;
            }
        }
        if (polled[0].revents && n < 100) {
            struct sockaddr_in from;
            socklen_t length = sizeof from;
            int fd = accept(listening, (void *)&from, &length);
            if (fd >= 0)
                fds[n++] = fd;
        }
    }
}

static int is_room(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM || error == ECONNREFUSED ||
           error == ETIMEDOUT || error == ECONNRESET || error == EPIPE || error == EAGAIN;
}

static void call_many(void)
{
    unsigned long state = (unsigned long)getpid() * seed;
    int fds[110], blocking[110], n = 0;
    char ids[110][9];
    close(listening);
    become_attacker();
    for (unsigned long made = 0; !stopped();) {
        struct sockaddr_in to = local(port);
        int nonblocking = dice(&state) % 2 ? SOCK_NONBLOCK : 0;
        int fd = n < 110 ? socket(AF_INET, SOCK_STREAM | nonblocking, 0) : -1;
        if (fd < 0 && n < 110 && !is_room(errno))
            wrong("socket: %s", strerror(errno));
        if (fd >= 0) {
            struct timeval two = {2, 0};
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &two, sizeof two);
            if (connect(fd, (void *)&to, sizeof to) == 0 || errno == EINPROGRESS) {
                blocking[n] = !nonblocking;
                snprintf(ids[n], 9, "%04x%04lx", getpid() & 0xffff, made++ & 0xffff);
                fds[n++] = fd;
            } else {
                if (!is_room(errno))
                    wrong("connect: %s", strerror(errno));
                shared->count[REFUSED]++;
                close(fd);
            }
        }
        if (n == 0)
            continue;
        /* One of them asks, and is closed as likely as not. */
        int i = (int)(dice(&state) % (unsigned long)n);
        char got[9] = {0};
        struct pollfd one = {.fd = fds[i], .events = POLLOUT};
        int over = fd < 0 || dice(&state) % 2;
        if (poll(&one, 1, blocking[i] ? 200 : 20) == 1 && send(fds[i], ids[i], 8, MSG_DONTWAIT) == 8 &&
            readable(fds[i], 200)) {
            ssize_t len = recv(fds[i], got, 8, MSG_DONTWAIT);
            if (len > 0 && (len != 8 || memcmp(got, ids[i], 8) != 0))
                wrong("the connection of %s got the bytes of %.8s", ids[i], got);
            if (len == 8)
                __atomic_add_fetch(&shared->count[DONE], 1, __ATOMIC_RELAXED);
        } else {
            /* A late answer must not be taken for one to another request. */
            over = 1;
        }
        if (over) {
            close(fds[i]);
            n--;
            fds[i] = fds[n];
            blocking[i] = blocking[n];
            memcpy(ids[i], ids[n], 9);
        }
    }
    _exit(0);
}

void pressure(double seconds)
{
    listening = listener(&port, 32);
    pid_t server = start(echo), callers[3];
    for (int i = 0; i < 3; i++)
        callers[i] = start(call_many);
    last(seconds, &shared->count[DONE], 1);
    for (int i = 0; i < 3; i++) {
        kill(callers[i], SIGKILL);
        waitpid(callers[i], NULL, 0);
    }
    /* Room has come back. */
    int recovered = 0;
    for (double end = now() + 2 * PATIENCE; recovered < 10 && now() < end;) {
        char bytes[8];
        int fd = caller(port);
        if (fd >= 0 && send(fd, "recover!", 8, 0) == 8 && readable(fd, 10000) && recv(fd, bytes, 8, 0) == 8 &&
            memcmp(bytes, "recover!", 8) == 0)
            recovered++;
        else
            nap(50);
        if (fd >= 0)
            close(fd);
    }
    printf("pressure: %ld requests, %ld connections refused, %d of 10 afterwards\n", shared->count[DONE],
           shared->count[REFUSED], recovered);
    if (recovered < 10)
        wrong("only %d of 10 requests worked when descriptors were free again", recovered);
    if (shared->count[DONE] == 0)
        wrong("no request was served");
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
}
