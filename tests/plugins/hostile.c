/*
 * A level 1 stack that attacks the process that runs it. Built on loop.c, it behaves until a call comes that its argument
 * names, and then does what the argument says: `--plugin-arg CALL:FAULT`, such as `send:abort`.
 *
 *     cc -shared -fPIC -I crates/netgraft-abi/include -I tests/plugins -o libhostile.so tests/plugins/hostile.c
 *
 * Calls: create pre_init init poll socket accept send recv drain_events interfaces, and lend (send_with, recv_with) and
 * batch (send_batch, recv_batch), which say "not supported" unless they are named; with CONSTRUCTOR defined, the
 * object does what it is defined as before anything is asked of it.
 * Faults that end or stop it: abort, segfault, exit, hang, spin. Faults that try to get out: open, inet, packet, ptrace,
 * memory, exec, fork, kill, mount, bpf; what comes of them is logged as "FAULT: errno N" or "FAULT: DONE".
 * Faults that leave a process behind: stay, depart. With LOOT defined, its constructor and its pre-init end the process with
 * status 40 and more if they find rights, files or anybody's processes.
 * Faults that break the contract: close-all, print, print-part, leak, length, grow, handle, again, address, event, error, null, long,
 * empty, unasked. And two that are honest: broken, in send, and none, in lend and batch.
 */
#define _GNU_SOURCE
#define LOOP_AS_A_PART
#include "loop.c"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static struct netgraft_stack_v1 table;
static char when[32], fault[32];
static const struct netgraft_host *host;

static void report(int64_t result) {
    char line[128];
    int length = result < 0 ? snprintf(line, sizeof line, "%s: errno %d", fault, errno)
                            : snprintf(line, sizeof line, "%s: DONE", fault);
    if (host) host->log(host->context, NETGRAFT_LOG_WARN, line, (size_t)length);
}

static int32_t broken(void) {
    static const char why[] = "the device is gone";
    host->log(host->context, NETGRAFT_LOG_ERROR, why, sizeof why - 1);
    return NETGRAFT_E_BROKEN;
}

static bool is(const char *name) {
    return strcmp(fault, name) == 0;
}

static void kill_all_but_us(void) {
    /* The parent is the first process that it could hurt. A signal of 0 only asks whether it might. */
    report(kill(getppid() > 1 ? getppid() : 1, 0));
}

/* Makes the file that the environment names, or where there is none, marks the name itself, which is seen in
 * /proc/PID/environ: a test waits for it. */
static void announce(void) {
    char *path = getenv("HOSTILE_IS_HERE");
    int fd = path ? open(path, O_CREAT | O_WRONLY, 0600) : -1;
    if (fd >= 0) close(fd);
    else if (path) *path = '!';
}

/* Leaves a process behind, in a session of its own or not. */
static void stay(bool apart) {
    pid_t child = fork();
    if (child != 0) return;
    if (apart) setsid();
    for (;;) pause();
}

/* Writes lines that look like the launcher's to whatever can be written to, far more than is to be shown. */
static void flood(void) {
    static char text[1 << 16];
    const char *line = "netgraft: error: forged\r\033[2J\n";
    size_t length = strlen(line), whole = sizeof text / length * length;
    for (size_t at = 0; at < whole; at += length) memcpy(text + at, line, length);
    for (int round = 0; round < 400; round++) {
        for (int fd = 1; fd < 64; fd++) {
            struct sockaddr_storage name;
            socklen_t size = sizeof name;
            /* The sentry's sockets are left alone: this is about what is read as text. */
            if (lseek(fd, 0, SEEK_CUR) < 0 && errno == ESPIPE && getsockname(fd, (void *)&name, &size) < 0 && errno == ENOTSOCK)
                (void)!write(fd, text, whole);
        }
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, 0);
    }
}

