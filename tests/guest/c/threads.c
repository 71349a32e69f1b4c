/* Threads and ways of making processes. */
#include "guest.h"
#include <sched.h>
#include <spawn.h>

enum { THREADS = 64, ROUNDS = 4 };

static int accept_server;
static int accepted_count;

static void *accept_some(void *unused)
{
    (void)unused;
    for (int i = 0; i < ROUNDS; i++) {
        struct sockaddr_storage peer;
        socklen_t length = sizeof peer;
        /* Half of the threads ask for the address, half do not. */
        int got = i % 2 ? accept(accept_server, (struct sockaddr *)&peer, &length) : accept(accept_server, NULL, NULL);
        char byte;
        if (got >= 0 && read(got, &byte, 1) == 1 && write(got, &byte, 1) == 1)
            __atomic_add_fetch(&accepted_count, 1, __ATOMIC_RELAXED);
        close(got);
    }
    return NULL;
}

static void threads_in_accept(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    pthread_t threads[THREADS];
    accept_server = listener(AF_INET, 128, &address, &length);
    for (int i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, accept_some, NULL) == 0, "pthread_create");
    sleep_ms(100);
    int answered = 0;
    for (int i = 0; i < THREADS * ROUNDS; i++) {
        char byte = (char)i, back = (char)(i + 1);
        int client = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(client, (struct sockaddr *)&address, length) == 0 && write(client, &byte, 1) == 1 &&
            read(client, &back, 1) == 1 && back == byte)
            answered++;
        close(client);
    }
    SAME(answered, THREADS * ROUNDS);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    SAME(accepted_count, THREADS * ROUNDS);
}

static struct sockaddr_storage shared_address;
static socklen_t shared_length;
static int connected_count;

static void *connect_some(void *unused)
{
    (void)unused;
    for (int i = 0; i < 20; i++) {
        int client = socket(AF_INET, SOCK_STREAM, 0);
        char byte = 'c';
        if (connect(client, (struct sockaddr *)&shared_address, shared_length) == 0 && write(client, &byte, 1) == 1 &&
            read(client, &byte, 1) == 1)
            __atomic_add_fetch(&connected_count, 1, __ATOMIC_RELAXED);
        close(client);
    }
    return NULL;
}

static void threads_connecting(void)
{
    pthread_t threads[32];
    int server = listener(AF_INET, 128, &shared_address, &shared_length);
    for (int i = 0; i < 32; i++)
        must(pthread_create(&threads[i], NULL, connect_some, NULL) == 0, "pthread_create");
    for (int i = 0; i < 32 * 20; i++) {
        int got = accept(server, NULL, NULL);
        char byte;
        if (read(got, &byte, 1) != 1 || write(got, &byte, 1) != 1)
            CHECK(!"served");
        close(got);
    }
    for (int i = 0; i < 32; i++)
        pthread_join(threads[i], NULL);
    SAME(connected_count, 32 * 20);
}

static void *make_sockets(void *unused)
{
    long good = 0;
    (void)unused;
    for (int i = 0; i < 200; i++) {
        struct sockaddr_storage address;
        socklen_t length;
        int sock = i % 2 ? datagram(AF_INET, &address, &length) : listener(AF_INET6, 4, &address, &length);
        good += close(sock) == 0;
    }
    return (void *)good;
}

static void threads_making_sockets(void)
{
    pthread_t threads[16];
    for (int i = 0; i < 16; i++)
        must(pthread_create(&threads[i], NULL, make_sockets, NULL) == 0, "pthread_create");
    for (int i = 0; i < 16; i++) {
        void *good;
        pthread_join(threads[i], &good);
        SAME((long)good, 200);
    }
}

/* A child made by vfork shares its parent's memory and descriptors until it ends. */
static void vfork_exec(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    pid_t child = vfork();
    if (child == 0) {
        dup2(ends[0], 1);
        execlp("echo", "echo", "from an exec", (char *)NULL);
        _exit(127);
    }
    int status = -1;
    SAME(waitpid(child, &status, 0), child);
    SAME(status, 0);
    char data[64];
    SAME(recv(ends[1], data, sizeof data, 0), 13);
}

/* A socket made, connected and used by a vfork child is there for the parent. */
static void vfork_connects(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    int server = listener(AF_INET, 4, &address, &length);
    volatile int client = -1, answer = -1;
    pid_t child = vfork();
    if (child == 0) {
        client = socket(AF_INET, SOCK_STREAM, 0);
        answer = connect(client, (struct sockaddr *)&address, length);
        if (answer == 0)
            answer = write(client, "v", 1) == 1 ? 0 : -2;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    CHECK(client >= 0);
    SAME(answer, 0);
    int got = accept(server, NULL, NULL);
    char byte = 0;
    SAME(read(got, &byte, 1), 1);
    SAME(byte, 'v');
}

/* Threads that share no descriptor table: the same number is another socket in each. */
static int separate_result = -1;

static void *separate_table(void *argument)
{
    int *ends = argument;
    if (unshare(CLONE_FILES) != 0)
        return NULL;
    int other[2];
    tcp_pair(AF_INET6, other);
    dup2(other[0], ends[0]); /* in this thread's table only */
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    getsockname(ends[0], (struct sockaddr *)&name, &length);
    separate_result = name.ss_family;
    return NULL;
}

static void unshared_descriptors(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    pthread_t thread;
    must(pthread_create(&thread, NULL, separate_table, ends) == 0, "pthread_create");
    pthread_join(thread, NULL);
    SAME(separate_result, AF_INET6);
    struct sockaddr_storage name;
    socklen_t length = sizeof name;
    SAME(getsockname(ends[0], (struct sockaddr *)&name, &length), 0);
    SAME(name.ss_family, AF_INET);
    SAME(write(ends[0], "x", 1), 1);
    char byte;
    SAME(read(ends[1], &byte, 1), 1);
}

static void *close_later(void *argument)
{
    sleep_ms(100);
    close(*(int *)argument);
    return NULL;
}

/* Closing a descriptor in one thread does not end another thread's call on it, but the number is free. */
static void close_during_receive(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    pthread_t thread;
    must(pthread_create(&thread, NULL, close_later, &ends[0]) == 0, "pthread_create");
    pid_t child = fork();
    if (child == 0) {
        sleep_ms(300);
        _exit(write(ends[1], "z", 1) == 1 ? 0 : 1);
    }
    char byte = 0;
    SAME(recv(ends[0], &byte, 1, 0), 1);
    SAME(byte, 'z');
    pthread_join(thread, NULL);
    FAILS(recv(ends[0], &byte, 1, 0), EBADF);
    int status = -1;
    waitpid(child, &status, 0);
    SAME(status, 0);
}

const struct guest_case thread_cases[] = {
    {"threads_in_accept", threads_in_accept},
    {"threads_connecting", threads_connecting},
    {"threads_making_sockets", threads_making_sockets},
    {"vfork_exec", vfork_exec},
    {"vfork_connects", vfork_connects},
    {"unshared_descriptors", unshared_descriptors},
    {"close_during_receive", close_during_receive},
    {NULL, NULL},
};
