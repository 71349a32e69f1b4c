/* Signals during calls that block, with and without SA_RESTART. */
#include "guest.h"

static volatile sig_atomic_t caught;

static void count(int number)
{
    (void)number;
    caught++;
}

/* A SIGALRM in `ms`, and every `ms` after when `again`. */
static void alarm_in(long ms, int flags, int again)
{
    struct sigaction action = {.sa_handler = count, .sa_flags = flags};
    sigaction(SIGALRM, &action, NULL);
    caught = 0;
    struct itimerval timer = {.it_value = {ms / 1000, ms % 1000 * 1000}};
    if (again)
        timer.it_interval = timer.it_value;
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void alarm_off(void)
{
    struct itimerval none = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &none, NULL);
}

static void accept_interrupted(void)
{
    struct sockaddr_storage address, peer;
    socklen_t length, peer_length = sizeof peer;
    int server = listener(AF_INET, 4, &address, &length);
    alarm_in(100, 0, 0);
    FAILS(accept(server, NULL, NULL), EINTR);
    SAME(caught, 1);
    alarm_in(100, 0, 0);
    FAILS(accept(server, (struct sockaddr *)&peer, &peer_length), EINTR);
    SAME(caught, 1);
    /* Nothing was lost: the next connection is accepted. */
    int client = socket(AF_INET, SOCK_STREAM, 0);
    SAME(connect(client, (struct sockaddr *)&address, length), 0);
    CHECK(accept(server, (struct sockaddr *)&peer, &peer_length) >= 0);
}

/* Forks a child that connects after `ms` and sends one byte. */
static pid_t connect_later(struct sockaddr_storage *address, socklen_t length, long ms)
{
    pid_t child = fork();
    if (child == 0) {
        sleep_ms(ms);
        int client = socket(address->ss_family, SOCK_STREAM, 0);
        int good = connect(client, (struct sockaddr *)address, length) == 0 && write(client, "x", 1) == 1;
        sleep_ms(100);
        _exit(good ? 0 : 1);
    }
    return child;
}

static void reap(pid_t child)
{
    int status = -1;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    SAME(status, 0);
}

static void accept_restarted(void)
{
    struct sockaddr_storage address, peer;
    socklen_t length, peer_length = sizeof peer;
    int server = listener(AF_INET, 4, &address, &length);
    for (int with_address = 0; with_address < 2; with_address++) {
        pid_t child = connect_later(&address, length, 300);
        alarm_in(100, SA_RESTART, 0);
        peer_length = sizeof peer;
        int got = with_address ? accept(server, (struct sockaddr *)&peer, &peer_length) : accept(server, NULL, NULL);
        CHECK(got >= 0);
        SAME(caught, 1);
        char byte;
        SAME(read(got, &byte, 1), 1);
        close(got);
        reap(child);
    }
}

static void receive_interrupted(void)
{
    int ends[2];
    char data[8];
    tcp_pair(AF_INET, ends);
    alarm_in(100, 0, 0);
    FAILS(recv(ends[0], data, sizeof data, 0), EINTR);
    alarm_in(100, 0, 0);
    FAILS(read(ends[0], data, sizeof data), EINTR);

    struct sockaddr_storage address, from;
    socklen_t length, from_length = sizeof from;
    int udp = datagram(AF_INET, &address, &length);
    alarm_in(100, 0, 0);
    FAILS(recvfrom(udp, data, sizeof data, 0, (struct sockaddr *)&from, &from_length), EINTR);
    SAME(caught, 1);
    struct iovec part = {data, sizeof data};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1};
    alarm_in(100, 0, 0);
    FAILS(recvmsg(udp, &message, 0), EINTR);
    SAME(sendto(udp, "mine", 4, 0, (struct sockaddr *)&address, length), 4);
    SAME(recvfrom(udp, data, sizeof data, 0, (struct sockaddr *)&from, &from_length), 4);
}

