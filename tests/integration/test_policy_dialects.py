"""Issue 6: "The same policy rule decides all four dialects, and the four are refused alike": a table, through a real sidecar."""

import json

import pytest

from support.library import Library
from support.mesh import Mesh, until
from support.spoken import FORMS, GETS, STREAMS, UNARY, framed, frames, request

RULES = """\
p, spiffe://shop/web, {name}, CALL, /lib.Library/*
p, spiffe://shop/banned, {name}, CALL, /lib.Library/*
p, spiffe://shop/banned, {name}, CALL, /lib.Library/GetBook, deny
p, spiffe://shop/banned, {name}, CALL, /lib.Library/CreateBook, deny
p, spiffe://shop/banned, {name}, CALL, /lib.Library/WatchBooks, deny
g, spiffe://shop/anna, role:clerk
p, role:clerk, {name}, CALL, /lib.Library/GetBook
p, role:clerk, {name}, CALL, /lib.Library/CreateBook
p, role:clerk, {name}, CALL, /lib.Library/WatchBooks
g, spiffe://shop/left, role:left
p, spiffe://shop/left, {name}, CALL, /lib.Library/*
p, role:left, {name}, CALL, /lib.Library/*, deny
p, spiffe://shop/webby, {name}, GET, /*
p, spiffe://shop/webby, {name}, POST, /*
p, spiffe://shop/any, {name}, *, /*
p, spiffe://shop/any, {name}, CALL, /lib.Library/Fail, deny
p, spiffe://shop/other, {name}, CALL, /lib.Library/ListBooks
"""
METHODS = {"GetBook": GETS, "CreateBook": UNARY, "WatchBooks": STREAMS}
LINE = {"GetBook": 0, "CreateBook": 1, "WatchBooks": 2}
# caller, whether it may, the line of the rule that says so (by method where there is one for each)
TABLE = [
    ("web", True, lambda method: "rules.csv:1"),
    ("banned", False, lambda method: f"rules.csv:{3 + LINE[method]}"),
    ("anna", True, lambda method: f"rules.csv:{7 + LINE[method]}"),
    ("left", False, lambda method: "rules.csv:12"),
    ("nobody", False, lambda method: "no rule"),
    ("webby", False, lambda method: "no rule"),  # rules on HTTP paths admit no call
    ("any", True, lambda method: "rules.csv:15"),
    ("other", False, lambda method: "no rule"),
]


@pytest.fixture
def library():
    with Library() as served:
        yield served


def messages(library):
    """What each method is asked, in any dialect."""
    from google.protobuf import message_factory

    made = {
        name: message_factory.GetMessageClass(library.pool.FindMessageTypeByName(f"lib.{name}"))
        for name in ("GetBookRequest", "CreateBookRequest", "ListBooksRequest")
    }
    return {
        "GetBook": made["GetBookRequest"](name="shelves/1/books/2"),
        "CreateBook": made["CreateBookRequest"](parent="shelves/1", id="7", book={"title": "N"}),
        "WatchBooks": made["ListBooksRequest"](parent="shelves/1", most=2),
        "Fail": library.messages["Book"](),
    }


async def beside(mesh, library, rules=RULES):
    side = await mesh.sidecar("library", app=f"h2c://{library.address}", rules=rules)
    await until(lambda: side.running.relay.snapshot.schema.methods, "the shape of the module")
    return side


async def logged(side, before):
    """The line of the exchange that followed."""
    await until(lambda: len(side.log()) > before, "a line")
    (line,) = side.log()[before:]
    return line