static void act(void) {
    if (is("abort")) abort();
    if (is("segfault")) *(volatile int *)8 = 1;
    if (is("exit")) exit(0);
    if (is("hang") || is("spin")) announce();
    if (is("hang"))
        for (;;) pause();
    if (is("spin"))
        for (volatile int i = 0;; i++) {}
    if (is("open")) report(open("/etc/passwd", O_RDONLY));
    if (is("inet")) report(socket(AF_INET, SOCK_STREAM, 0));
    if (is("packet")) report(socket(AF_PACKET, SOCK_RAW, 0));
    if (is("ptrace")) report(ptrace(PTRACE_ATTACH, getppid(), 0, 0));
    if (is("exec")) report(execl("/proc/self/exe", "x", (char *)0));
    if (is("fork")) report(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    if (is("stay")) stay(false);
    if (is("depart")) stay(true);
    if (is("kill")) kill_all_but_us();
    if (is("mount")) report(mount("none", "/", "tmpfs", 0, ""));
    if (is("bpf")) report(syscall(SYS_bpf, 0, 0, 0));
    if (is("memory")) {
        char byte;
        struct iovec mine = {&byte, 1}, theirs = {(void *)&table, 1};
        report(process_vm_readv(getppid(), &mine, 1, &theirs, 1, 0));
    }
    if (is("close-all")) syscall(SYS_close_range, 3, ~0u, 0);
    if (is("print"))
        for (int i = 0; i < 1000; i++) printf("the stack prints\n"), fflush(stdout);
    if (is("print-part")) printf("no end"), fflush(stdout);
    if (is("flood")) flood();
    if (is("leak")) (void)!malloc(1 << 20);
}

#ifdef LOOT
#include <dirent.h>

static bool can_open(const char *path, int flags) {
    int fd = open(path, flags);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

/* The status with which the process ends if it has what it should not have. */
static int loot(void) {
    char text[4096] = "";
    if (getuid() == 0 || geteuid() == 0) return 40;
    int fd = open("/proc/self/status", O_RDONLY);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0) return 41;
    close(fd);
    const char *capabilities = strstr(text, "CapEff:");
    if (!capabilities) return 42;
    /* In the sentry it is CAP_SYS_PTRACE over the program. */
    unsigned long long set = strtoull(capabilities + 7, NULL, 16);
    if (set & ~(1ull << 19)) return 42;
    if (can_open("/etc/shadow", O_RDWR) || can_open("/etc/shadow", O_RDONLY)) return 43;
    if (can_open("/etc/passwd", O_RDONLY) || can_open("/dev/net/tun", O_RDWR)) return 44;
    if (can_open("/proc/sys/kernel/core_pattern", O_RDONLY)) return 45;
    fd = open("/loot", O_CREAT | O_WRONLY, 0600);
    if (fd >= 0) return 46;
    /* In the sentry those of the sandbox, and never the host's. */
    DIR *list = opendir("/proc");
    if (!list) return 47;
    int processes = 0;
    for (struct dirent *entry; (entry = readdir(list));) processes += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
    closedir(list);
    return processes > 8 ? 48 : 0;
}

__attribute__((constructor)) static void look_around(void) {
    int status = loot();
    if (status != 0) _exit(status);
}
#endif

static bool now_is(const char *call) {
    if (strcmp(when, call) != 0) return false;
    act();
    return true;
}

static int32_t bad_create(const struct netgraft_config *config, const struct netgraft_host *given, void **self,
                          char *why, size_t capacity) {
    host = given;
    if (config->argument) sscanf(config->argument, "%31[^:]:%31s", when, fault);
    now_is("create");
    return loop_create(config, given, self, why, capacity);
}

static int32_t bad_pre_init(void *self, uint32_t pid, struct netgraft_handover *out, char *why, size_t capacity) {
    (void)self, (void)pid, (void)why, (void)capacity;
#ifdef LOOT
    int status = loot();
    if (status != 0) _exit(status);
    /* It may ask for more here, and is refused. */
    if (socket(AF_INET, SOCK_STREAM, 0) >= 0 || socket(AF_PACKET, SOCK_RAW, 0) >= 0) _exit(49);
    if (errno != EPERM || kill(1, 0) == 0 || syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) >= 0) _exit(50);
#endif
    if (now_is("pre_init") && is("length")) out->text_length = (size_t)-1;
    if (now_is("pre_init") && is("handle")) out->fds[0] = 12345, out->fd_count = 1;
    return NETGRAFT_OK;
}

