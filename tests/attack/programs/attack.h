/* Hostile programs. Each runs beside a canary, and beside a victim where there is something to cross to. */
#ifndef ATTACK_H
#define ATTACK_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The user of an attacker where the sandbox has more users than one. */
#define ATTACKER 12345
/* Seconds that what must come may take to come, on a machine that is busy with other things. */
#define PATIENCE 20

/* What all processes of a program share. */
struct shared {
    int stop;
    int wrong;             /* assertions that did not hold */
    long canary_rounds;
    long canary_longest;   /* microseconds that one of its requests waited, by its own clock */
    long canary_refused;   /* connections that it was refused for lack of room */
    long canary_served;    /* requests that were answered */
    long machine_longest;  /* microseconds that a process which only sleeps was late */
    long count[16];        /* an attack's own */
};
extern struct shared *shared;
extern unsigned long seed;

double now(void);
void nap(long ms);
/* Lets an attack go on for its time, and for longer if it has not counted the least of what makes it one. */
void last(double seconds, const long *count, long least);
/* Says what has happened that must not, and fails the program. */
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Ends the program if the ground that an attack stands on is missing. */
void must(int ok, const char *what);
int stopped(void);
unsigned long dice(unsigned long *state);

struct sockaddr_in local(int port);
int listener(int *port, int backlog);
int caller(int port);
/* Waits for bytes, at most so long; 0 if there are none. */
int readable(int fd, int ms);
pid_t start(void (*body)(void));
void become_attacker(void);
void spawn(void *(*body)(void *), void *argument);

/* Tells the driver that a point is reached, and waits until it has looked. */
void checkpoint(const char *name);

void canary_start(int reconnects);
int canary_end(void);

void takeover(double seconds);
void pressure(double seconds);
void blocking(double seconds);
void in_flight(double seconds);
void flood(double seconds);
void hog(double seconds);
void rights(double seconds);
void linger(double seconds);
void fuse(double seconds);
void reused(double seconds);
void stall(double seconds);
void forge(double seconds);
void fuzz(double seconds);

#endif
