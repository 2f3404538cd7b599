"""The request validator (threats B3, B5, D1-D4, E1-E3; RFC 3986, RFC 9110)."""

import urllib.parse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flui.codecs.http1.lines import parse_field
from flui.codecs.validate import canonical_authority, canonical_path, connection_options, validate
from flui.model.events import RequestHead
from flui.model.fault import Fault
from flui.model.fields import OURS, kind_of
from support.rig import TRACE


def asked(*lines, method=b"GET", path=b"/", query=b"", authority=b"a"):
    """A head as a codec makes it, and what the validator says of it."""
    head = RequestHead(1, method, b"http", authority, path, query, [parse_field(line) for line in lines], 0)
    return head, validate(head)


def kept(*lines):
    """Names that are forwarded, with their values."""
    head, fault = asked(*lines)
    assert fault is None
    return [(f.name, f.value) for f in head.fields]


# The path: D1, B3.


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        (b"/", b"/"),
        (b"/a/b/", b"/a/b/"),
        (b"/A/b", b"/A/b"),
        (b"/a%62c", b"/abc"),
        (b"/%7Euser", b"/~user"),
        (b"/a%2db", b"/a-b"),
        (b"/caf%c3%a9", b"/caf%C3%A9"),
        (b"/a%20b", b"/a%20b"),
        (b"/a%3fb%23c", b"/a%3Fb%23c"),
        (b"/100%25", b"/100%25"),
        (b"/100%25z", b"/100%25z"),
        (b"/...", b"/..."),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/a.b/..c", b"/a.b/..c"),
        (b"/a:b@c!$&'()*+,=", b"/a:b@c!$&'()*+,="),
        (b"/a%3bb", b"/a%3Bb"),
        (b"/%41%42", b"/AB"),
    ],
)
def test_a_path_has_one_form(raw, canonical):
    """RFC 3986 6.2.2: unreserved octets decoded, escapes in upper case; nothing else changes."""
    head, fault = asked(path=raw)
    assert fault is None
    assert head.path == canonical
    assert canonical_path(canonical) == canonical


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"a",
        b"a/b",
        b"shop.Stock/Reserve",  # B3: no leading slash
        b"//",
        b"//a",
        b"/a//b",
        b"/a//",
        b"/.",
        b"/..",
        b"/./a",
        b"/a/.",
        b"/a/..",
        b"/a/../b",
        b"/a/%2e",
        b"/a/%2E%2e/b",
        b"/a/.%2e/b",
        b"/%2e",
        b"/a%2fb",
        b"/a%2Fb",
        b"/a%5cb",
        b"/a%5C..%5Cb",
        b"/a\\b",
        b"/a%00",
        b"/%00",
        b"/a%0d%0ab",
        b"/a%0a",
        b"/a%09b",
        b"/a%1fb",
        b"/a%7fb",
        b"/a;b",
        b"/..;/a",
        b"/a/;/b",
        b"/a;jsessionid=1",
        b"/%252e%252e/a",
        b"/%252f",
        b"/%25%32%66",
        b"/%2525",
        b"/a%2",
        b"/a%",
        b"/a%zz",
        b"/a%+1",
        b"/a% 1",
        b"/a b",
        b"/a\tb",
        b"/a\x00",
        b"/a\x7f",
        b"/\xc3\xa9",
        b"/a#b",
        b"/a?b",
        b'/a"b',
        b"/a<b",
        b"/a^b",
        b"/a`b",
        b"/a{b}",
        b"/a|b",
        b"/[a]",
    ],
)
def test_a_path_that_could_be_read_in_two_ways_is_refused(raw):
    """threats D1, strict profile."""
    assert asked(path=raw)[1] is Fault.MALFORMED


def test_a_star_goes_with_options_alone():
    head, fault = asked(method=b"OPTIONS", path=b"*")
    assert fault is None
    assert head.path == b"*"
    assert asked(method=b"GET", path=b"*")[1] is Fault.MALFORMED
    assert asked(method=b"OPTIONS", path=b"*", query=b"?x")[1] is Fault.MALFORMED


