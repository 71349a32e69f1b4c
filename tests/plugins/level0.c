/*
 * A level 0 object on the kernel's sockets, so that real programs run through the existing C interface.
 *
 *     cc -shared -fPIC -o librelay.so tests/plugins/level0.c
 *
 * The process that calls it has no network, so its sockets come from a broker: a process that pre-init leaves behind
 * in the launcher's network namespace, which makes sockets and passes them on, and ends with the last of those that ask.
 *
 * It is faithful: what real objects of this kind do that breaks loaders, it does always (marked QUIRK). What
 * some do, it does when asked, by the words in QUIRKS (at build time) or NETGRAFT_QUIRKS (in pre-init's environment):
 * see quirk() below.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "calls.h"

#ifndef QUIRKS
#define QUIRKS ""
#endif
#define EXPORT __attribute__((visibility("default")))
#define LAST 1024 /* handles that quirks remember something of */

static char quirks[256] = QUIRKS;
static int broker = -1;
static int epolls, epoll_handle;
static pthread_t driver; /* which made the handle */
static char interfaces[4096], addresses[4096];
static uint64_t data_of[LAST]; /* what was registered with a handle */
static int so_error[LAST];
static bool write_shut[LAST];
static bool hung_up[LAST]; /* HUP was seen */
static struct attempt {
    struct sockaddr_in to;
    struct timespec due;
    enum { NONE, WAITS, SENT } state;
} attempts[LAST]; /* connection attempts that wait for their timer */
static pthread_mutex_t timers = PTHREAD_MUTEX_INITIALIZER;
static volatile int late_handle = -1;
static volatile uint64_t late_data;

/* Whether a quirk was asked for:
 *   print        prints to stdout in every call
 *   abort-CALL   aborts in that call, such as abort-plugin_ioctl
 *   zero         a send that would block answers 0
 *   inprogress   a write that would block answers EINPROGRESS
 *   full         every other send would block, however much room there is
 *   eshutdown    the end of a stream is ESHUTDOWN
 *   sticky       SO_ERROR is not cleared by reading it
 *   hup          a FIN is HUP, never RDHUP or ERR
 *   closed       readiness of a closed stream is all that was asked for, and HUP and ERR
 *   claims       readiness claims IN and OUT, whatever there is
 *   late         events of closed handles come after the close
 *   refused      an orderly end is HUP in readiness once all is read, and SO_ERROR says ECONNREFUSED from then on
 *   broken       the same with ERR beside HUP, and SO_ERROR says ECONNRESET
 *   timers       the wait comes back when its time is over, and timers fire only as it begins: a connection attempt goes
 *                out with the first of them
 *   empty        the wait comes back at once and with nothing, 1,500 times
 *   old          init makes every system call that objects may make (calls.h), among them those in their older form and
 *                those of an environment such as DPDK's
 *   few-options  it has no option of broadcasts, groups and TCP but TCP_NODELAY, says so in different ways, can set
 *                SO_REUSEADDR without telling it, and aborts when asked for one of another kind of socket
 *   no-flags     it knows no flag of recvmsg but MSG_PEEK, and says so
 *   vhost        init makes a vhost ioctl
 *   address      pre-init enters the network namespace of the process that it is given, looks for the first interface
 *                that is up and has an IPv4 address, and takes that away; without one it fails
 *   priority     a socket is bound with a system call that nothing allows: getpriority
 *   twice        every socket is the same handle
 *   long-read, long-write, long-option, bad-address, bad-error, many-events, bad-json: nonsense
 *   heavy        init reserves 1 GiB, maps shared memory at a fixed address and starts a thread; the wait belongs to the
 *                thread that made the handle, and aborts in another
 *   fail-pre, fail-init, abort-pre, hang-pre, exit-init, abort-late, fail-wait, fail-epoll
 */
static bool quirk(const char *name) {
    size_t length = strlen(name);
    for (const char *at = quirks; (at = strstr(at, name)); at += length)
        if ((at == quirks || at[-1] == ',') && (at[length] == 0 || at[length] == ',')) return true;
    return false;
}

