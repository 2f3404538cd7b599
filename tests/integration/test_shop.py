"""`flui up`: a whole topology as processes, from nothing to nothing."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "compose" / "shop.yaml"
FLUI = Path(sys.executable).with_name("flui")

BROKEN = """\
x-flui: {trust-domain: broken}
services:
  front:
    command: [python3, -c, "import sys; print('the shelf is empty'); sys.exit(3)"]
  front-sidecar:
    network_mode: "service:front"
    command: run -c /etc/flui/sidecar.yaml
    configs: [{source: front, target: /etc/flui/sidecar.yaml}]
configs:
  front:
    content: |
      service: front
      app: http://127.0.0.1:8000
      certs: /etc/flui/certs
"""


def is_there(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def pids(run):
    return [process["pid"] for process in json.loads((run / "processes.json").read_text())]


def up(*words, cwd=ROOT, timeout=120):
    return subprocess.run([FLUI, "up", *words], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def ask(outbound, service, method, path, **fields):
    host, _, port = outbound.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers={"Host": service, **{name.replace("_", "-"): value for name, value in fields.items()}})
        response = connection.getresponse()
        return response.status, response.headers["content-type"], response.read()


class Shop:
    """A shop that runs, and what it says on standard error."""

    def __init__(self, process, addresses, run):
        self.process, self.run = process, run
        self.modules = addresses["modules"]

    def until(self, word):
        """The next line on standard error that has the word in it."""
        for line in self.process.stderr:
            if word in line:
                return line
        raise AssertionError(f"it ended and never said {word!r}")

    def logged(self, sidecar, wanted):
        """The first such record of its access log, which is written a moment after the answer."""
        file, deadline = self.run / f"{sidecar}.access.log", time.monotonic() + 10
        while time.monotonic() < deadline:
            for line in file.read_text().splitlines():
                record = json.loads(line)
                if wanted(record):
                    return record
            threading.Event().wait(0.02)
        raise AssertionError(f"{file} has no such record")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    run = tmp_path_factory.mktemp("shop")
    process = subprocess.Popen(
        [FLUI, "up", "--json", "--run", run, SHOP],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        text = ""
        for line in process.stdout:
            text += line
            if line == "}\n":
                break
        assert text, process.stderr.read()
        yield Shop(process, json.loads(text), run)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, "Ctrl-C is how it is meant to end"
        assert not any(is_there(pid) for pid in pids(run))
    finally:
        if process.poll() is None:
            process.kill()
            for pid in pids(run):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        process.stdout.close()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_every_service_has_an_address_of_its_own_and_answers_there(shop):
    assert list(shop.modules) == ["web", "orders", "stock-1", "stock-2", "stock-3", "counter", "warehouse"]
    assert len({module["inbound"].rpartition(":")[0] for module in shop.modules.values()}) == 7
    assert ask(shop.modules["web"]["outbound"], "orders", "GET", "/orders")[0] == 200


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_one_order_goes_through_three_sidecars_and_carries_one_trace(shop):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    status, _, body = ask(shop.modules["web"]["app"], "web", "GET", "/order?item=pear", traceparent=trace)
    assert status == 200
    order = json.loads(body)
    assert order["ordered_by"] == "spiffe://shop/web"
    assert order["reserved"]["principal"] == "spiffe://shop/orders"
    assert order["reserved"]["roles"] == "role:clerk"
    replica = order["reserved"]["replica"]
    for sidecar in ("orders-sidecar", f"{replica}-sidecar"):
        record = shop.logged(sidecar, lambda record: (record["trace"], record["listener"]) == (trace.split("-")[1], "inbound"))
        assert record["status"] == (201 if sidecar == "orders-sidecar" else 200)
        assert record["principal"] == ("spiffe://shop/web" if sidecar == "orders-sidecar" else "spiffe://shop/orders")


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_what_no_rule_allows_is_refused_by_the_receiver(shop):
    status, kind, body = ask(shop.modules["web"]["outbound"], "stock", "POST", "/items/pear/reserve", flui_key="pear")
    assert (status, kind) == (403, "application/problem+json")
    assert b"role:" not in body


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_whole_tour_holds_beside_a_shop_that_runs_already(shop, tmp_path):
    """Two topologies side by side; the tour asserts each of its steps itself."""
    done = up("--run", str(tmp_path), str(SHOP), "--", sys.executable, "examples/tour.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All as promised" in done.stdout
    assert not any(is_there(pid) for pid in pids(tmp_path)), "nothing is left"


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_death_is_told_at_once_and_the_others_keep_going(shop):
    victim = next(process for process in json.loads((shop.run / "processes.json").read_text()) if process["name"] == "stock-3")
    os.kill(victim["pid"], signal.SIGKILL)
    assert f"stock-3 (module, pid {victim['pid']}) was ended by SIGKILL; the others keep going" in shop.until("stock-3 (module")
    assert ask(shop.modules["web"]["outbound"], "orders", "GET", "/orders")[0] == 200
    listed = {process["name"]: process["ended"] for process in json.loads((shop.run / "processes.json").read_text())}
    assert listed["stock-3"] == "was ended by SIGKILL"
    assert listed["stock-2"] is None


@pytest.mark.slow
def test_one_that_dies_early_is_named_with_its_last_lines_and_nothing_is_left(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    run = tmp_path / "run"
    done = up("--run", str(run), str(file), "--", "true")
    assert done.returncode == 1
    assert "flui up: front: ended with status 3 before it was ready\n  | the shelf is empty\n" in done.stderr
    assert not any(is_there(pid) for pid in pids(run))


@pytest.mark.slow
def test_a_wrong_topology_starts_nothing_and_names_the_line(tmp_path):
    file = tmp_path / "wrong.yaml"
    file.write_text(BROKEN.replace("service:front", "service:back"))
    done = up("--run", str(tmp_path / "run"), str(file), "--", "true")
    assert done.returncode == 1
    assert (
        f"{file}:6: services.front-sidecar.network_mode: there is no service 'back' for it to stand beside; name one of front"
        in done.stderr
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_command_that_is_not_there_is_wrong_use():
    done = up(str(SHOP), "--", "no-such-program")
    assert done.returncode == 2
    assert "there is no program no-such-program" in done.stderr