@pytest.mark.parametrize(("name", "may", "rule"), TABLE, ids=[row[0] for row in TABLE])
def test_one_rule_decides_every_dialect(tmp_path, library, name, may, rule):
    """Who may, may in each of them, and is served the same; who may not is refused in its own words, and the module never hears of it."""
    mesh = Mesh(tmp_path)

    async def story():
        side = await beside(mesh, library)
        asked = messages(library)
        for method, forms in METHODS.items():
            heard = []
            for said in forms:
                form = FORMS[said]
                calls = len(library.calls)
                before = len(side.log())
                answer = await mesh.call(side, form.octets(method, asked[method]), name)
                told = form.told(answer)
                line = await logged(side, before)
                case = (method, said, answer)
                assert (line["rule"], line.get("dialect", "grpc"), line["path"]) == (
                    rule(method),
                    form.dialect,
                    f"/lib.Library/{method}",
                ), case
                kind = (answer.get(b"content-type") or b"").decode()
                if may:
                    assert (told.code, answer.status, kind) == (0, 200, form.kind), case
                    assert line["grpc_status"] == "OK", case
                    assert len(told.messages) == (2 if method == "WatchBooks" else 1), case
                    ((called, heard_of),) = library.calls[calls:]
                    assert called == method
                    heard.append(heard_of)
                else:
                    assert (told.code, answer.status, kind) == (7, form.refused_status, form.refused_kind), case
                    assert line["grpc_status"] == "PERMISSION_DENIED", case
                    assert told.messages == [], case
                    assert b"rules.csv" not in answer.body, "the rule is the operator's to know"
                    assert len(library.calls) == calls, case
            assert all(each == heard[0] for each in heard), heard

    mesh.run(story())


def test_the_table_has_every_form_of_a_call():
    assert {form for forms in METHODS.values() for form in forms} == set(FORMS)


SLASHES = [
    "/lib.Library%2FFail",
    "/lib.Library/%2e/Fail",
    "/lib.Library//Fail",
    "/lib.Library/./Fail",
    "/lib.Library/Fail%00",
    "/lib.Library/Fail;x",
    "/x/../lib.Library/Fail",
    "/lib.Library/Fail%2525",
]
OTHERS = [
    "/LIB.LIBRARY/FAIL",
    "/lib.Library/fail",
    "/lib.Library/Fail/",
    "/lib.Library/Fail?x=1",
    "/lib.Library/Fail:x",
    "/lib.Library/GetBook/Fail",
    "/lib.Library/GetBook:Fail",
    "/lib.Library/Fail%20",
]
KINDS = [
    "application/grpc",
    "application/grpc-web",
    "application/grpc-web-text",
    "application/proto",
    "application/connect+proto",
    "application/connect+json",
    "application/json",
    "application/grpc-webx",
    "Application/Connect+Proto",
    "text/plain",
    "",
]
KNOWS = [True, False]