/* What every call begins with. */
static void enter(const char *call) {
    char aborts[64];
    if (!*quirks) return;
    snprintf(aborts, sizeof aborts, "abort-%s", call);
    if (quirk(aborts)) abort();
    if (quirk("print")) printf("%s\n", call), fflush(stdout);
}

/* QUIRK: err is written always, and stale on success. */
static int64_t done(int64_t result, uint64_t *err) {
    *err = result < 0 ? (uint64_t)errno : EAGAIN;
    if (result < 0 && quirk("bad-error")) *err = 77777;
    return result;
}

/* ---- Set-up ----------------------------------------------------------------------------------------------- */

static void serve(int socket_fd) {
    for (;;) {
        int want[3];
        if (recv(socket_fd, want, sizeof want, 0) != sizeof want) _exit(0);
        int made = socket(want[0], want[1] | SOCK_CLOEXEC, want[2]);
        int answer = made < 0 ? errno : 0;
        char control[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec part = {&answer, sizeof answer};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
        if (made >= 0) {
            message.msg_control = control;
            message.msg_controllen = sizeof control;
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof(int));
            memcpy(CMSG_DATA(header), &made, sizeof made);
        }
        if (sendmsg(socket_fd, &message, MSG_NOSIGNAL) < 0) _exit(0);
        if (made >= 0) close(made);
    }
}

/* What the host has, as the JSON texts that the optional functions give: '|' stands for ',' on the way, since the
 * text is a list. */
static void describe(char *links, char *addrs, size_t size) {
    struct ifaddrs *all, *at;
    size_t l = 0, a = 0;
    if (getifaddrs(&all) < 0) all = NULL;
    for (at = all; at; at = at->ifa_next) {
        if (!at->ifa_addr || at->ifa_addr->sa_family != AF_INET) continue;
        unsigned index = if_nametoindex(at->ifa_name);
        uint32_t ip = ntohl(((struct sockaddr_in *)at->ifa_addr)->sin_addr.s_addr);
        uint32_t mask = ntohl(((struct sockaddr_in *)at->ifa_netmask)->sin_addr.s_addr);
        l += snprintf(links + l, size - l, "%s\"%u\":{\"Flags\":%u|\"Name\":\"%s\"|\"MTU\":%d}", l ? "|" : "", index,
                      at->ifa_flags & 0xff, at->ifa_name, at->ifa_flags & IFF_LOOPBACK ? 65536 : 1500);
        a += snprintf(addrs + a, size - a, "%s\"%u\":[{\"Family\":2|\"PrefixLen\":%d|\"Addr\":[%u|%u|%u|%u]}]",
                      a ? "|" : "", index, __builtin_popcount(mask), ip >> 24, ip >> 16 & 255, ip >> 8 & 255,
                      ip & 255);
        if (l > size - 256 || a > size - 256) break;
    }
    if (all) freeifaddrs(all);
}

/* What real ones do first: the address is theirs now, and the kernel must not answer for it. */
static void *take_address(void *argument) {
    int *pid = argument, control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/net", *pid);
    *pid = -1;
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWNET) < 0) return NULL;
    close(namespace), close(control);
    control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifaddrs *all, *at;
    if (getifaddrs(&all) < 0) return NULL;
    for (at = all; at; at = at->ifa_next)
        if (at->ifa_addr && at->ifa_addr->sa_family == AF_INET && (at->ifa_flags & (IFF_UP | IFF_LOOPBACK)) == IFF_UP)
            break;
    struct ifreq request = {0};
    if (at) {
        memcpy(request.ifr_name, at->ifa_name, strnlen(at->ifa_name, IFNAMSIZ - 1));
        request.ifr_addr.sa_family = AF_INET;
        if (ioctl(control, SIOCSIFADDR, &request) == 0) *pid = 0;
    } else {
        printf("no interface is up and has an address\n"), fflush(stdout);
    }
    freeifaddrs(all), close(control);
    return NULL;
}

