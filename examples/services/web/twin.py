"""The same front door as server.js, for machines without Node. Only the standard library."""

import http.client
import json
import os
import re
import signal
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(os.environ.get("PORT", "8000"))
HOST = os.environ.get("HOST", "127.0.0.1")
OUTBOUND = urllib.parse.urlsplit(os.environ.get("OUTBOUND", "http://127.0.0.1:15001"))

PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>shop</title>
<h1>Shop</h1><form action="/order"><input name="item" value="apple"><input name="quantity" value="1"><button>Order</button></form></html>
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        try:
            if url.path == "/":
                self.answer(200, "text/html; charset=utf-8", PAGE)
            elif url.path == "/healthz":
                self.answer(200, "text/plain", b"ok\n")
            elif url.path == "/order":
                self.answer(*self.order(dict(urllib.parse.parse_qsl(url.query))))
            else:
                self.answer(404, "application/json", b'{"error": "no such page"}\n')
        except (OSError, http.client.HTTPException) as error:
            self.answer(502, "application/json", json.dumps({"error": str(error)}).encode() + b"\n")

    def do_POST(self):
        self.close_connection = True
        self.answer(405, "application/json", b'{"error": "GET only"}\n')

    def order(self, query):
        item = query.get("item", "")
        if not re.fullmatch(r"[a-z0-9-]{1,40}", item):
            return 400, "application/json", b'{"error": "item: a-z, 0-9 and - only"}\n'
        quantity = query.get("quantity", "1")
        placed = self.ask("POST", "/orders", item, {"item": item, "quantity": int(quantity) if quantity.isdigit() else None})
        if placed[0] != 201:
            return placed
        return self.ask("GET", f"/orders/{json.loads(placed[2])['id']}", item)

    def ask(self, method, path, key, value=None):
        """The sidecar is where we connect; the Host field says whom we want."""
        fields = {"Host": "orders", "flui-key": key}
        if "traceparent" in self.headers:
            fields["traceparent"] = self.headers["traceparent"]
        sidecar = http.client.HTTPConnection(OUTBOUND.hostname, OUTBOUND.port, timeout=30)
        try:
            sidecar.request(method, path, json.dumps(value).encode() if value else None, fields)
            response = sidecar.getresponse()
            return response.status, response.headers.get("content-type"), response.read()
        finally:
            sidecar.close()

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
print(f"web: http://{HOST}:{server.server_port} (twin)", file=sys.stderr, flush=True)
server.serve_forever()
