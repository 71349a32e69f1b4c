/* Calls whose arguments python can't shape: vectors of messages, null and bad pointers, lengths, flags. */
#include "guest.h"
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

static void accept4_flags(void)
{
    const int flags[] = {0, SOCK_NONBLOCK, SOCK_CLOEXEC, SOCK_NONBLOCK | SOCK_CLOEXEC};
    struct sockaddr_storage address, peer;
    socklen_t length, peer_length;
    int server = listener(AF_INET, 16, &address, &length);

    for (int with_address = 0; with_address < 2; with_address++) {
        for (size_t i = 0; i < 4; i++) {
            int client = socket(AF_INET, SOCK_STREAM, 0);
            SAME(connect(client, (struct sockaddr *)&address, length), 0);
            peer_length = sizeof peer;
            int got = with_address ? accept4(server, (struct sockaddr *)&peer, &peer_length, flags[i])
                                   : accept4(server, NULL, NULL, flags[i]);
            CHECK(got >= 0);
            SAME(!!(fcntl(got, F_GETFL) & O_NONBLOCK), !!(flags[i] & SOCK_NONBLOCK));
            SAME(!!(fcntl(got, F_GETFD) & FD_CLOEXEC), !!(flags[i] & SOCK_CLOEXEC));
            SAME(fcntl(got, F_GETFL) & O_ACCMODE, O_RDWR);
            if (with_address)
                SAME(peer_length, sizeof(struct sockaddr_in));
            close(got);
            close(client);
        }
    }
    FAILS(syscall(SYS_accept4, server, NULL, NULL, 0x40000000), EINVAL); /* a libc may try accept instead */
}

static void addresses_cut_short(void)
{
    struct sockaddr_storage address, peer;
    socklen_t length;
    int server = listener(AF_INET, 16, &address, &length);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    SAME(connect(client, (struct sockaddr *)&address, length), 0);

    memset(&peer, 0xee, sizeof peer);
    length = 4;
    int got = accept(server, (struct sockaddr *)&peer, &length);
    CHECK(got >= 0);
    SAME(length, sizeof(struct sockaddr_in)); /* the real length is told */
    SAME(((unsigned char *)&peer)[4], 0xee);  /* and no more than asked for is written */
    memset(&peer, 0xee, sizeof peer);
    length = 2;
    SAME(getsockname(got, (struct sockaddr *)&peer, &length), 0);
    SAME(length, sizeof(struct sockaddr_in));
    SAME(peer.ss_family, AF_INET);
    SAME(((unsigned char *)&peer)[2], 0xee);
    length = 0;
    SAME(getpeername(got, (struct sockaddr *)&peer, &length), 0);
    SAME(length, sizeof(struct sockaddr_in));
    length = (socklen_t)-1;
    FAILS(getsockname(got, (struct sockaddr *)&peer, &length), EINVAL);
    length = (socklen_t)-1;
    FAILS(getpeername(got, (struct sockaddr *)&peer, &length), EINVAL);
}

static void bad_pointers(void)
{
    void *volatile bad = (void *)8; /* volatile: the compiler would warn of what is meant */
    struct sockaddr_storage address, unused;
    socklen_t length, unused_length;
    int server = listener(AF_INET, 4, &address, &length);
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    int udp = datagram(AF_INET, &unused, &unused_length);

    FAILS(bind(fresh, bad, 16), EFAULT);
    FAILS(connect(fresh, bad, 16), EFAULT);
    FAILS(connect(udp, bad, 16), EFAULT);
    FAILS(getsockname(server, bad, &length), EFAULT);
    FAILS(getsockname(server, (struct sockaddr *)&unused, bad), EFAULT);
    FAILS(getsockopt(server, SOL_SOCKET, SO_TYPE, bad, &length), EFAULT);
    FAILS(getsockopt(server, SOL_SOCKET, SO_TYPE, &unused, bad), EFAULT);
    FAILS(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, bad, 4), EFAULT);
    FAILS(sendto(udp, "x", 1, 0, bad, 16), EFAULT);
    FAILS(sendto(udp, bad, 10, 0, (struct sockaddr *)&unused, unused_length), EFAULT);
    FAILS(syscall(SYS_sendmsg, udp, bad, 0), EFAULT); /* a libc may look into the header itself */
    FAILS(syscall(SYS_recvmsg, udp, bad, MSG_DONTWAIT), EFAULT);

    int ends[2];
    tcp_pair(AF_INET, ends);
    FAILS(write(ends[0], bad, 10), EFAULT);
    SAME(write(ends[0], "abc", 3), 3);
    FAILS(recv(ends[1], bad, 3, MSG_WAITALL), EFAULT);
    char data[8];
    SAME(recv(ends[1], data, sizeof data, 0), 3); /* the failed read lost nothing */
}