EXPORT int plugin_preinitstack(int pid, char **init_str, int **fds, int *num) {
    const char *asked = getenv("NETGRAFT_QUIRKS");
    if (asked) snprintf(quirks, sizeof quirks, "%s", asked);
    enter("plugin_preinitstack");
    if (quirk("abort-pre")) abort();
    if (quirk("hang-pre")) for (;;) pause();
    if (quirk("fail-pre")) return -1;
    if (quirk("address")) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, take_address, &pid) != 0) return -1;
        pthread_join(thread, NULL);
        if (pid < 0) return -7;
    }
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) return -1;
    pid_t child = fork();
    if (child < 0) return -1;
    if (child == 0) {
        /* It keeps its socket alone, and becomes an orphan. */
        if (dup2(pair[1], 3) < 0) _exit(1);
        syscall(SYS_close_range, 4, ~0u, 0);
        syscall(SYS_close_range, 0, 2, 0);
        if (fork() == 0) serve(3);
        _exit(0);
    }
    close(pair[1]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
    char links[1024] = "", addrs[1024] = "";
    describe(links, addrs, sizeof links);
    *init_str = malloc(4096);
    for (char *at = quirks; *at; at++)
        if (*at == ',') *at = '+';
    snprintf(*init_str, 4096, "ENV:RELAY_PID=%d,RELAY_QUIRKS=%s,RELAY_IF=%s,RELAY_IFA=%s;", pid, quirks, links, addrs);
    /* QUIRK: a device that could not be opened is -1. */
    *fds = malloc(2 * sizeof(int));
    (*fds)[0] = -1;
    (*fds)[1] = pair[0];
    *num = 2;
    return 0;
}

static void value(const char *text, const char *key, char *out, size_t size, char from, char to) {
    const char *at = strstr(text, key);
    size_t n = 0;
    if (!at) return;
    for (at += strlen(key); *at && *at != ',' && *at != ';' && n + 1 < size; at++) out[n++] = *at == from ? to : *at;
    out[n] = 0;
}

static void *idle(void *nothing) {
    for (;;) poll(NULL, 0, -1);
    return nothing;
}

