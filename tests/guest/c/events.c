/* epoll and what it remembers: registrations made early, copies, edges. */
#include "guest.h"

static int epoll_with(int sock, uint32_t events)
{
    int poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = events, .data.fd = sock};
    must(epoll_ctl(poller, EPOLL_CTL_ADD, sock, &event) == 0, "epoll_ctl");
    return poller;
}

static uint32_t next_event(int poller, int ms)
{
    struct epoll_event event = {0};
    return epoll_wait(poller, &event, 1, ms) == 1 ? event.events : 0;
}

/* The states of a connecting socket, seen by a registration made when it was fresh. */
static void edge_before_blocking_connect(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    int server = listener(AF_INET, 4, &address, &length);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    int poller = epoll_with(client, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    SAME(next_event(poller, 1000), EPOLLOUT | EPOLLHUP);
    SAME(next_event(poller, 20), 0);
    SAME(connect(client, (struct sockaddr *)&address, length), 0);
    SAME(next_event(poller, 1000), EPOLLOUT);
    int got = accept(server, NULL, NULL);
    SAME(write(got, "x", 1), 1);
    CHECK(next_event(poller, 1000) & EPOLLIN);
    close(got);
    CHECK(next_event(poller, 1000) & EPOLLRDHUP);
}

/* A registration made through one descriptor stays when that one is closed and a copy is left. */
static void epoll_copy_left(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    int poller = epoll_with(ends[0], EPOLLIN);
    int copy = dup(ends[0]);
    close(ends[0]);
    SAME(write(ends[1], "x", 1), 1);
    SAME(next_event(poller, 1000), EPOLLIN);
    close(copy);
    SAME(next_event(poller, 20), 0);
}

static void epoll_after_close(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    int poller = epoll_with(ends[0], EPOLLIN | EPOLLOUT);
    SAME(next_event(poller, 1000), EPOLLOUT);
    close(ends[0]);
    SAME(next_event(poller, 20), 0);
    struct epoll_event event = {.events = EPOLLIN};
    FAILS(epoll_ctl(poller, EPOLL_CTL_MOD, ends[0], &event), EBADF);
}

/* An epoll instance watched by another one. */
static void epoll_nested(void)
{
    int ends[2];
    tcp_pair(AF_INET6, ends);
    int inner = epoll_with(ends[0], EPOLLIN), outer = epoll_with(inner, EPOLLIN);
    SAME(next_event(outer, 20), 0);
    SAME(write(ends[1], "x", 1), 1);
    SAME(next_event(outer, 1000), EPOLLIN);
    SAME(next_event(inner, 1000), EPOLLIN);
}

/* Two threads that wait on one listener edge-triggered are not both needed: EPOLLEXCLUSIVE works. */
static void epoll_exclusive(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    int server = listener(AF_INET, 4, &address, &length);
    int one = epoll_with(server, EPOLLIN | EPOLLEXCLUSIVE);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    SAME(connect(client, (struct sockaddr *)&address, length), 0);
    SAME(next_event(one, 1000), EPOLLIN);
}

/* Signal-driven I/O. */
static volatile sig_atomic_t io_signals;

static void on_io(int number)
{
    (void)number;
    io_signals++;
}

static void signal_driven(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    struct sigaction action = {.sa_handler = on_io};
    sigaction(SIGIO, &action, NULL);
    SAME(fcntl(ends[0], F_SETOWN, getpid()), 0);
    SAME(fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK), 0);
    SAME(write(ends[1], "x", 1), 1);
    for (int i = 0; i < 100 && !io_signals; i++)
        sleep_ms(10);
    CHECK(io_signals > 0);
}

/* `poll` on a connecting socket says nothing: a full queue keeps it connecting. */
static void poll_connecting(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    int server = listener(AF_INET, 0, &address, &length);
    for (int i = 0; i < 16; i++) {
        int sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        int poller = epoll_with(sock, EPOLLIN | EPOLLOUT | EPOLLET);
        SAME(next_event(poller, 100), EPOLLOUT | EPOLLHUP);
        FAILS(connect(sock, (struct sockaddr *)&address, length), EINPROGRESS);
        if (next_event(poller, 200) == 0) {
            struct pollfd one = {.fd = sock, .events = POLLIN | POLLOUT};
            SAME(poll(&one, 1, 0), 0);
            FAILS(write(sock, "x", 1), EAGAIN);
            FAILS(connect(sock, (struct sockaddr *)&address, length), EALREADY);
            char byte;
            FAILS(read(sock, &byte, 1), EAGAIN);
            close(server);
            return;
        }
    }
    CHECK(!"a full queue keeps a connect waiting");
}

const struct guest_case event_cases[] = {
    {"edge_before_blocking_connect", edge_before_blocking_connect},
    {"epoll_copy_left", epoll_copy_left},
    {"epoll_after_close", epoll_after_close},
    {"epoll_nested", epoll_nested},
    {"epoll_exclusive", epoll_exclusive},
    {"signal_driven", signal_driven},
    {"poll_connecting", poll_connecting},
    {NULL, NULL},
};