static void option_lengths(void)
{
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    unsigned char value[64];
    socklen_t length = sizeof value;
    SAME(getsockopt(sock, SOL_SOCKET, SO_TYPE, value, &length), 0);
    SAME(length, 4);
    memset(value, 0xee, sizeof value);
    length = 1;
    SAME(getsockopt(sock, SOL_SOCKET, SO_TYPE, value, &length), 0);
    SAME(length, 1);
    SAME(value[0], SOCK_STREAM);
    SAME(value[1], 0xee);
    length = (socklen_t)-1;
    FAILS(getsockopt(sock, SOL_SOCKET, SO_TYPE, value, &length), EINVAL);
    int on = 1;
    FAILS(setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, (socklen_t)-1), EINVAL);
    struct tcp_info info;
    length = 8;
    SAME(getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &length), 0);
    SAME(length, 8);
    length = sizeof value;
    SAME(getsockopt(sock, SOL_SOCKET, SO_LINGER, value, &length), 0);
    SAME(length, sizeof(struct linger));
}

static void messages_of(int family)
{
    struct sockaddr_storage to, from, seen[8];
    socklen_t to_length, from_length;
    int server = datagram(family, &to, &to_length), client = datagram(family, &from, &from_length);
    struct mmsghdr out[5], in[8];
    struct iovec parts[5][2], room[8];
    char text[5][8], data[8][32];

    memset(out, 0, sizeof out);
    memset(in, 0, sizeof in);
    for (int i = 0; i < 5; i++) {
        snprintf(text[i], sizeof text[i], "no %d", i);
        parts[i][0] = (struct iovec){"datagram ", 9};
        parts[i][1] = (struct iovec){text[i], 4};
        out[i].msg_hdr = (struct msghdr){
            .msg_name = &to, .msg_namelen = to_length, .msg_iov = parts[i], .msg_iovlen = 2};
    }
    SAME(sendmmsg(client, out, 5, 0), 5);
    SAME(out[0].msg_len, 13);
    SAME(out[4].msg_len, 13);
    sleep_ms(50);
    for (int i = 0; i < 8; i++) {
        room[i] = (struct iovec){data[i], sizeof data[i]};
        in[i].msg_hdr = (struct msghdr){
            .msg_name = &seen[i], .msg_namelen = sizeof seen[i], .msg_iov = &room[i], .msg_iovlen = 1};
    }
    int got = recvmmsg(server, in, 3, 0, NULL);
    SAME(got, 3);
    got += recvmmsg(server, in + 3, 5, MSG_DONTWAIT, NULL);
    SAME(got, 5);
    for (int i = 0; i < got && i < 5; i++) {
        SAME(in[i].msg_len, 13);
        SAME(memcmp(data[i], "datagram no ", 12), 0);
        SAME(data[i][12], '0' + i);
        SAME(in[i].msg_hdr.msg_namelen, from_length);
        SAME(((struct sockaddr_in *)&seen[i])->sin_port, ((struct sockaddr_in *)&from)->sin_port);
    }
    FAILS(recvmmsg(server, in, 8, MSG_DONTWAIT, NULL), EAGAIN);

    /* MSG_WAITFORONE: waits for the first and takes what else is there. */
    SAME(sendmmsg(client, out, 2, 0), 2);
    sleep_ms(50);
    in[0].msg_hdr.msg_namelen = in[1].msg_hdr.msg_namelen = sizeof seen[0];
    SAME(recvmmsg(server, in, 8, MSG_WAITFORONE, NULL), 2);

    /* On connected sockets, without addresses. */
    SAME(connect(client, (struct sockaddr *)&to, to_length), 0);
    for (int i = 0; i < 5; i++)
        out[i].msg_hdr.msg_name = NULL, out[i].msg_hdr.msg_namelen = 0;
    SAME(sendmmsg(client, out, 5, 0), 5);
    for (int i = 0; i < 5; i++)
        SAME(recv(server, data[0], sizeof data[0], 0), 13);
}

