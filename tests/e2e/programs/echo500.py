"""An echo server on asyncio, and 500 clients that are connected at the same time."""

import asyncio
import os
import resource
import sys

CLIENTS, TURNS = 500, 5
HOST, PORT = os.environ["HOST"], int(os.environ["PORT"])


async def answer(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def serve():
    server = await asyncio.start_server(answer, os.environ["BIND"], PORT, backlog=1024)
    async with server:
        await server.serve_forever()


async def client(number, all_there):
    reader, writer = await asyncio.open_connection(HOST, PORT)
    all_there.connected += 1
    if all_there.connected == CLIENTS:
        all_there.set()
    await all_there.wait()
    good = True
    for turn in range(TURNS):
        line = b"client %d turn %d\n" % (number, turn)
        writer.write(line)
        good &= await reader.readline() == line
    writer.close()
    await writer.wait_closed()
    return good


async def connect():
    all_there = asyncio.Event()
    all_there.connected = 0
    results = await asyncio.wait_for(asyncio.gather(*(client(n, all_there) for n in range(CLIENTS))), 40)
    print(f"{sum(results)} of {CLIENTS} clients were answered")
    return 0 if sum(results) == CLIENTS else 1


hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
sys.exit(asyncio.run(serve() if sys.argv[1] == "serve" else connect()))