def test_the_memo_of_one_method_is_not_that_of_another():
    """A path remembered for OPTIONS must not be let through for GET."""
    assert asked(method=b"OPTIONS", path=b"*")[1] is None
    assert asked(method=b"GET", path=b"*")[1] is Fault.MALFORMED
    assert asked(method=b"DELETE", path=b"*")[1] is Fault.MALFORMED


def reads(path):
    """How servers read a path: raw, decoded once and twice; dot segments out, `\\` as `/`, `//` as `/`, no parameters."""
    once = urllib.parse.unquote_to_bytes(path)
    for form in (path, once, urllib.parse.unquote_to_bytes(once)):
        out: list[bytes] = []
        for part in form.replace(b"\\", b"/").split(b"/"):
            segment = part.partition(b";")[0]
            if segment == b"..":
                out[-1:] = []
            elif segment not in {b"", b"."}:
                out.append(segment)
        yield out


@given(
    st.lists(
        st.sampled_from(
            [b"/", b"a", b"admin", b".", b"..", b"%2e", b"%2f", b"%252e", b"%25", b"2e", b";", b"\\", b"%5c", b"%00", b"//", b"?"]
        ),
        max_size=8,
    )
)
@example([b"%25", b"2e"])
def test_every_reading_of_an_accepted_path_has_the_same_segments(parts):
    """threats D1: whoever decodes, normalises or splits behind us finds what was authorised."""
    path = canonical_path(b"/" + b"".join(parts))
    if path is None:
        return
    first, *others = reads(path)
    assert [len(form) for form in others] == [len(first)] * len(others)
    assert canonical_path(path) == path
    assert path.startswith(b"/")


@given(st.binary(max_size=30))
def test_a_canonical_path_stays_canonical(raw):
    path = canonical_path(b"/" + raw)
    if path is not None:
        assert canonical_path(path) == path
        assert all(0x21 <= octet < 0x7F for octet in path)
        assert urllib.parse.unquote_to_bytes(path) == urllib.parse.unquote_to_bytes(b"/" + raw)


@pytest.mark.parametrize(
    ("query", "fault"),
    [(b"?", None), (b"?a=b&c;d/../%2f//", None), (b"?a b", Fault.MALFORMED), (b"?\x00", Fault.MALFORMED), (b"?\xe9", Fault.MALFORMED)],
)
def test_a_query_is_visible_ascii_and_left_alone(query, fault):
    head, found = asked(query=query)
    assert found is fault
    assert head.query == query


# The authority: A7, B2.


@pytest.mark.parametrize(
    ("raw", "authority", "host"),
    [
        (b"Orders", b"orders", b"orders"),
        (b"orders.flui:80", b"orders.flui:80", b"orders.flui"),
        (b"127.0.0.1:65535", b"127.0.0.1:65535", b"127.0.0.1"),
        (b"[::1]", b"[::1]", b"[::1]"),
        (b"[2001:DB8::1]:443", b"[2001:db8::1]:443", b"[2001:db8::1]"),
        (b"a_b", b"a_b", b"a_b"),
    ],
)
def test_an_authority_has_one_form(raw, authority, host):
    head, fault = asked(authority=raw)
    assert fault is None
    assert (head.authority, head.host) == (authority, host)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b":80",
        b"a:",
        b"a:b",
        b"a:99999",
        b"a:080808",
        b"a:-1",
        b"a:+1",
        b"a:80:80",
        b"u@h",
        b"u:p@h",
        b"a/b",
        b"a?b",
        b"a#b",
        b"a b",
        b"a,b",
        b"a%2fb",
        b"a\\b",
        b"a\x00",
        b"a\xa0",
        b"\xe9",
        b"[::1",
        b"[]",
        b"[::1]x",
        b"[::1]:",
        b"[::g]",
        b"::1",
        b"a" * 254,
        b"*",
        b"a;b",
    ],
)
def test_an_authority_that_is_not_host_and_port_is_refused(raw):
    """threats B2, A6, A7."""
    assert canonical_authority(raw) is None
    assert asked(authority=raw)[1] is Fault.MALFORMED


