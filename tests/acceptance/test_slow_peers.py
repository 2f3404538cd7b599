"""Issue 4: 500 slow readers, 500 slow writers and 2,000 half-open TLS connections disturb nobody, and are closed by their limits.

Two sidecars stand side by side, with one module behind both: one is attacked, one is not. A well-behaved peer asks them in turn,
request by request, so that whatever else the machine does meets both alike; what is left is what the attack costs.

    this process: the well-behaved peer ──┬──▶ attacked sidecar ──┬──▶ module (a process of its own)
    attackers (a process of its own) ─────┘    quiet sidecar ─────┘

The file is also the program of the module and of the attackers: `python test_slow_peers.py module|attackers …`.
"""

import asyncio
import contextlib
import gc
import json
import os
import random
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))  # as a program nobody has done so

from support.mesh import Mesh, address_of, ready  # noqa: E402
from support.pki import write  # noqa: E402

MIB = 1 << 20
BIG = 100 * MIB
COUNTS = {"reader": 500, "body": 400, "head": 100, "half": 2_000}
SOURCES = {"reader": "127.0.0.3", "body": "127.0.0.4", "head": "127.0.0.5", "half": "127.0.0.6"}
PEER = "127.0.0.2"
LOOK_S = 0.5
QUEUED = 100
"""Connections that the kernel has let in and the sidecar has not looked at yet."""
ESTABLISHED = "01"
CLOSED = b"\x07"
"""As TCP_INFO begins."""
FORGOTTEN = {"05", "06"}
"""FIN_WAIT2 and TIME_WAIT: closed, all was taken by the peer, and only its own end is waited for."""

GET = b"GET /items HTTP/1.1\r\nhost: orders\r\n\r\n"
GET_BIG = b"GET /big HTTP/1.1\r\nhost: orders\r\n\r\n"
POST = b"POST /items HTTP/1.1\r\nhost: orders\r\ncontent-length: 1000000\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n"

LIMIT_S = 45.0
"""Of handshakes, heads and bodies where they are configured: all that attack must stand while the peer is measured."""
ANSWER_S = 50.0
"""Of a whole exchange there."""
PATIENCE_S = ANSWER_S + LIMIT_S + 10.0
"""After which attackers report also those that still stand."""
MOVED = 1.2
GROWN = 256 * MIB
SPENT = 0.15
"""Part of a core that attackers who have all arrived may cost beside the work that both sidecars do."""


class Row(NamedTuple):
    """A connection as the kernel of the one who accepted it has it."""

    source: str
    remote: int
    state: str


def rows(port):
    """Those of a listener on the loopback."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, _ = line.split(maxsplit=4)
        if local.endswith(f":{port:04X}"):
            found.append(Row(socket.inet_ntoa(bytes.fromhex(remote[:8])[::-1]), int(remote[9:], 16), state))
    return found


# --- the module -------------------------------------------------------------------------------------------------------------


class Module(asyncio.Protocol):
    """Answers at once, or pours 100 MB as fast as it is taken; a body is read for ever."""

    def connection_made(self, transport):
        self.transport = transport
        self.left = 0
        self.head = b""
        self.paused = False

    def data_received(self, data):
        if self.head:
            return
        if data.startswith(b"POST"):
            self.head = data
        elif b" /big " in data:
            self.left = BIG
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG)
            self.pour()
        else:
            self.transport.write(OK)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        self.pour()

    def pour(self):
        piece = bytes(65536)
        while self.left and not self.paused:
            self.transport.write(piece)
            self.left -= len(piece)


async def module():
    server = await asyncio.get_running_loop().create_server(Module, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# --- the attackers ----------------------------------------------------------------------------------------------------------


class Attacker:
    """One of them: a socket, and what it says on each beat."""

    def __init__(self, kind, number):
        self.kind = kind
        self.number = number
        self.sock = None
        self.at = ("", 0)
        self.since = 0.0
        self.tls = self.incoming = self.outgoing = None

    def beat(self):
        """One octet, to or from the sidecar; most do nothing."""
        if self.kind == "reader":
            if self.number % 2:
                self.sock.recv(1)
        elif self.kind != "half":
            self.tls.write(b"x")
            self.sock.send(self.outgoing.read())

    @property
    def was_reset(self):
        """Then its address is free, and may be another's by now."""
        return self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == CLOSED


