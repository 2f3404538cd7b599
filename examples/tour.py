"""A narrated tour of a running shop: every step asks something real, shows what came back, and insists on it.

    flui up compose/shop.yaml -- .venv/bin/python examples/tour.py

Only the standard library: what it does, any client in any language can do; for gRPC grpcio, and where that is not installed those steps
are left out. Exit 1 on any surprise.
"""

import collections
import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

RUN = Path(os.environ.get("FLUI_RUN", ""))
CERTS = Path(os.environ.get("FLUI_CERTS", ""))
POLICY = Path(__file__).parents[1] / "policy"
COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ
KEYS = [f"key-{number:02}" for number in range(30)]
PATIENCE_S = 20


# -- telling ---------------------------------------------------------------------------------------------------------------


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOURED else text


def step(number, title):
    print(f"\n{paint('1;36', f'{number}. {title}')}", flush=True)


def ask(text):
    print(f"   {paint('2', 'ask')}  {text}", flush=True)


def got(text):
    for line in str(text).splitlines():
        print(f"   {paint('2', 'got')}  {line}", flush=True)


def insist(holds, law, detail=""):
    if holds:
        print(f"   {paint('32', 'ok')}   {law}", flush=True)
    else:
        print(f"   {paint('1;31', 'NO')}   {law}: {detail}", flush=True)
        sys.exit(1)


# -- asking ----------------------------------------------------------------------------------------------------------------


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.kind = response.headers.get("content-type", "")
        self.fields = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)

    def __str__(self):
        return f"{self.status} {self.kind}  {self.body.decode('utf-8', 'replace').strip()[:230]}"


def plain(outbound, service=None):
    """A connection to a sidecar's outbound listener, as the module beside it would open one."""
    host, _, port = os.environ[f"FLUI_{outbound.upper()}_OUTBOUND"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
    connection.service = service
    return connection


def say(connection, method, path, body=None, **fields):
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    if getattr(connection, "service", None):
        fields["Host"] = connection.service
    if body is not None:
        body, fields["content-type"] = json.dumps(body).encode(), "application/json"
    connection.request(method, path, body, fields)
    return Answer(connection.getresponse())


def once(outbound, service, method, path, body=None, **fields):
    with contextlib.closing(plain(outbound, service)) as connection:
        return say(connection, method, path, body, **fields)


def mutual(service, folder=CERTS, name="tour"):
    """A TLS 1.3 connection to a sidecar's inbound listener with a certificate of ours (name None: without one)."""
    context = ssl.create_default_context(cafile=CERTS / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])  # the mesh speaks to nobody who has not said which protocol
    context.check_hostname = False  # identities are SPIFFE IDs; the one we expect is compared below
    if name:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    host, _, port = os.environ[f"FLUI_{service.upper()}_INBOUND"].rpartition(":")
    connection = http.client.HTTPSConnection(host, int(port), timeout=PATIENCE_S, context=context)
    connection.service = service
    connection.connect()
    certificate = connection.sock.getpeercert()
    insisted = ("URI", f"spiffe://shop/{service}")
    if insisted not in certificate["subjectAltName"]:
        insist(False, f"the other side is {insisted[1]}", certificate["subjectAltName"])
    connection.serial = certificate["serialNumber"]
    return connection