/* Memory and threads as packet stacks have them: nothing of it is touched but the fixed page. */
static int take_memory(void) {
    size_t gib = (size_t)1 << 30;
    char *all = mmap(NULL, gib, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) return -1;
    if (mmap(all, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != all) return -1;
    *all = 1;
    pthread_t thread;
    return pthread_create(&thread, NULL, idle, NULL) == 0 ? 0 : -1;
}

/* Makes all system calls that an object may make; which one fails is printed. */
static int make_calls(void) {
    const char *failed = all_calls();
    if (failed) printf("%s: %s\n", failed, strerror(errno)), fflush(stdout);
    return failed ? -1 : 0;
}

EXPORT int plugin_initstack(const char *init_str, int *fds, int num) {
    value(init_str, "RELAY_QUIRKS=", quirks, sizeof quirks, '+', ',');
    value(init_str, "RELAY_IF=", interfaces, sizeof interfaces, '|', ',');
    value(init_str, "RELAY_IFA=", addresses, sizeof addresses, '|', ',');
    enter("plugin_initstack");
    if (quirk("fail-init")) return -1;
    if (quirk("exit-init")) exit(7);
    if (quirk("heavy") && take_memory() < 0) return -3;
    if (quirk("old") && make_calls() < 0) return -4;
    if (num != 2 || fds[0] != -1) return -2;
    /* VHOST_SET_OWNER; this is no such device, and says so. */
    if (quirk("vhost") && ioctl(fds[1], 0xaf01, NULL) == 0) return -5;
    broker = fds[1];
    /* QUIRK: it sets environment variables. */
    setenv("RELAY_UP", "1", 1);
    return 0;
}

EXPORT void plugin_destroystack(void) {
    enter("plugin_destroystack");
    close(broker);
}

/* ---- Events ----------------------------------------------------------------------------------------------- */

EXPORT int plugin_epoll_create(void) {
    enter("plugin_epoll_create");
    if (quirk("fail-epoll")) return -1;
    /* QUIRK: more than two handles abort the process. */
    if (++epolls > 2) abort();
    driver = pthread_self();
    return epoll_handle = quirk("old") ? epoll_create(1) : epoll_create1(EPOLL_CLOEXEC);
}

static bool is_due(struct timespec at, struct timespec now) {
    return now.tv_sec > at.tv_sec || (now.tv_sec == at.tv_sec && now.tv_nsec >= at.tv_nsec);
}

/* What is due by now goes out. */
static void fire_timers(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    pthread_mutex_lock(&timers);
    for (int h = 0; h < LAST; h++) {
        if (attempts[h].state != WAITS) continue;
        if (!is_due(attempts[h].due, now)) continue;
        attempts[h].state = SENT;
        connect(h, (struct sockaddr *)&attempts[h].to, sizeof attempts[h].to);
    }
    pthread_mutex_unlock(&timers);
}

EXPORT int plugin_epoll_ctl(int epfd, int op, int handle, struct epoll_event *event) {
    enter("plugin_epoll_ctl");
    if (handle >= 0 && handle < LAST && op != EPOLL_CTL_DEL) data_of[handle] = event->data.u64;
    event->events |= EPOLLET;
    return epoll_ctl(epfd, op, handle, event);
}

EXPORT int plugin_epoll_wait(int epfd, struct epoll_event *events, int max, int timeout) {
    enter("plugin_epoll_wait");
    if (quirk("heavy") && !pthread_equal(driver, pthread_self())) abort();
    if (quirk("fail-wait")) return -1;
    if (quirk("many-events")) return max + 5;
    static int empty;
    if (quirk("empty") && empty++ < 1500) return 0;
    int count;
    if (quirk("timers")) {
        fire_timers();
        count = epoll_wait(epfd, events, max, timeout);
    }
    /* QUIRK: else it comes back only with events, whatever the time-out. */
    else do count = epoll_wait(epfd, events, max, quirk("late") ? 20 : -1);
    while (count == 0 && late_handle < 0);
    if (late_handle >= 0 && count < max) {
        /* For a handle that was closed, and may be another socket's now. */
        events[count++] = (struct epoll_event){.events = EPOLLIN | EPOLLOUT | EPOLLHUP, .data.u64 = late_data};
        late_handle = -1;
    }
    for (int i = 0; i < count && quirk("hup"); i++) {
        if (events[i].events & EPOLLRDHUP) events[i].events |= EPOLLHUP;
        events[i].events &= EPOLLIN | EPOLLOUT | EPOLLHUP;
    }
    if (count > 0 && quirk("abort-late")) abort();
    return count;
}

static bool is_stream(int handle) {
    int type = 0;
    socklen_t length = sizeof type;
    return getsockopt(handle, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM;
}

EXPORT int plugin_readiness(int handle, int events) {
    enter("plugin_readiness");
    struct pollfd entry = {.fd = handle, .events = (short)events};
    if (poll(&entry, 1, 0) < 0) return 0;
    int ready = entry.revents;
    if (quirk("claims")) ready |= events & (EPOLLIN | EPOLLOUT);
    if (quirk("closed") && ready & EPOLLHUP) ready = events | EPOLLHUP | EPOLLERR;
    if (quirk("hup") && ready & EPOLLRDHUP) ready = (ready & ~EPOLLRDHUP) | EPOLLIN;
    if (handle >= 0 && handle < LAST && quirk("timers") && attempts[handle].state == WAITS) return 0;
    if (handle >= 0 && handle < LAST && (quirk("refused") || quirk("broken"))) {
        int queued = 0;
        if (entry.revents & EPOLLRDHUP && ioctl(handle, FIONREAD, &queued) == 0 && queued == 0)
            ready |= EPOLLHUP | (quirk("broken") ? EPOLLERR : 0);
        hung_up[handle] |= (ready & EPOLLHUP) != 0;
    }
    return ready;
}

/* ---- Control ---------------------------------------------------------------------------------------------- */

/* A number that is used again. */
static void forget(int handle) {
    if (handle < 0 || handle >= LAST) return;
    so_error[handle] = 0;
    write_shut[handle] = hung_up[handle] = false;
    attempts[handle].state = NONE;
}

static int only = -1; /* with the quirk twice */

EXPORT int plugin_socket(int domain, int type, int protocol, uint64_t *err) {
    enter("plugin_socket");
    /* QUIRK: what is not supported becomes a real socket of the host, if the process may make one. */
    if (domain != AF_INET || (type != SOCK_STREAM && type != SOCK_DGRAM))
        return (int)done(socket(domain, type, protocol), err);
    if (quirk("twice") && only >= 0) return (int)done(only, err);
    int want[3] = {domain, type, protocol}, answer = EIO;
    char control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {&answer, sizeof answer};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (send(broker, want, sizeof want, MSG_NOSIGNAL) < 0 || recvmsg(broker, &message, MSG_CMSG_CLOEXEC) < 0)
        return (int)done(-1, err);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (!header) {
        errno = answer;
        return (int)done(-1, err);
    }
    int handle;
    memcpy(&handle, CMSG_DATA(header), sizeof handle);
    forget(handle);
    only = handle;
    return (int)done(handle, err);
}

EXPORT int plugin_bind(int h, const struct sockaddr *addr, socklen_t len, uint64_t *err) {
    enter("plugin_bind");
    if (quirk("priority")) syscall(SYS_getpriority, 0, 0);
    return (int)done(bind(h, addr, len), err);
}

EXPORT int plugin_listen(int h, int backlog, uint64_t *err) {
    enter("plugin_listen");
    return (int)done(listen(h, backlog), err);
}

static int spoil(int result, struct sockaddr *addr, socklen_t *len) {
    if (result >= 0 && quirk("bad-address")) {
        addr->sa_family = 99;
        *len = 5000;
    }
    return result;
}

EXPORT int plugin_accept(int h, struct sockaddr *addr, socklen_t *len, uint64_t *err) {
    enter("plugin_accept");
    int new = accept4(h, addr, len, SOCK_CLOEXEC);
    forget(new);
    return (int)done(spoil(new, addr, len), err);
}

EXPORT int plugin_connect(int h, const struct sockaddr *addr, socklen_t len, uint64_t *err) {
    enter("plugin_connect");
    if (quirk("timers") && h >= 0 && h < LAST && len == sizeof(struct sockaddr_in) && is_stream(h)) {
        struct attempt *attempt = &attempts[h];
        pthread_mutex_lock(&timers);
        int state = attempt->state;
        if (state == NONE) {
            memcpy(&attempt->to, addr, len);
            clock_gettime(CLOCK_MONOTONIC, &attempt->due);
            attempt->due.tv_nsec += 20 * 1000 * 1000;
            if (attempt->due.tv_nsec >= 1000000000) attempt->due.tv_sec++, attempt->due.tv_nsec -= 1000000000;
            attempt->state = WAITS;
        }
        pthread_mutex_unlock(&timers);
        if (state != SENT) {
            errno = state == NONE ? EINPROGRESS : EALREADY;
            return (int)done(-1, err);
        }
    }
    return (int)done(connect(h, addr, len), err);
}

EXPORT int plugin_getsockname(int h, struct sockaddr *addr, socklen_t *len, uint64_t *err) {
    enter("plugin_getsockname");
    return (int)done(spoil(getsockname(h, addr, len), addr, len), err);
}

EXPORT int plugin_getpeername(int h, struct sockaddr *addr, socklen_t *len, uint64_t *err) {
    enter("plugin_getpeername");
    return (int)done(spoil(getpeername(h, addr, len), addr, len), err);
}

/* What the answer to an option is that the object does not have; 0 if it has it. */
static int lacks(int h, int level, int name) {
    if (!quirk("few-options")) return 0;
    if (level == IPPROTO_IPV6 || (level == IPPROTO_TCP && !is_stream(h))) abort();
    if (level == IPPROTO_TCP && name != TCP_NODELAY) return name == TCP_CORK ? EOPNOTSUPP : ENOPROTOOPT;
    if (level == SOL_SOCKET && name == SO_BROADCAST) return EINVAL;
    if (level == IPPROTO_IP && name != IP_TTL && name != IP_TOS) return ENOPROTOOPT;
    return 0;
}

EXPORT int plugin_getsockopt(int h, int level, int name, void *out, socklen_t *len, uint64_t *err) {
    enter("plugin_getsockopt");
    if (level == SOL_SOCKET && name == SO_ERROR && h >= 0 && h < LAST && hung_up[h]) {
        *(int *)out = quirk("broken") ? ECONNRESET : ECONNREFUSED;
        return (int)done(0, err);
    }
    errno = quirk("few-options") && level == SOL_SOCKET && name == SO_REUSEADDR ? ENOSYS : lacks(h, level, name);
    if (errno) return (int)done(-1, err);
    int result = getsockopt(h, level, name, out, len);
    if (result == 0 && quirk("long-option") && name != SO_ERROR) *len = 1 << 20;
    if (result == 0 && quirk("sticky") && level == SOL_SOCKET && name == SO_ERROR && h < LAST) {
        if (*(int *)out) so_error[h] = *(int *)out;
        *(int *)out = so_error[h];
    }
    return (int)done(result, err);
}

EXPORT int plugin_setsockopt(int h, int level, int name, const void *in, socklen_t len, uint64_t *err) {
    enter("plugin_setsockopt");
    errno = lacks(h, level, name);
    if (errno) return (int)done(-1, err);
    return (int)done(setsockopt(h, level, name, in, len), err);
}

EXPORT int plugin_ioctl(int h, uint64_t *err, unsigned long request, void *argument) {
    enter("plugin_ioctl");
    return (int)done(ioctl(h, request, argument), err);
}

EXPORT int plugin_shutdown(int h, int how, uint64_t *err) {
    enter("plugin_shutdown");
    if (h >= 0 && h < LAST && how != SHUT_RD) write_shut[h] = true;
    return (int)done(shutdown(h, how), err);
}

EXPORT int plugin_close(int h) {
    enter("plugin_close");
    if (quirk("late") && h >= 0 && h < LAST) {
        late_data = data_of[h];
        late_handle = h;
    }
    if (h == only) only = -1;
    return close(h);
}

/* ---- Data ------------------------------------------------------------------------------------------------- */

static ssize_t received(int h, ssize_t result, size_t room, uint64_t *err) {
    (void)h;
    if (result == 0 && room && quirk("eshutdown")) {
        errno = ESHUTDOWN;
        result = -1;
    }
    if (result > 0 && quirk("long-read")) result = (ssize_t)room + 1;
    return (ssize_t)done(result, err);
}

/* QUIRK: data calls compute in an int. */
static ssize_t sent(int result, size_t length, uint64_t *err) {
    if (result < 0 && errno == EAGAIN && quirk("zero")) result = 0;
    if (result < 0 && errno == EAGAIN && quirk("inprogress")) errno = EINPROGRESS;
    if (result > 0 && quirk("long-write")) result = (int)length + 1;
    return (ssize_t)done(result, err);
}

static bool full(int h) {
    static unsigned count;
    if (!quirk("full") || ++count % 2 == 0) return false;
    /* The room comes back at once: an edge. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = data_of[h % LAST]};
    epoll_ctl(epoll_handle, EPOLL_CTL_MOD, h, &event);
    errno = EAGAIN;
    return true;
}

EXPORT ssize_t plugin_read(int h, void *buf, size_t n, uint64_t *err) {
    enter("plugin_read");
    return received(h, recv(h, buf, n, 0), n, err);
}

EXPORT ssize_t plugin_readv(int h, const struct iovec *iov, int count, uint64_t *err) {
    enter("plugin_readv");
    return (ssize_t)done(readv(h, iov, count), err);
}

EXPORT ssize_t plugin_recv(int h, void *buf, size_t n, int flags, uint64_t *err) {
    enter("plugin_recv");
    return received(h, recv(h, buf, n, flags), n, err);
}

EXPORT ssize_t plugin_recvfrom(int h, void *buf, size_t n, int flags, struct sockaddr *addr, socklen_t *len,
                               uint64_t *err) {
    enter("plugin_recvfrom");
    return received(h, recvfrom(h, buf, n, flags, addr, len), n, err);
}

EXPORT ssize_t plugin_recvmsg(int h, struct msghdr *message, int flags, uint64_t *err) {
    enter("plugin_recvmsg");
    if (quirk("no-flags") && flags & ~MSG_PEEK) {
        errno = EOPNOTSUPP;
        return (ssize_t)done(-1, err);
    }
    ssize_t result = recvmsg(h, message, flags);
    if (result >= 0 && quirk("bad-address")) message->msg_namelen = 5000;
    if (result >= 0 && quirk("long-read")) result = 1 << 20;
    return (ssize_t)done(result, err);
}

EXPORT ssize_t plugin_write(int h, const void *buf, size_t n, uint64_t *err) {
    enter("plugin_write");
    return sent(full(h) ? -1 : (int)send(h, buf, n, MSG_NOSIGNAL), n, err);
}

EXPORT ssize_t plugin_writev(int h, const struct iovec *iov, int count, uint64_t *err) {
    enter("plugin_writev");
    int result = (int)writev(h, iov, count);
    /* QUIRK: a full ring is 0 here, always. */
    return (ssize_t)done(result < 0 && errno == EAGAIN ? 0 : result, err);
}

EXPORT ssize_t plugin_send(int h, const void *buf, size_t n, int flags, uint64_t *err) {
    enter("plugin_send");
    return sent(full(h) ? -1 : (int)send(h, buf, n, flags | MSG_NOSIGNAL), n, err);
}

EXPORT ssize_t plugin_sendto(int h, const void *buf, size_t n, int flags, const struct sockaddr *addr, socklen_t len,
                             uint64_t *err) {
    enter("plugin_sendto");
    return sent((int)sendto(h, buf, n, flags | MSG_NOSIGNAL, addr, len), n, err);
}

EXPORT ssize_t plugin_sendmsg(int h, const struct msghdr *message, int flags, uint64_t *err) {
    enter("plugin_sendmsg");
    int result = (int)sendmsg(h, message, flags | MSG_NOSIGNAL);
    return (ssize_t)done(result < 0 && errno == EAGAIN ? 0 : result, err);
}

/* ---- Optional --------------------------------------------------------------------------------------------- */

#ifndef WITHOUT_OPTIONAL
static int text(char **out, const char *format, const char *argument) {
    *out = malloc(8192);
    snprintf(*out, 8192, quirk("bad-json") ? "{\"1\":[[[,%s" : format, argument);
    return 0;
}

EXPORT int plugin_get_interfaces(char **out) { return text(out, "{%s}", interfaces); }
EXPORT int plugin_get_interfaceaddrs(char **out) { return text(out, "{%s}", addresses); }
EXPORT int plugin_get_routes(char **out) { return text(out, "[%s]", ""); }
EXPORT int plugin_get_tcp_sndbuf_size(char **out) {
    return text(out, "{\"Min\":4096,\"Default\":16384,\"Max\":4194304}%s", "");
}
EXPORT int plugin_get_tcp_rcvbuf_size(char **out) {
    return text(out, "{\"Min\":4096,\"Default\":131072,\"Max\":6291456}%s", "");
}
EXPORT int plugin_get_port_range(char **out) { return text(out, "32768,60999%s", ""); }
EXPORT int plugin_add_route(in_addr_t to, uint8_t length, in_addr_t gateway) {
    enter("plugin_add_route");
    return to == inet_addr("192.0.2.0") && length == 24 && gateway == inet_addr("127.0.0.1") ? 0 : -1;
}
EXPORT int plugin_del_route(in_addr_t to, uint8_t length, in_addr_t gateway) {
    enter("plugin_del_route");
    return plugin_add_route(to, length, gateway);
}
#endif
