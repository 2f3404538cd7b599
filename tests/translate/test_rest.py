"""Look-up of REST routes: what goes before what, and what a look-up costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.translate.rest import RestRoutes
from flui.translate.schema import FieldType, HttpRule, Kind, MessageType, Method, Schema

STRING = MessageType("t.Request")
STRING.seal(
    (FieldType("a", "a", 1, Kind.STRING), FieldType("b", "b", 2, Kind.STRING), FieldType("many", "many", 3, Kind.STRING, repeated=True))
)


def routes_of(*rules):
    """Routes of methods M0, M1 …, one for each rule `VERB PATH`."""
    methods = {}
    for at, rule in enumerate(rules):
        verb, path = rule.split(" ")
        method = Method("t.S", f"M{at}", STRING, STRING, rules=(HttpRule(verb, path),))
        methods[method.path] = method
    return RestRoutes(Schema(methods, {}, "1", "test"))


def found(routes, verb, path):
    bound = routes.match(verb.encode(), path.encode())
    return bound and f"{bound.rule.method} {bound.rule.path}"


ORDER = [
    # rules, as declared; request; which one
    (("GET /v1/{a}", "GET /v1/x"), "GET /v1/x", "GET /v1/x"),
    (("GET /v1/{a=**}", "GET /v1/{a}"), "GET /v1/x", "GET /v1/{a}"),
    (("GET /v1/{a=**}", "GET /v1/{a}"), "GET /v1/x/y", "GET /v1/{a=**}"),
    (("GET /v1/{a}", "GET /v1/{b}"), "GET /v1/x", "GET /v1/{a}"),
    (("GET /{a}/y/z", "GET /x/{a=**}"), "GET /x/y/z", "GET /x/{a=**}"),
    (("GET /x/y/w", "GET /{a}/y/z"), "GET /x/y/z", "GET /{a}/y/z"),
    (("GET /v1/{a=**}", "GET /v1"), "GET /v1", "GET /v1"),
    (("GET /v1/{a}", "GET /v1/{a}:go"), "GET /v1/x:go", "GET /v1/{a}:go"),
    (("GET /v1/{a}", "GET /v1/{a}:go"), "GET /v1/x:stop", "GET /v1/{a}"),
    (("GET /v1/{a}", "GET /v1/{a}:go"), "GET /v1/x%3Ago", "GET /v1/{a}"),
    (("GET /v1/{a}", "POST /v1/{a}:go"), "GET /v1/x:go", "GET /v1/{a}"),
    (("GET /v1/{a}", "POST /v1/x"), "GET /v1/x", "GET /v1/{a}"),
    (("* /v1/{a}", "GET /v1/{a}"), "GET /v1/x", "GET /v1/{a}"),
    (("* /v1/{a}", "GET /v1/{a}"), "REPORT /v1/x", "* /v1/{a}"),
    (("* /v1/x", "GET /v1/{a}"), "GET /v1/x", "* /v1/x"),
    (("GET /v1/{a}",), "HEAD /v1/x", None),
    (("HEAD /v1/{a}",), "HEAD /v1/x", "HEAD /v1/{a}"),
    (("GET /v1/x",), "GET /v1/x/", None),
    (("GET /v1/x",), "GET /v1/x:", None),
    (("GET /v1/{a}",), "GET /v1/", None),
    (("GET /",), "GET /", "GET /"),
    (("GET /a@b",), "GET /a%40b", "GET /a@b"),
    (("GET /{a=x/y}", "GET /{a}/{b}"), "GET /x/y", "GET /{a=x/y}"),
    (("GET /{a=**}",), "OPTIONS *", None),
    (("* /{a=**}",), "OPTIONS *", None),
]


@pytest.mark.parametrize(("rules", "request_", "which"), ORDER)
def test_what_is_said_more_exactly_goes_first(rules, request_, which):
    assert found(routes_of(*rules), *request_.split(" ")) == which


def test_every_method_is_served_by_its_own_path_annotated_or_not():
    bare = Method("t.S", "Bare", STRING, STRING)
    annotated = Method("t.S", "Get", STRING, STRING, rules=(HttpRule("GET", "/v1/{a}"),))
    routes = RestRoutes(Schema({bare.path: bare, annotated.path: annotated}, {}, "1", "test"))
    for method in (bare, annotated):
        bound = routes.match(b"POST", method.path)
        assert bound.method is method
        assert bound.rule.body == "*"
        assert routes.match(b"GET", method.path) is None
        assert routes.allowed(method.path) == (b"POST",)
    assert [way.annotated for way in routes.ways(annotated)] == [True, False]


def test_a_rule_on_the_own_path_of_a_method_goes_before_the_default():
    method = Method("t.S", "Get", STRING, STRING, rules=(HttpRule("POST", "/t.S/Get", "a"),))
    routes = RestRoutes(Schema({method.path: method}, {}, "1", "test"))
    assert routes.match(b"POST", b"/t.S/Get").rule.body == "a"


@pytest.mark.parametrize("path", ["/t.S/Get", "/{b=t.S}/Get"])
def test_a_rule_for_every_http_method_on_the_own_path_goes_before_the_default(path):
    method = Method("t.S", "Get", STRING, STRING, rules=(HttpRule("*", path, "a"),))
    other = Method("t.S", "Other", STRING, STRING)
    routes = RestRoutes(Schema({method.path: method, other.path: other}, {}, "1", "test"))
    assert routes.mistakes == ()
    for verb in (b"POST", b"GET", b"REPORT"):
        assert routes.match(verb, b"/t.S/Get").rule.body == "a", verb
    assert routes.match(b"POST", b"/t.S/Other").rule.body == "*", "the others keep theirs"
    assert [way.annotated for way in routes.ways(method)] == [True, False]


@pytest.mark.parametrize(("annotated", "own"), [("GET", "*"), ("DELETE", "*"), ("POST", "a")])
def test_a_rule_for_another_http_method_leaves_the_default_in_its_place(annotated, own):
    method = Method("t.S", "Get", STRING, STRING, rules=(HttpRule(annotated, "/t.S/Get", "a"),))
    routes = RestRoutes(Schema({method.path: method}, {}, "1", "test"))
    assert routes.match(b"POST", b"/t.S/Get").rule.body == own


def test_the_methods_that_a_path_has_are_told():
    routes = routes_of("GET /v1/{a}", "DELETE /v1/{a}", "PATCH /v1/x", "POST /v1/{a}:go", "PUT /{a=**}")
    assert routes.allowed(b"/v1/x") == (b"DELETE", b"GET", b"PATCH", b"PUT")
    assert routes.allowed(b"/v1/x:go") == (b"DELETE", b"GET", b"POST", b"PUT")
    assert routes.allowed(b"/v2") == (b"PUT",)
    assert routes_of("GET /v1/{a}").allowed(b"/v2") == ()
    assert routes_of("GET /{a=**}").allowed(b"*") == ()


MISTAKES = {
    "GET v1": "does not begin with a slash",
    "GET /{c}": "the variable 'c' names no field of t.Request",
    "GET /{a.b}": "the variable 'a.b' names no field",
    "GET /{many}": "a repeated field; a path holds one value",
    "GET /{a}/{a}": "stands twice",
    "G(T /{a}": "is no HTTP method",
}


@pytest.mark.parametrize("rule", MISTAKES)
def test_a_rule_that_cannot_be_served_is_told_and_the_others_are_served(rule):
    routes = routes_of(rule, "GET /v1/x")
    (mistake,) = routes.mistakes
    assert mistake.startswith(f"t.S.M0: {rule}: ")
    assert MISTAKES[rule] in mistake
    assert found(routes, "GET", "/v1/x") == "GET /v1/x"


def test_a_rule_that_is_never_reached_is_told():
    assert routes_of("GET /v1/{a}", "GET /v1/{b}").mistakes == ("t.S.M1: GET /v1/{b}: t.S.M0 has this path already; give it another",)


def test_bodies_and_answers_must_be_fields_at_the_top():
    for body, response_body, said in (
        ("c", "", "the body 'c'"),
        ("a.b", "", "the body 'a.b'"),
        ("", "c", "the response_body 'c'"),
        ("a", "", "both in"),
    ):
        method = Method("t.S", "M", STRING, STRING, rules=(HttpRule("POST", "/{a}", body, response_body),))
        (mistake,) = RestRoutes(Schema({method.path: method}, {}, "1", "test")).mistakes
        assert said in mistake


def test_a_message_is_no_variable():
    inner = MessageType("google.protobuf.Timestamp")
    outer = MessageType("t.Outer")
    outer.seal((FieldType("when", "when", 1, Kind.MESSAGE, message=inner),))
    method = Method("t.S", "M", outer, outer, rules=(HttpRule("GET", "/{when}"),))
    (mistake,) = RestRoutes(Schema({method.path: method}, {}, "1", "test")).mistakes
    assert mistake.endswith("the variable 'when' is a message; name one of its fields")


WILD = routes_of(
    *(f"GET /{'/'.join('a' if at >> bit & 1 else '*' for bit in range(6))}/{'{a=**}' if at % 3 else 'b'}" for at in range(64)),
    "POST /{a}:b",
)


@given(st.text("/ab:%2*.", max_size=40).map(lambda text: b"/" + text.encode()), st.sampled_from([b"GET", b"POST", b"", b"*"]))
def test_any_path_is_found_or_not_and_never_an_error(path, verb):
    bound = WILD.match(verb, path)
    allowed = WILD.allowed(path)
    assert (bound is not None) == (verb in allowed)
    if bound is not None:
        assert bound.captures == bound.way.template.match(path)


def test_a_look_up_visits_each_place_of_the_tree_at_most_once(monkeypatch):
    """Threat C14: every choice of `a` or `*` at every segment, and a path that fits all of them but for its end."""
    import flui
    from flui.translate import rest

    if flui.compiled():
        pytest.skip("visits can be counted in the pure form only")
    visits = []
    find = rest._find
    monkeypatch.setattr(rest, "_find", lambda node, *more: visits.append(id(node)) or find(node, *more))
    for path in (b"/a" * 7, b"/a" * 5000, b"/a:b" * 5000):
        visits.clear()
        WILD.match(b"PUT", path)
        assert len(visits) <= 2 * len(set(visits)), "once with the verb cut, once without"
        assert len(set(visits)) < 300


def test_a_thousand_routes_are_one_tree():
    routes = routes_of(*(f"GET /v1/kind{at}/{{a}}/parts/{{b}}" for at in range(1000)))
    for at in (0, 500, 999):
        bound = routes.match(b"GET", f"/v1/kind{at}/x/parts/y".encode())
        assert (bound.method.name, bound.captures) == (f"M{at}", (b"x", b"y"))
