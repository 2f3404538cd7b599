"""The example modules by themselves: plain services that know nothing of ours, and twins that answer alike."""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SERVICES = Path(__file__).parents[2] / "examples" / "services"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

WEB = [pytest.param("node", marks=[pytest.mark.peers]), "twin"]
STOCK = [pytest.param("go", marks=[pytest.mark.peers, pytest.mark.slow]), "twin"]


@contextlib.contextmanager
def running(command, folder, **environment):
    """A module on a free port; its address, read from the line it writes when it listens."""
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "HOST": "127.0.0.1", "PORT": "0", **environment}, stderr=subprocess.PIPE, text=True
    )
    try:
        found = re.search(r"http://([\d.]+):(\d+)", process.stderr.readline())
        assert found
        yield found[1], int(found[2])
    finally:
        process.terminate()
        process.stderr.read()
        process.stderr.close()
        assert process.wait(10) == 0, "SIGTERM ends it with status 0"


@contextlib.contextmanager
def sidecar(answers):
    """Stands for the outbound listener: notes what is asked, answers from a table."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            seen.append((self.command, self.headers["host"], self.path, self.headers["flui-key"], self.headers["traceparent"], body))
            status, kind, answer = answers[self.command, self.path]
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = handle_any

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


class Client:
    """One connection that stays open."""

    def __init__(self, address):
        self.connection = http.client.HTTPConnection(*address, timeout=10)

    def ask(self, method, path, body=None, **fields):
        self.connection.request(method, path, body, {name.replace("_", "-"): value for name, value in fields.items()})
        response = self.connection.getresponse()
        return response.status, response.headers["content-type"], response.read()

    def json(self, *told, **fields):
        status, kind, body = self.ask(*told, **fields)
        assert kind == "application/json"
        return status, json.loads(body)


@contextlib.contextmanager
def client(address):
    one = Client(address)
    try:
        yield one
    finally:
        one.connection.close()


def web(form):
    if form == "twin":
        return [sys.executable, "twin.py"]
    assert shutil.which("node"), "make test-peers needs Node"
    return ["node", "server.js"]


@pytest.fixture(scope="session")
def stock_binary(tmp_path_factory):
    assert shutil.which("go"), "make test-peers needs Go"
    binary = tmp_path_factory.mktemp("stock") / "stock"
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOPROXY": "off"}
    subprocess.run(["go", "build", "-o", str(binary), "."], cwd=SERVICES / "stock", env=environment, check=True, timeout=300)
    return binary


@pytest.fixture
def stock(request):
    def command(form):
        return [sys.executable, "twin.py"] if form == "twin" else [str(request.getfixturevalue("stock_binary"))]

    return command


@pytest.mark.parametrize(
    "file", sorted(path for path in SERVICES.rglob("*") if path.suffix in {".py", ".js", ".go"}), ids=lambda path: path.name
)
def test_no_module_knows_anything_of_ours(file):
    code = file.read_text()
    assert not re.search(r"""(import|from|require\()\s*['"(]*flui\b""", code)


@pytest.mark.parametrize("form", WEB)
def test_web_places_an_order_through_its_sidecar_and_shows_it(form):
    shown = b'{"id": "7", "item": "apple"}'
    answers = {("POST", "/orders"): (201, "application/json", b'{"id": "7"}'), ("GET", "/orders/7"): (200, "application/json", shown)}
    with (
        sidecar(answers) as (outbound, seen),
        running(web(form), SERVICES / "web", OUTBOUND=outbound) as address,
        client(address) as customer,
    ):
        assert customer.ask("GET", "/order?item=apple&quantity=2", traceparent=TRACE) == (200, "application/json", shown)
    assert [(method, host, path, key, trace) for method, host, path, key, trace, _ in seen] == [
        ("POST", "orders", "/orders", "apple", TRACE),
        ("GET", "orders", "/orders/7", "apple", TRACE),
    ]
    assert json.loads(seen[0][5]) == {"item": "apple", "quantity": 2}


@pytest.mark.parametrize("form", WEB)
def test_web_hands_a_refusal_on_as_it_came(form):
    refusal = (403, "application/problem+json", b'{"title": "Forbidden", "status": 403}')
    with (
        sidecar({("POST", "/orders"): refusal}) as (outbound, _),
        running(web(form), SERVICES / "web", OUTBOUND=outbound) as address,
        client(address) as customer,
    ):
        assert customer.ask("GET", "/order?item=apple") == refusal


@pytest.mark.parametrize("form", WEB)
def test_web_answers_on_one_connection_and_says_what_it_does_not_know(form):
    with running(web(form), SERVICES / "web", OUTBOUND="http://127.0.0.1:9") as address, client(address) as customer:
        status, kind, page = customer.ask("GET", "/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert b"<h1>Shop</h1>" in page
        assert customer.ask("GET", "/healthz") == (200, "text/plain", b"ok\n")
        assert customer.json("GET", "/nothing")[0] == 404
        assert customer.json("GET", "/order?item=No%20Such")[0] == 400
        assert customer.json("GET", "/order?item=apple")[0] == 502
        assert customer.json("POST", "/")[0] == 405


def test_orders_reserves_at_stock_by_the_items_key():
    answers = {("POST", "/items/apple/reserve"): (200, "application/json", b'{"replica": "stock-2"}')}
    with (
        sidecar(answers) as (outbound, seen),
        running([sys.executable, "main.py"], SERVICES / "orders", OUTBOUND=outbound) as address,
        client(address) as web_,
    ):
        body = json.dumps({"item": "apple", "quantity": 3})
        status, order = web_.json("POST", "/orders", body, traceparent=TRACE, flui_principal="spiffe://shop/web")
        assert status == 201
        assert order == {"id": "1", "item": "apple", "quantity": 3, "reserved": {"replica": "stock-2"}, "ordered_by": "spiffe://shop/web"}
        assert web_.json("GET", "/orders/1") == (200, order)
        assert web_.json("GET", "/orders") == (200, [order])
        assert web_.json("GET", "/orders/2")[0] == 404
    assert seen == [("POST", "stock", "/items/apple/reserve", "apple", TRACE, b'{"quantity": 3}')]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        '{"item": "apple"}',
        '{"item": "../x", "quantity": 1}',
        '{"item": "a", "quantity": true}',
        '{"item": "a", "quantity": 0}',
    ],
)
def test_orders_refuses_what_is_no_order_and_reserves_nothing(body):
    with (
        sidecar({}) as (outbound, seen),
        running([sys.executable, "main.py"], SERVICES / "orders", OUTBOUND=outbound) as address,
        client(address) as web_,
    ):
        assert web_.json("POST", "/orders", body)[0] == 400
    assert seen == []


@pytest.mark.parametrize("form", STOCK)
def test_stock_counts_down_and_says_who_served_and_whom_it_saw(form, stock):
    with running(stock(form), SERVICES / "stock", REPLICA="stock-2") as address, client(address) as orders:
        whom = {"flui_principal": "spiffe://shop/orders", "flui_roles": "role:clerk"}
        told = {"item": "apple", "replica": "stock-2", "principal": "spiffe://shop/orders", "roles": "role:clerk"}
        assert orders.json("GET", "/items/apple", **whom) == (200, {**told, "left": 1_000_000})
        assert orders.json("POST", "/items/apple/reserve", '{"quantity": 2}', **whom) == (200, {**told, "left": 999_998})
        assert orders.json("GET", "/items/apple", **whom) == (200, {**told, "left": 999_998})
        assert orders.json("GET", "/items/pear")[1]["left"] == 1_000_000
        assert orders.json("POST", "/items/apple/reserve", '{"quantity": 9999999}')[0] == 409


@pytest.mark.parametrize("form", STOCK)
def test_stock_refuses_what_it_does_not_know(form, stock):
    with running(stock(form), SERVICES / "stock") as address, client(address) as orders:
        asked = [
            ("GET", "/items/", 404),
            ("GET", "/items/a/b", 404),
            ("POST", "/items/a", 405),
            ("GET", "/items/a/reserve", 405),
            ("DELETE", "/items/a", 405),
        ]
        for method, path, status in asked:
            assert orders.json(method, path)[0] == status, (method, path)
        for body in ("", "{}", "[", '{"quantity": -1}', '{"quantity": "1"}'):
            assert orders.json("POST", "/items/a/reserve", body)[0] == 400, body