@given(st.binary(max_size=20))
def test_a_canonical_authority_stays_canonical(raw):
    pair = canonical_authority(raw)
    if pair is not None:
        assert canonical_authority(pair[0]) == pair
        assert pair[0].startswith(pair[1])


# The method: D4, A6.


def test_connect_is_refused():
    """threats A6: no octet goes anywhere."""
    assert asked(method=b"CONNECT", path=b"", authority=b"a:443")[1] is Fault.METHOD_REFUSED


def test_the_method_is_the_one_on_the_wire():
    """threats D4: lower case is another method; override fields never arrive."""
    head, fault = asked(b"X-HTTP-Method-Override: DELETE", b"x-http-method: PUT", b"X_Method_Override: PATCH", method=b"get")
    assert fault is None
    assert head.method == b"get"
    assert head.fields == []


# Fields: E1, E2, E3, B5.


@pytest.mark.parametrize(
    "name",
    [
        b"Flui-Principal",
        b"flui-roles",
        b"FLUI_PRINCIPAL",
        b"flui.principal",
        b"Flui_Roles",
        b"flui-",
        b"flui-anything~else",
        b"X-Forwarded-For",
        b"x-forwarded-client-cert",
        b"X_Forwarded_Client_Cert",
        b"x.forwarded.for",
        b"Forwarded",
        b"X-Real-IP",
        b"x_real_ip",
        b"x-envoy-original-path",
        b"X_Envoy_Peer",
        b"True-Client-IP",
        b"x-client-ip",
        b"X-Cluster-Client-IP",
        b"Connection",
        b"Keep-Alive",
        b"Proxy-Connection",
        b"Proxy-Authorization",
        b"Proxy-Authenticate",
        b"TE",
        b"Trailer",
        b"Upgrade",
        b"HTTP2-Settings",
        b"Content_Length",
        b"Transfer.Encoding",
        b"X-HTTP-Method-Override",
    ],
)
def test_what_only_a_sidecar_may_say_and_what_ends_at_this_hop_is_not_forwarded(name):
    """threats E1, E3, B7; RFC 9110 7.6.1."""
    assert kept(b"a: 1", name + b": x", b"b: 2") == [(b"a", b"1"), (b"b", b"2")]


def test_the_forwarded_fields_of_a_caller_are_kept_apart():
    """Only an allow-listed hop may say them; the splice decides, the validator sorts."""
    head, fault = asked(b"X-Forwarded-For: 1.2.3.4", b"a: b", b"Forwarded: for=x")
    assert fault is None
    assert [f.name for f in head.forwarded] == [b"x-forwarded-for", b"forwarded"]
    assert [f.name for f in head.fields] == [b"a"]


@given(st.sampled_from([b"flui-principal", b"flui-roles", b"x-forwarded-for", b"content-length", b"x-http-method"]), st.data())
def test_every_name_that_folds_to_one_of_ours_is_ours(name, draw):
    """threats E3: `_`, `.`, `-` and case."""
    folded = bytes(draw.draw(st.sampled_from(b"-_.")) if octet == ord("-") else octet for octet in name)
    if folded != name:
        assert kind_of(folded) == OURS


def test_connection_options_take_fields_out():
    """RFC 9110 7.6.1."""
    assert kept(b"Connection: X-Secret , keep-alive,, close", b"X-Secret: 1", b"x-other: 2", b"X-SECRET: 3") == [(b"x-other", b"2")]
    assert kept(b"x-secret: 1", b"connection: a", b"connection: x-secret") == []


