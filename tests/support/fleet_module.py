"""A module in plain Python that notes every request it begins to serve in a file: what is noted survives a kill -9.

Run as a program: `fleet_module.py HOST:PORT NAME FILE`. The caller's fields say what is wanted:

    x-id     what is noted, and said back, with the octets of body that came: `ID OCTETS NAME`
    x-wait   milliseconds of work before the answer's head; for an answer in parts, before each part
    x-parts  the answer comes chunked, in as many parts; without it, in one piece of known length
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

CRLF = b"\r\n"


async def body_of(fields: dict[bytes, bytes], reader: asyncio.StreamReader) -> int:
    """Reads a body to its end; says how many octets it had."""
    if b"transfer-encoding" not in fields:
        return len(await reader.readexactly(int(fields.get(b"content-length", b"0"))))
    octets = 0
    while size := int(await reader.readuntil(CRLF), 16):
        octets += len(await reader.readexactly(size))
        await reader.readexactly(2)
    while await reader.readuntil(CRLF) != CRLF:
        pass
    return octets


async def serve(name: str, notes: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            start, *lines = (await reader.readuntil(CRLF + CRLF))[:-4].split(CRLF)
            fields = {field.lower(): value for field, _, value in (line.partition(b": ") for line in lines)}
            said = fields.get(b"x-id", b"-")
            os.write(notes, said + b" " + start.split(b" ")[0] + b"\n")  # before anything else: it has begun now
            octets = await body_of(fields, reader)
            wait_s = int(fields.get(b"x-wait", b"0")) / 1000
            parts = int(fields.get(b"x-parts", b"0"))
            line = b"%b %d %b\n" % (said, octets, name.encode())
            await asyncio.sleep(wait_s)
            if not parts:
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(line), line))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for _ in range(parts):
                    writer.write(b"%x\r\n%b\r\n" % (len(line), line))
                    await writer.drain()
                    await asyncio.sleep(wait_s)
                writer.write(b"0\r\n\r\n")
            await writer.drain()
    writer.close()


async def main(address: str, name: str, file: str) -> None:
    notes = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    host, _, port = address.rpartition(":")
    server = await asyncio.start_server(lambda r, w: serve(name, notes, r, w), host, int(port), limit=1 << 17)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
