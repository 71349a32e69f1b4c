"""1 GiB that is the same everywhere: printed, served over HTTP, or taken and summed."""

import hashlib
import http.server
import os
import random
import socket
import sys

BLOCK, BLOCKS = 1 << 20, 1024


def blocks():
    block = bytearray(random.Random(1).randbytes(BLOCK))
    for number in range(BLOCKS):
        block[:8] = number.to_bytes(8, "little")
        yield bytes(block)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(BLOCK * BLOCKS))
        self.end_headers()
        for block in blocks():
            self.wfile.write(block)

    def do_PUT(self):
        digest = hashlib.sha256()
        while size := int(self.rfile.readline(), 16):  # a chunk of unknown total length
            digest.update(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ":" in os.environ.get("BIND", "") else socket.AF_INET


if sys.argv[1] == "print":
    for each in blocks():
        sys.stdout.buffer.write(each)
else:
    Server((os.environ["BIND"], int(os.environ["PORT"])), Handler).serve_forever()
