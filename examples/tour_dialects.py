"""The part of the tour in which one gRPC module is called in four dialects: REST, gRPC, gRPC-Web and Connect. Needs grpcio and protobuf.

What is not gRPC is said with the standard library alone, octet by octet where need be: nothing was generated for it.
"""

import contextlib
import json
import os
import re
import time

from tour import RUN, Answer, ask, flui, got, insist, once, plain, step
from tour_grpc import PATIENCE_S, Stock, outcome_of, shop

CALL = "/shop.Stock/Reserve"
ROUTE = "/v1/stock/plum:reserve"
DIALECTS = ("REST", "gRPC", "gRPC-Web", "Connect")


def as_rest(service):
    answer = once("web", service, "POST", ROUTE, {"quantity": 1})
    told = answer.json()
    return f"{answer.status} {answer.body.decode()}", told if answer.status == 200 else told["message"]


def as_grpc(service):
    with Stock("web", service) as stock:
        status, said, level = outcome_of(stock.reserve, shop.ReserveRequest(item="plum", quantity=1), PATIENCE_S)
    return f"{status} {said}", told_by(level) if level else said


def as_grpc_web(service):
    """Frames of a flag, a length and octets, as a browser sends them; the last frame has the trailers."""
    message = shop.ReserveRequest(item="plum", quantity=1).SerializeToString()
    answer = raw(service, CALL, b"\0" + len(message).to_bytes(4, "big") + message, "application/grpc-web+proto")
    frames, at = {}, 0
    while at < len(answer.body):
        end = at + 5 + int.from_bytes(answer.body[at + 1 : at + 5], "big")
        frames[answer.body[at]] = answer.body[at + 5 : end]
        at = end
    trailers = frames[0x80].decode().replace("\r\n", "  ").strip()
    level = shop.Level.FromString(frames[0]) if 0 in frames else None
    said = str(level).strip().replace("\n", "  ") if level else ""
    return f"{answer.status} {said}  [{trailers}]", told_by(level) if level else trailers


def as_connect(service):
    answer = once("web", service, "POST", CALL, {"item": "plum", "quantity": 1}, connect_protocol_version="1")
    told = answer.json()
    return f"{answer.status} {answer.body.decode()}", told if answer.status == 200 else told["message"]


ASKED = dict(zip(DIALECTS, (as_rest, as_grpc, as_grpc_web, as_connect), strict=True))


def told_by(level):
    return {"item": level.item, "left": str(level.left), "replica": level.replica, "principal": level.principal}


def raw(service, path, body, kind):
    with contextlib.closing(plain("web")) as connection:
        connection.request("POST", path, body, {"Host": service, "content-type": kind})
        return Answer(connection.getresponse())


def curl(service, path, *more):
    """The same by hand, through the sidecar of web."""
    return " ".join(
        [
            "curl",
            "-x",
            f"http://{os.environ['FLUI_WEB_OUTBOUND']}",
            *more,
            f"'http://{service}{path}'" if "?" in path else f"http://{service}{path}",
        ]
    )


def each(service):
    answers = {}
    for dialect, asked in ASKED.items():
        line, answers[dialect] = asked(service)
        got(f"{dialect:9} {line}")
    return answers


