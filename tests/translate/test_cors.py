"""Which pages may call."""

import pytest

from flui.codecs.validate import validate
from flui.model.api import Cors
from flui.model.events import RequestHead
from flui.model.fields import classified
from flui.translate.cors import Pages

PAGE = b"https://page.example"
ASKS = (b"access-control-request-method", b"POST")


def head(method, *fields):
    made = RequestHead(1, method, b"https", b"stock", b"/t.T/Echo", b"", [classified(*field) for field in fields], 0)
    assert validate(made) is None
    return made


def said(lines):
    return {line.name: line.value for line in lines}


def test_a_page_of_a_configured_site_is_told_what_it_may_send():
    pages = Pages(Cors(("https://page.example",), 60.0))
    asked = head(b"OPTIONS", (b"origin", PAGE), ASKS, (b"access-control-request-headers", b"content-type, x-grpc-web"))
    told = said(pages.beforehand(asked))
    assert told[b"access-control-allow-origin"] == PAGE
    assert told[b"access-control-allow-headers"] == b"content-type, x-grpc-web"
    assert told[b"access-control-max-age"] == b"60"
    assert b"origin" in told[b"vary"]
    assert b"access-control-allow-credentials" not in told
    assert said(pages.shown(head(b"POST", (b"origin", PAGE)))) == {
        b"access-control-allow-origin": PAGE,
        b"access-control-expose-headers": b"*",
        b"vary": b"origin",
    }


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (b"OPTIONS", [(b"origin", b"https://other.example"), ASKS]),
        (b"OPTIONS", [(b"origin", PAGE)]),
        (b"OPTIONS", [ASKS]),
        (b"OPTIONS", [(b"origin", PAGE), (b"origin", PAGE), ASKS]),
        (b"OPTIONS", [(b"origin", PAGE.upper()), ASKS]),
        (b"POST", [(b"origin", PAGE), ASKS]),
        (b"OPTIONS", [(b"origin", PAGE), ASKS, (b"access-control-request-headers", b"x" * 5000)]),
        (b"OPTIONS", [(b"origin", PAGE), ASKS, (b"access-control-request-headers", b"x; y")]),
    ],
)
def test_everything_else_is_a_request_like_any(method, fields):
    assert Pages(Cors(("https://page.example",))).beforehand(head(method, *fields)) is None


def test_anyone_is_anyone_and_no_name_comes_back():
    pages = Pages(Cors(("*",)))
    assert said(pages.shown(head(b"POST", (b"origin", PAGE))))[b"access-control-allow-origin"] == b"*"
    assert pages.shown(head(b"POST")) is None