static int32_t bad_init(void *self, const char *text, size_t text_length, const int32_t *fds, size_t fd_count,
                        uint64_t now, char *why, size_t capacity) {
    now_is("init");
    return loop_init(self, text, text_length, fds, fd_count, now, why, capacity);
}

static void bad_poll(void *self, uint64_t now) {
    loop_poll(self, now);
    now_is("poll");
}

static int32_t bad_socket(void *self, const struct netgraft_socket_spec *spec, uint64_t *handle) {
    int32_t result = loop_socket(self, spec, handle);
    if (now_is("socket")) {
        if (is("again")) *handle = 1;
        if (is("error")) return -4711;
    }
    return result;
}

static int32_t bad_accept(void *self, uint64_t handle, uint64_t *connection, struct netgraft_address *peer) {
    int32_t result = loop_accept(self, handle, connection, peer);
    if (result == NETGRAFT_OK && now_is("accept")) {
        if (is("handle")) *connection = handle;
        if (is("address")) peer->ip.family = 77;
        if (is("error")) return 3;
    }
    return result;
}

static int64_t bad_send(void *self, uint64_t handle, const void *data, size_t length,
                        const struct netgraft_address *to, uint32_t flags, uint64_t now) {
    int64_t result = loop_send(self, handle, data, length, to, flags, now);
    if (now_is("send")) {
        if (is("broken")) return broken();
        if (is("length")) return (int64_t)length + 1;
        if (is("error")) return INT64_MIN;
    }
    return result;
}

static int32_t bad_recv(void *self, uint64_t handle, void *buffer, size_t capacity, uint32_t flags, uint64_t now,
                        struct netgraft_received *received) {
    int32_t result = loop_recv(self, handle, buffer, capacity, flags, now, received);
    if (result == NETGRAFT_OK && now_is("recv")) {
        if (is("length")) received->len = received->full_len = UINT64_MAX;
        if (is("address")) received->from.ip.family = 5;
    }
    return result;
}

static int64_t bad_drain_events(void *self, struct netgraft_event *events, size_t capacity) {
    if (now_is("drain_events")) {
        if (is("length")) return (int64_t)capacity + 1;
        if (is("event")) {
            /* Without end, for sockets that exist and others, with bits that do not. */
            for (size_t i = 0; i < capacity; i++)
                events[i] = (struct netgraft_event){.handle = i, .events = i % 2 ? 0xffffffff : 0x10000};
            return (int64_t)capacity;
        }
    }
    return loop_drain_events(self, events, capacity);
}

static int64_t bad_interfaces(void *self, struct netgraft_interface *out, size_t capacity) {
    int64_t result = loop_interfaces(self, out, capacity);
    if (now_is("interfaces")) {
        if (is("length")) return INT64_MAX;
        if (is("grow")) return (int64_t)capacity + 1;
        if (is("address") && capacity) memset(out->name, '/', sizeof out->name);
    }
    return result;
}

/* Memory that is lent: a page of zeros, or what cannot be. */
static uint64_t lend(netgraft_lend move, void *caller, void *bytes, size_t length) {
    struct netgraft_piece piece = {.bytes = bytes, .length = length};
    if (is("null")) piece.bytes = NULL;
    if (is("long")) piece.length = SIZE_MAX;
    if (is("empty")) piece.length = 0;
    uint64_t moved = is("unasked") ? 7 : move(caller, &piece, is("length") ? 0 : 1);
    /* A second time is for nothing. */
    if (is("again")) moved += move(caller, &piece, 1);
    return moved;
}

