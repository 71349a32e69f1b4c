/*
 * A level 0 object that has a link, and does with it what real ones do: pre-init looks for its interface, takes the
 * address over and opens a packet socket; the thread that waits for events drives the packets. It has no sockets; it
 * answers ARP and ICMP echo, so that a ping shows that packets flow.
 *
 *     cc -shared -fPIC -o liblink0.so tests/plugins/link0.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static int packet_fd = -1;
static char name[IF_NAMESIZE], address[64];
static uint8_t mac[6];
static struct in_addr ip;

/* ---- pre-init --------------------------------------------------------------------------------------------- */

struct found {
    int pid, fd;
    char text[128], name[IF_NAMESIZE], why[128];
    struct in_addr ip;
};

static bool has_default_route(const char *name) {
    char line[256], device[64];
    unsigned to, gateway;
    bool found = false;
    FILE *routes = fopen("/proc/thread-self/net/route", "r");
    while (routes && fgets(line, sizeof line, routes))
        if (sscanf(line, "%63s %x %x", device, &to, &gateway) == 3 && to == 0 && gateway != 0)
            found |= strcmp(device, name) == 0;
    if (routes) fclose(routes);
    return found;
}

static void *look(void *argument) {
    struct found *found = argument;
    char path[64];
    struct stat own, theirs;
    snprintf(path, sizeof path, "/proc/%d/ns/net", found->pid);
    int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || fstat(namespace, &theirs) < 0 || stat("/proc/self/ns/net", &own) < 0)
        return strcpy(found->why, "no namespace");
    if (own.st_ino == theirs.st_ino) return strcpy(found->why, "the namespace is the caller's");
    if (setns(namespace, CLONE_NEWNET) < 0) return strcpy(found->why, "setns is refused");
    close(namespace);
    struct ifaddrs *all, *at;
    if (getifaddrs(&all) < 0) return strcpy(found->why, "no interfaces");
    for (at = all; at; at = at->ifa_next)
        if (at->ifa_addr && at->ifa_addr->sa_family == AF_INET && at->ifa_flags & IFF_UP &&
            !(at->ifa_flags & IFF_LOOPBACK))
            break;
    if (!at) return strcpy(found->why, "no interface is up and has an address");
    snprintf(found->name, sizeof found->name, "%s", at->ifa_name);
    found->ip = ((struct sockaddr_in *)at->ifa_addr)->sin_addr;
    freeifaddrs(all);
    if (!has_default_route(found->name)) return strcpy(found->why, "no default route");

    /* The kernel must not answer for the address any more. */
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request = {0};
    memcpy(request.ifr_name, found->name, IF_NAMESIZE);
    ((struct sockaddr_in *)&request.ifr_addr)->sin_family = AF_INET;
    if (ioctl(control, SIOCSIFADDR, &request) < 0) return strcpy(found->why, "the address stays");
    if (ioctl(control, SIOCGIFHWADDR, &request) < 0) return strcpy(found->why, "no hardware address");
    close(control);
    found->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL));
    int on = 1;
    struct sockaddr_ll bound = {.sll_family = AF_PACKET,
                                .sll_protocol = htons(ETH_P_ALL),
                                .sll_ifindex = (int)if_nametoindex(found->name)};
    if (found->fd < 0 || setsockopt(found->fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0 ||
        bind(found->fd, (struct sockaddr *)&bound, sizeof bound) < 0)
        return strcpy(found->why, "no packet socket");
    const uint8_t *m = (const uint8_t *)request.ifr_hwaddr.sa_data;
    snprintf(found->text, sizeof found->text, "ENV:NAME=%s,IP=%s,MAC=%02x:%02x:%02x:%02x:%02x:%02x;", found->name,
             inet_ntoa(found->ip), m[0], m[1], m[2], m[3], m[4], m[5]);
    return NULL;
}

EXPORT int plugin_preinitstack(int pid, char **init_str, int **fds, int *num) {
    struct found found = {.pid = pid, .fd = -1};
    pthread_t thread;
    /* On a thread of its own: the others stay in their namespace. */
    if (pthread_create(&thread, NULL, look, &found) != 0) return -1;
    pthread_join(thread, NULL);
    if (*found.why) {
        printf("%s\n", found.why);
        fflush(stdout);
        return -2;
    }
    *init_str = strdup(found.text);
    *fds = malloc(2 * sizeof(int));
    (*fds)[0] = -1;
    (*fds)[1] = found.fd;
    *num = 2;
    return 0;
}

EXPORT int plugin_initstack(const char *init_str, int *fds, int num) {
    unsigned m[6];
    if (num != 2 || fds[0] != -1) return -1;
    if (sscanf(init_str, "ENV:NAME=%15[^,],IP=%63[0-9.],MAC=%x:%x:%x:%x:%x:%x;", name, address, &m[0], &m[1], &m[2],
               &m[3], &m[4], &m[5]) != 8)
        return -2;
    for (int i = 0; i < 6; i++) mac[i] = (uint8_t)m[i];
    ip.s_addr = inet_addr(address);
    packet_fd = fds[1];
    /* It came with its header, and is bound. */
    int on = 0;
    socklen_t length = sizeof on;
    if (getsockopt(packet_fd, SOL_PACKET, PACKET_VNET_HDR, &on, &length) < 0 || !on) return -3;
    return 0;
}

/* ---- Packets ---------------------------------------------------------------------------------------------- */

static uint16_t checksum(const uint8_t *at, size_t length) {
    uint32_t sum = 0;
    for (size_t i = 0; i + 1 < length; i += 2) sum += (uint32_t)(at[i] << 8 | at[i + 1]);
    if (length % 2) sum += (uint32_t)at[length - 1] << 8;
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return htons((uint16_t)~sum);
}