def spoken():
    step(13, "One method of a gRPC module, four dialects, one rule")
    ask(f"{CALL} at counter (Node, which speaks gRPC and nothing else)  as web")
    ask(curl("counter", ROUTE, """-d '{"quantity":1}'""", "-H 'content-type: application/json'"))
    answers = each("counter")
    levels = [int(answer["left"]) for answer in answers.values()]
    insist([levels[0] - left for left in levels] == [0, 1, 2, 3], "four answers of one shelf: each took one plum", levels)
    seen = {told["principal"] for told in answers.values()}
    insist(seen == {"spiffe://shop/counter"}, "the module was called in gRPC each time, and asked the warehouse itself", seen)
    ask("what the access log of the sidecar of counter says of them: the dialect, and the rule that let it in")
    found = [judged("counter", dialect) for dialect in ("rest", "grpc", "grpc-web", "connect")]
    for dialect, rule in zip(DIALECTS, found, strict=True):
        got(f"{dialect:9} {rule}")
    insist(len(set(found)) == 1 and found[0], "one rule, about the call: p, role:storefront, counter, CALL, /shop.Stock/*", found)
    words = ["explain", "POST", ROUTE, "--as", "spiffe://shop/web", "-c", str(RUN / "counter.yaml")]
    ask("flui " + " ".join(words))
    status, said = flui(*words)
    got(
        "\n".join(
            line for line in said.splitlines() if line.startswith(("rule", "dialect", "method", "REST", "var", "req", "ans", "schema"))
        )
    )
    insist(status == 0 and "item = plum" in said, "what a request means can be asked beforehand: the descriptor set is a file", said)


def judged(sidecar, dialect):
    """The rule that let the last call in that came so; a record that names no dialect is of a call in gRPC itself."""
    deadline, file = time.monotonic() + PATIENCE_S, RUN / f"{sidecar}-sidecar.access.log"
    while time.monotonic() < deadline:
        for line in reversed(file.read_text().splitlines()):
            record = json.loads(line)
            if (record["listener"], record["path"], record.get("dialect", "grpc")) == ("inbound", CALL, dialect):
                return record["rule"]
        time.sleep(0.02)
    return insist(False, f"a call in {dialect} is in {file}")


def refused():
    step(14, "The same four, without the rule: refused alike, each in its own words")
    ask(f"{CALL} at warehouse  as web, which is to ask the counter")
    answers = each("warehouse")
    insist(all("denied" in str(answer) for answer in answers.values()), "four refusals", answers)
    insist("role:" not in str(answers) and ".csv" not in str(answers), "none tells anything of the inside", answers)
    words = ["api", "--admin", os.environ["FLUI_WAREHOUSE_ADMIN"], "--via", os.environ["FLUI_COUNTER_OUTBOUND"]]
    ask("flui api warehouse  which its sidecar knows by server reflection (the counter may call, so the lines go through its sidecar)")
    status, said = flui(*words)
    got("\n".join(line[:150] for line in said.splitlines()[:9]))
    insist(status == 0 and "POST /v1/stock/{item}:reserve" in said, "methods, their REST routes, and a line of curl for each", said)


def streamed():
    step(15, "A server stream in lines and as events, and a body that does not fit")
    for accept, kind, data in (
        ("application/x-ndjson", "application/x-ndjson", b"{"),
        ("text/event-stream", "text/event-stream", b"data: {"),
    ):
        ask(curl("counter", "/v1/stock/plum:watch?most=2", "-N", f"-H 'accept: {accept}'"))
        with contextlib.closing(plain("web")) as connection:
            connection.request("GET", "/v1/stock/plum:watch?most=2", headers={"Host": "counter", "accept": accept})
            answer = connection.getresponse()
            first = answer.readline()
            insist(answer.headers["content-type"] == kind and first.startswith(data), f"{kind}: the level now", first)
            got(first.decode().rstrip())
            as_rest("counter")
            rest = answer.read()
        got(rest.decode().rstrip())
        left = [int(found) for found in re.findall(rb'"left":"(\d+)"', first + rest)]
        insist(len(left) == 2 and left[0] - left[1] == 1, "and another one as soon as somebody took a plum, then the end", left)
    ask(curl("counter", ROUTE, """-d '{"quantity":"two"}'""", "-H 'content-type: application/json'"))
    answer = once("web", "counter", "POST", ROUTE, {"quantity": "two"})
    got(answer)
    insist(answer.status == 400 and answer.json()["message"].startswith("quantity: "), "400, and which field it is", answer)


def main():
    spoken()
    refused()
    streamed()
