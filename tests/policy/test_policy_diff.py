"""What a change of policy would change."""

from __future__ import annotations

import pytest

from flui.model.config import ConfigError
from flui.policy.base import Request, Rule, Text
from flui.policy.diff import diff, read_requests
from flui.policy.index import Index

OLD = Index((Rule("a.csv", 1, "spiffe://shop/web", "orders", "GET", "/orders/*"),), (), "old")
NEW = Index((Rule("a.csv", 1, "spiffe://shop/web", "orders", "*", "/orders/:id"),), (), "new")


def ask(action: str, obj: str) -> Request:
    return Request("spiffe://shop/web", "orders", action, obj)


def test_only_changed_decisions_are_told_once():
    asked = [ask("GET", "/orders/7"), ask("PUT", "/orders/7"), ask("GET", "/orders/7/lines"), ask("PUT", "/orders/7")]
    assert [str(change) for change in diff(OLD, NEW, asked)] == [
        "+ spiffe://shop/web PUT /orders/7 on orders: now allowed by a.csv:1, was denied by no rule",
        "- spiffe://shop/web GET /orders/7/lines on orders: now denied by no rule, was allowed by a.csv:1",
    ]
    assert diff(OLD, OLD, asked) == ()


def test_requests_are_listed_or_recorded():
    text = (
        '{"as": "spiffe://shop/web", "service": "orders", "action": "GET", "object": "/orders/7"}\n\n'
        '{"principal": "spiffe://shop/web", "service": "orders", "method": "PUT", "path": "/orders/7?full=1", "status": 200}\n'
    )
    assert read_requests(Text("access.log", text)) == (ask("GET", "/orders/7"), ask("PUT", "/orders/7"))


def test_every_line_that_is_no_request_is_told():
    text = '{\n[]\n{"as": "x"}\n{"as": 7, "service": "s", "action": "GET", "object": "/"}\n'
    with pytest.raises(ConfigError) as raised:
        read_requests(Text("r.jsonl", text))
    said = [str(problem) for problem in raised.value.problems]
    assert said[0].startswith("r.jsonl:1: is no JSON")
    assert said[1].startswith("r.jsonl:2: is no JSON object")
    assert said[2].startswith("r.jsonl:3: has no service, action, object")
    assert said[3].startswith("r.jsonl:4: has no as")


def test_a_call_in_the_access_log_is_a_call():
    line = '{"principal":"spiffe://shop/web","service":"stock","method":"POST","path":"/shop.Stock/Get","grpc_status":"OK"}'
    assert read_requests(Text("access.log", line))[0][2:] == ("CALL", "/shop.Stock/Get")
