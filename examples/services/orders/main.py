"""Takes orders, and reserves what is ordered at `stock` through the sidecar beside it. Only the standard library."""

import http.client
import itertools
import json
import os
import re
import signal
import sys
import urllib.parse
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8000"))
HOST = os.environ.get("HOST", "127.0.0.1")
OUTBOUND = urllib.parse.urlsplit(os.environ.get("OUTBOUND", "http://127.0.0.1:15001"))
KEPT = 10_000  # orders remembered; the oldest leave first

orders = OrderedDict()
numbers = itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True

    def do_GET(self):
        name = self.path.removeprefix("/orders/")
        if self.path == "/healthz":
            self.answer(200, "text/plain", b"ok\n")
        elif self.path == "/orders":
            self.json(200, list(orders.values())[-20:])
        elif name in orders:
            self.json(200, orders[name])
        else:
            self.json(404, {"error": "no such order"})

    def do_POST(self):
        self.close_connection |= "transfer-encoding" in self.headers  # http.server reads no chunks: 400 below, and hang up
        octets = self.rfile.read(int(self.headers.get("content-length", "0")))
        if self.path != "/orders":
            return self.json(404, {"error": "POST /orders"})
        try:
            item, quantity = (json.loads(octets)[name] for name in ("item", "quantity"))
            fine = re.fullmatch(r"[a-z0-9-]{1,40}", item) and type(quantity) is int and 0 < quantity <= 1000
        except (ValueError, KeyError, TypeError):
            fine = False
        if not fine:
            return self.json(400, {"error": 'send {"item": "apple", "quantity": 1}; a quantity is 1 to 1000'})
        status, kind, body = self.reserve(item, quantity)
        if status != 200:
            return self.answer(status, kind, body)
        order = {"id": str(next(numbers)), "item": item, "quantity": quantity, "reserved": json.loads(body)}
        order["ordered_by"] = self.headers.get("flui-principal", "")
        orders[order["id"]] = order
        if len(orders) > KEPT:
            orders.popitem(last=False)
        return self.json(201, order)

    def reserve(self, item, quantity):
        """The sidecar is where we connect; Host says whom we want, flui-key which of its replicas."""
        trace = {"traceparent": self.headers["traceparent"]} if "traceparent" in self.headers else {}
        fields = {"Host": "stock", "flui-key": item, "content-type": "application/json", **trace}
        sidecar = http.client.HTTPConnection(OUTBOUND.hostname, OUTBOUND.port, timeout=30)
        try:
            sidecar.request("POST", f"/items/{item}/reserve", json.dumps({"quantity": quantity}).encode(), fields)
            response = sidecar.getresponse()
            return response.status, response.headers.get("content-type"), response.read()
        except (OSError, http.client.HTTPException) as error:
            return 502, "application/json", json.dumps({"error": str(error)}).encode()
        finally:
            sidecar.close()

    def json(self, status, value):
        self.answer(status, "application/json", json.dumps(value).encode() + b"\n")

    def answer(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind or "application/octet-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """The sidecar writes the access log."""


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # an exception may be lost in a callback that ignores it
server = ThreadingHTTPServer((HOST, PORT), Handler)
print(f"orders: http://{HOST}:{server.server_port}", file=sys.stderr, flush=True)
server.serve_forever()
