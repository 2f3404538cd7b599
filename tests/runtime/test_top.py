"""`flui top` without a terminal: pages in, numbers and lines out."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from flui.runtime.top.growth import quantile
from flui.runtime.top.layout import GAP, Column, fair, fit
from flui.runtime.top.rates import view
from flui.runtime.top.sample import EndpointState, Sample, Who, endpoints_of, identify, parse
from flui.runtime.top.screen import ansi, frame, svg
from flui.runtime.top.tables import octets, rate, seconds, share, span
from flui.runtime.top.view import Gate, Lost

ORDERS = Who("orders", "spiffe://shop/orders")

BEFORE = """\
# HELP flui_requests_total Exchanges that ended, by status code.
# TYPE flui_requests_total counter
flui_requests_total{listener="inbound",service="orders",route="app",code="200"} 1000
flui_requests_total{listener="inbound",service="orders",route="app",code="503"} 10
flui_requests_total{listener="outbound",service="stock",route="by-key",code="200"} 50
flui_request_duration_seconds_bucket{listener="inbound",service="orders",route="app",le="0.001"} 500
flui_request_duration_seconds_bucket{listener="inbound",service="orders",route="app",le="0.01"} 1000
flui_request_duration_seconds_bucket{listener="inbound",service="orders",route="app",le="+Inf"} 1010
flui_request_duration_seconds_sum{listener="inbound",service="orders",route="app"} 20.5
flui_request_duration_seconds_count{listener="inbound",service="orders",route="app"} 1010
flui_faults_total{listener="inbound",fault="denied"} 7
flui_process_cpu_seconds_total{mode="user"} 4
flui_process_cpu_seconds_total{mode="system"} 1
flui_uptime_seconds 100
"""

NOW = """\
flui_requests_total{listener="inbound",service="orders",route="app",code="200"} 1180
flui_requests_total{listener="inbound",service="orders",route="app",code="503"} 30
flui_requests_total{listener="inbound",service="orders",route="-",code="400"} 2
flui_requests_total{listener="outbound",service="stock",route="by-key",code="200"} 50
flui_request_duration_seconds_bucket{listener="inbound",service="orders",route="app",le="0.001"} 600
flui_request_duration_seconds_bucket{listener="inbound",service="orders",route="app",le="0.01"} 1200
flui_request_duration_seconds_bucket{listener="inbound",service="orders",route="app",le="+Inf"} 1210
flui_request_duration_seconds_sum{listener="inbound",service="orders",route="app"} 21.5
flui_request_duration_seconds_count{listener="inbound",service="orders",route="app"} 1210
flui_peer_requests_total{listener="inbound",peer="spiffe://shop/web",code="200"} 180
flui_peer_requests_total{listener="inbound",peer="spiffe://shop/web",code="503"} 20
flui_peer_requests_total{listener="inbound",peer="spiffe://shop/tour",code="403"} 2
flui_peer_request_duration_seconds_sum{listener="inbound",peer="spiffe://shop/web"} 1
flui_peer_request_duration_seconds_count{listener="inbound",peer="spiffe://shop/web"} 200
flui_rule_requests_total{listener="inbound",rule="shop.csv:3",code="403"} 4
flui_rule_requests_total{listener="inbound",rule="shop.csv:1",code="200"} 180
flui_faults_total{listener="inbound",fault="denied"} 11
flui_faults_total{listener="inbound",fault="malformed"} 0
flui_rate_limited_total{listener="inbound",route="app"} 6
flui_shed_total{listener="inbound",priority="low",why="lag"} 1
flui_breaker_refused_total{cluster="stock",what="pending"} 8
flui_retries_total{cluster="stock",outcome="sent"} 10
flui_retries_total{cluster="stock",outcome="over_budget"} 30
flui_retries_active{cluster="stock"} 2
flui_retries_allowed{cluster="stock"} 3
flui_breaker_used{cluster="stock",what="requests"} 9
flui_breaker_limit{cluster="stock",what="requests"} 10
flui_upstream_connections{cluster="stock",state="idle"} 4
flui_upstream_connections{cluster="stock",state="busy"} 5
flui_upstream_connections{cluster="@app",state="busy"} 1
flui_concurrency_limit{cluster="stock"} 24
flui_cluster_panic{cluster="stock"} 1
flui_endpoint_available{cluster="stock",endpoint="stock-1"} 1
flui_endpoint_available{cluster="stock",endpoint="stock-2"} 1
flui_endpoint_available{cluster="stock",endpoint="stock-3"} 0
flui_endpoint_share{cluster="stock",endpoint="stock-1"} 1
flui_endpoint_share{cluster="stock",endpoint="stock-2"} 0.4
flui_endpoint_share{cluster="stock",endpoint="stock-3"} 1
flui_endpoint_requests_active{cluster="stock",endpoint="stock-1"} 6
flui_endpoint_requests_active{cluster="stock",endpoint="stock-2"} 3
flui_endpoint_requests_active{cluster="stock",endpoint="stock-3"} 0
flui_endpoint_requests_total{cluster="stock",endpoint="stock-1"} 40
flui_endpoint_ejections_total{cluster="stock",endpoint="stock-3",why="consecutive"} 2
flui_connections_open{listener="inbound"} 5
flui_connections_open{listener="outbound"} 7
flui_policy_info{version="feac2ba57f48"} 1
flui_build_info{version="0.1.0",python="3.13.1",form="compiled"} 1
flui_loop_lag_seconds 0.0004
flui_overload_level 1
flui_process_cpu_seconds_total{mode="user"} 4.5
flui_process_cpu_seconds_total{mode="system"} 1.5
flui_process_resident_octets 67108864
flui_uptime_seconds 102
"""


def sample(page, at=0.0, **more):
    return Sample(ORDERS, at, parse(page), **more)


@pytest.fixture
def shown():
    return view(sample(BEFORE), sample(NOW, at=2.5))


# -- numbers ---------------------------------------------------------------------------------------------------------------


def test_rates_are_what_counters_grew_by_in_the_sidecars_own_time(shown):
    """Two seconds by its uptime, though the pages came 2.5 s apart."""
    assert (shown.over_s, shown.since_start) == (2.0, False)
    app = next(row for row in shown.routes if row.route == "app")
    assert (app.requests_per_s, app.errors_per_s, app.error_share) == (100, 10, 0.1)
    assert app.requests == 1210
    assert app.in_flight == pytest.approx(0.5)  # one second spent in two


def test_the_busiest_route_is_first_and_an_idle_one_stays(shown):
    assert [row.route for row in shown.routes] == ["app", "-", "by-key"]
    assert shown.routes[2].requests_per_s == 0
    assert shown.routes[2].p99_s is None
    assert shown.routes[2].error_share == 0


def test_a_series_that_was_not_there_before_grew_from_nothing(shown):
    assert next(row for row in shown.routes if row.route == "-").requests_per_s == 1


def test_quantiles_are_of_the_interval_and_not_of_the_life(shown):
    """100 of 200 took up to 1 ms, the rest up to 10 ms; the ten slow ones were earlier."""
    app = next(row for row in shown.routes if row.route == "app")
    assert app.p50_s == pytest.approx(0.001)
    assert app.p99_s == pytest.approx(0.001 + 0.009 * 98 / 100)
    assert shown.head.p99_s == app.p99_s


def test_the_first_look_is_at_the_whole_life():
    whole = view(None, sample(NOW))
    assert (whole.over_s, whole.since_start) == (102, True)
    assert whole.routes[0].requests_per_s == pytest.approx(1210 / 102)


def test_a_sidecar_that_began_anew_has_no_negative_rate():
    again = view(sample(NOW), sample(BEFORE.replace("flui_uptime_seconds 100", "flui_uptime_seconds 4"), at=1.0))
    assert (again.over_s, again.since_start) == (4, True)
    assert again.routes[0].requests_per_s == 1010 / 4


def test_a_counter_that_fell_began_anew():
    before = sample('flui_requests_total{listener="i",service="s",route="r",code="200"} 100\n', at=1.0)
    now = sample('flui_requests_total{listener="i",service="s",route="r",code="200"} 6\n', at=3.0)
    assert view(before, now).routes[0].requests_per_s == 3  # and without an uptime, our own clock counts


def test_two_looks_at_the_same_moment_divide_by_nothing():
    assert view(sample(NOW), sample(NOW)).routes[0].requests_per_s == 0


def test_an_empty_page_is_an_empty_view():
    nothing = view(None, sample(""))
    assert not any((nothing.routes, nothing.endpoints, nothing.clusters, nothing.refusals, nothing.peers))
    assert nothing.head.up_s is None
    assert frame([nothing], 80, 24)


def test_the_head_says_what_the_sidecar_is(shown):
    head = shown.head
    assert (head.sidecar, head.identity, head.policy, head.form, head.version) == (*ORDERS_TOLD, "feac2ba57f48", "compiled", "0.1.0")
    assert (head.up_s, head.lag_s, head.overload, head.connections) == (102, 0.0004, 1, 12)
    assert (head.cpu, head.memory_octets) == (0.5, 64 * 1024 * 1024)
    assert (head.module_cpu, head.module_memory_octets) == (None, None)
    assert (head.requests_per_s, head.errors_per_s) == (101, 10)


ORDERS_TOLD = ("orders", "spiffe://shop/orders")


def test_cpu_is_of_a_longer_time_than_the_rest():
    """A sidecar reads its CPU time anew only once a second: two pages in a row may say the same."""
    cpu = 'flui_process_cpu_seconds_total{{mode="user"}} {}\nflui_uptime_seconds {}\n'
    long_before, before, now = (sample(cpu.format(*each)) for each in ((1.0, 10), (2.0, 13.5), (2.0, 14)))
    assert view(before, now).head.cpu == 0
    assert view(before, now, long_before).head.cpu == 0.25


def test_endpoints_that_are_not_well_come_first_and_say_why():
    now = sample(
        NOW,
        endpoints=(
            EndpointState("stock", "stock-3", "10.0.0.3:15006", available=False, why="5 failures in a row"),
            EndpointState("stock", "stock-1", "10.0.0.1:15006", active=99),
        ),
    )
    rows = {row.endpoint: row for row in view(sample(BEFORE), now).endpoints}
    assert list(rows) == ["stock-2", "stock-3", "stock-1"]
    assert (rows["stock-3"].health, rows["stock-3"].why, rows["stock-3"].ejections) == ("out", "5 failures in a row", 2)
    assert (rows["stock-2"].health, rows["stock-2"].share) == ("warming", 0.4)
    assert (rows["stock-1"].health, rows["stock-1"].active, rows["stock-1"].requests_per_s) == ("ok", 6, 20)
    assert rows["stock-2"].requests_per_s is None


def test_without_a_reason_the_ejections_tell_one(shown):
    assert next(row for row in shown.endpoints if row.endpoint == "stock-3").why == "consecutive"


def test_a_cluster_shows_its_retries_and_limits(shown):
    stock = shown.clusters[0]
    assert (stock.retries_per_s, stock.over_budget_per_s, stock.retries_active, stock.retries_allowed) == (5, 15, 2, 3)
    assert stock.breaker == (Gate("requests", 9, 10),)
    assert (stock.concurrency_limit, stock.panic, stock.idle, stock.busy) == (24, True, 4, 5)
    app = shown.clusters[1]
    assert (app.cluster, app.retries_allowed, app.breaker, app.concurrency_limit, app.panic) == ("@app", None, (), None, False)


def test_refusals_are_told_by_fault_rule_and_limit(shown):
    rows = [(row.kind, row.what, row.where, row.per_s, row.total) for row in shown.refusals]
    assert rows == [
        ("breaker", "pending", "stock", 4, 8),
        ("rate limit", "app", "inbound", 3, 6),
        ("fault", "denied", "inbound", 2, 11),
        ("rule", "shop.csv:3", "inbound", 2, 4),
        ("shed", "low: lag", "inbound", 0.5, 1),
    ]


def test_peers_come_by_rate_with_their_mean(shown):
    web, tour = shown.peers
    assert (web.peer, web.requests_per_s, web.error_share, web.mean_s, web.requests) == ("spiffe://shop/web", 100, 0.1, 0.005, 200)
    assert (tour.peer, tour.requests_per_s, tour.error_share, tour.mean_s) == ("spiffe://shop/tour", 1, 0, None)


# -- quantiles -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        ([], 0.5, None),
        ([(1.0, 0), (math.inf, 0)], 0.5, None),
        ([(1.0, 10), (math.inf, 10)], 0.5, 0.5),
        ([(1.0, 0), (2.0, 10), (math.inf, 10)], 0.9, 1.9),
        ([(1.0, 5), (2.0, 5), (4.0, 10), (math.inf, 10)], 0.75, 3.0),
        ([(1.0, 0), (math.inf, 10)], 0.5, 1.0),
        ([(math.inf, 10), (1.0, 10)], 1.0, 1.0),
    ],
)
def test_a_quantile_lies_evenly_within_its_bucket(buckets, q, expected):
    assert quantile(buckets, q) == (expected if expected is None else pytest.approx(expected))


@given(st.lists(st.floats(0.0001, 9.9), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_that_holds_it(values, q):
    bounds = [0.001, 0.01, 0.1, 1.0, 10.0, math.inf]
    found = quantile([(bound, sum(value <= bound for value in values)) for bound in bounds], q)
    true = sorted(values)[max(math.ceil(q * len(values)) - 1, 0)]
    at = next(index for index, bound in enumerate(bounds) if true <= bound)
    assert (bounds[at - 1] if at else 0) <= found + 1e-9
    assert found <= bounds[at] + 1e-9


# -- pages -----------------------------------------------------------------------------------------------------------------

LABEL = st.text(st.characters(codec="utf-8", exclude_characters="\r\x85\u2028\u2029"), max_size=12)


def escaped(value):
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


@given(st.lists(st.tuples(LABEL, LABEL), min_size=1, max_size=4, unique_by=lambda pair: pair), st.floats(allow_nan=False))
def test_a_page_means_what_it_means_to_prometheus(pairs, number):
    """The oracle is the parser of prometheus-client."""
    lines = [f'x{{a="{escaped(a)}",b="{escaped(b)}"}} {"+Inf" if number == math.inf else number}' for a, b in pairs]
    page = "# HELP x it\n# TYPE x gauge\n" + "\n".join(lines) + "\n"
    (family,) = text_string_to_metric_families(page)
    expected = {tuple(sorted(each.labels.items())): each.value for each in family.samples}
    assert {tuple(sorted(labels)): value for labels, value in parse(page)["x"].items()} == expected


@pytest.mark.parametrize("page", ["<html>", "flui_x", "flui_x{a=1} 2", 'flui_x{a="1} 2', "flui_x one", 'flui_x{a="1"b="2"} 3'])
def test_what_is_not_a_page_names_its_line(page):
    with pytest.raises(ValueError, match="line 2 is not a sample"):
        parse(f"flui_uptime_seconds 1\n{page}\n")


def test_clusters_may_say_more_or_less():
    told = [
        {"cluster": "stock", "new": 1, "endpoints": [{"name": "a", "available": False, "share": 0.4, "why": "slow"}, {"name": "b"}, 7]},
        {"cluster": "bare"},
        None,
    ]
    assert endpoints_of(json.loads(json.dumps(told))) == (
        EndpointState("stock", "a", available=False, share=0.4, why="slow"),
        EndpointState("stock", "b"),
    )
    assert endpoints_of({"title": "Not Found"}) == ()


def test_a_sidecar_is_called_by_its_socket_or_its_identity():
    certs = {"identity": "spiffe://shop/ns/orders"}
    assert identify("/tmp/flui-orders.sock", certs) == Who("orders", "spiffe://shop/ns/orders")
    assert identify("/run/stock-2.sock", {}) == Who("stock-2", "")
    assert identify("127.0.0.1:15000", certs) == Who("orders", "spiffe://shop/ns/orders")
    assert identify("127.0.0.1:15000", {}) == Who("127.0.0.1:15000", "")


# -- layout ----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40), max_size=6), st.integers(0, 60))
def test_rows_are_shared_fairly(wants, room):
    """Nobody gets more than it wants, nothing is left over, and who is cut has no less than who is not cut beyond one row."""
    given_rows = fair(wants, room)
    assert all(0 <= got <= want for got, want in zip(given_rows, wants, strict=True))
    assert sum(given_rows) == min(sum(wants), room)
    cut = [got for got, want in zip(given_rows, wants, strict=True) if got < want]
    assert not cut or min(cut) >= max(given_rows) - 1


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12), st.integers(0, 40)), min_size=1, max_size=9), st.integers(1, 120))
def test_columns_that_are_shown_fit_unless_they_must_stay(made, room):
    columns = [Column(f"c{at}", rank, least=least) for at, (rank, least, _) in enumerate(made)]
    widths = [width for _, _, width in made]
    shown = fit(columns, widths, room)
    assert all(0 < width <= widths[at] for at, width in shown)
    ranked = any(columns[at].rank for at, _ in shown)
    assert not ranked or all(width >= min(widths[at], columns[at].least) for at, width in shown)
    assert all(columns[at].least or width == widths[at] for at, width in shown)
    total = sum(width for _, width in shown) + GAP * (len(shown) - 1)
    assert total <= room or not ranked
    assert fit(columns, widths, None) == [(at, width) for at, width in enumerate(widths) if width]


def test_the_least_important_column_goes_first():
    columns = [Column("a"), Column("b", 2), Column("c", 1, least=3)]
    assert fit(columns, [10, 5, 10], 30) == [(0, 10), (1, 5), (2, 10)]
    assert fit(columns, [10, 5, 10], 25) == [(0, 10), (1, 5), (2, 6)]
    assert fit(columns, [10, 5, 10], 20) == [(0, 10), (2, 8)]
    assert fit(columns, [10, 5, 10], 12) == [(0, 10)]
    assert fit([Column("a", least=6), Column("b", least=8)], [10, 10], 12) == [(0, 5), (1, 5)]


# -- lines -----------------------------------------------------------------------------------------------------------------


def text(lines):
    return "\n".join(line.plain for line in lines)


def many(count):
    rows = "".join(
        f'flui_requests_total{{listener="inbound",service="a-service-of-some-length",route="route-{n}",code="200"}} {n}\n'
        for n in range(count)
    )
    return view(None, sample(rows + NOW))


@pytest.mark.parametrize("several", [False, True])
def test_no_screen_is_too_small(shown, several):
    views = [shown, many(50), Lost("stock-9", "nobody listens on /tmp/flui-stock-9.sock")] if several else [many(50)]
    for width in (1, 10, 20, 40, 79, 80, 81, 120, 250):
        for height in (1, 2, 3, 5, 8, 12, 24, 25, 40, 70):
            lines = frame(views, width, height, "q ends")
            assert len(lines) <= height
            assert max(line.cell_len for line in lines) <= width


def test_80_by_24_shows_every_table(shown):
    told = text(frame([many(50)], 80, 24))
    for title in ("LISTENER", "CLUSTER", "ENDPOINT", "REFUSED BY", "PEER"):
        assert title in told
    assert "… " in told
    assert "spiffe://shop/orders" in told
    assert "out: consecutive" in told
    assert "warming 40 %" in told


def test_what_is_left_out_is_counted():
    lines = frame([many(50)], 80, 24)
    at = next(number for number, line in enumerate(lines) if line.plain.startswith("LISTENER"))
    routes = 0
    while not lines[at + 1 + routes].plain.startswith("…"):
        routes += 1
    assert lines[at + 1 + routes].plain == f"… {53 - routes} more"


def test_a_pipe_gets_everything_uncut():
    lines = frame([many(50)], None, None)
    assert "more" not in text(lines)
    assert sum("a-service-of-some-length" in line.plain for line in lines) == 50


def test_several_sidecars_share_the_tables(shown):
    told = text(frame([shown, many(1), Lost("stock-9", "nobody listens")], 200, None))
    assert told.count("SIDECAR") == 6
    assert "stock-9: nobody listens" in told
    assert "lost" in told


def test_an_empty_column_is_left_out(shown):
    head = text(frame([many(1), many(1)], None, None))
    assert "ERR/S" in head
    assert "APP CPU" not in head
    before = text(frame([shown], None, None))
    assert "TRIES/S" in before
    assert "TRIES/S" not in text(frame([view(None, sample(BEFORE, endpoints=(EndpointState("a", "b"),)))], None, None))


def test_a_sidecar_that_is_not_ready_says_why():
    view_ = view(None, sample(NOW, ready=False, why="draining"))
    assert "not ready: draining" in text(frame([view_], 200, None))
    assert "draining" in text(frame([view_, view_], 200, None))


def test_a_name_cannot_drive_the_terminal(shown):
    nasty = view(None, sample('flui_peer_requests_total{listener="inbound",peer="\x1b[2Jx\u202e[bold]y",code="200"} 1\n'))
    told = "\n".join(ansi(frame([nasty, Lost("\x1b]0;x\x07", "\x9b2J")], None, None), coloured=False, styled=False))
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(told)
    assert "\\x1b[2Jx\\x202e[bold]y" in told


def test_colours_are_left_out_when_they_are_not_wanted(shown):
    lines = frame([shown], 80, 24)
    assert any("\x1b[1;36m" in line for line in ansi(lines, coloured=True))
    plain = ansi(lines, coloured=False)
    assert any("\x1b[1m" in line for line in plain)
    assert not any(f"{code}m" in line for line in plain for code in range(30, 38))
    assert ansi(lines, coloured=False, styled=False) == [line.plain for line in lines]


def test_the_picture_stands_alone(shown):
    made = svg(frame([shown], 118, None))
    assert made.startswith("<svg")
    assert "shop.csv:3" in made
    assert "http" not in made.replace("http://www.w3.org/2000/svg", "")
    assert "@font-face" not in made


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (rate(0), "0"),
        (rate(0.01), "<0.1"),
        (rate(99.94), "99.9"),
        (rate(99.96), "100"),
        (rate(12345), "12,345"),
        (share(0), "0 %"),
        (share(0.0001), "<0.1 %"),
        (share(0.0123), "1.2 %"),
        (share(0.5), "50 %"),
        (seconds(None), "-"),
        (seconds(0.00042), "0.4 ms"),
        (seconds(0.0421), "42 ms"),
        (seconds(0.9999), "1.0 s"),
        (seconds(10.0), ">10 s"),
        (span(0), "0s"),
        (span(59.9), "59s"),
        (span(3600), "1h 0m"),
        (span(90061), "1d 1h"),
        (octets(512), "512 B"),
        (octets(1536), "1.5 KiB"),
        (octets(64 * 1024 * 1024), "64 MiB"),
    ],
)
def test_numbers_are_short(made, expected):
    assert made == expected
