"""A module of known capacity, a load that does not wait, and sidecars, each a process of its own.

    with Program("module", 8, "lognormal", urgent=True) as module, Proxy(file, urgent=True) as orders:
        with Program("load", orders.ready["inbound"], certificate, 200, urgent=True) as load:
            seen = load.ask(rate=1200, seconds=20, mix=[["high", 1, "x-class: gold\\r\\n"], ["normal", 9, ""]], seed=1)

The load is open loop: arrivals are drawn before (Poisson), and latency is counted from when a request was meant to be sent, so
that nothing that is slow slows its load. The file is also the program of the module and of the load.
"""

import asyncio
import contextlib
import gc
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections import Counter, deque
from itertools import accumulate
from pathlib import Path
from random import Random

MIB = 1 << 20
WORKERS = 8
MEAN_S = 0.02
CAPACITY = WORKERS / MEAN_S
"""Requests a second."""
PATIENCE_S = 2.0
"""A request that has waited so long for a connection of the load is not sent any more."""
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"


# --- the module -------------------------------------------------------------------------------------------------------------


class Module:
    """Some workers behind one queue, first come, first served; each takes its time, drawn anew. No workers: it answers at once."""

    def __init__(self, workers, draw):
        self.free = int(workers)
        self.random = Random(5)
        self.slower = 1.0
        self.waiting = deque()
        self.counts = Counter(begun=0, finished=0, queue=0)
        self.draw = {
            "exponential": lambda: self.random.expovariate(1.0),
            "lognormal": lambda: self.random.lognormvariate(-0.125, 0.5),
            "at-once": None,
        }[draw]

    def asked(self, caller):
        self.counts["begun"] += 1
        if self.draw is None:
            self.answer(caller)
            return
        self.waiting.append(caller)
        self.work()
        self.counts["queue"] = max(self.counts["queue"], len(self.waiting))

    def work(self):
        while self.free and self.waiting:
            self.free -= 1
            loop = asyncio.get_running_loop()
            loop.call_later(MEAN_S * self.slower * self.draw(), self.done, self.waiting.popleft())

    def done(self, caller):
        self.free += 1
        self.answer(caller)
        self.work()

    def answer(self, caller):
        self.counts["finished"] += 1
        caller.transport.write(OK)

    async def serve(self):
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Served(self), "127.0.0.1", 0, backlog=1024)
        say({"port": server.sockets[0].getsockname()[1]})
        async for plan in orders():
            for after_s, slower in plan.get("slower", ()):
                loop.call_later(after_s, setattr, self, "slower", slower)
            say(self.counts)
            self.counts["queue"] = 0


class Served(asyncio.Protocol):
    """A connection of the module. One request at a time, without a body."""

    def __init__(self, module):
        self.module = module

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        assert data.endswith(b"\r\n\r\n")
        self.module.asked(self)


# --- the load ---------------------------------------------------------------------------------------------------------------


class Load:
    """Sends requests when they are due, on connections that it keeps."""

    def __init__(self, address, certificate, connections):
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.context = context_of(certificate) if certificate != "-" else None
        self.connections = int(connections)
        self.idle = []
        self.waiting = deque()

    async def serve(self):
        loop = asyncio.get_running_loop()
        more = {"ssl": self.context, "server_hostname": "x"} if self.context else {}
        for _ in range(self.connections):
            await loop.create_connection(lambda: Caller(self), self.host, self.port, **more)
        gc.collect()
        gc.freeze()
        say({"connections": len(self.idle)})
        async for order in orders():
            say(await self.run(**order))

    async def run(self, rate, seconds, mix, seed):
        """`mix` is a list of (name, share, lines of fields); the answer has a row for each request."""
        random = Random(seed)
        due = list(accumulate(random.expovariate(rate) for _ in range(int(rate * seconds))))
        kinds = random.choices([name for name, _, _ in mix], [share for _, share, _ in mix], k=len(due))
        octets = {name: f"GET /items HTTP/1.1\r\nhost: orders\r\n{lines}\r\n".encode() for name, _, lines in mix}
        self.rows = [[kinds[number], round(at, 4), None, 0, ""] for number, at in enumerate(due)]
        self.left = len(due)
        self.late = []
        self.most = 0
        self.over = asyncio.Event()
        loop = asyncio.get_running_loop()
        began = self.began = loop.time() + 0.05
        number = 0
        while number < len(due):
            now = loop.time() - began
            while number < len(due) and due[number] <= now:
                self.late.append(now - due[number])
                self.waiting.append((number, octets[kinds[number]]))
                number += 1
            self.send()
            self.most = max(self.most, len(self.waiting))
            if number < len(due):
                await asyncio.sleep(max(0.0, due[number] - (loop.time() - began)))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), 20)
        late = sorted(self.late)
        return {"rows": self.rows, "late": late[int(len(late) * 0.99)], "waited": self.most, "ended": time.monotonic()}

    def send(self):
        now = asyncio.get_running_loop().time() - self.began
        while self.idle and self.waiting:
            number, octets = self.waiting.popleft()
            if now - self.rows[number][1] > PATIENCE_S:
                self.answered(number, 0, "given up unsent")
                continue
            caller = self.idle.pop()
            caller.number = number
            caller.transport.write(octets)

    def answered(self, number, status, why):
        row = self.rows[number]
        row[2:] = round(asyncio.get_running_loop().time() - self.began - row[1], 5), status, why
        self.left -= 1
        if not self.left:
            self.over.set()