static void messages_v4(void) { messages_of(AF_INET); }
static void messages_v6(void) { messages_of(AF_INET6); }

static void messages_on_tcp(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    struct mmsghdr out[3], in[2];
    struct iovec parts[3], room[2];
    char data[2][64];
    memset(out, 0, sizeof out);
    memset(in, 0, sizeof in);
    for (int i = 0; i < 3; i++) {
        parts[i] = (struct iovec){"0123456789", 10};
        out[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    SAME(sendmmsg(ends[0], out, 3, 0), 3);
    /* They may come one after another. */
    for (double end = now() + 10; recv(ends[1], data[0], 64, MSG_PEEK | MSG_DONTWAIT) < 30 && now() < end;)
        sleep_ms(5);
    room[0] = (struct iovec){data[0], 25};
    room[1] = (struct iovec){data[1], 64};
    in[0].msg_hdr = (struct msghdr){.msg_iov = &room[0], .msg_iovlen = 1};
    in[1].msg_hdr = (struct msghdr){.msg_iov = &room[1], .msg_iovlen = 1};
    SAME(recvmmsg(ends[1], in, 2, MSG_DONTWAIT, NULL), 2);
    SAME(in[0].msg_len, 25);
    SAME(in[1].msg_len, 5);
}

static void receive_null_address(void)
{
    struct sockaddr_storage to, from;
    socklen_t to_length, from_length;
    int server = datagram(AF_INET, &to, &to_length), client = datagram(AF_INET, &from, &from_length);
    char data[16];
    SAME(sendto(client, "one", 3, 0, (struct sockaddr *)&to, to_length), 3);
    SAME(recvfrom(server, data, sizeof data, 0, NULL, NULL), 3);
    SAME(sendto(client, "two", 3, 0, (struct sockaddr *)&to, to_length), 3);
    socklen_t length = 4;
    SAME(recvfrom(server, data, sizeof data, 0, (struct sockaddr *)&from, &length), 3);
    SAME(length, sizeof(struct sockaddr_in));
    FAILS(sendto(client, "x", 1, 0, (struct sockaddr *)&to, 5), EINVAL);
    struct sockaddr_in zero_port = *(struct sockaddr_in *)&to;
    zero_port.sin_port = 0;
    FAILS(sendto(client, "x", 1, 0, (struct sockaddr *)&zero_port, sizeof zero_port), EINVAL);
}

static void descriptor_numbers(void)
{
    /* The lowest free number is the next one, whoever makes the descriptor. */
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    int server = listener(AF_INET, 4, &address, &length);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    SAME(client, server + 1);
    SAME(connect(client, (struct sockaddr *)&address, length), 0);
    struct sockaddr_storage peer;
    socklen_t peer_length = sizeof peer;
    int got = accept(server, (struct sockaddr *)&peer, &peer_length);
    SAME(got, client + 1);
    close(client);
    int again = socket(AF_INET6, SOCK_DGRAM, 0);
    SAME(again, client);
    SAME(dup(server), got + 1);
}

static void interfaces(void)
{
    struct ifaddrs *all = NULL;
    SAME(getifaddrs(&all), 0);
    int four = 0, six = 0, up = 0;
    for (struct ifaddrs *each = all; each; each = each->ifa_next) {
        if (!each->ifa_addr || strcmp(each->ifa_name, "lo") != 0)
            continue;
        up |= (each->ifa_flags & IFF_UP) != 0 && (each->ifa_flags & IFF_LOOPBACK) != 0;
        if (each->ifa_addr->sa_family == AF_INET)
            four |= ((struct sockaddr_in *)each->ifa_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK);
        if (each->ifa_addr->sa_family == AF_INET6)
            six |= IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)each->ifa_addr)->sin6_addr);
    }
    freeifaddrs(all);
    CHECK(four);
    CHECK(six);
    CHECK(up);
}

