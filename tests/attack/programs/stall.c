/* Turns the passing of descriptors on again in a surrogate (`SO_PASSRIGHTS`), which the sentry has turned off, and sends a file
 * through it: whoever closes that file last waits for as long as its maker likes. */
#include "attack.h"

enum { TRIED = 0, REFUSED = 1 };
/* asm-generic/socket.h, Linux 6.16 */
#define SO_PASSRIGHTS_ 83
#define TRIES 3000
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

static void turn_on(int fd)
{
    int on = 1;
    __atomic_store_n(&target, fd, __ATOMIC_RELAXED);
    for (int i = 0; i < TRIES && !stopped(); i++)
        setsockopt(contested, SOL_SOCKET, SO_PASSRIGHTS_, &on, sizeof on);
    __atomic_store_n(&target, foreign, __ATOMIC_RELAXED);
}

enum passing { NOT_SENT, BYTES_ONLY, PASSED };

/* Whether a file that is sent through one end comes out of the other. */
static enum passing pass(int from, int to)
{
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte = 'x';
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    int file = 1;
    memcpy(CMSG_DATA(header), &file, sizeof file);
    if (sendmsg(from, &message, MSG_DONTWAIT | MSG_NOSIGNAL) != 1)
        return NOT_SENT;
    message = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (!readable(to, 1000 * PATIENCE) || recvmsg(to, &message, MSG_DONTWAIT) != 1 || !CMSG_FIRSTHDR(&message))
        return BYTES_ONLY;
    memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof file);
    close(file);
    return PASSED;
}

static void attack(void)
{
    become_attacker();
    int pair[2], on, has_option;
    socklen_t length = sizeof on;
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    /* Without the option the kernel passes them always, which SECURITY.md says. */
    has_option = getsockopt(pair[0], SOL_SOCKET, SO_PASSRIGHTS_, &on, &length) == 0;
    must(pass(pair[0], pair[1]) == PASSED, "pass a file through a pair of its own");
    foreign = target = pair[0];
    contested = dup(foreign);
    must(contested >= 0, "a descriptor to turn");
    spawn(swap, NULL);
    while (!stopped()) {
        int port, own = listener(&port, 4);
        /* What is accepted has the options of the listener. */
        turn_on(own);
        int fd = caller(port), accepted = fd >= 0 ? accept(own, NULL, NULL) : -1;
        must(accepted >= 0, "connect to itself");
        for (int turned = 0; turned < 2; turned++) {
            enum passing out = pass(fd, accepted), back = pass(accepted, fd);
            if (has_option && (out == PASSED || back == PASSED))
                wrong("a file was passed through a connection (%d, %d)", out, back);
            shared->count[REFUSED] += (out == NOT_SENT) + (back == NOT_SENT);
            if (turned == 0) {
                turn_on(fd);
                turn_on(accepted);
            }
        }
        close(fd);
        close(accepted);
        close(own);
        __atomic_add_fetch(&shared->count[TRIED], 1, __ATOMIC_RELAXED);
    }
    _exit(0);
}

void stall(double seconds)
{
    pid_t attacker = start(attack);
    last(seconds, &shared->count[TRIED], 2);
    kill(attacker, SIGKILL);
    waitpid(attacker, NULL, 0);
    printf("stall: %ld connections, %ld messages refused\n", shared->count[TRIED], shared->count[REFUSED]);
    if (shared->count[TRIED] == 0)
        wrong("no connection was tried");
}
