"""One policy rule decides a call in every dialect, and the refusals are alike: a table over an allow, a deny and a role."""

import json

import pytest

from support.library import Library
from support.mesh import Mesh, until

RULES = """p, spiffe://shop/web, {name}, CALL, /lib.Library/*
p, spiffe://shop/web, {name}, CALL, /lib.Library/CreateBook, deny
p, role:reader, {name}, CALL, /lib.Library/GetBook
g, spiffe://shop/friend, role:reader
"""
GET = ("/lib.Library/GetBook", {"name": "a"}, ("GET", "/v1/books/a", None))
CREATE = ("/lib.Library/CreateBook", {"parent": "shelves/1"}, ("POST", "/v1/shelves/1/books", {}))
TABLE = [
    pytest.param("web", GET, "rules.csv:1", True, id="allowed by a rule of its own"),
    pytest.param("web", CREATE, "rules.csv:2", False, id="denied by a rule, which wins"),
    pytest.param("friend", GET, "rules.csv:3", True, id="allowed by a role"),
    pytest.param("friend", CREATE, "no rule", False, id="not covered by its role"),
    pytest.param("other", GET, "no rule", False, id="without any rule"),
]


def post(path, kind, body, more=""):
    head = f"POST {path} HTTP/1.1\r\nhost: library\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def asked(call):
    """The same call in each dialect."""
    path, fields, (verb, target, body) = call
    (text,) = fields.values()  # the first field of either message
    message = b"\n" + bytes((len(text),)) + text.encode()
    framed = b"\0" + len(message).to_bytes(4, "big") + message
    rest = f"{verb} {target} HTTP/1.1\r\nhost: library\r\n\r\n".encode()
    return {
        "grpc": post(path, "application/grpc", framed, "te: trailers\r\n"),
        "grpc-web": post(path, "application/grpc-web+proto", framed),
        "connect": post(path, "application/json", json.dumps(fields).encode(), "connect-protocol-version: 1\r\n"),
        "rest": rest if body is None else post(target, "application/json", json.dumps(body).encode()),
    }


def status_in(dialect, answer):
    """The gRPC status that an answer says, and its HTTP status."""
    if dialect == "grpc":
        said = answer.get(b"grpc-status") or answer.trailers.partition(b"grpc-status: ")[2].partition(b"\r")[0]
    elif dialect == "grpc-web":
        said = answer.body.rpartition(b"grpc-status: ")[2].partition(b"\r")[0]
    elif answer.status == 200:
        said = b"0"
    else:
        told = json.loads(answer.body)["code"]
        said = str({"permission_denied": 7}.get(told, told)).encode()
    return int(said), answer.status


@pytest.mark.parametrize(("caller", "call", "rule", "allowed"), TABLE)
def test_one_rule_decides_every_dialect(tmp_path, caller, call, rule, allowed):
    mesh = Mesh(tmp_path)

    async def story(library):
        side = await mesh.sidecar("library", app=f"h2c://{library.address}", rules=RULES)
        await until(lambda: side.running.relay.snapshot.schema.methods, "the shape of the module")
        answers = {dialect: await mesh.call(side, octets, caller) for dialect, octets in asked(call).items()}
        said = {dialect: status_in(dialect, answer) for dialect, answer in answers.items()}
        http = 200 if allowed else 403
        grpc = 0 if allowed else 7
        assert said == {"grpc": (grpc, 200), "grpc-web": (grpc, 200), "connect": (grpc, http), "rest": (grpc, http)}
        assert [path for path, _ in library.calls] == ([call[0].rpartition("/")[2]] * 4 if allowed else [])
        assert not any(b"rules.csv" in answer.body or b"role:" in answer.body for answer in answers.values())
        log = side.folder / "access.log"
        await until(lambda: log.read_text().count("\n") == 4, "four lines")
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["rule"] for line in lines} == {rule}
        assert {line["path"] for line in lines} == {call[0]}
        assert [line.get("dialect", "grpc") for line in lines] == list(said)

    with Library() as library:
        mesh.run(story(library))
