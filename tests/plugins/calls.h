/*
 * Every system call that the allow-list has for shared objects beyond the sentry's own: what event loops in C do, the
 * older forms of the same calls, and what an environment for packets such as DPDK's does as it starts. A test compares
 * the names with `netgraft stacks --syscalls`.
 *
 * Each is made once. A call that is not allowed ends the process; what the kernel answers to an allowed one matters only
 * where it is compared.
 */
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/utsname.h>

#define MAKE(name, ...) syscall(SYS_##name, ##__VA_ARGS__)
#define NEED(name, ...) if (MAKE(name, ##__VA_ARGS__) < 0) return #name

static void wake(int signal) { (void)signal; }

/* What a thread can do no more after this: be joined. So it is a thread of its own, and detached. */
static void *forgets_its_end(void *done) {
    MAKE(set_tid_address, NULL);
    __atomic_store_n((bool *)done, true, __ATOMIC_SEQ_CST);
    return NULL;
}

static int pausing;
static bool has_paused;

/* Waits for a signal, as old libraries do. */
static void *pauses(void *nothing) {
#ifdef __x86_64__
    __atomic_store_n(&pausing, (int)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
    MAKE(pause);
#endif
    __atomic_store_n(&has_paused, true, __ATOMIC_SEQ_CST);
    return nothing;
}

/* What starts and ends a thread, and wakes it. */
static const char *thread_calls(void) {
    /* No sentry has clone3, and its C library uses clone; neither call makes anything of these arguments. */
    if (MAKE(clone3, NULL, 0) >= 0) return "clone3";
    if (MAKE(clone, CLONE_VM | CLONE_THREAD, NULL, NULL, NULL, 0) >= 0) return "clone";
    MAKE(set_robust_list, NULL, 0);
    MAKE(rseq, NULL, 0, 0, 0);
    MAKE(membarrier, 0, 0, 0);
    static bool forgot;
    pthread_t thread;
    if (pthread_create(&thread, NULL, forgets_its_end, &forgot) != 0) return "pthread_create";
    pthread_detach(thread);
    while (!__atomic_load_n(&forgot, __ATOMIC_SEQ_CST)) sched_yield();
    struct sigaction woken = {.sa_handler = wake}, before;
    if (sigaction(SIGUSR2, &woken, &before) < 0) return "sigaction";
    if (pthread_create(&thread, NULL, pauses, NULL) != 0) return "pthread_create";
    while (!__atomic_load_n(&has_paused, __ATOMIC_SEQ_CST)) {
        int to = __atomic_load_n(&pausing, __ATOMIC_SEQ_CST);
        if (to != 0) syscall(SYS_tgkill, getpid(), to, SIGUSR2);
        sched_yield();
    }
    pthread_join(thread, NULL);
    sigaction(SIGUSR2, &before, NULL);
    return NULL;
}

/* Where and how threads run, and what the machine has. */
static const char *scheduling_calls(void) {
    unsigned long processors[128] = {0};
    struct sched_param parameters = {0};
    struct utsname machine;
    struct sysinfo system;
    struct rusage usage;
    struct rlimit limit;
    struct timespec resolution;
    unsigned processor;
    NEED(sched_getaffinity, 0, sizeof processors, processors);
    NEED(sched_setaffinity, 0, sizeof processors, processors);
    NEED(sched_getscheduler, 0);
    NEED(sched_getparam, 0, &parameters);
    NEED(sched_setscheduler, 0, SCHED_OTHER, &parameters);
    NEED(sched_setparam, 0, &parameters);
    NEED(sched_get_priority_max, SCHED_FIFO);
    NEED(sched_get_priority_min, SCHED_FIFO);
    NEED(getcpu, &processor, NULL, NULL);
    NEED(uname, &machine);
    NEED(sysinfo, &system);
    NEED(getrusage, RUSAGE_SELF, &usage);
    NEED(getrlimit, RLIMIT_NOFILE, &limit);
    NEED(clock_getres, CLOCK_MONOTONIC, &resolution);
    NEED(prctl, PR_SET_TIMERSLACK, 50000);
    NEED(prctl, PR_SET_NAME, "relay");
    MAKE(getuid), MAKE(geteuid), MAKE(getgid), MAKE(getegid);
    return NULL;
}

/* Where memory lies. Whether this kernel has several nodes, or may lock so much, is not the question. */
static const char *memory_calls(void) {
    size_t page = 4096;
    unsigned char there;
    int policy;
    char *memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return "mmap";
    MAKE(mlock, memory, page);
    MAKE(mlock2, memory, page, 0);
    MAKE(munlock, memory, page);
    MAKE(mlockall, 0);
    MAKE(munlockall);
    NEED(mincore, memory, page, &there);
    MAKE(mbind, memory, page, 0, NULL, 0, 0);
    MAKE(get_mempolicy, &policy, NULL, 0, NULL, 0);
    MAKE(set_mempolicy, 0, NULL, 0);
    munmap(memory, page);
    return NULL;
}

/* Descriptors, and waiting for them. */
static const char *descriptor_calls(void) {
    int ends[2], other[2];
    char byte = 'x';
    struct iovec part = {&byte, 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    struct stat about;
    NEED(pipe2, ends, O_NONBLOCK);
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, other) < 0) return "socketpair";
    NEED(writev, ends[1], &part, 1);
    NEED(readv, ends[0], &part, 1);
    NEED(sendmmsg, other[0], &message, 1, 0);
    NEED(recvmmsg, other[1], &message, 1, MSG_DONTWAIT, NULL);
    MAKE(splice, ends[0], NULL, other[0], NULL, 1, SPLICE_F_NONBLOCK);
    MAKE(accept, other[0], NULL, NULL);
    NEED(ioctl, other[0], FIONBIO, &(int){1});
    NEED(ioctl, other[0], FIOCLEX);
    MAKE(ioctl, 2, TCGETS, (char[256]){0});
    int memory = (int)MAKE(memfd_create, "relay", 0);
    if (memory < 0) return "memfd_create";
    NEED(ftruncate, memory, 4096);
    NEED(pwrite64, memory, &byte, 1, 0);
    NEED(lseek, memory, 0, SEEK_SET);
    NEED(fstat, memory, &about);
    NEED(fallocate, memory, 0, 0, 8192);
    NEED(flock, memory, 2 /* LOCK_EX */);
    NEED(fstatfs, memory, &(struct statfs){0});
    int copy = (int)MAKE(dup, memory);
    if (copy < 0) return "dup";
    NEED(dup3, memory, copy, O_CLOEXEC);
    MAKE(kcmp, getpid(), getpid(), 0 /* KCMP_FILE */, memory, copy);
    NEED(close_range, copy, copy, 0);
    int event = (int)MAKE(eventfd2, 0, EFD_NONBLOCK), timer = (int)MAKE(timerfd_create, CLOCK_MONOTONIC, 0);
    struct itimerspec off = {0};
    if (event < 0 || timer < 0) return "eventfd2, timerfd_create";
    NEED(timerfd_settime, timer, 0, &off, NULL);
    NEED(timerfd_gettime, timer, &off);
    int poller = epoll_create1(0);
    NEED(epoll_pwait, poller, &(struct epoll_event){0}, 1, 0, NULL, 8);
    NEED(pselect6, 0, NULL, NULL, NULL, &(struct timespec){0}, NULL);
    NEED(ppoll, NULL, 0, &(struct timespec){0}, NULL, 8);
    NEED(getitimer, ITIMER_REAL, &(struct itimerval){0});
    NEED(nanosleep, &(struct timespec){0}, NULL);
    NEED(gettimeofday, &(struct timeval){0}, NULL);
    MAKE(pidfd_send_signal, -1, 0, NULL, 0);
    for (int *fd = (int[]){ends[0], ends[1], other[0], other[1], memory, event, timer, poller, -1}; *fd >= 0; fd++)
        close(*fd);
    return NULL;
}

