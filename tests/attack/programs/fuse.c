/* A file on a file system that the program serves itself, and does not answer for: who closes it, waits. */
#include "attack.h"
#include <linux/fuse.h>
#include <sys/mount.h>

/* ENOUGH: there were calls enough, or there can be none. */
enum { ASKED = 0, FLUSHED = 1, MOUNTED = 2, ENOUGH = 3 };
#define LEAST 100

static void map_ids(uid_t user, gid_t group)
{
    char text[64];
    const char *files[] = {"/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/gid_map"};
    for (int i = 0; i < 3; i++) {
        int fd = open(files[i], O_WRONLY);
        int len = i == 0 ? snprintf(text, sizeof text, "deny")
                         : snprintf(text, sizeof text, "0 %u 1", i == 1 ? user : group);
        if (fd < 0 || write(fd, text, (size_t)len) != len)
            break;
        close(fd);
    }
}

static int device;

static void reply(uint64_t unique, int error, const void *data, size_t len)
{
    char bytes[1024];
    struct fuse_out_header header = {.len = (uint32_t)(sizeof header + len), .error = error, .unique = unique};
    memcpy(bytes, &header, sizeof header);
    memcpy(bytes + sizeof header, data, len);
    /* The file system may be gone. */
    if (write(device, bytes, sizeof header + len) < 0)
        return;
}

static void fill(struct fuse_attr *attributes, int folder)
{
    attributes->ino = folder ? 1 : 2;
    attributes->mode = folder ? S_IFDIR | 0755 : S_IFREG | 0666;
    attributes->nlink = 1;
    attributes->size = 1 << 20;
    attributes->uid = geteuid();
    attributes->gid = getegid();
}

/* Answers all but FLUSH, which the close of a descriptor waits for. */
static void *serve(void *unused)
{
    (void)unused;
    static char bytes[1 << 17];
    for (;;) {
        ssize_t got = read(device, bytes, sizeof bytes);
        struct fuse_in_header header;
        if (got < (ssize_t)sizeof header) {
            if (got < 0 && errno == ENODEV)
                return NULL;
            continue;
        }
        memcpy(&header, bytes, sizeof header);
        struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = 4096};
        struct fuse_entry_out entry = {.nodeid = 2, .entry_valid = 1000, .attr_valid = 1000};
        struct fuse_attr_out attributes = {.attr_valid = 1000};
        struct fuse_open_out opened = {.fh = 7};
        fill(&entry.attr, 0);
        fill(&attributes.attr, header.nodeid == 1);
        switch (header.opcode) {
        case FUSE_INIT: reply(header.unique, 0, &init, sizeof init); break;
        case FUSE_LOOKUP: reply(header.unique, 0, &entry, sizeof entry); break;
        case FUSE_GETATTR: reply(header.unique, 0, &attributes, sizeof attributes); break;
        case FUSE_OPEN: reply(header.unique, 0, &opened, sizeof opened); break;
        case FUSE_FLUSH: __atomic_add_fetch(&shared->count[FLUSHED], 1, __ATOMIC_RELAXED); break;
        case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_INTERRUPT: case FUSE_RELEASE: break;
        default: reply(header.unique, -ENOSYS, NULL, 0);
        }
    }
}

/* A file of its own in the place of a connection which the peer then resets: whoever looks for the connection there
 * finds the file. */
static void put_in_place(int file)
{
    struct linger none = {1, 0};
    int port, own = listener(&port, 4), fd = caller(port);
    int accepted = fd >= 0 ? accept(own, NULL, NULL) : -1, kept = dup(fd);
    must(accepted >= 0 && kept >= 0, "have a connection");
    must(dup2(file, fd) == fd, "take its place");
    setsockopt(accepted, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(accepted);
    readable(kept, 200);
    close(own);
}

static void ask(int fd, unsigned round)
{
    struct sockaddr_in any = local(1), name;
    socklen_t length = sizeof name;
    int done = round % 2 ? getsockname(fd, (void *)&name, &length) : connect(fd, (void *)&any, sizeof any);
    if (done == 0)
        wrong("a call on a file worked");
    if (__atomic_add_fetch(&shared->count[ASKED], 1, __ATOMIC_RELAXED) >= LEAST)
        __atomic_store_n(&shared->count[ENOUGH], 1, __ATOMIC_RELAXED);
}

/* The server, which has the device and none of the files. */
static void use_device(void)
{
    spawn(serve, NULL);
    put_in_place(device);
    for (unsigned i = 0; !stopped(); i++)
        ask(device, i);
    pause();
}

static void attack(void)
{
    char options[128];
    uid_t user = geteuid();
    gid_t group = getegid();
    if (unshare(CLONE_NEWNS) != 0) {
        must(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0, "make a mount namespace");
        map_ids(user, group);
    }
    device = open("/dev/fuse", O_RDWR);
    if (device < 0) {
        if (errno == ENOENT)
            printf("fuse: the machine has no /dev/fuse: rights and linger have other files whose close waits\n");
        else
            wrong("/dev/fuse cannot be opened: %s", strerror(errno));
        __atomic_store_n(&shared->count[ENOUGH], 1, __ATOMIC_RELAXED);
        _exit(0);
    }
    must(mkdir("served", 0755) == 0 || errno == EEXIST, "make a folder");
    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u", device, geteuid(), getegid());
    if (mount("attack", "served", "fuse", MS_NOSUID | MS_NODEV, options) != 0) {
        wrong("no file system can be mounted: %s", strerror(errno));
        _exit(0);
    }
    shared->count[MOUNTED] = 1;
    pid_t server = fork();
    must(server >= 0, "fork");
    if (server == 0)
        use_device();
    /* A process that held both would wait for itself at its end, on any Linux. */
    close(device);
    int fds[16];
    for (int i = 0; i < 16; i++)
        must((fds[i] = open("served/file", O_RDWR)) >= 0, "open a file of its own");
    put_in_place(fds[0]);
    for (unsigned i = 0; !stopped(); i++)
        ask(fds[i % 16], i);
    _exit(0);
}

void fuse(double seconds)
{
    pid_t attacker = start(attack);
    last(seconds, &shared->count[ENOUGH], 1);
    printf("fuse: mounted %ld, %ld calls, %ld closes without an answer\n", shared->count[MOUNTED],
           shared->count[ASKED], shared->count[FLUSHED]);
    if (shared->count[MOUNTED] && shared->count[ASKED] < LEAST)
        wrong("only %ld calls were answered", shared->count[ASKED]);
    kill(attacker, SIGKILL);
    /* Its end is not waited for here: the driver looks whether any process is left. */
}
