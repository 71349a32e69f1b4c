/* What the guest cases in C use. Each case asserts what Linux does; `guest list` and `guest run CASE`
 * are the command line, exit status 0 when every assertion held, 1 when one did not. */
#ifndef GUEST_H
#define GUEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct guest_case {
    const char *name;
    void (*run)(void);
};

extern const struct guest_case call_cases[], signal_cases[], thread_cases[], event_cases[], nonsense_cases[];

/* Notes one assertion, and prints it when it does not hold. */
void check_at(const char *file, int line, int ok, const char *what);
/* Like check_at, for two numbers; `failed` numbers also show the errno. */
void same_at(const char *file, int line, long seen, long wanted, const char *what);

#define CHECK(condition) check_at(__FILE__, __LINE__, (condition), #condition)
#define SAME(seen, wanted) same_at(__FILE__, __LINE__, (long)(seen), (long)(wanted), #seen)
/* The call fails with this errno. */
#define FAILS(call, wanted)                                                                                  \
    do {                                                                                                     \
        errno = 0;                                                                                           \
        long answer_ = (long)(call);                                                                         \
        int errno_ = errno;                                                                                  \
        same_at(__FILE__, __LINE__, answer_, -1, #call);                                                     \
        same_at(__FILE__, __LINE__, errno_, (wanted), "errno of " #call);                                    \
    } while (0)

/* A listener on a free port of 127.0.0.1 (or ::1); its address is put in `address`. Ends the process when it
 * can't be had. */
int listener(int family, int backlog, struct sockaddr_storage *address, socklen_t *length);
/* A bound UDP socket, likewise. */
int datagram(int family, struct sockaddr_storage *address, socklen_t *length);
/* A connected TCP pair. */
void tcp_pair(int family, int ends[2]);
void sleep_ms(long ms);
double now(void);
/* Prints what failed and ends the process with status 1, for steps without which a case can't go on. */
void must(int ok, const char *what);

#endif