/* Files, of which there are none; what counts is that asking for them is allowed. */
static const char *file_calls(void) {
    struct stat about;
    struct statfs system;
    char text[16];
    MAKE(newfstatat, AT_FDCWD, "/nowhere/dpdk", &about, 0);
    MAKE(faccessat, AT_FDCWD, "/nowhere/dpdk", F_OK);
    MAKE(readlinkat, AT_FDCWD, "/nowhere/dpdk", text, sizeof text);
    MAKE(mkdirat, AT_FDCWD, "/nowhere/dpdk", 0700);
    MAKE(unlinkat, AT_FDCWD, "/nowhere/dpdk", 0);
    MAKE(statfs, "/nowhere/dpdk", &system);
    MAKE(chdir, "/nowhere/dpdk");
    MAKE(fchdir, -1);
#ifdef __x86_64__
    MAKE(open, "/nowhere/dpdk", O_RDONLY);
    MAKE(creat, "/nowhere/dpdk", 0600);
    MAKE(stat, "/nowhere/dpdk", &about);
    MAKE(lstat, "/nowhere/dpdk", &about);
    MAKE(access, "/nowhere/dpdk", F_OK);
    MAKE(mkdir, "/nowhere/dpdk", 0700);
    MAKE(rmdir, "/nowhere/dpdk");
    MAKE(unlink, "/nowhere/dpdk");
    MAKE(iopl, 3);
#endif
    return NULL;
}

/* Calls in the form in which they came first. */
static const char *older_calls(void) {
#ifdef __x86_64__
    int ends[2];
    struct pollfd none = {.fd = -1};
    int poller = (int)MAKE(epoll_create, 1), event = (int)MAKE(eventfd, 0), watch = (int)MAKE(inotify_init);
    if (poller < 0 || event < 0 || watch < 0) return "epoll_create, eventfd, inotify_init";
    NEED(pipe, ends);
    if (MAKE(dup2, ends[0], ends[1]) != ends[1]) return "dup2";
    NEED(select, 0, NULL, NULL, NULL, &(struct timeval){0});
    if (syscall(SYS_poll, &none, 0, 0) < 0) return "poll";
    NEED(epoll_wait, poller, &(struct epoll_event){0}, 1, 0);
    NEED(alarm, 0);
    NEED(time, NULL);
    MAKE(getdents, ends[0], NULL, 0);
    for (int *fd = (int[]){poller, ends[0], ends[1], event, watch, -1}; *fd >= 0; fd++) close(*fd);
#endif
    return NULL;
}

/* All of them: NULL, or the name of one that does not do what it should. */
static const char *all_calls(void) {
    const char *(*all[])(void) = {thread_calls, scheduling_calls, memory_calls, descriptor_calls, file_calls, older_calls};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const char *failed = all[i]();
        if (failed) return failed;
    }
    return NULL;
}