class Caller(asyncio.Protocol):
    """A connection of the load."""

    def __init__(self, load):
        self.load = load
        self.number = -1
        self.octets = b""

    def connection_made(self, transport):
        self.transport = transport
        self.load.idle.append(self)

    def data_received(self, data):
        self.octets += data
        end = self.octets.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self.octets[:end].lower()
        if len(self.octets) < end + int(re.search(rb"content-length: (\d+)", head)[1]):
            return
        status = int(head[9:12])
        why = "" if status == 200 else json.loads(self.octets[end:])["code"] + (" later" if b"\r\nretry-after: " in head else " at once")
        self.octets = b""
        number, self.number = self.number, -1
        self.load.idle.append(self)
        self.load.answered(number, status, why)
        self.load.send()

    def connection_lost(self, exc):
        if self.number >= 0:
            self.load.answered(self.number, 0, "lost")
        sys.exit("the sidecar has closed a connection")


def context_of(certificate):
    context = ssl.create_default_context(cafile=str(Path(certificate).parent / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(certificate + ".pem", certificate + ".key")
    context.set_alpn_protocols(["http/1.1"])
    return context


async def orders():
    """Lines of JSON from standard input."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield json.loads(line)


def say(what):
    print(json.dumps(what), flush=True)


# --- who starts them ---------------------------------------------------------------------------------------------------------


def first(pid):
    """What is measured runs before what else this machine does, where we may say so: it asks for half a core altogether."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))


class Program:
    """A process of this file: a line of JSON in, a line of JSON out."""

    def __init__(self, *arguments, urgent):
        command = [sys.executable, __file__, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if urgent:
            first(self.process.pid)
        try:
            self.hello = self.hear()
        except BaseException:
            self.__exit__()
            raise

    def hear(self):
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return json.loads(line)

    def tell(self, **order):
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, **order):
        self.tell(**order)
        return self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


class Proxy:
    """A sidecar as a process of its own, and what `/proc` and its admin API say of it."""

    def __init__(self, file, *, urgent):
        self.admin = str(file.with_suffix(".sock"))
        self.said = file.with_suffix(".journal")
        command = [sys.executable, "-m", "flui", "run", "-c", str(file), "--admin", self.admin]
        with self.said.open("wb") as journal:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=journal)
        if urgent:
            first(self.process.pid)
        try:
            self.ready = self.wait()
        except BaseException:
            self.__exit__()
            raise

    def wait(self):
        give_up = time.monotonic() + 15
        while not self.events("ready"):
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < give_up, "not ready"
            time.sleep(0.02)
        return self.events("ready")[0]

    def events(self, event):
        lines = self.said.read_text().splitlines()
        return [told for told in (json.loads(line) for line in lines if line.endswith("}")) if told["event"] == event]

    def metric(self, name, **labels):
        """Sum of the samples that have these labels."""
        from flui.runtime.adminclient import connect

        with contextlib.closing(connect(self.admin)) as connection:
            connection.timeout = 30.0
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            page = answer.read().decode()
        assert answer.status == 200, page
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in page.splitlines() if re.match(rf"{name}[ {{]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(text in line for text in wanted))

    def rss(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) * 1024

    def kept_waiting_s(self):
        """Seconds for which it could have run and somebody else did."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


class Seen:
    """What came of a stretch of load."""

    def __init__(self, rows, seconds, *, discarded=0):
        self.rows = rows
        self.seconds = seconds
        self.discarded = discarded
        """Stretches before it that were not measured."""

    def between(self, since, to):
        return Seen([row for row in self.rows if since <= row[1] < to], to - since)

    @property
    def served(self):
        return sorted(row[2] for row in self.rows if row[3] == 200)

    @property
    def goodput(self):
        return len(self.served) / self.seconds

    @property
    def p99_s(self):
        served = self.served
        return served[int(len(served) * 0.99)]

    def success(self, name):
        """Part of the requests of that kind that were served, and how many there were."""
        asked = [row[3] for row in self.rows if row[0] == name]
        return asked.count(200) / len(asked), len(asked)

    @property
    def outcomes(self):
        return Counter((row[3], row[4]) for row in self.rows)


MIX = (("high", 0.1, "x-class: gold\r\n"), ("normal", 0.9, ""))


if __name__ == "__main__":
    import uvloop

    uvloop.run((Module if sys.argv[1] == "module" else Load)(*sys.argv[2:]).serve())