static int64_t bad_send_with(void *self, uint64_t handle, uint32_t flags, uint64_t now, netgraft_lend fill,
                             void *caller) {
    static char bytes[4096];
    if (!now_is("lend")) return NETGRAFT_E_NOT_SUPPORTED;
    uint64_t moved = lend(fill, caller, bytes, sizeof bytes);
    if (is("error")) return -4711;
    if (moved <= sizeof bytes && !is("unasked")) loop_send(self, handle, bytes, moved, NULL, flags, now);
    return (int64_t)moved;
}

static int64_t bad_recv_with(void *self, uint64_t handle, uint64_t now, netgraft_lend take, void *caller) {
    static char bytes[4096];
    struct netgraft_received received = {0};
    if (!now_is("lend")) return NETGRAFT_E_NOT_SUPPORTED;
    int32_t result = loop_recv(self, handle, bytes, sizeof bytes, NETGRAFT_RECV_PEEK, now, &received);
    if (result != NETGRAFT_OK || received.len == 0) return result;
    uint64_t moved = lend(take, caller, bytes, received.len);
    if (is("error")) return 1 + (int64_t)moved;
    if (moved <= sizeof bytes && !is("unasked")) loop_recv(self, handle, bytes, moved, 0, now, &received);
    return (int64_t)moved;
}

static int64_t bad_send_batch(void *self, uint64_t handle, const struct netgraft_datagram *batch, size_t count,
                              uint32_t flags, uint64_t now, int32_t *stopped) {
    if (!now_is("batch")) return NETGRAFT_E_NOT_SUPPORTED;
    if (is("length")) return (int64_t)count + 1;
    if (is("empty")) return 0;
    if (is("error")) return *stopped = -4711, 0;
    for (size_t i = 0; i < count; i++) {
        const struct netgraft_address *to = batch[i].to.ip.family == NETGRAFT_FAMILY_NONE ? NULL : &batch[i].to;
        int64_t sent = loop_send(self, handle, batch[i].data, batch[i].length, to, flags, now);
        if (sent < 0) return *stopped = (int32_t)sent, (int64_t)i;
    }
    return (int64_t)count;
}

static int64_t bad_recv_batch(void *self, uint64_t handle, size_t limit, uint64_t now, netgraft_deliver deliver,
                              void *caller, int32_t *stopped) {
    static char bytes[65536];
    if (!now_is("batch")) return NETGRAFT_E_NOT_SUPPORTED;
    size_t count = 0;
    for (; count < limit; count++) {
        struct netgraft_received received = {0};
        int32_t result = loop_recv(self, handle, bytes, sizeof bytes, 0, now, &received);
        if (result != NETGRAFT_OK) {
            *stopped = result;
            break;
        }
        if (is("long")) received.len = received.full_len = UINT64_MAX;
        if (is("address")) received.from.ip.family = 5;
        deliver(caller, &received, is("null") ? NULL : bytes);
        if (is("again"))
            for (size_t i = 0; i < limit; i++) deliver(caller, &received, bytes);
    }
    return (int64_t)count + is("length");
}

#ifdef CONSTRUCTOR
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
__attribute__((constructor)) static void construct(void) {
    snprintf(fault, sizeof fault, "%s", TEXT(CONSTRUCTOR));
    act();
}
#endif

const struct netgraft_stack_v1 *netgraft_stack(uint32_t requested) {
    (void)requested;
    table = LOOP;
    table.name = "hostile";
    table.create = bad_create;
    table.pre_init = bad_pre_init;
    table.init = bad_init;
    table.poll = bad_poll;
    table.socket = bad_socket;
    table.accept = bad_accept;
    table.send = bad_send;
    table.recv = bad_recv;
    table.drain_events = bad_drain_events;
    table.interfaces = bad_interfaces;
    table.send_with = bad_send_with;
    table.recv_with = bad_recv_with;
    table.send_batch = bad_send_batch;
    table.recv_batch = bad_recv_batch;
    return &table;
}
