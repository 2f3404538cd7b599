"""What is wrong with resilience and telemetry in a configuration file is told with its line, its key and the fix."""

import re

import pytest

from flui.model.config import ConfigError, Problem
from flui.runtime import _yaml
from flui.runtime._schema import Reader
from flui.runtime.configfile import interpret

MODULE = """\
service: orders
certs: certs
app:
  url: http://127.0.0.1:8000
"""

SERVICE = """\
service: orders
certs: certs
services:
  other: {endpoints: [10.0.0.8:15006]}
  stock:
    endpoints: [10.0.0.7:15006]
"""

ROUTE = (
    SERVICE
    + """\
routes:
  - name: search
    to: stock
"""
)

TOP = """\
service: orders
certs: certs
"""


def problems_of(text: str) -> tuple[Problem, ...]:
    """What is wrong with it, read as the file `f` would be."""
    try:
        tree, problems = _yaml.parse(text.encode(), "f")
        interpret(tree, Reader(problems))
    except ConfigError as error:
        return error.problems
    return ()


# text, line, key, words of what is wrong, words of the fix. The beginnings have 4 (MODULE), 6 (SERVICE), 9 (ROUTE) and 2 (TOP) lines.
MISTAKES = {
    # of services
    "budget without unit": (SERVICE + "    retry_budget: {share: 20}\n", 7, "services.stock.retry_budget.share", "percent sign", "`20%`"),
    "budget of nothing": (SERVICE + "    retry_budget: {share: 0%, least: 0}\n", 7, "services.stock.retry_budget", "never", "`retry: off`"),
    "budget is off": (SERVICE + "    retry_budget: off\n", 7, "services.stock.retry_budget", "text 'off'", "{share: 20%, least: 3}"),
    "breaker of 0": (SERVICE + "    breaker:\n      requests: 0\n", 8, "services.stock.breaker.requests", "range", "1 to 1000000"),
    "breaker unknown": (SERVICE + "    breaker: {request: 5}\n", 7, "services.stock.breaker.request", "no key", "did you mean `requests`"),
    "concurrency is a number": (SERVICE + "    concurrency: 100\n", 7, "services.stock.concurrency", "'100'", "`adaptive` or `off`"),
    "concurrency out of order": (
        SERVICE + "    concurrency: {most: 10}\n",
        7,
        "services.stock.concurrency",
        "`start` 32 and `most` 10",
        "no smaller than the one before",
    ),
    "tolerance of 1": (SERVICE + "    concurrency: {tolerance: 1}\n", 7, "services.stock.concurrency.tolerance", "range", "1.05 to 10"),
    "outlier most 0": (SERVICE + "    outlier: {most: 0%}\n", 7, "services.stock.outlier.most", "nobody could ever", "`outlier: off`"),
    "outlier looks at nothing": (
        SERVICE + "    outlier: {consecutive: off, share: off, slowness: off}\n",
        7,
        "services.stock.outlier",
        "looks at nothing",
        "`outlier: off`",
    ),
    "outlier consecutive 0": (SERVICE + "    outlier: {consecutive: 0}\n", 7, "services.stock.outlier.consecutive", "range", ", or `off`"),
    "outlier share 0": (SERVICE + "    outlier: {share: 0%}\n", 7, "services.stock.outlier.share", "range", ", or `off`"),
    "outlier volume of nothing": (
        SERVICE + "    outlier: {share: off, slowness: off, volume: 5}\n",
        7,
        "services.stock.outlier.volume",
        "nobody looks at it",
        "remove it",
    ),
    "outlier slow of nothing": (SERVICE + "    outlier: {slowness: off, slow: 1s}\n", 7, "services.stock.outlier.slow", "off", "remove"),
    "outlier slowness 1": (
        SERVICE + "    outlier: {slowness: 1}\n",
        7,
        "services.stock.outlier.slowness",
        "range",
        "1.1 to 1000, or `off`",
    ),
    "outlier eject beyond its end": (
        SERVICE + "    outlier: {eject: 20s}\n",
        7,
        "services.stock.outlier.eject",
        "longer than `eject_max`",
        "a longer `eject_max`",
    ),
    "outlier word": (SERVICE + "    outlier: on\n", 7, "services.stock.outlier", "the text 'on'", "write `off`, or a section"),
    "health path with a query": (SERVICE + "    health: {path: /up?x}\n", 7, "services.stock.health.path", "not a path", "`/healthz`"),
    "health path with dots": (SERVICE + "    health: {path: /a/../b}\n", 7, "services.stock.health.path", "not a path", "dot segments"),
    "health path not canonical": (SERVICE + "    health: {path: /%75p}\n", 7, "services.stock.health.path", "as paths are sent", "`/up`"),
    "health path is a URL": (SERVICE + "    health: {path: 'http://a/b'}\n", 7, "services.stock.health.path", "not a path", "/healthz"),
    "health word": (SERVICE + "    health: /healthz\n", 7, "services.stock.health", "'/healthz'", "`health: {path: /healthz}`"),
    "health timeout": (
        SERVICE + "    health: {interval: 500ms}\n",
        7,
        "services.stock.health.interval",
        "would overlap",
        "shorter `timeout`",
    ),
    "health statuses": (SERVICE + "    health: {statuses: 2xx}\n", 7, "services.stock.health.statuses", "range of status", "`200-399`"),
    "health statuses turned": (
        SERVICE + "    health: {statuses: 399-200}\n",
        7,
        "services.stock.health.statuses",
        "ends before",
        "smaller",
    ),
    "health statuses out of range": (
        SERVICE + "    health: {statuses: 100-399}\n",
        7,
        "services.stock.health.statuses",
        "range",
        "200 to 599",
    ),
    "rate 0": (SERVICE + "    rate: 0/s\n", 7, "services.stock.rate", "lets nothing through", "the policy"),
    "rate without unit": (SERVICE + "    rate: 100\n", 7, "services.stock.rate", "not a rate", "`100/s`"),
    "rate per day": (SERVICE + "    rate: 100/d\n", 7, "services.stock.rate", "not a rate", "/s, /m or /h"),
    "rate too high": (SERVICE + "    rate: 2000000/s\n", 7, "services.stock.rate", "range", "1/h to 1000000/s"),
    "rate missing": (SERVICE + "    rate: {burst: 5}\n", 7, "services.stock.rate.rate", "missing", "`rate: 100/s`"),
    "rate per what": (SERVICE + "    rate: {rate: 5/s, per: user}\n", 7, "services.stock.rate.per", "'user'", "all, principal"),
    "rate burst 0": (SERVICE + "    rate: {rate: 5/s, burst: 0}\n", 7, "services.stock.rate.burst", "range", "1 to"),
    "rates, none": (SERVICE + "    rate: []\n", 7, "services.stock.rate", "empty", "remove the key"),
    "rates, one in vain": (
        SERVICE + "    rate:\n      - 200/s\n      - 100/s\n",
        8,
        "services.stock.rate[0]",
        "always reached before",
        "remove it",
    ),
    "rates, one for each beyond that of all": (
        SERVICE + "    rate: [10/s, {rate: 10/s, per: principal}]\n",
        7,
        "services.stock.rate[1]",
        "always reached before",
        "remove it",
    ),
    # of routes
    "attempts 0": (ROUTE + "    retry: {attempts: 0}\n", 10, "routes[0].retry.attempts", "range", "1 to 10"),
    "retry is a number": (
        ROUTE + "    retry: 3\n",
        10,
        "routes[0].retry",
        "the text '3'",
        "`off`, or a section such as `retry: {attempts: 3}`",
    ),
    "retry on a status that is fine": (ROUTE + "    retry: {statuses: [200]}\n", 10, "routes[0].retry.statuses[0]", "range", "400 to 599"),
    "retry on a class": (ROUTE + "    retry: {statuses: [5xx]}\n", 10, "routes[0].retry.statuses[0]", "whole number", "400 to 599"),
    "retry on one status": (ROUTE + "    retry: {statuses: 503}\n", 10, "routes[0].retry.statuses", "'503'", "`[502, 503]`"),
    "retry on a status twice": (ROUTE + "    retry: {statuses: [503, 503]}\n", 10, "routes[0].retry.statuses[1]", "already", "once"),
    "retry statuses under YAML's word": (ROUTE + "    retry: {on: [503]}\n", 10, "routes[0].retry.on", "no key 'on'", "statuses"),
    "retry body of a gibibyte": (ROUTE + "    retry: {body: 1GiB}\n", 10, "routes[0].retry.body", "range", "1B to 256KiB, or 0 for none"),
    "retry body beyond the limit": (
        ROUTE + "    retry:\n      body: 64KiB\nlimits: {body: 32KiB}\n",
        11,
        "routes[0].retry.body",
        "`limits.body` is 32KiB",
        "a larger `limits.body`",
    ),
    "retry pauses out of order": (ROUTE + "    retry: {backoff: 1s}\n", 10, "routes[0].retry.backoff", "up to which", "`backoff_max`"),
    "retry keys of one attempt": (
        ROUTE + "    retry: {attempts: 1, hedge_after: 1s}\n",
        10,
        "routes[0].retry.hedge_after",
        "only one attempt",
        "2 or more",
    ),
    "per_try 0": (ROUTE + "    retry: {per_try: 0}\n", 10, "routes[0].retry.per_try", "range", "1ms to 24h, or `off`"),
    "per_try above timeout": (
        ROUTE + "    timeout: 1s\n    retry: {per_try: 2s}\n",
        11,
        "routes[0].retry.per_try",
        "longer than the route's `timeout`",
        "no more than 1s",
    ),
    "hedge_after not below timeout": (
        ROUTE + "    retry:\n      hedge_after: 15s\n",
        11,
        "routes[0].retry.hedge_after",
        "when `timeout` has ended",
        "less than 15s",
    ),
    "hedge_after not below per_try": (
        ROUTE + "    retry: {hedge_after: 500ms, per_try: 500ms}\n",
        10,
        "routes[0].retry.hedge_after",
        "when `per_try` has ended",
        "less than 500ms, or a longer `per_try`",
    ),
    "priority": (ROUTE + "    priority: hihg\n", 10, "routes[0].priority", "no priority 'hihg'", "did you mean `high`"),
    "panic": (ROUTE + "    panic: none\n", 10, "routes[0].panic", "'none'", "all, fail"),
    "mirror to nobody": (ROUTE + "    mirror: otehr\n", 10, "routes[0].mirror", "no service 'otehr'", "did you mean `other`"),
    "mirror to nobody in a section": (
        ROUTE + "    mirror:\n      service: else\n",
        11,
        "routes[0].mirror.service",
        "no service",
        "services:",
    ),
    "mirror to itself": (ROUTE + "    mirror: {service: stock}\n", 10, "routes[0].mirror.service", "where the route leads", "another"),
    "mirror without a service": (ROUTE + "    mirror: {share: 1%}\n", 10, "routes[0].mirror.service", "missing", "copies"),
    "mirror of nothing": (ROUTE + "    mirror: {service: other, share: 0%}\n", 10, "routes[0].mirror.share", "range", "0.01% to 100%"),
    "inject nothing": (ROUTE + "    inject: {}\n", 10, "routes[0].inject", "injects nothing", "`abort: 503`"),
    "inject a share of nothing": (
        ROUTE + "    inject: {delay_share: 5%}\n",
        10,
        "routes[0].inject.delay_share",
        "there is none",
        "`delay`",
    ),
    "inject an abort's share": (
        ROUTE + "    inject: {delay: 1s, abort_share: 5%}\n",
        10,
        "routes[0].inject.abort_share",
        "there is none",
        "add `abort`",
    ),
    "inject a status": (ROUTE + "    inject: {abort: 100}\n", 10, "routes[0].inject.abort", "range", "200 to 599"),
    "inject into no request": (ROUTE + "    inject: {abort: 503, abort_share: 0%}\n", 10, "routes[0].inject.abort_share", "range", "0.01%"),
    "principals of our own module": (
        ROUTE + "    match:\n      principals: [spiffe://shop/web]\n",
        11,
        "routes[0].match.principals",
        "our own module",
        "`app.routes`",
    ),
    # of the module
    "app outlier": (MODULE + "  outlier: off\n", 5, "app.outlier", "nobody could take its place", "`panic: fail`"),
    "app mirror": (MODULE + "  mirror: stock\n", 5, "app.mirror", "only what the module calls", "route of the caller"),
    "app concurrency though the url is wrong": (
        "service: orders\ncerts: certs\napp:\n  url: http://127.0.0.1:8000\n  breaker: 5\n",
        5,
        "app.breaker",
        "the text '5'",
        "breaker: {requests: 1000}",
    ),
    "app per_try above timeout": (MODULE + "  timeout: 1s\n  retry: {per_try: 2s}\n", 6, "app.retry.per_try", "longer", "no more than 1s"),
    "app route without match": (MODULE + "  routes:\n    - {name: a, timeout: 1s}\n", 6, "app.routes[0]", "every request", "under `match`"),
    "app route without name": (MODULE + "  routes:\n    - {match: {path: /a}}\n", 6, "app.routes[0].name", "missing", "name: v2"),
    "app route called as the rest": (
        MODULE + "  routes: [{name: app, match: {path: /a}}]\n",
        5,
        "app.routes[0].name",
        "all other",
        "another",
    ),
    "app route to somewhere": (
        MODULE + "  routes: [{name: a, match: {path: /a}, to: b}]\n",
        5,
        "app.routes[0].to",
        "lead to the module",
        "remove it",
    ),
    "app route on a host": (
        MODULE + "  routes: [{name: a, match: {hosts: [b]}}]\n",
        5,
        "app.routes[0].match.hosts",
        "whatever host",
        "remove it",
    ),
    "app routes that match the same": (
        MODULE + "  routes:\n    - {name: a, match: {path: /a}}\n    - {name: b, match: {path: /a}}\n",
        7,
        "app.routes[1]",
        "'a' before it matches the same",
        "remove one",
    ),
    "app routes of one name": (
        MODULE + "  routes:\n    - {name: a, match: {path: /a}}\n    - {name: a, match: {path: /b}}\n",
        7,
        "app.routes[1]",
        "called 'a' already",
        "name of its own",
    ),
    "app route below what it inherits": (
        MODULE + "  retry: {per_try: 2s}\n  routes:\n    - name: a\n      match: {path: /a}\n      timeout: 1s\n",
        9,
        "app.routes[0].timeout",
        "waits 2s for one try",
        "a `retry` of its own",
    ),
    "principals, none": (
        MODULE + "  routes: [{name: a, match: {principals: []}}]\n",
        5,
        "app.routes[0].match.principals",
        "anyone",
        "remove",
    ),
    "principal is a name": (
        MODULE + "  routes: [{name: a, match: {principals: [web]}}]\n",
        5,
        "app.routes[0].match.principals[0]",
        "does not begin with spiffe://",
        "`spiffe://TRUST-DOMAIN/NAME`",
    ),
    "principal with a star inside": (
        MODULE + "  routes: [{name: a, match: {principals: ['spiffe://shop/*/a']}}]\n",
        5,
        "app.routes[0].match.principals[0]",
        "'*'",
        "spiffe://",
    ),
    "principal that is everyone": (
        MODULE + "  routes: [{name: a, match: {principals: ['spiffe:///*']}}]\n",
        5,
        "app.routes[0].match.principals[0]",
        "trust domain is empty",
        "for everyone below",
    ),
    "star without quotes": (MODULE + "inbound: {server_timing: [*]}\n", 5, "", "not YAML", 'in quotes: "*"'),
    # around them
    "server timing for a name": (MODULE + "inbound: {server_timing: [web]}\n", 5, "inbound.server_timing[0]", "spiffe://", "TRUST-DOMAIN"),
    "server timing inbound true": (MODULE + "inbound: {server_timing: true}\n", 5, "inbound.server_timing", "'true'", '["*"]'),
    "server timing outbound yes": (TOP + "outbound: {server_timing: yes}\n", 3, "outbound.server_timing", "neither", "`true` or `false`"),
    "listener timeout without unit": (TOP + "outbound: {timeout: 5}\n", 3, "outbound.timeout", "no unit", "`5s`"),
    "source beyond all": (
        TOP + "limits: {connections: 100, connections_per_source: 200}\n",
        3,
        "limits.connections_per_source",
        "never reach it",
        "larger `connections`",
    ),
    "body rate without time": (TOP + "limits: {body_rate: 500B}\n", 3, "limits.body_rate", "size per second", "`500B/s`"),
    "body rate without unit": (TOP + "limits: {body_rate: 500}\n", 3, "limits.body_rate", "size per second", "`500B/s`"),
    "body rate out of range": (TOP + "limits: {body_rate: 1GiB/s}\n", 3, "limits.body_rate", "range", "1B/s to 1MiB/s"),
    "handshakes 0": (TOP + "limits: {handshakes: 0}\n", 3, "limits.handshakes", "range", "1 to 1000000"),
    "overload lag 0": (TOP + "overload: {lag: 0}\n", 3, "overload.lag", "range", "10ms to 1m"),
    "overload lag too small": (TOP + "overload: {lag: 1ms}\n", 3, "overload.lag", "range", "10ms to 1m"),
    "overload is a time": (TOP + "overload: 1s\n", 3, "overload", "the text '1s'", "write `off`, or a section such as"),
    "access log rotates without a file": (TOP + "access_log: {rotate: 1MiB}\n", 3, "access_log.rotate", "standard output", "`file: FILE`"),
    "access log keeps without rotation": (
        TOP + "access_log: {file: a, keep: 3}\n",
        3,
        "access_log.keep",
        "without `rotate`",
        "add `rotate",
    ),
    "access log off with a share": (TOP + "access_log: {file: off, successes: 1%}\n", 3, "access_log.successes", "off", "remove"),
    "access log rotates too soon": (TOP + "access_log: {file: a, rotate: 1KiB}\n", 3, "access_log.rotate", "range", "or `off`"),
    "access log file is a list": (TOP + "access_log: {file: [a]}\n", 3, "access_log.file", "not a file", "`stdout`"),
    "redact without a slash": (TOP + "access_log:\n  redact:\n    - users/:id\n", 5, "access_log.redact[0]", "slash", "'/users/:id'"),
    "redact nothing": (TOP + "access_log: {redact: [/users]}\n", 3, "access_log.redact[0]", "nothing that would be hidden", "`:name`"),
    "redact is no list": (TOP + "access_log: {redact: /users/*}\n", 3, "access_log.redact", "'/users/*'", "write a list"),
    "tracing without endpoint": (TOP + "tracing: {share: 1%}\n", 3, "tracing.endpoint", "missing", "4318/v1/traces"),
    "tracing over TLS": (
        TOP + "tracing: {endpoint: 'https://otel:4318/v1/traces'}\n",
        3,
        "tracing.endpoint",
        "without TLS in this version",
        "`http://otel:4318/v1/traces`",
    ),
    "tracing by gRPC": (TOP + "tracing: {endpoint: 'grpc://a:4317'}\n", 3, "tracing.endpoint", "not the URL", "http://127.0.0.1:4318"),
    "tracing without scheme": (TOP + "tracing: {endpoint: '127.0.0.1:4318'}\n", 3, "tracing.endpoint", "not the URL", "/v1/traces"),
    "tracing without port": (TOP + "tracing: {endpoint: 'http://otel/v1/traces'}\n", 3, "tracing.endpoint", "not HOST:PORT", "127.0.0.1"),
    "tracing without path": (
        TOP + "tracing: {endpoint: 'http://otel:4318'}\n",
        3,
        "tracing.endpoint",
        "no path",
        "`http://otel:4318/v1/traces`",
    ),
    "tracing with a query": (TOP + "tracing: {endpoint: 'http://otel:4318/v1?a'}\n", 3, "tracing.endpoint", "not a path", "/v1/traces"),
    "tracing with a password": (TOP + "tracing: {endpoint: 'http://u:p@otel:4318/v1'}\n", 3, "tracing.endpoint", "", "write"),
    "tracing to another machine": (
        TOP + "tracing: {endpoint: 'http://10.0.0.1:4318/v1/traces'}\n",
        3,
        "tracing.endpoint",
        "plain text",
        "on this machine",
    ),
    "tracing is a URL": (TOP + "tracing: http://127.0.0.1:4318/v1/traces\n", 3, "tracing", "the text", "`tracing: {endpoint: http://127"),
    "tracing per second": (TOP + "tracing: {endpoint: 'http://a:1/v1', rate: 100}\n", 3, "tracing.rate", "not a rate", "`100/s`"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_problem_with_its_line_its_key_and_the_fix(mistake: str) -> None:
    text, line, key, what, fix = MISTAKES[mistake]
    problems = problems_of(text)
    assert [(problem.file, problem.line, problem.key) for problem in problems] == [("f", line, key)], [str(each) for each in problems]
    (problem,) = problems
    assert what in problem.what, str(problem)
    assert fix in problem.fix, str(problem)
    assert str(problem).startswith(f"f:{line}: ")
    assert not re.search(r"Traceback|NoneType|_bp|_s\b|\bdict\b|\bstr\b|enum", str(problem))


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    """The same file with fifteen mistakes, each on a line of its own."""
    text = """\
service: orders
certs: certs
app:
  url: 127.0.0.1:8000
  concurrency: yes
  routes:
    - {name: a, match: {path: a}, priority: urgent}
services:
  stock:
    endpoints: [10.0.0.7:15006]
    retry_budget: {share: 20}
    breaker: {connections: 0}
    outlier: {most: 0%}
    health: {path: healthz}
    rate: 0/s
routes:
  - name: a
    to: stock
    retry: {hedge_after: 20s}
    mirror: stock
    inject: {abort: 99}
limits: {body_rate: 500}
overload: {lag: 1}
access_log: {keep: 1}
tracing: {endpoint: "https://otel:4318/v1/traces"}
"""
    assert [problem.line for problem in problems_of(text)] == [4, 5, 7, 7, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25]
