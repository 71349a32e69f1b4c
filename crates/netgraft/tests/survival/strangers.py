# Sockets from before a stack's death, and control calls on them: what they were made as stays to be seen.
listener = socket.create_server(("127.0.0.1", 0))
listener6 = socket.create_server(("::1", 0), family=socket.AF_INET6)


def connection(to):
    return socket.create_connection(to.getsockname()[:2]), to.accept()[0]


old, old6 = connection(listener), connection(listener6)
unread = connection(listener)
unread[1].sendall(b"unread")
fresh, fresh6, bound = socket.socket(), socket.socket(socket.AF_INET6), socket.socket()
ping = outcome(socket.socket, socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
own = socket.socketpair()
time.sleep(0.2)
fault("abort")
if MODE == "restart":
    until(lambda: type(outcome(socket.socket)), socket.socket)
else:
    until(socket.socket, "ENETDOWN")


def option(s, level, name):
    return outcome(s.getsockopt, level, name)


def show(name, s):
    say(name + ":", option(s, socket.SOL_SOCKET, socket.SO_DOMAIN), option(s, socket.SOL_SOCKET, socket.SO_TYPE),
        option(s, socket.SOL_SOCKET, socket.SO_PROTOCOL), outcome(s.getsockname), outcome(s.getpeername),
        outcome(s.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        option(s, socket.IPPROTO_TCP, socket.TCP_NODELAY))


show("connected", old[0])
show("accepted", old[1])
show("connected6", old6[0])
show("accepted6", old6[1])
show("fresh", fresh)
show("fresh6", fresh6)
say("type:", option(old[0], socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM)
say("recvmsg:", outcome(lambda: unread[0].recvmsg(100)[0]), outcome(lambda: unread[0].recvmsg(100)[0]))
say("SO_ERROR:", [errno.errorcode.get(old[0].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) for _ in range(2)])
if not isinstance(ping, str):
    say("ping:", outcome(ping.getsockname), outcome(ping.sendto, b"x", ("127.0.0.1", 0)),
        outcome(ping.connect, ("127.0.0.1", 0)))
say("own:", own[0].getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_UNIX, repr(own[0].getsockname()))
if MODE == "restart":
    accepted = threading.Thread(target=serve, args=(listener,), daemon=True)
    accepted.start()
    fresh.connect(listener.getsockname())
    fresh.sendall(b"used")
    say("used:", fresh.recv(10), fresh.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    say("again:", outcome(old[1].connect, listener.getsockname()))
sys.exit(47)
