/* Takes over, or feeds, what belongs to another user: names that the kernel tells when a descriptor is swapped while a
 * call is under way, and calls with those names. */
#include "attack.h"

#define SECRET "SECRET"
#define TOKEN "VICTIM"
#define INJECTED "INJECT"
enum { LEARNED = 0, SEATS = 1, VICTIMS = 2, SENT = 3, SERVED_OUT = 4, SENTRIES = 5 };
/* asm-generic/socket.h, Linux 6.5 */
#define SO_PEERPIDFD_ 77

static int victim_port, victim_listener, victim_datagrams, handed = -1;

/* ---- the victim: a server that tells a secret to who brings a token, and a client that does */

static void serve_victim(void)
{
    /* Until its client has come to its end. */
    for (unsigned round = 0; !__atomic_load_n(&shared->count[SERVED_OUT], __ATOMIC_RELAXED); round++) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        char bytes[64] = {0};
        if (!readable(victim_listener, 100))
            continue;
        int fd = round % 2 ? accept(victim_listener, (void *)&from, &length) : accept(victim_listener, NULL, NULL);
        if (fd < 0)
            continue;
        if (!readable(fd, 1000 * PATIENCE)) {
            wrong("a connection that is nobody's came to the victim's listener");
        } else {
            ssize_t got = recv(fd, bytes, 6, MSG_WAITALL);
            if (got != 6 || memcmp(bytes, TOKEN, 6) != 0)
                wrong("the victim's server read %zd bytes, \"%.6s\"", got, bytes);
            else if (write(fd, SECRET " of user 0", 16) != 16)
                wrong("the victim's server cannot answer");
            else if (read(fd, bytes, sizeof bytes) > 0)
                wrong("the victim's server read more: %.16s", bytes);
        }
        close(fd);
    }
}

static void call_victim(void)
{
    struct sockaddr_in to = local(victim_port);
    for (unsigned round = 0; !stopped(); round++) {
        char bytes[64] = {0};
        int fd = socket(AF_INET, SOCK_STREAM | (round % 2 ? SOCK_NONBLOCK : 0), 0);
        must(fd >= 0, "the victim's socket");
        int done = connect(fd, (void *)&to, sizeof to);
        if (done < 0 && errno == EINPROGRESS) {
            struct pollfd one = {.fd = fd, .events = POLLOUT};
            done = poll(&one, 1, 1000 * PATIENCE) == 1 ? 0 : -1;
        }
        if (done < 0) {
            wrong("the victim cannot connect: %s", strerror(errno));
        } else if (write(fd, TOKEN, 6) != 6) {
            wrong("the victim cannot write: %s", strerror(errno));
        } else {
            ssize_t got = readable(fd, 1000 * PATIENCE) ? recv(fd, bytes, 16, 0) : -2;
            if (got != 16 || memcmp(bytes, SECRET, 6) != 0)
                wrong("the victim's client read %zd bytes, \"%.16s\"", got, bytes);
            else
                __atomic_add_fetch(&shared->count[VICTIMS], 1, __ATOMIC_RELAXED);
        }
        close(fd);
        nap(1);
    }
}

