"""The same stock as main.go, for machines without Go. Only the standard library."""

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8000"))
HOST = os.environ.get("HOST", "127.0.0.1")
REPLICA = os.environ.get("REPLICA", "stock")
FULL = 1_000_000  # what every item starts with

taken = {}
lock = threading.Lock()


def take(item, quantity):
    """Removes quantity of item; says how much is left and whether there was enough."""
    with lock:
        if len(taken) > 100_000:
            taken.clear()  # a demo forgets rather than grows
        before = taken.get(item, 0)
        if before + quantity > FULL:
            return FULL - before, False
        if quantity:
            taken[item] = before + quantity
        return FULL - before - quantity, True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True

    def handle_any(self):
        self.close_connection |= "transfer-encoding" in self.headers  # http.server reads no chunks: 400 below, and hang up
        octets = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.path == "/healthz":
            return self.answer(200, "text/plain", b"ok\n")
        item, _, verb = self.path.partition("?")[0].removeprefix("/items/").partition("/")
        if not self.path.startswith("/items/") or not item or verb not in ("", "reserve"):
            return self.json(404, {"error": "GET /items/NAME or POST /items/NAME/reserve"})
        if (self.command, verb) not in (("GET", ""), ("POST", "reserve")):
            return self.json(405, {"error": "GET /items/NAME or POST /items/NAME/reserve"})
        quantity = 0
        if verb:
            try:
                quantity = json.loads(octets)["quantity"]
            except (ValueError, KeyError, TypeError):
                quantity = None
            if type(quantity) is not int or quantity < 1:
                return self.json(400, {"error": 'send {"quantity": 1}'})
        left, enough = take(item, quantity)
        seen = {"principal": self.headers.get("flui-principal", ""), "roles": self.headers.get("flui-roles", "")}
        return self.json(200 if enough else 409, {"item": item, "left": left, "replica": REPLICA, **seen})

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def json(self, status, value):
        self.answer(status, "application/json", json.dumps(value).encode() + b"\n")

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """The sidecar writes the access log."""


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # an exception may be lost in a callback that ignores it
server = ThreadingHTTPServer((HOST, PORT), Handler)
print(f"stock: {REPLICA}: http://{HOST}:{server.server_port} (twin)", file=sys.stderr, flush=True)
server.serve_forever()
