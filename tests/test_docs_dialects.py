"""The tables of docs/dialects.md are the code's: each is made here and compared. `python tests/test_docs_dialects.py` writes them anew."""

import ast
import re
import sys
from pathlib import Path

import pytest

from flui.codecs.validate import validate
from flui.model.config import Limits
from flui.model.events import UNKNOWN, RequestHead
from flui.model.fault import DIALECTS, Fault
from flui.model.fields import classified
from flui.model.grpc import STATUSES, Status, http_of, status_of_http
from flui.model.units import KIB, MIB
from flui.runtime import apifile
from flui.translate import coding, limits, rest_in, rest_out
from flui.translate.dialects import Dialects
from flui.translate.grpc_rest import _OF_HTTP, status_of_rest
from flui.translate.status import CONNECT_CODES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "dialects.md"
BLOCK = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end -->", re.DOTALL)


def table(*rows):
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def code(value):
    return f"`{value}`"


def statuses():
    """The HTTP status is google.rpc's and Connect's: they are the same numbers."""
    rows = [
        (f"{status.value} {code(status.name)}", code(CONNECT_CODES[status.value]) if status else "none", str(http_of(status)))
        for status in STATUSES
    ]
    return table(("gRPC status, and `code` of a `google.rpc.Status`", "Connect code", "HTTP status (REST; Connect, one message)"), *rows)


def unsaid():
    """What an answer means that says no status of gRPC."""
    known = {http: status_of_http(http) for http in range(200, 600)}
    rows = [
        (code(status.name), ", ".join(str(http) for http, meant in known.items() if meant is status))
        for status in STATUSES
        if status is not Status.UNKNOWN and status in known.values()
    ]
    return table(("taken for", "HTTP status of the module's answer"), *rows, (code("UNKNOWN"), "every other one, 200 as well"))


def rest():
    """What a REST module's status means, where its body is no `google.rpc.Status`."""
    known = {http: status_of_rest(http) for http in range(300, 600)}
    usual = {Status.UNKNOWN: "3xx", Status.FAILED_PRECONDITION: "other 4xx", Status.INTERNAL: "other 5xx"}
    rows = []
    for status in STATUSES:
        said = [str(http) for http, meant in known.items() if meant is status]
        if said:
            rows.append(
                (
                    code(status.name),
                    ", ".join([each for each in said if int(each) in _OF_HTTP] + ([usual[status]] if status in usual else [])),
                )
            )
    return table(("taken for", "HTTP status of a REST module's answer"), *rows)


def faults():
    rows = []
    for fault in Fault:
        said = DIALECTS[fault]
        status = STATUSES[said.grpc]
        after = f", retry after {said.retry_after_s} s" if said.retry_after_s else ""
        rows.append(
            (code(fault.value), f"{said.http}{after}", code(status.name), f"{code(CONNECT_CODES[status.value])}, {http_of(status)}")
        )
    return table(("fault", "REST", "gRPC, gRPC-Web", "Connect"), *rows)


def bounds():
    return table(
        ("what", "bound", "past it"),
        (
            "octets of one message, in either form",
            f"`limits.grpc_message`, {Limits().grpc_message_octets // MIB} MiB",
            "413, RESOURCE_EXHAUSTED",
        ),
        ("objects, lists and messages within one another", str(limits.MAX_DEPTH), "400"),
        ("groups of proto2 within one another, where the schema has them", str(limits.MAX_GROUPS), "400"),
        ("values of a JSON text, read or written", f"{limits.MAX_NODES:,}", "400"),
        (
            "what a compressed message expands to",
            f"{coding._RATIO} times its length ({coding._SMALL // KIB} KiB whatever that is), the bound of a message, and {coding._MOST // MIB} MiB",
            "400",
        ),
        ("parameters of a query", f"{rest_in.MAX_PARAMETERS:,}", "400"),
        ("names in one parameter (`a.b.c` is three)", str(rest_in.MAX_DEPTH), "400"),
        ("octets of path and query that a REST module is sent", f"{rest_out.MAX_TARGET:,}", "INVALID_ARGUMENT"),
        (
            "octets of translated messages that wait for a side",
            f"the larger of `limits.window` and `limits.stream_window`, {max(Limits().window_octets, Limits().stream_window_octets) // KIB} KiB",
            "the other side is not read",
        ),
    )


def differences():
    """Those of tests/translate/test_json_in.py, where each is held against the library."""
    tree = ast.parse((ROOT / "tests" / "translate" / "test_json_in.py").read_text("utf-8"))
    node = next(each.value for each in tree.body if isinstance(each, ast.Assign) and getattr(each.targets[0], "id", "") == "DIFFERENT")
    rows, before = [], ""
    for text, taken, why in ast.literal_eval(node):
        before = before if why == "the same" else why
        if "both refuse" not in before:
            rows.append((code(text), "takes it" if taken else "refuses it", "refuse it" if taken else "take it", before))
    return table(("text", "`json_format`", "we", "because"), *rows)


TABLES = {"statuses": statuses, "unsaid": unsaid, "rest": rest, "faults": faults, "bounds": bounds, "differences": differences}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_page_is_what_the_code_does(name):
    found = dict(BLOCK.findall(PAGE.read_text("utf-8")))
    assert found.keys() == TABLES.keys()
    assert found[name] == TABLES[name]()


def asked():
    """The rows of the table that says how a dialect is recognised: what is asked, and what it is said to be."""
    text = PAGE.read_text("utf-8")
    part = text[text.index("<!-- asked -->") : text.index("<!-- asked end -->")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| `")]
    return [(request.strip("`"), fields.strip("`"), said.strip("`")) for request, fields, said, *_ in rows]


@pytest.mark.parametrize(("request_", "fields", "said"), asked() if PAGE.exists() else [])
def test_a_request_is_taken_for_what_the_page_says(request_, fields, said):
    shop = Dialects(apifile.read(str(ROOT / "examples" / "proto" / "shop.binpb")), Limits(), 1, grpc=True)
    method, target = request_.split(" ")
    path, _, query = target.partition("?")
    lines = [classified(*(part.strip().encode() for part in line.split(":", 1))) for line in fields.split("; ") if line]
    head = RequestHead(1, method.encode(), b"http", b"counter", path.encode(), f"?{query}".encode() if query else b"", lines, UNKNOWN)
    assert validate(head) is None
    mapped = None if head.grpc else shop.call(head)
    assert ("grpc" if head.grpc else mapped.dialect.label if mapped is not None else "http") == said


def test_the_table_of_requests_names_every_dialect():
    assert {said for _, _, said in asked()} == {"grpc", "grpc-web", "grpc-web-text", "connect", "connect-stream", "rest", "http"}


if __name__ == "__main__":
    PAGE.write_text(
        BLOCK.sub(lambda found: f"<!-- table: {found[1]} -->\n{TABLES[found[1]]()}<!-- end -->", PAGE.read_text("utf-8")), "utf-8"
    )
    sys.stdout.write(f"{PAGE}\n")
