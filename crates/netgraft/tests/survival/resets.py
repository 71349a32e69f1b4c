# Connections of all kinds when their stack dies: none of them may look as if it had ended in an orderly way.
import ctypes
import select


def everything(s):
    """How much comes, and what comes then."""
    length = 0
    while True:
        try:
            data = s.recv(65536)
        except OSError as e:
            return length, errno.errorcode[e.errno]
        if not data:
            return length, "end"
        length += len(data)


listener = socket.create_server(("127.0.0.1", 0))


def pair():
    here = socket.create_connection(listener.getsockname())
    here.settimeout(20)
    return here, listener.accept()[0]


loading, sender = pair()
sender.sendall(b"d" * 32000)
done, closed = pair()
closed.sendall(b"all")
closed.close()
half, other = pair()
half.shutdown(socket.SHUT_WR)
other.sendall(b"part")
filling, full = pair()
filling.setblocking(False)
while outcome(filling.send, b"f" * 65536) != "EAGAIN":
    pass
blocked, _silent = pair()
reader = threading.Thread(target=lambda: say("blocked:", everything(blocked)))
reader.start()
polled, _silent2 = pair()
poller = select.poll()
poller.register(polled, select.POLLIN)
edges = select.epoll()
edges.register(polled, select.EPOLLIN | select.EPOLLET)
mine, _silent3 = pair()
child = os.fork()
if child == 0:
    say("child:", everything(mine))
    os._exit(0)
mine.close()
sent, _silent4 = pair()
left, right = socket.socketpair()
socket.send_fds(left, [b"f"], [sent.fileno()])

# One that nobody has accepted, and one that cannot be: the backlog is full.
small = socket.create_server(("127.0.0.1", 0), backlog=0)
waiting = socket.create_connection(small.getsockname())
waiting.settimeout(20)
pending = []
for _ in range(4):
    s = socket.socket()
    s.setblocking(False)
    say("pending:", outcome(s.connect, small.getsockname()))
    if not select.select([], [s], [], 1)[1]:
        pending.append(s)
say("pending:", len(pending) > 0)

# An accept that the sentry does not see.
bare = socket.create_server(("127.0.0.1", 0))
libc = ctypes.CDLL(None, use_errno=True)


def accept_bare():
    got = libc.accept(bare.fileno(), None, None)
    say("bare:", got if got < 0 else "taken", errno.errorcode.get(ctypes.get_errno()) if got < 0 else "")


accepter = threading.Thread(target=accept_bare, daemon=True)
accepter.start()
time.sleep(0.3)

fault("abort")

say("download:", everything(loading))
say("done:", everything(done))
say("half:", everything(half))
say("upload:", everything(filling))
reader.join(20)
(events,) = [events for _, events in poller.poll(20000)]
say("poll:", events & select.POLLERR != 0, events & select.POLLHUP != 0)
(events,) = [events for _, events in edges.poll(20)]
say("epoll:", events & select.EPOLLERR != 0)
os.waitpid(child, 0)
say("waiting:", everything(waiting))
for s in pending:
    say("writable:", len(select.select([], [s], [], 20)[1]))
    say("SO_ERROR:", errno.errorcode.get(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
    say("peer:", outcome(s.getpeername))
accepter.join(5)
say("send:", outcome(sender.send, b"x"))
sys.exit(46)