def flui(*words):
    """Runs our own command; its status and what it said."""
    beside = Path(sys.executable).with_name("flui")
    program = str(beside) if beside.exists() else shutil.which("flui")
    done = subprocess.run([program, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=PATIENCE_S)
    return done.returncode, done.stdout


class Load:
    """Requests that run in the background, several at a time, until asked to stop."""

    def __init__(self, outbound, service, paths, lanes=4):
        self.seen, self.enough, self.lock = collections.Counter(), threading.Event(), threading.Lock()
        self.lanes = [threading.Thread(target=self.lane, args=(outbound, service, paths[lane::lanes])) for lane in range(lanes)]

    def lane(self, outbound, service, paths):
        connection = plain(outbound, service)
        while not self.enough.is_set():
            for path in paths:
                try:
                    outcome = say(connection, "GET", path, flui_key=path.rpartition("/")[2]).status
                except (OSError, http.client.HTTPException) as error:
                    outcome = type(error).__name__
                    connection.close()
                with self.lock:
                    self.seen[outcome] += 1
        connection.close()

    def __enter__(self):
        for lane in self.lanes:
            lane.start()
        self.at_least(50)
        return self

    def at_least(self, more):
        """Waits until that many more requests were answered."""
        target, deadline = self.total() + more, time.monotonic() + PATIENCE_S
        while self.total() < target and time.monotonic() < deadline:
            self.enough.wait(0.01)

    def total(self):
        with self.lock:
            return sum(self.seen.values())

    def __exit__(self, *_):
        self.enough.set()
        for lane in self.lanes:
            lane.join()

    def failures(self):
        return {outcome: count for outcome, count in self.seen.items() if outcome != 200}


# -- the tour --------------------------------------------------------------------------------------------------------------


def allowed():
    step(1, "Allowed: modules talk through their sidecars")
    ask("GET http://orders/orders  at the outbound listener of web, plain, as the module web would")
    answer = once("web", "orders", "GET", "/orders")
    got(answer)
    insist(answer.status == 200, "the sidecar of web called the sidecar of orders over mTLS; orders let spiffe://shop/web in", answer)
    ask("GET https://web/order?item=apple  at the inbound listener of web, mTLS, as spiffe://shop/tour; web asks orders, orders asks stock")
    with contextlib.closing(mutual("web")) as connection:
        answer = say(connection, "GET", "/order?item=apple")
    got(answer)
    insist(answer.status == 200, "a page of web, through three sidecars", answer)
    order = answer.json()
    insist(order["ordered_by"] == "spiffe://shop/web", "orders was told who asked: spiffe://shop/web", order)
    reserved = order["reserved"]
    insist(reserved["principal"] == "spiffe://shop/orders", f"{reserved['replica']} was told who asked: spiffe://shop/orders", order)
    ask("GET http://stock/items/apple  as orders, with `flui-principal: spiffe://shop/admin` written into it by the caller")
    answer = once("orders", "stock", "GET", "/items/apple", flui_key="apple", flui_principal="spiffe://shop/admin")
    got(answer)
    insist(answer.json().get("principal") == "spiffe://shop/orders", "nobody can write an identity: it comes from the certificate", answer)


def denied():
    step(2, "Denied: no rule, no entry, and the rule that is missing is named")
    ask("POST http://stock/items/apple/reserve  as web, which may look at stock but take nothing")
    answer = once("web", "stock", "POST", "/items/apple/reserve", {"quantity": 1}, flui_key="apple")
    got(answer)
    insist(answer.status == 403 and answer.kind == "application/problem+json", "403, as application/problem+json", answer)
    insist(b"role:" not in answer.body and b".csv" not in answer.body, "the refusal tells nothing of the inside", answer)
    words = ["policy", "explain", "--policy", str(POLICY), "--as", "spiffe://shop/web", "stock", "POST", "/items/apple/reserve"]
    ask("flui " + " ".join(word if word != str(POLICY) else "policy" for word in words))
    _, said = flui(*words)
    got(said)
    insist("denied" in said and "nearest" in said, "the operator is told the rule, and the nearest one that would allow", said)


def strangers():
    step(3, "No certificate, or one of another CA: no conversation")
    ask("GET https://web/  without a certificate")
    outcome = refused(None)
    got(outcome)
    insist(outcome.startswith("refused"), "refused in the handshake", outcome)
    with tempfile.TemporaryDirectory() as folder:
        status, said = flui("certs", "init", "--dir", folder, "--trust-domain", "shop")
        insist(status == 0, "(a foreign CA that calls itself `shop` is made)", said)
        status, said = flui("certs", "issue", "--dir", folder, "tour")
        insist(status == 0, "(and issues spiffe://shop/tour)", said)
        ask("GET https://web/  with spiffe://shop/tour of the foreign CA")
        outcome = refused(Path(folder))
    got(outcome)
    insist(outcome.startswith("refused"), "refused: the name is right, the signature is not", outcome)


def refused(folder):
    """What became of a request with the certificate `tour` of that folder (None: without a certificate)."""
    try:
        with contextlib.closing(mutual("web", folder or CERTS, "tour" if folder else None)) as connection:
            return f"answered: {say(connection, 'GET', '/')}"
    except (OSError, http.client.HTTPException) as error:  # TLS 1.3: the client learns of it with its first read
        return f"refused: {error}"


def owners(connection, keys, times):
    """Which replica answers each key; several if it is not always the same one."""
    seen = {key: set() for key in keys}
    failures = 0
    for _ in range(times):
        for key in keys:
            answer = say(connection, "GET", f"/items/{key}", flui_key=key)
            failures += answer.status != 200
            seen[key].add(answer.json().get("replica", "?") if answer.status == 200 else f"status {answer.status}")
    return seen, failures


def table(owner):
    for replica in sorted(set(owner.values())):
        mine = [key.removeprefix("key-") for key in KEYS if owner[key] == replica]
        got(f"{replica}  {len(mine):2} keys  {' '.join(mine)}")


def hashed():
    step(4, "Hashed: a key is always served by the same replica of stock")
    ask(f"GET http://stock/items/KEY  with `flui-key: KEY`, {len(KEYS)} keys, 10 times each, as orders")
    with contextlib.closing(plain("orders", "stock")) as connection:
        seen, failures = owners(connection, KEYS, 10)
    insist(failures == 0, f"{10 * len(KEYS)} requests, 0 failed", seen)
    insist(all(len(replicas) == 1 for replicas in seen.values()), "each key: one replica, ten times out of ten", seen)
    owner = {key: min(replicas) for key, replicas in seen.items()}
    table(owner)
    insist(len(set(owner.values())) == 3, "all three replicas serve some", owner)
    return owner


def killed(before):
    step(5, "A replica is killed: its keys go to the next ones, the others stay where they are")
    victim = max(sorted(set(before.values())), key=list(before.values()).count)
    running = {process["name"]: process["pid"] for process in json.loads((RUN / "processes.json").read_text())}
    pids = [(name, running[name]) for name in (f"{victim}-sidecar", victim)]
    ask("kill -9 " + " ".join(f"{pid} ({name})" for name, pid in pids) + "  while requests for every key run")
    with Load("orders", "stock", [f"/items/{key}" for key in KEYS]) as load:
        for _, pid in pids:
            os.kill(pid, signal.SIGKILL)
        load.at_least(300)
    lost = load.failures()
    got(f"{load.total()} requests around the moment of the kill; failed: {lost or 'none'}")
    insist(sum(lost.values()) <= 2, "what was on its way to the dead replica was sent again to another one, within the retry budget", lost)
    ask("the table of step 4 again, 10 times each")
    with contextlib.closing(plain("orders", "stock")) as connection:
        seen, failures = owners(connection, KEYS, 10)
    insist(failures == 0, f"{10 * len(KEYS)} requests after the switch, 0 failed", seen)
    insist(all(len(replicas) == 1 for replicas in seen.values()), "each key: one replica, ten times out of ten", seen)
    after = {key: min(replicas) for key, replicas in seen.items()}
    table(after)
    moved = {key for key in KEYS if before[key] != after[key]}
    orphans = {key for key in KEYS if before[key] == victim}
    insist(moved == orphans, f"{len(moved)} keys moved: those of {victim}, and no other", moved ^ orphans)


def rotated():
    step(6, "A certificate is rotated under load")
    with contextlib.closing(mutual("orders")) as connection:
        old = connection.serial
    ask(f"flui certs issue orders  (its serial number is {old}) while requests web -> orders run")
    with Load("web", "orders", ["/orders"] * 4) as load:
        before, begun = load.total(), time.monotonic()
        status, said = flui("certs", "issue", "--dir", str(CERTS), "orders")
        insist(status == 0, "a new leaf and key lie in the folder of certificates", said)
        new = old
        while new == old and time.monotonic() < begun + PATIENCE_S:
            with contextlib.closing(mutual("orders")) as connection:
                new = connection.serial
            load.enough.wait(0.05)
        took = time.monotonic() - begun
        load.at_least(200)
    got(f"serial number {new} in a new connection, {took:.1f} s after the command was given; {load.total() - before} requests meanwhile")
    insist(new != old, "new connections see the new certificate; nothing was restarted", new)
    insist(not load.failures(), f"{load.total()} requests, 0 failed", load.failures())


def retried():
    step(7, "What the sidecars did about it: the dead replica is out, and what was sent again was little")
    ask("flui top --once  at the sidecar of orders")
    status, said = flui("top", "--once", "--admin", os.environ["FLUI_ORDERS_ADMIN"])
    got("\n".join(line.rstrip()[:118] for line in said.splitlines() if line.strip())[:2400])
    insist(status == 0, "one sample of one second; `flui top` alone shows it live", said)
    _, clusters = flui("admin", "/clusters", "--json", "--admin", os.environ["FLUI_ORDERS_ADMIN"])
    found = json.loads(clusters)
    stock = next(cluster for cluster in found if cluster["cluster"] == "stock")
    insist(stock["retries"]["used"] == 0, "no retry is under way any more", stock)
    insist(any(endpoint["why"] for endpoint in stock["endpoints"]), "the dead replica gets next to nothing, and it is said why", stock)


def told():
    step(8, "What was seen: the access log and a metric")
    ask(f"the last line of {RUN / 'orders-sidecar.access.log'}")
    lines = (RUN / "orders-sidecar.access.log").read_text().splitlines()
    record = json.loads(lines[-1])
    got(lines[-1][:600])
    insist(
        "spiffe://shop/web" in lines[-1],
        f"one JSON record per exchange ({len(lines)} so far), with who asked and the rule that let it in",
        record,
    )
    ask("flui admin /metrics  at the sidecar of web, for what stock denied it in step 2")
    _, said = flui("admin", "/metrics", "--admin", os.environ["FLUI_WEB_ADMIN"])
    counted = [line for line in said.splitlines() if line.startswith("flui_requests_total") and 'code="403"' in line]
    got("\n".join(counted))
    insist(counted and float(counted[0].split()[-1]) >= 1, "counted, for Prometheus to read at every sidecar", said[:300])


def called():
    """The steps 9 to 15, which need grpcio."""
    try:
        import tour_dialects
        import tour_grpc
    except ImportError as error:
        print(f"\n(left out: calls by gRPC: {error}; pip install -r examples/services/warehouse/requirements.txt)", flush=True)
    else:
        tour_grpc.main()
        tour_dialects.main()


def main():
    if not (RUN / "processes.json").exists():
        sys.exit("the tour needs a running shop: flui up compose/shop.yaml -- .venv/bin/python examples/tour.py")
    begun = time.monotonic()
    allowed()
    denied()
    strangers()
    owner = hashed()
    killed(owner)
    rotated()
    retried()
    told()
    called()
    print(f"\n{paint('1;32', 'All as promised')}, in {time.monotonic() - begun:.1f} s. To leave the shop running:\n")
    print("   flui up compose/shop.yaml\n")


if __name__ == "__main__":
    main()
