#include "guest.h"

static int assertions, failures;

void check_at(const char *file, int line, int ok, const char *what)
{
    __atomic_add_fetch(&assertions, 1, __ATOMIC_RELAXED);
    if (!ok) {
        int saved = errno;
        __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
        printf("FAIL %s:%d: %s (errno %d, %s)\n", file, line, what, saved, strerror(saved));
        fflush(stdout);
    }
}

void same_at(const char *file, int line, long seen, long wanted, const char *what)
{
    int saved = errno;
    __atomic_add_fetch(&assertions, 1, __ATOMIC_RELAXED);
    if (seen != wanted) {
        __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
        printf("FAIL %s:%d: %s: expected %ld, saw %ld (errno %d, %s)\n", file, line, what, wanted, seen, saved,
               strerror(saved));
        fflush(stdout);
    }
}

void must(int ok, const char *what)
{
    if (!ok) {
        printf("FAIL %s: %s\n", what, strerror(errno));
        fflush(stdout);
        _exit(1);
    }
}

void sleep_ms(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void loopback(int family, struct sockaddr_storage *address, socklen_t *length)
{
    memset(address, 0, sizeof *address);
    address->ss_family = (sa_family_t)family;
    if (family == AF_INET) {
        ((struct sockaddr_in *)address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        *length = sizeof(struct sockaddr_in);
    } else {
        ((struct sockaddr_in6 *)address)->sin6_addr = in6addr_loopback;
        *length = sizeof(struct sockaddr_in6);
    }
}

static int bound(int family, int type, struct sockaddr_storage *address, socklen_t *length)
{
    int sock = socket(family, type, 0);
    must(sock >= 0, "socket");
    loopback(family, address, length);
    must(bind(sock, (struct sockaddr *)address, *length) == 0, "bind");
    must(getsockname(sock, (struct sockaddr *)address, length) == 0, "getsockname");
    return sock;
}

int listener(int family, int backlog, struct sockaddr_storage *address, socklen_t *length)
{
    int sock = bound(family, SOCK_STREAM, address, length);
    must(listen(sock, backlog) == 0, "listen");
    return sock;
}

int datagram(int family, struct sockaddr_storage *address, socklen_t *length)
{
    return bound(family, SOCK_DGRAM, address, length);
}

void tcp_pair(int family, int ends[2])
{
    struct sockaddr_storage address;
    socklen_t length;
    int server = listener(family, 1, &address, &length);
    ends[0] = socket(family, SOCK_STREAM, 0);
    must(ends[0] >= 0, "socket");
    must(connect(ends[0], (struct sockaddr *)&address, length) == 0, "connect");
    ends[1] = accept(server, NULL, NULL);
    must(ends[1] >= 0, "accept");
    close(server);
}

int main(int count, char **arguments)
{
    const struct guest_case *groups[] = {call_cases, signal_cases, thread_cases, event_cases, nonsense_cases};
    int list = count == 2 && strcmp(arguments[1], "list") == 0;
    const char *wanted = count == 3 && strcmp(arguments[1], "run") == 0 ? arguments[2] : NULL;

    for (size_t group = 0; group < sizeof groups / sizeof *groups; group++) {
        for (const struct guest_case *each = groups[group]; each->name; each++) {
            if (list) {
                puts(each->name);
            } else if (wanted && strcmp(each->name, wanted) == 0) {
                each->run();
                printf("%d assertions, %d failed\n", assertions, failures);
                return failures || !assertions ? 1 : 0;
            }
        }
    }
    if (list)
        return 0;
    fprintf(stderr, "usage: guest list | guest run CASE\n");
    return 2;
}