class Attackers:
    """Opens so many connections of each kind, and keeps them as long as the sidecar does; with `again_s` they come back so much later."""

    def __init__(self, port, context, counts, again_s):
        self.port = port
        self.context = context
        self.counts = counts
        self.again_s = again_s
        self.loop = asyncio.get_running_loop()
        self.all = [Attacker(kind, number) for kind, count in counts.items() for number in range(count)]
        self.ages = {kind: [] for kind in counts}
        self.answers = {}
        self.failed = 0
        self.stopped = False
        self.held = set()
        """Addresses and ports of attackers whom the sidecar, or the kernel for it, still has something for."""
        out = ssl.MemoryBIO()
        with contextlib.suppress(ssl.SSLWantReadError):
            context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="x").do_handshake()
        self.hello = out.read()

    async def open(self, attacker):
        kind, number = attacker.kind, attacker.number
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            sock.bind((SOURCES[kind], 0))
            await self.loop.sock_connect(sock, ("127.0.0.1", self.port))
            if kind == "half":
                sock.send(self.hello[: number % 3 * len(self.hello) // 2])
            else:
                await self.shake(attacker, sock)
                attacker.tls.write({"reader": GET_BIG, "body": POST, "head": POST[:20]}[kind])
                sock.send(attacker.outgoing.read())
        except OSError:
            self.failed += 1
            sock.close()
        else:
            attacker.since = self.loop.time()
            attacker.at = sock.getsockname()
            attacker.sock = sock

    async def shake(self, attacker, sock):
        incoming, outgoing = attacker.incoming, attacker.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = attacker.tls = self.context.wrap_bio(incoming, outgoing, server_hostname="x")
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                sock.send(outgoing.read())
                octets = await self.loop.sock_recv(sock, 4096)
                if not octets:
                    raise ConnectionResetError from None
                incoming.write(octets)
            else:
                return

    def over(self, attacker):
        """The sidecar has closed it."""
        self.ages[attacker.kind].append(round(self.loop.time() - attacker.since, 2))
        if attacker.kind in {"body", "head"}:
            with contextlib.suppress(ssl.SSLError, OSError):
                attacker.incoming.write(attacker.sock.recv(4096))
                answer = attacker.tls.read(12).decode()
                self.answers[answer] = self.answers.get(answer, 0) + 1
        attacker.sock.close()
        attacker.sock = None
        if self.again_s and not self.stopped:
            self.loop.call_later(self.again_s * (0.5 + random.random()), lambda: asyncio.ensure_future(self.open(attacker)))

    async def beats(self):
        """Each has its turn once a second, and no two at the same time if that can be."""
        count = len(self.all)
        random.shuffle(self.all)
        begun, turn = self.loop.time(), 0
        while True:
            due = int((self.loop.time() - begun) * count)
            while turn < due:
                attacker = self.all[turn % count]
                turn += 1
                if attacker.sock is not None:
                    looked = self.loop.time() - attacker.since > 2 * LOOK_S
                    if not attacker.was_reset and (attacker.at in self.held or not looked):
                        with contextlib.suppress(OSError):
                            attacker.beat()
                    else:
                        self.over(attacker)
            await asyncio.sleep(0.002)

    async def looks(self):
        """Most of them never read, and would not notice their end: what the kernel has is asked of the kernel."""
        while True:
            self.held = {(row.source, row.remote) for row in rows(self.port) if row.state not in FORGOTTEN}
            await asyncio.sleep(LOOK_S)

    async def serve(self):
        chores = [asyncio.ensure_future(chore) for chore in (self.beats(), self.looks())]
        hands = asyncio.Semaphore(8)

        async def enter(attacker):
            async with hands:
                await self.open(attacker)

        for kind in self.counts:
            await asyncio.gather(*[enter(attacker) for attacker in self.all if attacker.kind == kind])
        self.report()
        lines = asyncio.Queue()
        self.loop.add_reader(0, lambda: lines.put_nowait(sys.stdin.readline()))
        while (line := (await lines.get()).strip()) in {"count", "stop"}:
            if line == "stop":
                self.stopped = True
                end = self.loop.time() + PATIENCE_S
                while any(attacker.sock for attacker in self.all) and self.loop.time() < end:  # noqa: ASYNC110 - 3,000 things end it
                    await asyncio.sleep(0.1)
            self.report()
        for chore in chores:
            chore.cancel()

    def report(self):
        standing = {kind: sum(a.kind == kind and a.sock is not None for a in self.all) for kind in self.counts}
        print(json.dumps({"standing": standing, "ages": self.ages, "answers": self.answers, "failed": self.failed}), flush=True)


async def attackers(port, certificate, counts, again_s):
    await Attackers(int(port), context_of(certificate), json.loads(counts), float(again_s)).serve()


def context_of(certificate):
    context = ssl.create_default_context(cafile=str(Path(certificate).parent / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(certificate + ".pem", certificate + ".key")
    context.set_alpn_protocols(["http/1.1"])
    return context


# --- what is measured -------------------------------------------------------------------------------------------------------


class Side:
    """A sidecar process, seen from outside."""

    def __init__(self, started, folder):
        self.started = started
        self.pid = started.pid
        said = ready(started)
        self.at = address_of(said["inbound"])
        self.admin = str(folder / "admin.sock")
        self.listens = threading.Thread(target=lambda: [None for _ in started.stderr])
        self.listens.start()

    def cpu_s(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, key):
        (line,) = [line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if line.startswith(key)]
        return int(line.split()[1]) * 1024

    def metrics(self):
        """Name and labels to number."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.admin)
            sock.sendall(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            text = b"".join(iter(lambda: sock.recv(65536), b"")).decode().partition("\r\n\r\n")[2]
        lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("flui_")]
        return {name: float(value) for name, _, value in lines}

    def count(self, family, **labels):
        """Sum of the inbound listener's series that have these labels."""
        wanted = [f'{name}="{value}"' for name, value in {"listener": "inbound", **labels}.items()]
        return sum(value for name, value in self.metrics().items() if name.startswith(family + "{") and all(w in name for w in wanted))


class Peer:
    """The well-behaved one, to one of the sidecars."""

    def __init__(self, side, context):
        self.side = side
        self.context = context
        self.kept = self.connected()

    def connected(self):
        sock = socket.create_connection((self.side.at.host, self.side.at.port), 30, source_address=(PEER, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(sock, server_hostname="x")

    def ask(self, connection):
        connection.sendall(GET)
        answer = connection.recv(4096)
        while not answer.endswith(b"ok\n"):
            more = connection.recv(4096)
            assert more, answer
            answer += more
        assert answer.startswith(b"HTTP/1.1 200 "), answer

    def keeps(self):
        began = time.perf_counter()
        self.ask(self.kept)
        return time.perf_counter() - began

    def comes_anew(self):
        began = time.perf_counter()
        with self.connected() as connection:
            self.ask(connection)
        return time.perf_counter() - began


def p99(times):
    return sorted(times)[int(len(times) * 0.99)]


class Windows:
    """A peer's p99 to the attacked sidecar and to the quiet one, window by window; both are asked in turn."""

    def __init__(self, what, attacked, quiet, pairs):
        self.what = what
        self.peers = (attacked, quiet)
        self.pairs = pairs
        self.seen = []

    def measure(self, label, seconds):
        """Runs whole windows for about so long; the median of what attacked is to quiet."""
        seen = []
        spent = [-peer.side.cpu_s() for peer in self.peers]
        began = time.monotonic()
        until = began + seconds
        gc.collect()
        gc.disable()
        while time.monotonic() < until:
            times = ([], [])
            for number in range(self.pairs):
                for which in (0, 1) if number % 2 else (1, 0):
                    times[which].append(getattr(self.peers[which], self.what)())
            seen.append((p99(times[0]), p99(times[1])))
        gc.enable()
        attacked, quiet = (statistics.median(column) * 1000 for column in zip(*seen, strict=True))
        ratio = statistics.median(a / q for a, q in seen)
        busy = [(before + peer.side.cpu_s()) / (time.monotonic() - began) for before, peer in zip(spent, self.peers, strict=True)]
        print(
            f"{label:6} {self.what:10}: p99 attacked {attacked:.2f} ms, quiet {quiet:.2f} ms, attacked/quiet {ratio:.2f};"
            f" CPU {busy[0]:.0%} and {busy[1]:.0%} ({len(seen)} windows of 2 x {self.pairs} requests)"
        )
        return ratio, busy[0] - busy[1]


class Story:
    """Module, sidecars and attackers, ended with the block."""

    def __init__(self, folder):
        self.folder = folder
        self.mesh = Mesh(folder)
        self.stack = contextlib.ExitStack()
        self.certificate = str(write(folder / "caller", "web", self.mesh.ca.leaf("spiffe://shop/web"), self.mesh.ca) / "web")
        self.context = context_of(self.certificate)

    def __enter__(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        assert hard >= 8192, f"{hard} files at most: too few for 3,000 connections and what stands behind them"
        self.module = self.process(__file__, "module")
        self.port = int(self.module.stdout.readline())
        return self

    def __exit__(self, *_):
        self.stack.close()

    def process(self, *arguments, **more):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **more}
        started = subprocess.Popen([sys.executable, *map(str, arguments)], **pipes)
        self.stack.enter_context(started)
        self.stack.callback(started.kill)
        return started

    def sidecar(self, name, app, more):
        rules = "p, spiffe://shop/web, orders, *, /*\n"
        leaf = self.mesh.ca.leaf("spiffe://shop/orders")
        file = self.mesh.prepare("orders", app=app.replace("PORT", str(self.port)), more=more, rules=rules, leaf=leaf)
        folder = file.parent.rename(self.folder / name)
        arguments = ("-m", "flui", "run", "-c", folder / file.name, "--admin", folder / "admin.sock")
        started = self.process(*arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        side = Side(started, folder)
        self.stack.callback(side.listens.join)
        self.stack.callback(started.kill)
        return side

    def peer(self, side):
        peer = Peer(side, self.context)
        self.stack.callback(peer.kept.close)
        return peer

    def attack(self, side, counts, again_s=0.0):
        self.attackers = self.process(__file__, "attackers", side.at.port, self.certificate, json.dumps(counts), again_s)
        return json.loads(self.attackers.stdout.readline())

    def told(self, what):
        self.attackers.stdin.write(what.encode() + b"\n")
        self.attackers.stdin.flush()
        return json.loads(self.attackers.stdout.readline())


def settled(side, timeout_s=12.0):
    """Waits until the sidecar has done what the arrival of the attackers gave it to do; says what it spends from then on."""
    end = time.monotonic() + timeout_s
    share = 1.0
    while True:
        spent, began = side.cpu_s(), time.monotonic()
        time.sleep(1.5)  # what is measured is a length of time in which nothing is asked
        last, share = share, (side.cpu_s() - spent) / (time.monotonic() - began)
        if share > last - 0.05 or time.monotonic() > end:
            return share


def ages(report):
    for kind, seen in report["ages"].items():
        print(f"{kind:6}: {len(seen)} closed after {min(seen, default=0):.1f} to {max(seen, default=0):.1f} s")
    return {kind: (min(seen, default=0.0), max(seen, default=0.0)) for kind, seen in report["ages"].items()}


def test_3000_slow_and_half_open_peers_disturb_nobody_and_are_closed_by_their_limits(tmp_path):
    with Story(tmp_path) as story:
        more = f"timeouts: {{handshake: {LIMIT_S:g}s, header: {LIMIT_S:g}s, body_idle: {LIMIT_S:g}s}}\nlimits: {{handshakes: 2500}}"
        app = f"{{url: 'http://127.0.0.1:PORT', timeout: {ANSWER_S:g}s}}"
        attacked, quiet = (story.sidecar(name, app, more) for name in ("attacked", "quiet"))
        peers = [story.peer(side) for side in (attacked, quiet)]
        kept, anew = Windows("keeps", *peers, 500), Windows("comes_anew", *peers, 100)
        kept.measure("warm", 1)
        anew.measure("warm", 1)
        before = [windows.measure("before", 6) for windows in (kept, anew)]
        resident, open_before = attacked.memory("VmRSS"), attacked.count("flui_connections_open")

        began = time.monotonic()
        report = story.attack(attacked, COUNTS)
        print(f"attackers: {report['standing']} after {time.monotonic() - began:.1f} s")
        assert report["failed"] == 0
        share = settled(attacked)
        during = [windows.measure("during", 6) for windows in (kept, anew)]
        assert story.told("count")["standing"] == COUNTS, "all of them stood while the peer was measured"

        report = story.told("stop")
        seen = ages(report)
        assert not any(report["standing"].values()), report["standing"]
        grown = attacked.memory("VmHWM") - resident
        print(f"attacked, and nothing else to do: {share:.0%} of a core; {resident / MIB:.0f} MiB before, {grown / MIB:.0f} MiB more")
        for kind in ("half", "head", "body"):
            assert LIMIT_S - 1 < seen[kind][0] <= seen[kind][1] < LIMIT_S + 5, f"{kind}: closed by its limit, not earlier"
        # what is on its way to a reader may be taken for a while after its answer was given up; then it is dropped
        assert ANSWER_S - 1 < seen["reader"][0] <= seen["reader"][1] < ANSWER_S + LIMIT_S + 5
        assert report["answers"] == {"HTTP/1.1 408": COUNTS["body"] + COUNTS["head"]}
        assert attacked.count("flui_connections_open") == open_before
        assert attacked.count("flui_handshakes_refused_total", reason="timeout") == COUNTS["half"]
        assert attacked.count("flui_faults_total", fault="request_timeout") == COUNTS["body"] + COUNTS["head"]
        assert attacked.count("flui_faults_total") == COUNTS["body"] + COUNTS["head"] + COUNTS["reader"]
        assert grown < GROWN
        for what, (was, alike), (now, apart) in zip(("keeps", "comes_anew"), before, during, strict=True):
            print(f"{what}: p99 moved by {now / was - 1:+.0%}, {apart - alike:+.1%} of a core")
            assert now / was < MOVED
            assert apart - alike < SPENT


def test_attackers_who_come_back_are_held_to_the_limits_that_ship(tmp_path):
    """Nothing is configured; fewer of them, but each that is closed is there again some seconds later."""
    counts = {"reader": 50, "body": 40, "head": 10, "half": 1_500}
    with Story(tmp_path) as story:
        attacked, quiet = (story.sidecar(name, "http://127.0.0.1:PORT", "") for name in ("attacked", "quiet"))
        peers = [story.peer(side) for side in (attacked, quiet)]
        kept, anew = Windows("keeps", *peers, 500), Windows("comes_anew", *peers, 100)
        kept.measure("warm", 1)
        anew.measure("warm", 1)
        resident, open_before = attacked.memory("VmRSS"), attacked.count("flui_connections_open")
        story.attack(attacked, counts, again_s=5.0)
        half_open = []
        for windows in (kept, anew, kept, anew):
            windows.measure("during", 4)
            half_open.append(sum(row.source == SOURCES["half"] and row.state == ESTABLISHED for row in rows(attacked.at.port)))
        report = story.told("stop")
        seen = ages(report)
        assert not any(report["standing"].values()), report["standing"]
        grown = attacked.memory("VmHWM") - resident
        print(f"half-open at a time: {half_open}; {resident / MIB:.0f} MiB before, {grown / MIB:.0f} MiB more; {report['answers']}")
        assert max(half_open) <= 1_000 + QUEUED, "as many handshakes at a time as are allowed"
        for limit_s, kind in ((10, "half"), (10, "head"), (15, "body"), (15 + 30, "reader")):
            assert seen[kind][1] < limit_s + 5, kind
        given_up = attacked.count("flui_connections_refused_total", why="handshakes")
        late = attacked.count("flui_handshakes_refused_total", reason="timeout")
        assert given_up > 500
        assert given_up + late == len(report["ages"]["half"]), "each is counted once, by the one reason or the other"
        ended = sum(len(report["ages"][kind]) for kind in ("reader", "body", "head"))
        assert attacked.count("flui_faults_total") == ended
        assert attacked.count("flui_connections_open") == open_before
        assert grown < GROWN


if __name__ == "__main__":
    import uvloop

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    uvloop.run(module() if sys.argv[1] == "module" else attackers(*sys.argv[2:]))