/* Turns a frame into its answer; false if there is none. */
static bool answer(uint8_t *frame, size_t length) {
    uint8_t *body = frame + 14;
    if (length < 42) return false;
    memcpy(frame, frame + 6, 6);
    memcpy(frame + 6, mac, 6);
    if (frame[12] == 8 && frame[13] == 6) { /* ARP: who has this address? */
        if (body[7] != 1 || memcmp(body + 24, &ip, 4) != 0) return false;
        body[7] = 2;
        memcpy(body + 18, body + 8, 10);
        memcpy(body + 8, mac, 6);
        memcpy(body + 14, &ip, 4);
        return true;
    }
    size_t header = (size_t)(body[0] & 15) * 4, total = (size_t)(body[2] << 8 | body[3]);
    uint8_t *icmp = body + header;
    if (frame[12] != 8 || frame[13] != 0 || body[9] != IPPROTO_ICMP || memcmp(body + 16, &ip, 4) != 0) return false;
    if (total > length - 14 || header + 8 > total || icmp[0] != 8) return false;
    memcpy(body + 16, body + 12, 4);
    memcpy(body + 12, &ip, 4);
    icmp[0] = 0;
    memset(icmp + 2, 0, 2);
    uint16_t sum = checksum(icmp, total - header);
    memcpy(icmp + 2, &sum, 2);
    return true;
}

EXPORT int plugin_epoll_create(void) {
    int epfd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    epoll_ctl(epfd, EPOLL_CTL_ADD, packet_fd, &event);
    return epfd;
}

EXPORT int plugin_epoll_wait(int epfd, struct epoll_event *events, int max, int timeout) {
    static uint8_t buffer[sizeof(struct virtio_net_hdr) + 65536];
    const size_t head = sizeof(struct virtio_net_hdr);
    (void)timeout;
    for (;;) {
        if (epoll_wait(epfd, events, max, -1) < 0 && errno != EINTR) return -1;
        ssize_t length;
        while ((length = read(packet_fd, buffer, sizeof buffer)) > (ssize_t)head) {
            if (!answer(buffer + head, (size_t)length - head)) continue;
            memset(buffer, 0, head);
            if (write(packet_fd, buffer, (size_t)length) < 0) perror("write");
        }
    }
}

EXPORT int plugin_epoll_ctl(int epfd, int op, int handle, struct epoll_event *event) {
    (void)epfd, (void)op, (void)handle, (void)event;
    return -1;
}

/* ---- Sockets: none ---------------------------------------------------------------------------------------- */

static int none(uint64_t *err) {
    *err = ENOBUFS;
    return -1;
}

#define NONE(type, name, parameters) EXPORT type name parameters { return none(err); }
#pragma GCC diagnostic ignored "-Wunused-parameter"
NONE(int, plugin_socket, (int domain, int type, int protocol, uint64_t *err))
NONE(int, plugin_bind, (int h, const struct sockaddr *addr, socklen_t len, uint64_t *err))
NONE(int, plugin_listen, (int h, int backlog, uint64_t *err))
NONE(int, plugin_accept, (int h, struct sockaddr *addr, socklen_t *len, uint64_t *err))
NONE(int, plugin_connect, (int h, const struct sockaddr *addr, socklen_t len, uint64_t *err))
NONE(int, plugin_getsockname, (int h, struct sockaddr *addr, socklen_t *len, uint64_t *err))
NONE(int, plugin_getpeername, (int h, struct sockaddr *addr, socklen_t *len, uint64_t *err))
NONE(int, plugin_getsockopt, (int h, int level, int name, void *out, socklen_t *len, uint64_t *err))
NONE(int, plugin_setsockopt, (int h, int level, int name, const void *in, socklen_t len, uint64_t *err))
NONE(int, plugin_ioctl, (int h, uint64_t *err, unsigned long request, void *argument))
NONE(int, plugin_shutdown, (int h, int how, uint64_t *err))
NONE(ssize_t, plugin_read, (int h, void *buf, size_t n, uint64_t *err))
NONE(ssize_t, plugin_readv, (int h, const struct iovec *iov, int count, uint64_t *err))
NONE(ssize_t, plugin_recv, (int h, void *buf, size_t n, int flags, uint64_t *err))
NONE(ssize_t, plugin_recvfrom,
     (int h, void *buf, size_t n, int flags, struct sockaddr *addr, socklen_t *len, uint64_t *err))
NONE(ssize_t, plugin_recvmsg, (int h, struct msghdr *message, int flags, uint64_t *err))
NONE(ssize_t, plugin_write, (int h, const void *buf, size_t n, uint64_t *err))
NONE(ssize_t, plugin_writev, (int h, const struct iovec *iov, int count, uint64_t *err))
NONE(ssize_t, plugin_send, (int h, const void *buf, size_t n, int flags, uint64_t *err))
NONE(ssize_t, plugin_sendto,
     (int h, const void *buf, size_t n, int flags, const struct sockaddr *addr, socklen_t len, uint64_t *err))
NONE(ssize_t, plugin_sendmsg, (int h, const struct msghdr *message, int flags, uint64_t *err))

EXPORT int plugin_close(int h) {
    return h < 0 ? -1 : 0;
}

EXPORT int plugin_readiness(int h, int events) {
    return 0;
}

/* Its interface, so that the program sees it. */
EXPORT int plugin_get_interfaces(char **out) {
    return asprintf(out, "{\"7\":{\"Flags\":65,\"Name\":\"%s\",\"MTU\":1500}}", name) < 0 ? -1 : 0;
}

EXPORT int plugin_get_interfaceaddrs(char **out) {
    return asprintf(out, "{\"7\":[\"%s/24\"]}", address) < 0 ? -1 : 0;
}