@pytest.mark.parametrize("knows", KNOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_spelling_of_a_path_reaches_a_method_that_is_denied(tmp_path, kind, knows):
    """`any` may do everything but one method: whatever stands for its path is that path, or no path of a method, to everybody.

    Also where nothing is known of the module, and so nobody can say what it would take for a call.
    """
    mesh = Mesh(tmp_path)
    octets = framed(b"")
    body = b"AAAAAAA=" if kind.endswith("-text") else framed(b"{}") if "+json" in kind else b"{}" if "json" in kind else octets

    async def story(library):
        if knows:
            side = await beside(mesh, library)
        else:
            side = await mesh.sidecar("library", app=f"h2c://{library.address}", rules=RULES)
        asked = 0
        for target in ["/lib.Library/Fail", "/lib.Library/%46ail", "/lib%2ELibrary/Fail", *SLASHES, *OTHERS]:
            for more in ("", "connect-protocol-version: 1\r\n", "x-bad-bin: !\r\n", "grpc-timeout: soon\r\n"):
                said = request("POST", target, body, kind, more) if kind else request("GET", target, more=more)
                await mesh.call(side, said, "any")
                asked += 1
        assert [each for each in library.calls if each[0] == "Fail"] == []
        await until(lambda: len(side.log()) == asked, "every line")
        lines = [line for line in side.log() if line["path"] == "/lib.Library/Fail"]
        assert len(lines) >= 8
        for line in lines:
            assert line["rule"] == "rules.csv:16" or line.get("fault") in {"malformed", "no_route"}, line

    with Library() if knows else Library(names=()) as library:
        mesh.run(story(library))


UNSOUND = [
    ("application/proto", b"", "x-bad-bin: !\r\n"),
    ("application/json", b"{}", "x-bad-bin: !\r\nconnect-protocol-version: 1\r\n"),
    ("application/json", b"{}", "x-bad-bin: !\r\n"),
    ("application/connect+proto", framed(b""), "x-bad-bin: !\r\n"),
    ("application/grpc-web", framed(b""), "x-bad-bin: !\r\n"),
    ("application/grpc-web", framed(b""), "grpc-timeout: soon\r\n"),
]


@pytest.mark.parametrize(("kind", "body", "more"), UNSOUND)
def test_a_call_whose_metadata_is_none_is_no_plain_request_either(tmp_path, library, kind, body, more):
    """Else a rule about POST would decide it, and a module that speaks the dialect itself would carry it out."""
    mesh = Mesh(tmp_path)

    async def story():
        side = await beside(mesh, library)
        for name, status in (("any", 403), ("web", 400), ("webby", 403)):
            before = len(side.log())
            answer = await mesh.call(side, request("POST", "/lib.Library/Fail", body, kind, more), name)
            line = await logged(side, before)
            assert "grpc_status" in line, line
            told = answer.status if answer.status != 200 else {b"7": 403, b"3": 400}.get(_status(kind, answer))
            assert told == status, (name, answer)
        assert library.calls == []

    mesh.run(story())


def _status(kind, answer):
    flag, said = frames(answer.body)[-1]
    if flag == 0x80:
        return said.partition(b"grpc-status: ")[2][:1]
    return {"permission_denied": b"7", "invalid_argument": b"3"}[json.loads(said)["error"]["code"]]


def test_nothing_that_a_caller_says_besides_makes_another_method_of_its_request(tmp_path, library):
    mesh = Mesh(tmp_path)
    forged = (
        "x-http-method-override: DELETE\r\nx-http-method: POST\r\nx-original-url: /lib.Library/Fail\r\nx-rewrite-url: /lib.Library/Fail\r\n"
        "grpc-status: 0\r\ngrpc-message: ok\r\ngrpc-timeout: 1n\r\ngrpc-encoding: gzip\r\ngrpc-previous-rpc-attempts: 3\r\n"
        "flui-principal: spiffe://shop/admin\r\nflui-roles: role:admin\r\n"
    )

    async def story():
        side = await beside(mesh, library)
        answer = await mesh.call(side, request("GET", "/v1/shelves/1/books/2", more=forged))
        assert answer.status == 200, answer.body
        assert library.calls == [("GetBook", {"name": "shelves/1/books/2"})]
        said = library.metadata
        assert not [name for name in said if name.startswith("grpc-") and name not in {"grpc-timeout", "grpc-accept-encoding"}], said
        assert said["flui-principal"] == "spiffe://shop/web"
        assert "flui-roles" not in said
        # names of resources in the body or the query: what the path says, stands
        answer = await mesh.call(side, request("PATCH", "/v1/shelves/1/books/2", b'{"name":"shelves/9/books/9"}', "application/json"))
        assert answer.status == 400
        answer = await mesh.call(side, request("GET", "/v1/shelves/1/books/2?name=shelves/9/books/9"))
        assert answer.status == 400
        answer = await mesh.call(side, request("POST", "/v1/shelves/1/books?parent=shelves/9&id=1", b"{}", "application/json"))
        assert answer.status == 400
        answer = await mesh.call(
            side, request("GET", "/lib.Library/GetBook?connect=v1&encoding=json&message=%7B%7D&message=%7B%22name%22%3A%22x%22%7D")
        )
        assert answer.status == 400
        # a GET changes nothing: only methods that say so are there for it
        answer = await mesh.call(side, request("GET", "/lib.Library/Fail?connect=v1&encoding=json&message=%7B%7D"))
        assert answer.status == 405
        assert len(library.calls) == 1
        # what policy is asked is the path of the method, whatever the caller wrote
        assert {line["path"] for line in side.log()} == {f"/lib.Library/{name}" for name in ("GetBook", "UpdateBook", "CreateBook", "Fail")}

    mesh.run(story())
