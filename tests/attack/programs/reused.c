/* Threads that are killed in the middle of a call, and others that get their numbers. */
#include "attack.h"
#include <sys/utsname.h>

enum { KILLED = 0, LOOKED = 1, FEW = 2 };
#define LEAST 50
#define PAGE ((char *)0x700000000000)
static int port, listening, datagrams;
static struct sockaddr_in datagrams_at;

static char *page(int value)
{
    char *memory = mmap(PAGE, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    must(memory == PAGE, "map a page");
    memset(memory, value, 4096);
    return memory;
}

/* Waits in a call whose answer goes to the page. */
static void wait_in_call(int kind)
{
    char *memory = page(0xa5);
    socklen_t *length = (socklen_t *)(memory + 1024);
    *length = 16;
    if (kind % 2)
        accept(listening, (void *)memory, length);
    else
        recvfrom(datagrams, memory + 2048, 64, 0, (void *)memory, length);
    _exit(0);
}

/* Has the same page, and never makes a call that writes to it. */
static void be_innocent(void)
{
    char *memory = page(0x5a);
    nap(3);
    for (int i = 0; i < 4096; i++)
        if (memory[i] != 0x5a) {
            wrong("byte %d of an innocent process was overwritten with %02x", i, (unsigned char)memory[i]);
            break;
        }
    __atomic_add_fetch(&shared->count[LOOKED], 1, __ATOMIC_RELAXED);
    _exit(0);
}

/* Whether the limit of numbers is this process-id namespace's own (Linux 6.14), and that one a sandbox's. */
static int has_own_limit(void)
{
    struct utsname system;
    int major = 0, minor = 0, fd = open("/proc/1/comm", O_RDONLY);
    char first[32] = {0};
    if (fd < 0 || read(fd, first, sizeof first - 1) < 0 || uname(&system) != 0)
        return 0;
    close(fd);
    return sscanf(system.release, "%d.%d", &major, &minor) == 2 && (major > 6 || (major == 6 && minor >= 14)) &&
           strncmp(first, "netgraft", 8) == 0;
}

void reused(double seconds)
{
    unsigned long state = seed * 31 + 7;
    struct sockaddr_in any = local(0);
    socklen_t length = sizeof any;
    int few = has_own_limit() ? open("/proc/sys/kernel/pid_max", O_WRONLY) : -1;
    /* Numbers come round quickly then. */
    shared->count[FEW] = few >= 0 && write(few, "400", 3) == 3;
    listening = listener(&port, 64);
    datagrams = socket(AF_INET, SOCK_DGRAM, 0);
    must(bind(datagrams, (void *)&any, sizeof any) == 0, "bind");
    must(getsockname(datagrams, (void *)&any, &length) == 0, "getsockname");
    datagrams_at = any;
    int sender = socket(AF_INET, SOCK_DGRAM, 0);
    double end = now() + seconds;
    while ((now() < end || (shared->count[LOOKED] < LEAST && now() < end + PATIENCE)) && !stopped()) {
        pid_t waiting[8], innocent[8];
        for (int i = 0; i < 8; i++)
            if ((waiting[i] = fork()) == 0)
                wait_in_call(i);
        nap((long)(dice(&state) % 3));
        /* Answers come while their takers are killed. */
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        struct sockaddr_in to = local(port);
        for (int i = 0; i < 8; i++) {
            if (i % 2)
                sendto(sender, "late", 4, MSG_DONTWAIT, (void *)&datagrams_at, sizeof datagrams_at);
            else if (i == 0 && fd >= 0)
                connect(fd, (void *)&to, sizeof to);
            if (waiting[i] > 0)
                kill(waiting[i], SIGKILL);
            if ((innocent[i] = fork()) == 0)
                be_innocent();
        }
        for (int i = 0; i < 8; i++) {
            if (waiting[i] > 0)
                waitpid(waiting[i], NULL, 0);
            if (innocent[i] > 0)
                waitpid(innocent[i], NULL, 0);
            shared->count[KILLED]++;
        }
        if (fd >= 0)
            close(fd);
        char bytes[8];
        while (readable(listening, 0) && (fd = accept(listening, NULL, NULL)) >= 0)
            close(fd);
        while (recv(datagrams, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
            ;
    }
    printf("reused: %ld killed in a call, %ld looked at themselves, few numbers: %ld\n", shared->count[KILLED],
           shared->count[LOOKED], shared->count[FEW]);
    if (shared->count[LOOKED] < LEAST)
        wrong("only %ld processes looked", shared->count[LOOKED]);
}