/* A datagram socket that nobody knows of. */
static void receive_datagrams(void)
{
    while (!stopped()) {
        char bytes[64] = {0};
        if (readable(victim_datagrams, 50) && recv(victim_datagrams, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
            wrong("a datagram came to the victim: %.16s", bytes);
    }
}

/* ---- the attacker */

#define NAMES 256
#define SEAT_COUNT 64
static struct sockaddr_un names[NAMES];
static socklen_t name_lengths[NAMES];
static int seats[SEAT_COUNT], seat_count, using, contested, foreign[3], targets[6], target_count, target;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void learn(const struct sockaddr_un *name, socklen_t length)
{
    if (name->sun_family != AF_UNIX || length <= (socklen_t)offsetof(struct sockaddr_un, sun_path))
        return;
    pthread_mutex_lock(&lock);
    long known = shared->count[LEARNED];
    int found = 0;
    for (long i = 0; i < known && i < NAMES; i++)
        found |= name_lengths[i] == length && memcmp(&names[i], name, length) == 0;
    if (!found && known < NAMES) {
        names[known] = *name;
        name_lengths[known] = length;
        shared->count[LEARNED]++;
    }
    pthread_mutex_unlock(&lock);
}

static void *swap(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !stopped(); i++) {
        dup2(foreign[i / 2 % 3], contested);
        dup2(__atomic_load_n(&target, __ATOMIC_RELAXED), contested);
    }
    return NULL;
}

/* The other end of a surrogate is the sentry's: the kernel gives a descriptor of that process, in another process-id namespace. */
static void use_peer(void)
{
    int process = -1;
    socklen_t length = sizeof process;
    if (getsockopt(contested, SOL_SOCKET, SO_PEERPIDFD_, &process, &length) != 0 || process < 0)
        return;
    char name[40], text[512] = {0};
    snprintf(name, sizeof name, "/proc/self/fdinfo/%d", process);
    int info = open(name, O_RDONLY | O_CLOEXEC);
    int is_outside = info >= 0 && read(info, text, sizeof text - 1) > 0 && strstr(text, "Pid:\t0\n") != NULL;
    if (info >= 0)
        close(info);
    if (is_outside) {
        __atomic_add_fetch(&shared->count[SENTRIES], 1, __ATOMIC_RELAXED);
        /* A signal that does nothing: whoever may send it may send the others. */
        if (syscall(SYS_pidfd_send_signal, process, 0, NULL, 0) == 0)
            wrong("user %d may send signals to the sentry", geteuid());
        for (int fd = 0; fd < 8; fd++)
            if (syscall(SYS_pidfd_getfd, process, fd, 0) >= 0)
                wrong("user %d has taken descriptor %d of the sentry", geteuid(), fd);
        if (setns(process, CLONE_NEWNET) == 0 || setns(process, CLONE_NEWNS) == 0 || setns(process, CLONE_NEWUSER) == 0)
            wrong("user %d has entered a namespace of the sentry", geteuid());
    }
    close(process);
}

static void *ask(void *unused)
{
    (void)unused;
    for (unsigned i = 0; !stopped(); i++) {
        if (__atomic_load_n(&using, __ATOMIC_RELAXED)) {
            nap(5);
            continue;
        }
        if (i % 16 == 0)
            use_peer();
        struct sockaddr_un name = {0};
        socklen_t length = sizeof name;
        int done = i % 2 ? getpeername(contested, (void *)&name, &length)
                         : getsockname(contested, (void *)&name, &length);
        if (done == 0)
            learn(&name, length);
    }
    return NULL;
}

static void take_seat(int fd)
{
    pthread_mutex_lock(&lock);
    int kept = dup(fd);
    if (kept >= 0 && seat_count < SEAT_COUNT)
        seats[seat_count++] = kept;
    pthread_mutex_unlock(&lock);
}

/* Reads what it should not have, and writes what it should not be able to. */
static void look_at(int fd)
{
    char bytes[256] = {0};
    ssize_t got = recv(fd, bytes, sizeof bytes - 1, MSG_DONTWAIT);
    if (got > 0 && memmem(bytes, (size_t)got, SECRET, 6))
        wrong("user %d read \"%.16s\"", geteuid(), bytes);
}

static void *use_names(void *unused)
{
    (void)unused;
    unsigned long state = seed * 77 + 1;
    struct sockaddr_un mine = {.sun_family = AF_UNIX};
    while (!stopped()) {
        if (!__atomic_load_n(&using, __ATOMIC_RELAXED)) {
            nap(5);
            continue;
        }
        int stream = dice(&state) % 4 != 0;
        int fd = socket(AF_INET, stream ? SOCK_STREAM | SOCK_NONBLOCK : SOCK_DGRAM | SOCK_NONBLOCK, 0);
        if (fd < 0) {
            nap(1);
            continue;
        }
        __atomic_store_n(&target, fd, __ATOMIC_RELAXED);
        long known = shared->count[LEARNED];
        for (int attempt = 0; attempt < 40 && !stopped(); attempt++) {
            long i = known > 0 ? (long)(dice(&state) % (unsigned long)known) : 0;
            if (attempt % 8 == 7) {
                /* A place of its own, which later calls of others might come to. */
                snprintf(mine.sun_path + 1, 16, "seat-%d", attempt);
                bind(contested, (void *)&mine, offsetof(struct sockaddr_un, sun_path) + 8);
                listen(contested, 8);
                int got = accept4(contested, NULL, NULL, SOCK_NONBLOCK);
                if (got >= 0) {
                    look_at(got);
                    close(got);
                }
                continue;
            }
            if (known == 0)
                break;
            if (!stream) {
                if (sendto(contested, INJECTED, 6, MSG_DONTWAIT, (void *)&names[i], name_lengths[i]) == 6)
                    shared->count[SENT]++;
                continue;
            }
            if (connect(contested, (void *)&names[i], name_lengths[i]) == 0) {
                /* Either the descriptor stood for the program's own socket, or a seat is taken. */
                struct sockaddr_un peer = {0};
                socklen_t length = sizeof peer;
                if (send(fd, INJECTED, 6, MSG_DONTWAIT) == 6 || getpeername(fd, (void *)&peer, &length) == 0) {
                    __atomic_add_fetch(&shared->count[SEATS], 1, __ATOMIC_RELAXED);
                    take_seat(fd);
                    break;
                }
            }
        }
        look_at(fd);
        pthread_mutex_lock(&lock);
        for (int i = 0; i < seat_count; i++)
            look_at(seats[i]);
        if (seat_count == SEAT_COUNT)
            close(seats[--seat_count]);
        pthread_mutex_unlock(&lock);
        __atomic_store_n(&target, targets[0], __ATOMIC_RELAXED);
        nap(1);
        close(fd);
    }
    return NULL;
}

static void attack_victim(void)
{
    int port, pipes[2], pair[2];
    close(victim_listener);
    close(victim_datagrams);
    become_attacker();
    must(pipe(pipes) == 0, "pipe");
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    foreign[0] = pipes[0];
    foreign[1] = pair[0];
    /* The kernel connects this one: the others are answered by who looked at them. */
    foreign[2] = socket(AF_UNIX, SOCK_STREAM, 0);
    must(foreign[2] >= 0, "an AF_UNIX socket");
    int own = listener(&port, 16);
    int calling = caller(port);
    must(calling >= 0, "connect to itself");
    int accepted = accept(own, NULL, NULL);
    int datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = local(port);
    must(accepted >= 0 && connect(datagrams, (void *)&to, sizeof to) == 0, "have sockets of its own");
    int all[] = {own, calling, accepted, datagrams, handed};
    for (int i = 0; i < 5; i++)
        if (all[i] >= 0)
            targets[target_count++] = all[i];
    target = targets[0];
    contested = dup(foreign[0]);
    spawn(swap, NULL);
    spawn(ask, NULL);
    spawn(ask, NULL);
    spawn(use_names, NULL);
    /* By turns: learn names, and use them. */
    for (unsigned round = 0; !stopped(); round++) {
        for (int i = 0; i < target_count; i++)
            if (targets[i] != own)
                look_at(targets[i]);
        int use = round / 20 % 2;
        __atomic_store_n(&using, use, __ATOMIC_RELAXED);
        if (!use)
            __atomic_store_n(&target, targets[round % (unsigned)target_count], __ATOMIC_RELAXED);
        nap(20);
    }
    _exit(0);
}

void takeover(double seconds)
{
    victim_listener = listener(&victim_port, 64);
    victim_datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in any = local(0);
    must(bind(victim_datagrams, (void *)&any, sizeof any) == 0, "bind the victim's datagram socket");
    /* A connection that the victim hands to the attacker, as a server does with its workers. */
    int partner = caller(victim_port);
    must(partner >= 0, "connect to the victim");
    handed = accept(victim_listener, NULL, NULL);
    must(handed >= 0, "accept a connection to hand over");
    pid_t attacker = start(attack_victim);
    close(handed);
    pid_t receiver = start(receive_datagrams);
    pid_t server = start(serve_victim);
    pid_t client = start(call_victim);
    last(seconds, &shared->count[VICTIMS], 1);
    __atomic_store_n(&shared->stop, 1, __ATOMIC_RELAXED);
    waitpid(client, NULL, 0);
    __atomic_store_n(&shared->count[SERVED_OUT], 1, __ATOMIC_RELAXED);
    waitpid(server, NULL, 0);
    waitpid(receiver, NULL, 0);
    kill(attacker, SIGKILL);
    waitpid(attacker, NULL, 0);
    close(partner);
    printf("takeover: %ld names learned, %ld seats taken, %ld datagrams sent, %ld requests of the victim, the sentry's process %ld times\n",
           shared->count[LEARNED], shared->count[SEATS], shared->count[SENT], shared->count[VICTIMS], shared->count[SENTRIES]);
    if (shared->count[LEARNED] > 0)
        wrong("the kernel told %ld names of surrogates", shared->count[LEARNED]);
    if (shared->count[VICTIMS] == 0)
        wrong("the victim was not served");
}