static void receive_restarted(void)
{
    int ends[2];
    char data[8];
    tcp_pair(AF_INET, ends);
    struct sockaddr_storage address, from;
    socklen_t length, from_length = sizeof from;
    int udp = datagram(AF_INET, &address, &length);
    pid_t child = fork();
    if (child == 0) {
        sleep_ms(300);
        int good = write(ends[1], "late", 4) == 4;
        sleep_ms(300);
        int mine = socket(AF_INET, SOCK_DGRAM, 0);
        good &= sendto(mine, "udp", 3, 0, (struct sockaddr *)&address, length) == 3;
        _exit(good ? 0 : 1);
    }
    alarm_in(50, SA_RESTART, 1);
    SAME(recv(ends[0], data, sizeof data, 0), 4);
    SAME(recvfrom(udp, data, sizeof data, 0, (struct sockaddr *)&from, &from_length), 3);
    alarm_off();
    CHECK(caught >= 5);
    reap(child);
}

static void poll_interrupted(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    struct pollfd one = {.fd = ends[0], .events = POLLIN};
    alarm_in(100, SA_RESTART, 0); /* poll is never restarted */
    FAILS(poll(&one, 1, 5000), EINTR);
    SAME(caught, 1);
}

/* Fills a listener's queue until connects stay pending, so that a blocking connect waits. */
static void connect_interrupted(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    int server = listener(AF_INET, 0, &address, &length);
    int pending = 0;
    for (int i = 0; i < 16 && !pending; i++) {
        int sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(sock, (struct sockaddr *)&address, length);
        struct pollfd one = {.fd = sock, .events = POLLOUT};
        pending = poll(&one, 1, 200) == 0;
    }
    CHECK(pending);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    alarm_in(100, 0, 0);
    FAILS(connect(client, (struct sockaddr *)&address, length), EINTR);
    SAME(caught, 1);
    /* connect(2): the connection goes on being made; a second call says so. */
    fcntl(client, F_SETFL, O_NONBLOCK);
    FAILS(connect(client, (struct sockaddr *)&address, length), EALREADY);
    close(client);
    close(server);
}

static void killed_in_accept(void)
{
    struct sockaddr_storage address, peer;
    socklen_t length, peer_length = sizeof peer;
    int server = listener(AF_INET, 4, &address, &length);
    pid_t child = fork();
    if (child == 0) {
        accept(server, (struct sockaddr *)&peer, &peer_length);
        _exit(1);
    }
    sleep_ms(100);
    kill(child, SIGKILL);
    int status = 0;
    SAME(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status));
    int client = socket(AF_INET, SOCK_STREAM, 0);
    SAME(connect(client, (struct sockaddr *)&address, length), 0);
    CHECK(accept(server, (struct sockaddr *)&peer, &peer_length) >= 0); /* not given to the dead one */
}

/* Signals at the rate of Go's preemption must not keep control calls from ending. */
static void storm(void)
{
    alarm_in(1, SA_RESTART, 1);
    struct sockaddr_storage address;
    socklen_t length;
    int good = 0;
    for (int i = 0; i < 300; i++) {
        int server = listener(AF_INET, 4, &address, &length);
        int client = socket(AF_INET, SOCK_STREAM, 0);
        int connected = connect(client, (struct sockaddr *)&address, length);
        /* One that a signal hit when it had succeeded may say so when it is made again (connect(2)). */
        if (connected < 0 && errno == EISCONN)
            connected = 0;
        int got = accept(server, (struct sockaddr *)&address, &length);
        good += connected == 0 && got >= 0 && write(client, "x", 1) == 1;
        close(got);
        close(client);
        close(server);
    }
    alarm_off();
    SAME(good, 300);
    CHECK(caught > 0);
}

const struct guest_case signal_cases[] = {
    {"accept_interrupted", accept_interrupted},   {"accept_restarted", accept_restarted},
    {"receive_interrupted", receive_interrupted}, {"receive_restarted", receive_restarted},
    {"poll_interrupted", poll_interrupted},       {"connect_interrupted", connect_interrupted},
    {"killed_in_accept", killed_in_accept},       {"storm", storm},
    {NULL, NULL},
};
