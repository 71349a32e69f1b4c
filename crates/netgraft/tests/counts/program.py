# Does one thing a number of times: python3 program.py WHAT TIMES
import socket
import sys

HOST = "127.0.0.1"


def pair():
    server = socket.create_server((HOST, 0))
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    return server, client, accepted


def datagrams():
    both = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sock in both:
        sock.bind((HOST, 0))
    return both


def close(times):
    for _ in range(times):
        socket.socket().close()


def name(times):
    kept = pair()
    for _ in range(times):
        kept[1].getsockname()


def option(times):
    kept = pair()
    for _ in range(times):
        kept[1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def connection(times):
    server = socket.create_server((HOST, 0))
    address = server.getsockname()
    for _ in range(times):
        client = socket.socket()
        client.connect(address)
        accepted, _ = server.accept()
        client.close()
        accepted.close()


def request(times):
    kept = pair()
    for _ in range(times):
        kept[1].sendall(b"q")
        assert kept[2].recv(1) == b"q"
        kept[2].sendall(b"a")
        assert kept[1].recv(1) == b"a"


def message(times):
    kept = pair()
    for _ in range(times):
        kept[1].sendmsg([b"q"])
        assert kept[2].recvmsg(1)[0] == b"q"


def datagram(times):
    one, other = datagrams()
    at = other.getsockname()
    for _ in range(times):
        one.sendto(b"q", at)
        _, back = other.recvfrom(1)
        other.sendto(b"a", back)
        assert one.recvfrom(1)[0] == b"a"


globals()[sys.argv[1]](int(sys.argv[2]))
