"""The route table: order, conditions, implicit routes, and that the index never changes the answer."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from flui.model.topology import Cluster, HeaderMatch, Match, Route, Target
from flui.routing.pattern import Pattern
from flui.routing.table import Table

CLUSTERS = {"orders": Cluster("orders", ()), "stock": Cluster("stock", ()), "app": Cluster("app", (), local=True)}


def route(name: str, to: str = "orders", **match: object) -> Route:
    return Route(name, Match(**match), (Target(to),))  # type: ignore[arg-type]  # keyword arguments of Match, by name


def name_of(table: Table, method: str, host: str, path: str, values: Mapping[bytes, tuple[bytes, ...]] | None = None) -> str | None:
    found = table.match("spiffe://shop/web", method.encode(), host, path.encode(), {} if values is None else values)
    return found.name if found else None


def test_the_first_route_that_matches_wins() -> None:
    table = Table((route("one", path="/items/*"), route("two", path="/items/1"), route("three")), CLUSTERS)
    assert name_of(table, "GET", "x", "/items/1") == "one"
    assert name_of(table, "GET", "x", "/other") == "three"


def test_a_route_for_any_host_that_comes_first_beats_one_for_this_host() -> None:
    table = Table((route("any", path="/a/*"), route("mine", hosts=("orders",)), route("late")), CLUSTERS)
    assert name_of(table, "GET", "orders", "/a/1") == "any"
    assert name_of(table, "GET", "orders", "/b") == "mine"
    assert name_of(table, "GET", "stock", "/b") == "late"


def test_a_service_name_is_a_route_after_the_explicit_ones() -> None:
    table = Table((route("canary", to="stock", hosts=("orders",), path="/new/*"),), CLUSTERS)
    assert name_of(table, "GET", "orders", "/new/1") == "canary"
    for host in ("orders", "orders.flui"):
        found = table.match("", b"GET", host, b"/", {})
        assert found is not None
        assert (found.name, found.to) == ("orders", (Target("orders"),))
    assert name_of(table, "GET", "orders.flui.flui", "/") is None
    assert name_of(table, "GET", "ordersxflui", "/") is None
    assert name_of(table, "GET", "", "/") is None


def test_the_module_beside_us_is_no_service_to_call() -> None:
    assert name_of(Table((), CLUSTERS), "GET", "app", "/") is None


def test_methods_are_case_sensitive_and_head_is_not_get() -> None:
    """RFC 9110 9.1; threats D4."""
    table = Table((route("read", methods=("GET",)),), {})
    assert name_of(table, "GET", "x", "/") == "read"
    assert name_of(table, "get", "x", "/") is None
    assert name_of(table, "HEAD", "x", "/") is None


def test_a_header_condition_holds_only_if_every_value_equals_it() -> None:
    """Threats B5: `x-role: user` beside `x-role: admin`."""
    table = Table((route("admin", headers=(HeaderMatch(b"x-role", b"admin"),)),), {})
    assert name_of(table, "GET", "x", "/", {b"x-role": (b"admin",)}) == "admin"
    assert name_of(table, "GET", "x", "/", {b"x-role": (b"admin", b"admin")}) == "admin"
    for values in ((b"user", b"admin"), (b"admin", b"user"), (b"admin,admin",), (b"Admin",), ()):
        assert name_of(table, "GET", "x", "/", {b"x-role": values}) is None
    assert name_of(table, "GET", "x", "/") is None


def test_a_header_may_only_have_to_be_there() -> None:
    table = Table((route("debug", headers=(HeaderMatch(b"x-debug"),)),), {})
    assert name_of(table, "GET", "x", "/", {b"x-debug": (b"1", b"2")}) == "debug"
    assert name_of(table, "GET", "x", "/", {b"x-debug": ()}) is None


def test_reads_names_exactly_the_headers_that_routes_ask_about() -> None:
    table = Table((route("a", headers=(HeaderMatch(b"x-b"), HeaderMatch(b"x-a", b"1"))), route("b", headers=(HeaderMatch(b"x-a"),))), {})
    assert table.reads == (b"x-a", b"x-b")
    assert Table((), CLUSTERS).reads == ()


class Counted(dict[bytes, tuple[bytes, ...]]):
    """Field values that count how often they are asked for."""

    asked = 0

    def get(self, key: bytes, default: object = None) -> tuple[bytes, ...]:
        self.asked += 1
        return (b"no",)


def test_a_request_is_compared_with_the_few_routes_that_can_match() -> None:
    """Of one thousand routes, each alike but for its host, only the twenty of this host are tried."""
    routes = tuple(route(f"r{i}", hosts=(f"h{i % 50}",), path="/s/*", headers=(HeaderMatch(b"x", b"yes"),)) for i in range(1000))
    values = Counted()
    assert name_of(Table(routes, {}), "GET", "h49", "/s/x", values) is None
    assert values.asked == 20


HOSTS = st.sampled_from(["", "orders", "stock", "orders.flui", "else"])
SEGMENTS = st.sampled_from(["a", "b", ":x"])
ROUTES = st.lists(
    st.builds(
        lambda hosts, pieces, tail, methods, headers: route(
            "?", hosts=tuple(hosts), path="/" + "/".join(pieces) + tail if pieces else "/*", methods=tuple(methods), headers=tuple(headers)
        ),
        st.lists(HOSTS.filter(bool), max_size=2),
        st.lists(SEGMENTS, max_size=2),
        st.sampled_from(["", "/*"]),
        st.lists(st.sampled_from(["GET", "POST"]), max_size=1),
        st.lists(st.builds(HeaderMatch, st.sampled_from([b"x", b"y"]), st.sampled_from([None, b"1"])), max_size=1),
    ),
    max_size=8,
)


@given(
    ROUTES,
    st.sampled_from([b"GET", b"POST"]),
    HOSTS,
    st.sampled_from([b"/", b"/a", b"/b", b"/a/b", b"/b/a/", b"*"]),
    st.dictionaries(st.sampled_from([b"x", b"y"]), st.lists(st.sampled_from([b"1", b"2"]), min_size=1, max_size=2).map(tuple)),
)
def test_the_index_gives_what_a_scan_of_all_routes_gives(
    routes: list[Route], method: bytes, host: str, path: bytes, values: dict[bytes, tuple[bytes, ...]]
) -> None:
    def holds(match: Match) -> bool:
        return (
            (not match.hosts or host in match.hosts)
            and (not match.methods or method.decode() in match.methods)
            and Pattern(match.path).matches(path)
            and all(h.name in values and (h.value is None or set(values[h.name]) == {h.value}) for h in match.headers)
        )

    scanned = next((r for r in routes if holds(r.match)), None)
    found = Table(tuple(routes), CLUSTERS).match("", method, host, path, values)
    if scanned is not None:
        assert found is scanned
    else:
        implicit = host.removesuffix(".flui")
        assert (found.name if found else None) == (implicit if implicit in {"orders", "stock"} else None)
