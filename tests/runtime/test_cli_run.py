"""`flui run` as a process: what it says when it cannot start, and how it ends."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from support.mesh import Mesh, address_of, process, ready
from support.pki import Authority, write

pytestmark = pytest.mark.slow


def run(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "flui", "run", *map(str, arguments)], capture_output=True, text=True, timeout=20, check=False, **more
    )


@contextlib.contextmanager
def listening():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def free_port():
    with listening() as port:
        return port


def refused(file, *said):
    """It names every problem on a line of its own, ends with 1, prints no traceback, and nothing listens."""
    text = file.read_text()
    ports = [free_port(), free_port()]
    if "127.0.0.1:0" in text:
        text = text.replace("inbound: 127.0.0.1:0", f"inbound: 127.0.0.1:{ports[0]}").replace(
            "{address: 127.0.0.1:0}", f"127.0.0.1:{ports[1]}"
        )
        file.write_text(text)
    ended = run("-c", file)
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    for words in said:
        (line,) = [line for line in ended.stderr.splitlines() if words[0] in line][:1] or [""]
        assert all(word in line for word in words), f"{words} not in {ended.stderr!r}"
        assert "; " in line, "it says what to write instead"
    for port in ports:
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", port)) != 0
    return ended.stderr


def test_every_mistake_of_the_configuration_is_named_with_its_line(tmp_path):
    file = Mesh(tmp_path).prepare("orders", app="http://127.0.0.1:9", more="nonsense: 1\ntimeouts: {connect: soon}")
    refused(file, ("sidecar.yaml:9", "nonsense"), ("sidecar.yaml:10", "timeouts.connect", "soon"))


def test_a_missing_configuration_file_is_named(tmp_path):
    ended = run("-c", tmp_path / "nowhere.yaml")
    assert ended.returncode == 1
    assert "nowhere.yaml" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_certificates_and_wrong_policy_are_named_together(tmp_path):
    file = Mesh(tmp_path).prepare("orders", app="http://127.0.0.1:9", rules="p, spiffe://shop/web, orders\n")
    write(file.parent / "certs", "orders", Authority("shop").leaf(uris=("spiffe://shop/a", "spiffe://shop/b")), Authority("shop"))
    refused(file, ("orders.pem", "2 URI SANs"), ("rules.csv:1",))


def test_missing_certificates_and_policy_are_named(tmp_path):
    file = Mesh(tmp_path).prepare("orders", app="http://127.0.0.1:9")
    shutil.rmtree(file.parent / "policy")
    (file.parent / "certs" / "orders.key").unlink()
    refused(file, ("sidecar.yaml:6: certs", "orders.key"), ("sidecar.yaml:7: policy",))


def test_an_access_log_that_cannot_be_written_is_named(tmp_path):
    file = Mesh(tmp_path).prepare("orders", app="http://127.0.0.1:9", access_log="certs")
    refused(file, ("access_log", "certs"))


@pytest.mark.parametrize("which", ["inbound: 127.0.0.1:0", "{address: 127.0.0.1:0}", "admin: off"])
def test_an_address_in_use_is_named_and_nothing_starts_half(tmp_path, which):
    file = Mesh(tmp_path).prepare("orders", app="http://127.0.0.1:9")
    with listening() as port:
        key = which.partition(":")[0]
        file.write_text(
            file.read_text().replace(which, f"{{address: 127.0.0.1:{port}}}" if key.startswith("{") else f"{key}: 127.0.0.1:{port}")
        )
        refused(file, (f"127.0.0.1:{port}",))


def test_a_second_sidecar_on_the_same_address_is_refused(tmp_path):
    """Two of them would share the callers between them, silently."""
    file = Mesh(tmp_path).prepare("orders", app="http://127.0.0.1:9")
    with process("-m", "flui", "run", "-c", file) as sidecar:
        said = ready(sidecar)
        file.write_text(file.read_text().replace("inbound: 127.0.0.1:0", f"inbound: {said['inbound']}"))
        ended = run("-c", file)
        assert ended.returncode == 1
        assert said["inbound"] in ended.stderr


def test_neither_file_nor_service_is_wrong_use():
    assert run().returncode == 2


def test_flags_alone_are_a_sidecar_that_ends_with_0_on_sigterm(tmp_path):
    """One JSON line per event on stderr, the access log on stdout."""
    shop = Authority("shop")
    write(tmp_path / "certs", "orders", shop.leaf("spiffe://shop/orders"), shop)
    mesh = Mesh(tmp_path)
    shutil.copytree(mesh.prepare("x").parent / "policy", tmp_path / "policy")
    admin = tmp_path / "admin.sock"
    flags = ["--service", "orders", "--app", "http://127.0.0.1:9", "--inbound", "127.0.0.1:0", "--outbound", "127.0.0.1:0"]
    flags += ["--policy", tmp_path / "policy", "--certs", tmp_path / "certs", "--admin", admin]
    with process("-m", "flui", "run", *flags, stdout=subprocess.PIPE) as sidecar:
        said = ready(sidecar)
        assert said["identity"] == "spiffe://shop/orders"
        at = address_of(said["outbound"])
        caller = http.client.HTTPConnection(at.host, at.port, timeout=5)
        caller.request("GET", "/x", headers={"host": "nowhere"})
        assert caller.getresponse().status == 404
        caller.close()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(os.fspath(admin))
            sock.sendall(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        assert 'flui_requests_total{listener="outbound",service="-",route="-",code="404"} 1' in text
        sidecar.send_signal(signal.SIGTERM)
        out, err = sidecar.communicate(timeout=10)
        assert sidecar.returncode == 0
    (record,) = map(json.loads, out.splitlines())
    assert (record["status"], record["fault"]) == (404, "no_route")
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["draining", "stopped"]
    assert not admin.exists()


def test_sighup_reloads_and_reopens_the_log(tmp_path):
    file = Mesh(tmp_path).prepare("orders", app="http://127.0.0.1:9")
    log = file.parent / "access.log"
    with process("-m", "flui", "run", "-c", file) as sidecar:
        at = address_of(ready(sidecar)["outbound"])
        log.rename(log.with_suffix(".1"))
        file.write_text(file.read_text() + "timeouts: {connect: 1s}\n")
        sidecar.send_signal(signal.SIGHUP)
        for line in sidecar.stderr:
            if json.loads(line)["event"] == "reloaded":
                break
        with contextlib.closing(http.client.HTTPConnection(at.host, at.port, timeout=5)) as caller:
            caller.request("GET", "/x", headers={"host": "nowhere"})
            assert caller.getresponse().status == 404
        sidecar.send_signal(signal.SIGTERM)
        assert sidecar.wait(10) == 0
    assert len(log.read_text().splitlines()) == 1
    assert log.with_suffix(".1").read_text() == ""