@pytest.mark.parametrize(
    "name",
    [
        b"flui-principal",
        b"Flui_Principal",
        b"authorization",
        b"content-length",
        b"Content-Type",
        b"host",
        b"transfer-encoding",
        b"traceparent",
        b"flui-key",
        b"flui-deadline",
        b"x-forwarded-for",
        b"X_Forwarded_For",
        b"forwarded",
        b"x-real-ip",
    ],
)
def test_a_connection_option_that_names_a_protected_field_is_refused(name):
    """threats E2: `Connection: close, X-Identity`."""
    assert asked(b"Connection: close, " + name)[1] is Fault.MALFORMED
    assert connection_options(name) is None


@pytest.mark.parametrize("line", [b"authorization: a", b"content-type: a", b"flui-key: a", b"flui-deadline: 5", b"traceparent: " + TRACE])
def test_a_singleton_twice_is_refused(line):
    """threats B5: the second value could be the one somebody behind us reads."""
    assert asked(line)[1] is None
    assert asked(line, b"a: b", line)[1] is Fault.MALFORMED


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (b"100-continue", None),
        (b"100-Continue", None),
        (b"", Fault.MALFORMED),
        (b"200-ok", Fault.MALFORMED),
        (b"y 100-continue", Fault.MALFORMED),
        (b"100-continue, 100-continue", Fault.MALFORMED),
        (b"100-continue;q=1", Fault.MALFORMED),
    ],
)
def test_100_continue_is_the_only_expectation(value, fault):
    """RFC 9110 10.1.1; an obfuscated one is answered by some with 100 and by others not (Expect desync)."""
    assert asked(b"Expect: " + value)[1] is fault


def test_a_repeated_field_stays_a_list():
    """threats B5: policy and routes see every value, none is joined or lost."""
    assert kept(b"x-role: user", b"x-role: admin", b"X-Role: user") == [(b"x-role", b"user"), (b"x-role", b"admin"), (b"x-role", b"user")]


def test_what_decisions_need_is_picked_up():
    head, fault = asked(b"traceparent: " + TRACE, b"flui-key: k1", b"flui-deadline: 1500", authority=b"Orders:80")
    assert fault is None
    assert (head.trace, head.key, head.deadline, head.host, head.forwarded) == (TRACE, b"k1", 1500, b"orders", None)
    assert b"flui-deadline" not in [f.name for f in head.fields]
    head, _ = asked()
    assert (head.trace, head.key, head.deadline) == (b"", b"", -1)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-00",
        b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-00",
        TRACE.upper(),
        TRACE[:-1],
        TRACE + b"0",
        b"01" + TRACE[2:],
        TRACE.replace(b"-", b"_"),
        TRACE[:-1] + b"-",
    ],
)
def test_a_traceparent_of_any_other_form_is_replaced_and_not_forwarded(value):
    """W3C Trace Context 3.2.2."""
    head, fault = asked(b"traceparent: " + value)
    assert fault is None
    assert head.trace == b""
    assert head.fields == []


@pytest.mark.parametrize(("value", "deadline"), [(b"0", 0), (b"007", 7), (b"999999999", 24 * 3600 * 1000)])
def test_a_deadline_is_milliseconds_and_bounded(value, deadline):
    assert asked(b"flui-deadline: " + value)[0].deadline == deadline


@pytest.mark.parametrize("value", [b"", b"-1", b"+1", b"1.5", b"1e3", b"1" * 10, b"1m", b"\xb2"])
def test_a_deadline_of_any_other_form_is_refused(value):
    assert asked(b"flui-deadline: " + value)[1] is Fault.MALFORMED


@pytest.mark.parametrize(("value", "protocol"), [(b"websocket", b"websocket"), (b"WebSocket", b"websocket"), (b"h2c", b""), (b"foo", b"")])
def test_an_upgrade_is_told_and_never_forwarded(value, protocol):
    """threats B7."""
    head, fault = asked(b"Upgrade: " + value, b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAAP__")
    assert fault is None
    assert head.protocol == protocol
    assert head.fields == []
