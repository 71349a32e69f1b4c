/* Closes a socket whose close lingers while a call on it is under way: whose close is the last? */
#include "attack.h"

enum { CLOSED = 0 };
static int hammered = -1;

static void *hammer(void *unused)
{
    (void)unused;
    struct sockaddr_in to = local(9);
    while (!stopped()) {
        int fd = __atomic_load_n(&hammered, __ATOMIC_RELAXED);
        if (fd >= 0) {
            bind(fd, (void *)&to, sizeof to);
            connect(fd, (void *)&to, sizeof to);
        }
    }
    return NULL;
}

static void attack(void)
{
    static char bytes[65536];
    struct linger linger = {1, 30};
    int port, own = listener(&port, 4);
    spawn(hammer, NULL);
    spawn(hammer, NULL);
    while (!stopped()) {
        int fd = caller(port), accepted = fd >= 0 ? accept(own, NULL, NULL) : -1;
        if (accepted < 0) {
            nap(1);
            continue;
        }
        for (int i = 0; i < 400 && send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0; i++)
            ;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        /* Another descriptor that stays while `close` is called for, so that this process does not wait. */
        __atomic_store_n(&hammered, fd, __ATOMIC_RELAXED);
        nap(1);
        pid_t closer = fork();
        if (closer == 0)
            _exit(0);
        waitpid(closer, NULL, 0);
        if (fork() == 0) {
            close(accepted);
            alarm(1);
            close(fd);
            _exit(0);
        }
        close(fd);
        __atomic_store_n(&hammered, -1, __ATOMIC_RELAXED);
        shared->count[CLOSED]++;
        nap(2);
        close(accepted);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
    _exit(0);
}

/* The same with nobody else who has it: the close of this thread may be the one that waits, so each has its own. */
static void attack_alone(void)
{
    static char bytes[65536];
    struct linger linger = {1, 30};
    while (!stopped()) {
        pid_t child = fork();
        if (child == 0) {
            int port, own = listener(&port, 4), fd = caller(port);
            int accepted = fd >= 0 ? accept(own, NULL, NULL) : -1;
            if (accepted < 0)
                _exit(1);
            for (int i = 0; i < 400 && send(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0; i++)
                ;
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
            hammered = fd;
            spawn(hammer, NULL);
            nap(1);
            /* Killed in the middle of a call: the sentry's duplicate may be the last. */
            kill(getpid(), SIGKILL);
        }
        waitpid(child, NULL, 0);
        shared->count[CLOSED]++;
    }
    _exit(0);
}

void linger(double seconds)
{
    pid_t attackers[2] = {start(attack), start(attack_alone)};
    last(seconds, &shared->count[CLOSED], 1);
    for (int i = 0; i < 2; i++) {
        kill(attackers[i], SIGKILL);
        waitpid(attackers[i], NULL, 0);
    }
    nap(300);
    printf("linger: %ld sockets closed\n", shared->count[CLOSED]);
    if (shared->count[CLOSED] == 0)
        wrong("no socket was closed");
}