static void interface_requests(void)
{
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, "lo");
    SAME(ioctl(sock, SIOCGIFINDEX, &request), 0);
    CHECK(request.ifr_ifindex > 0);
    SAME(ioctl(sock, SIOCGIFFLAGS, &request), 0);
    CHECK(request.ifr_flags & IFF_LOOPBACK);
    SAME(ioctl(sock, SIOCGIFADDR, &request), 0);
    SAME(((struct sockaddr_in *)&request.ifr_addr)->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    SAME(ioctl(sock, SIOCGIFMTU, &request), 0);
    CHECK(request.ifr_mtu >= 1280);
    strcpy(request.ifr_name, "nosuchif0");
    FAILS(ioctl(sock, SIOCGIFINDEX, &request), ENODEV);
    char room[1024];
    struct ifconf list = {.ifc_len = sizeof room, .ifc_buf = room};
    SAME(ioctl(sock, SIOCGIFCONF, &list), 0);
    CHECK(list.ifc_len >= (int)sizeof(struct ifreq));
    FAILS(ioctl(sock, 0x5499, &request), ENOTTY);
}

static void resolver(void)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    SAME(getaddrinfo("localhost", "80", &hints, &found), 0);
    int loopback = 0;
    for (struct addrinfo *each = found; each; each = each->ai_next)
        loopback |= each->ai_family == AF_INET || each->ai_family == AF_INET6;
    CHECK(loopback);
    if (found)
        freeaddrinfo(found);
}

static void scatter_limits(void)
{
    int ends[2];
    tcp_pair(AF_INET, ends);
    struct iovec many[1024];
    for (int i = 0; i < 1024; i++)
        many[i] = (struct iovec){"ab", 2};
    SAME(writev(ends[0], many, 1024), 2048);
    struct msghdr message = {.msg_iov = many, .msg_iovlen = 1024};
    SAME(sendmsg(ends[0], &message, MSG_NOSIGNAL), 2048);
    char data[4096];
    SAME(recv(ends[1], data, sizeof data, MSG_WAITALL), 4096);
    SAME(data[4095], 'b');
    struct msghdr too_many = {.msg_iov = many, .msg_iovlen = 1025};
    FAILS(sendmsg(ends[0], &too_many, MSG_NOSIGNAL), EMSGSIZE);
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    too_many.msg_name = &to, too_many.msg_namelen = sizeof to;
    FAILS(sendmsg(udp, &too_many, 0), EMSGSIZE);
}

const struct guest_case call_cases[] = {
    {"accept4_flags", accept4_flags},
    {"addresses_cut_short", addresses_cut_short},
    {"bad_pointers", bad_pointers},
    {"option_lengths", option_lengths},
    {"messages_v4", messages_v4},
    {"messages_v6", messages_v6},
    {"messages_on_tcp", messages_on_tcp},
    {"receive_null_address", receive_null_address},
    {"descriptor_numbers", descriptor_numbers},
    {"interfaces", interfaces},
    {"interface_requests", interface_requests},
    {"resolver", resolver},
    {"scatter_limits", scatter_limits},
    {NULL, NULL},
};
