"""The pure parts of the side-by-side measurement: reading wrk, figures, acceptance lines, configurations."""

from __future__ import annotations

import _ssl
import contextlib
import dataclasses
import json
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, ClassVar

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
import yaml
from google.protobuf import descriptor_pb2, json_format, message_factory
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from load.peers import calls, certificates, dialects, envoy, haproxy, ours, report, wrk
from load.peers.account import cpu_ns, maps_library_of, resident_octets, tree
from load.peers.bench import turns
from load.peers.cases import CASES
from load.peers.figures import COMPILED, HAPROXY, LIMITS, PURE, REFERENCE, Run, cpu, judge, ratio, spread
from load.peers.hop import Hop
from load.peers.processes import Processes, StartError, free_port
from load.peers.profile import self_time
from load.peers.tools import CALLS_NEEDS, build

SAID = """Running 4s test @ http://127.0.0.1:21000/items/7
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.45ms  512.31us  14.02ms   88.10%
    Req/Sec    26.13k     1.22k   28.01k    72.50%
  Latency Distribution
     50%    2.40ms
     75%    2.61ms
     90%  990.00us
     99%    1.02s
  104005 requests in 4.01s, 113.45MB read
Requests/sec:  25936.41
Transfer/sec:     28.29MB
"""


def run(cpu_us: float, p99_ms: float = 1.0, rss_mib: float = 30.0, errors: int = 0) -> Run:
    return Run(cpu_us, rate=1e3, p50_ms=0.5, p99_ms=p99_ms, rss_mib=rss_mib, busy=0.98, errors=errors)


class TestWrk:
    def test_figures_are_read_in_their_own_units(self) -> None:
        assert wrk.parse(SAID) == wrk.Outcome(requests=104005, duration_s=4.01, p50_ms=2.4, p99_ms=1020.0, errors=0)

    def test_every_kind_of_error_is_counted(self) -> None:
        failed = "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 50\n"
        assert wrk.parse(SAID + failed).errors == 60

    @pytest.mark.parametrize("gone", ["requests in", "99%", "50%"])
    def test_a_figure_that_is_not_there_is_an_error_not_a_nought(self, gone: str) -> None:
        with pytest.raises(wrk.LoadError):
            wrk.parse(SAID.replace(gone, "?"))

    def test_a_request_has_eight_fields_with_its_host(self) -> None:
        assert len({field.partition(":")[0].lower() for field in wrk.FIELDS} | {"host"}) == 8


class TestCalls:
    def test_figures_are_read(self) -> None:
        said = '{"requests": 672998, "secs": 1.0001, "p50_ms": 0.40, "p99_ms": 4.19, "errors": 3}\n'
        assert calls.parse(said) == wrk.Outcome(requests=672998, duration_s=1.0001, p50_ms=0.4, p99_ms=4.19, errors=3)

    @pytest.mark.parametrize("said", ["", "[]", '{"requests": 1}', '{"requests": "x", "secs": 1, "p50_ms": 1, "p99_ms": 1, "errors": 0}'])
    def test_a_figure_that_is_not_there_is_an_error_not_a_nought(self, said: str) -> None:
        with pytest.raises(wrk.LoadError):
            calls.parse(said)

    @pytest.mark.parametrize(
        "kind",
        [
            (calls.GET,),
            (calls.UNARY,),
            (calls.BIDI,),
            *((calls.SEND, name) for name in (dialects.GRPC_WEB, dialects.CONNECT, dialects.JSON)),
        ],
    )
    def test_a_request_has_eight_lower_case_fields_with_its_authority_and_one_of_them_varies(self, kind: tuple[str, ...]) -> None:
        names = [field.partition(":")[0] for field in calls.fields(*kind)]
        assert len({*names, ":authority"}) == 8
        assert [name.lower() for name in names] == names
        assert [field for field in calls.fields(*kind) if field.endswith(": *")] == ["flui-key: *"]


class TestFigures:
    @given(st.lists(st.floats(0.01, 1e6), min_size=1))
    def test_a_median_lies_within_its_spread(self, values: list[float]) -> None:
        found = spread(values)
        assert found.low <= found.median <= found.high

    @given(st.lists(st.tuples(st.floats(1, 1e3), st.floats(0.1, 10)), min_size=1), st.floats(0.1, 3))
    def test_drift_that_both_contenders_share_leaves_the_ratio_alone(self, rounds: list[tuple[float, float]], true: float) -> None:
        """A machine twice as slow in one round is twice as slow for both."""
        results = {
            REFERENCE: [run(base * drift) for base, drift in rounds],
            PURE: [run(base * drift * true) for base, drift in rounds],
        }
        found = ratio(results, PURE, cpu)
        assert found is not None
        assert found.low == pytest.approx(true)
        assert found.high == pytest.approx(true)

    @pytest.mark.parametrize(
        "results",
        [{}, {PURE: [run(1)]}, {REFERENCE: [run(1)]}, {REFERENCE: [run(1), run(1)], PURE: [run(1)]}, {REFERENCE: [run(0)], PURE: [run(1)]}],
    )
    def test_without_a_partner_for_every_round_there_is_no_ratio(self, results: dict[str, list[Run]]) -> None:
        assert ratio(results, PURE, cpu) is None


class TestVerdicts:
    def judged(self, results: dict[str, list[Run]], excused: frozenset[str] = frozenset({COMPILED})) -> dict[str, bool]:
        return {verdict.limit.figure: verdict.holds for verdict in judge({"plain": results}, excused) if verdict.limit.contender == PURE}

    def test_the_bound_itself_holds(self) -> None:
        assert self.judged({REFERENCE: [run(100)], PURE: [run(70)]})["CPU ratio"]
        assert not self.judged({REFERENCE: [run(100)], PURE: [run(71)]})["CPU ratio"]

    def test_the_tail_is_judged_beside_the_cost(self) -> None:
        judged = self.judged({REFERENCE: [run(100, p99_ms=5)], PURE: [run(50, p99_ms=7)]})
        assert judged == {"CPU ratio": True, "p99 ratio": False}

    def test_a_fast_refusal_fails(self) -> None:
        assert not self.judged({REFERENCE: [run(100)], PURE: [run(10, errors=1)]})["CPU ratio"]

    def test_a_contender_that_did_not_come_up_fails_unless_it_was_not_asked(self) -> None:
        verdicts = judge({"plain": {REFERENCE: [run(100)]}}, frozenset({COMPILED}))
        assert {(verdict.limit.contender, verdict.holds) for verdict in verdicts} == {(PURE, False), (COMPILED, True)}

    def test_memory_is_judged_by_itself(self) -> None:
        judged = judge({"idle": {PURE: [run(0, rss_mib=60.5)]}}, frozenset())
        assert [verdict.holds for verdict in judged] == [False, False]

    def test_a_case_that_was_not_asked_for_is_not_judged(self) -> None:
        assert judge({}, frozenset()) == []

    def test_what_a_dialect_costs_is_compared_with_our_own_grpc(self) -> None:
        dear, cheap = {PURE: [run(121), run(118)]}, {PURE: [run(100), run(100)]}
        judged = {v.limit.contender: v for v in judge({"grpcweb": dear, "grpcmtls": cheap}, frozenset({COMPILED}))}
        measured = judged[PURE].measured
        assert judged[PURE].holds
        assert measured is not None
        assert measured.low == pytest.approx(1.18)
        assert measured.high == pytest.approx(1.21)
        assert judge({"grpcweb": dear}, frozenset()) == []

    def test_cases_that_are_held_against_one_another_take_turns(self) -> None:
        """A machine that drifts between them would be taken for what a dialect costs."""
        names = [
            [case.name for case in group]
            for group in turns([case for case in CASES if case.name in {"plain", "grpcmtls", "grpcweb", "connect", "rest"}])
        ]
        assert names == [["plain"], ["grpcmtls", "grpcweb", "connect"], ["rest"]]

    def test_every_limit_names_a_case_that_exists(self) -> None:
        assert {limit.case for limit in LIMITS} == {case.name for case in CASES} - {"fresh", "grpcmtls"}, (
            "which are shown, and promise nothing"
        )


class TestDialects:
    def test_the_order_is_the_same_in_all_of_them(self, tmp_path: Path) -> None:
        """The protobuf library, with the descriptors that everyone is given, reads what is written by hand."""
        shop = dialects.make(tmp_path / "shop")
        files = descriptor_pb2.FileDescriptorSet.FromString(shop.descriptors.read_bytes())
        order = message_factory.GetMessages(files.file)["shop.Order"]()
        order.ParseFromString(shop.bare.read_bytes())
        assert json_format.MessageToDict(order) == dialects.ORDER == json.loads(shop.text.read_text())
        assert shop.framed.read_bytes() == b"\0\0\0\0" + bytes([len(shop.bare.read_bytes())]) + shop.bare.read_bytes()


class TestEnvoy:
    @pytest.mark.parametrize(
        ("dialect", "named"),
        [(dialects.JSON, "grpc_json_transcoder"), (dialects.GRPC_WEB, "grpc_web"), (dialects.CONNECT, "connect_grpc_bridge")],
    )
    def test_a_translation_stands_between_policy_and_router(self, tmp_path: Path, dialect: str, named: str) -> None:
        text = envoy.config(Hop(1, 2, dialect=dialect, descriptors=tmp_path / "shop.binpb"), certificates.Identities(tmp_path))
        listener = json.loads(text)["static_resources"]["listeners"][0]
        filters = [each["name"] for each in listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]]
        assert filters == [f"envoy.filters.http.{name}" for name in ("rbac", named, "router")]
        assert ("shop.binpb" in text) == (dialect == dialects.JSON)

    def test_it_has_as_many_rules_as_we_have(self, tmp_path: Path) -> None:
        text = envoy.config(Hop(1, 2), certificates.Identities(tmp_path))
        manager = json.loads(text)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        assert len(manager["http_filters"][0]["typed_config"]["rules"]["policies"]) == envoy.RULES == 100
        assert manager["access_log"][0]["typed_config"]["path"] == "/dev/null"
        assert manager["generate_request_id"] is True

    def test_a_plain_hop_has_no_tls_and_an_mtls_hop_requires_and_pins(self, tmp_path: Path) -> None:
        identities = certificates.Identities(tmp_path)
        assert "tls" not in envoy.config(Hop(1, 2), identities)
        hop = Hop(1, 2, accepts_as="bench", calls_as="bench", expects="backend", http2_out=True)
        resources = json.loads(envoy.config(hop, identities))["static_resources"]
        inside = resources["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
        outside = resources["clusters"][0]["transport_socket"]["typed_config"]["common_tls_context"]
        assert inside["require_client_certificate"] is True
        assert inside["common_tls_context"]["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_3"
        assert "match_typed_subject_alt_names" not in inside["common_tls_context"]["validation_context"]
        assert outside["validation_context"]["match_typed_subject_alt_names"][0]["matcher"] == {"exact": "spiffe://bench/backend"}
        assert outside["alpn_protocols"] == ["h2"]

    def test_a_plain_hop_speaks_http_2_by_prior_knowledge(self, tmp_path: Path) -> None:
        text = envoy.config(Hop(1, 2, http2_in=True, http2_out=True), certificates.Identities(tmp_path))
        assert '"codec_type": "HTTP2"' in text
        assert "http2_protocol_options" in text
        assert "tls" not in text


class TestHaproxy:
    def test_a_plain_hop_speaks_http_2_by_prior_knowledge(self, tmp_path: Path) -> None:
        text = haproxy.config(Hop(1, 2, http2_in=True, http2_out=True), certificates.Identities(tmp_path / "certs"))
        assert "bind 127.0.0.1:1 proto h2\n" in text
        assert "server up 127.0.0.1:2 maxconn 4000 proto h2\n" in text

    def test_tls_stands_only_where_the_hop_has_an_identity(self, tmp_path: Path) -> None:
        identities = certificates.Identities(tmp_path / "certs")
        assert "ssl" not in haproxy.config(Hop(1, 2), identities)
        both = haproxy.config(Hop(1, 2, accepts_as="bench", calls_as="bench", http2_out=True), identities)
        assert "ssl-min-ver TLSv1.3 alpn http/1.1" in both
        assert "verify required alpn h2" in both


class TestOurs:
    sidecar = ours.Sidecar("bench", app=1, inbound=2, outbound=3, calls="backend", at=4, collector=5, plain=True)

    def test_the_configuration_is_yaml_with_the_names_of_the_interface(self, tmp_path: Path) -> None:
        read = yaml.safe_load(ours.config(self.sidecar, tmp_path, tmp_path, tmp_path))
        assert read["app"]["url"] == "http://127.0.0.1:1"
        assert read["outbound"] == {"address": "127.0.0.1:3", "authorize": True}
        backend = read["services"]["backend"]
        assert (backend["endpoints"], backend["plaintext"]) == (["127.0.0.1:4"], True)
        assert read["tracing"]["endpoint"] == "http://127.0.0.1:5/v1/traces"
        assert read["access_log"] == "/dev/null"
        assert "protocol" not in backend

    def test_what_is_said_twice_is_written_out(self, tmp_path: Path) -> None:
        """Our own reader takes no aliases."""
        assert "*id" not in ours.config(self.sidecar, tmp_path, tmp_path, tmp_path)

    def test_a_module_that_speaks_http_2_is_called_so(self, tmp_path: Path) -> None:
        read = yaml.safe_load(ours.config(dataclasses.replace(self.sidecar, http2=True), tmp_path, tmp_path, tmp_path))
        assert read["app"]["url"] == "h2c://127.0.0.1:1"
        assert read["services"]["backend"]["protocol"] == "http2"

    def test_a_deep_checkout_has_its_admin_on_loopback(self, tmp_path: Path) -> None:
        short, deep = (
            yaml.safe_load(ours.config(self.sidecar, folder, tmp_path, tmp_path)) for folder in (Path("/a"), Path("/" + "a" * 120))
        )
        assert (short["admin"], deep["admin"]) == ("/a/2.sock", "127.0.0.1:0")

    def test_a_service_with_a_sidecar_is_not_plain(self, tmp_path: Path) -> None:
        far = ours.Sidecar("backend", app=1, inbound=2, outbound=3, calls="bench", at=4, collector=5, plain=False)
        assert yaml.safe_load(ours.config(far, tmp_path, tmp_path, tmp_path))["services"]["bench"]["endpoints"] == ["127.0.0.1:4"]

    def test_the_policy_has_the_rules_of_others_before_the_one_that_admits(self, tmp_path: Path) -> None:
        model = tmp_path / "model.conf"
        model.write_text("[request_definition]\n")
        ours.write_policy(tmp_path / "policy", model)
        rows = (tmp_path / "policy" / "bench.csv").read_text().splitlines()
        assert sum("/svc" in row for row in rows) == 99
        assert rows[99] == "p, spiffe://bench/client, bench, GET, /*"
        assert (tmp_path / "policy" / "model.conf").exists()


class TestCertificates:
    def test_leaf_and_key_belong_together_and_the_ca_is_trusted(self, tmp_path: Path) -> None:
        """What OpenSSL itself loads, all three contenders load."""
        made = certificates.make(tmp_path / "certs", ("bench", "client"))
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # noqa: TID251 the oracle
        for context, name in ((server, "bench"), (client, "client")):
            context.load_cert_chain(made.pair(name) if name == "bench" else made.certificate(name), made.key(name))
            context.load_verify_locations(made.ca)
        server.verify_mode = ssl.CERT_REQUIRED
        client.check_hostname = False
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        near, far = client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)
        for side in (near, far, near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        assert near.getpeercert()["subjectAltName"] == (("URI", "spiffe://bench/bench"),)
        assert far.getpeercert()["subjectAltName"] == (("URI", "spiffe://bench/client"),)
        assert not made.key("bench").stat().st_mode & 0o077


class TestReport:
    results: ClassVar = {REFERENCE: [run(40.0), run(44.0)], HAPROXY: [run(10.0), run(11.0)], PURE: [run(20.0, errors=1), run(22.0)]}

    def test_both_tables_say_the_same(self) -> None:
        case = CASES[0]
        cells = [cell for row in report.rows(case, self.results) for cell in row]
        for table in (report.text(case, self.results), report.markdown(case, self.results)):
            assert all(cell in table for cell in cells)
        assert "0.50 [0.50–0.50]" in cells
        assert "42.0 [40.0–44.0]" in cells

    def test_an_idle_table_has_no_empty_columns(self) -> None:
        idle = next(case for case in CASES if not case.connections)
        assert report.rows(idle, {PURE: [run(0, rss_mib=31.2)]})[1:] == [(PURE, "31", "–")]

    def test_json_has_every_run_and_every_verdict(self) -> None:
        about = report.About(report.machine(), {"Envoy": "1"}, rounds=2, secs=4, started="2026-01-01")
        verdicts = judge({"plain": self.results}, frozenset({COMPILED}))
        read = json.loads(report.as_json(about, [(CASES[0], self.results)], verdicts, ["missing: x"]))
        assert len(read["cases"][0]["contenders"][PURE]["runs"]) == 2
        assert {line["holds"] for line in read["acceptance"]} == {True, False}
        assert read["left_out"] == ["missing: x"]

    def test_a_verdict_says_bound_and_figure(self) -> None:
        lines = [report.verdict_text(verdict) for verdict in judge({"plain": self.results}, frozenset({COMPILED}))]
        assert lines[0].startswith("FAIL     plain   flui           CPU ratio ≤ 0.7: 0.50 [0.50–0.50]; 1 errors")
        assert lines[1].startswith("not run  plain   flui compiled")


class TestProcesses:
    def test_what_was_started_is_pinned_counted_and_ended_with_its_children(self, tmp_path: Path) -> None:
        core, port = min(os.sched_getaffinity(0)), free_port()
        code = (
            "import socket,subprocess,sys,signal\n"
            "child=subprocess.Popen([sys.executable,'-c','import signal; signal.pause()'])\n"
            f"s=socket.create_server(('127.0.0.1',{port}))\nsignal.pause()"
        )
        before = os.sched_getaffinity(0)
        with Processes(tmp_path) as processes:
            process = processes.start("parent", [sys.executable, "-c", code], core, [port])
            members = tree(process.pid)
            assert len(members) == 2
            assert {frozenset(os.sched_getaffinity(member)) for member in members} == {frozenset({core})}
            assert cpu_ns(process.pid) > 0
            assert resident_octets(process.pid) > 1 << 20
        assert process.popen.returncode is not None
        assert os.sched_getaffinity(0) == before

    def test_one_that_dies_says_its_last_words(self, tmp_path: Path) -> None:
        with Processes(tmp_path) as processes, pytest.raises(StartError, match="no such thing"):
            processes.start(
                "gone", [sys.executable, "-c", "raise SystemExit('no such thing')"], min(os.sched_getaffinity(0)), [free_port()]
            )

    def test_one_that_is_not_there_is_an_error_of_ours(self, tmp_path: Path) -> None:
        with Processes(tmp_path) as processes, pytest.raises(StartError):
            processes.start("absent", [str(tmp_path / "absent")], min(os.sched_getaffinity(0)), [])


@pytest.mark.peers
class TestBackend:
    def test_it_answers_pieces_and_pipelines_with_the_size_that_the_path_asks_for(self, tmp_path: Path) -> None:
        program, port = build("backend.c", tmp_path, "-Wextra", "-Werror"), free_port()
        with Processes(tmp_path) as processes:
            processes.start("backend", [program, str(port)], min(os.sched_getaffinity(0)), [port])
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client, client.makefile("rb") as answers:
                client.sendall(b"GET /items/7 HT")
                client.sendall(b"TP/1.1\r\nHost: x\r\n\r\nGET /1m/body HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n\r\n")
                assert [read_answer(answers) for _ in range(3)] == [1024, 1 << 20, 1024]


def read_answer(answers: BinaryIO) -> int:
    length = 0
    while (line := answers.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return len(answers.read(length))


@contextlib.contextmanager
def h2_backend(folder: Path, *answer: Path) -> Iterator[int]:
    port = free_port()
    with Processes(folder) as processes:
        argv = [build("h2backend.c", folder, "-Wextra", "-Werror"), str(port), *map(str, answer)]
        processes.start("h2backend", argv, min(os.sched_getaffinity(0)), [port])
        yield port


@pytest.mark.peers
class TestH2Backend:
    def conversation(self, port: int, *sends: tuple[bytes, list[bytes]]) -> list[list[tuple[str, object]]]:
        """What comes back on each stream: a request per `(method, DATA of it)`, all on one connection, one frame after another."""
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        seen: dict[int, list[tuple[str, object]]] = {}
        for number, (method, data) in enumerate(sends):
            stream = 2 * number + 1
            seen[stream] = []
            head = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "x"), ("te", "trailers")]
            connection.send_headers(stream, head, end_stream=not data)
            for octets in data:
                connection.send_data(stream, octets, pad_length=3)
            if data:
                connection.end_stream(stream)
        open_streams = set(seen)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            while open_streams:
                client.sendall(connection.data_to_send())
                octets = client.recv(65536)
                assert octets, "it hung up"
                for event in connection.receive_data(octets):
                    match event:
                        case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                            seen[event.stream_id].append(("fields", dict(event.headers)))
                        case h2.events.DataReceived():
                            seen[event.stream_id].append(("data", event.data))
                            connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                        case h2.events.StreamEnded():
                            open_streams.discard(event.stream_id)
        return list(seen.values())

    def test_a_request_gets_1_kib_and_a_call_gets_its_octets_and_trailers(self, tmp_path: Path) -> None:
        """On one connection, so that the second answers are written out of the table that the first ones filled."""
        call = (b"POST", [b"one", b"two" * 5000])
        with h2_backend(tmp_path) as port:
            seen = self.conversation(port, (b"GET", []), call, (b"GET", []), call)
        for request in (seen[0], seen[2]):
            assert request[0][1] == {":status": "200", "server": "backend", "content-type": "text/plain", "content-length": "1024"}
            assert request[1:] == [("data", b"x" * 1024)]
        for echo in (seen[1], seen[3]):
            assert echo[0][1]["content-type"] == "application/grpc"
            assert b"".join(octets for kind, octets in echo if kind == "data") == b"one" + b"two" * 5000
            assert echo[-1] == ("fields", {"grpc-status": "0"})

    def test_with_a_file_every_call_gets_what_it_holds(self, tmp_path: Path) -> None:
        answer = tmp_path / "answer"
        answer.write_bytes(b"four")
        with h2_backend(tmp_path, answer) as port:
            call, request = self.conversation(port, (b"POST", [b"one", b"two" * 5000]), (b"GET", []))
        assert [octets for kind, octets in call if kind == "data"] == [b"four"]
        assert call[-1] == ("fields", {"grpc-status": "0"})
        assert request[1:] == [("data", b"x" * 1024)]

    def test_what_a_window_does_not_admit_waits(self, tmp_path: Path) -> None:
        """300 answers of 1 KiB are five times the window of a connection (RFC 9113, 6.9.2)."""
        with h2_backend(tmp_path) as port:
            seen = self.conversation(port, *([(b"GET", [])] * 300))
        assert {b"".join(octets for kind, octets in answer if kind == "data") for answer in seen} == {b"x" * 1024}


@pytest.mark.peers
class TestCallsProgram:
    def run(self, folder: Path, port: int, kind: str) -> wrk.Outcome:
        program = build("calls.c", folder, "-Wextra", "-Werror", *CALLS_NEEDS)
        load = calls.Calls(port, kind, connections=2, streams=8, client=None)
        return calls.run(program, load, certificates.Identities(folder), 1, min(os.sched_getaffinity(0)))

    @pytest.mark.parametrize("kind", [calls.GET, calls.UNARY, calls.BIDI])
    def test_every_answer_is_counted_and_fine(self, tmp_path: Path, kind: str) -> None:
        with h2_backend(tmp_path) as port:
            outcome = self.run(tmp_path, port, kind)
        assert outcome.errors == 0
        assert outcome.requests > 1000
        assert 0 < outcome.p50_ms <= outcome.p99_ms

    def send(self, folder: Path, port: int, dialect: str, shop: dialects.Shop) -> wrk.Outcome:
        program = build("calls.c", folder, "-Wextra", "-Werror", *CALLS_NEEDS)
        load = calls.Calls(port, calls.SEND, connections=2, streams=8, client=None, dialect=dialect, shop=shop)
        return calls.run(program, load, certificates.Identities(folder), 1, min(os.sched_getaffinity(0)))

    def test_an_answer_in_another_dialect_is_compared_octet_by_octet(self, tmp_path: Path) -> None:
        """The module itself echoes, which is right for Connect; gRPC-Web wants trailers behind it, and JSON is no protobuf."""
        shop = dialects.make(tmp_path / "shop")
        with h2_backend(tmp_path) as port:
            assert self.send(tmp_path, port, dialects.CONNECT, shop).errors == 0
            with pytest.raises(wrk.LoadError, match=r"(?s)104 octets.*too many errors"):
                self.send(tmp_path, port, dialects.GRPC_WEB, shop)
        with h2_backend(tmp_path, shop.framed) as port, pytest.raises(wrk.LoadError, match=r"(?s)104 octets.*too many errors"):
            self.send(tmp_path, port, dialects.JSON, shop)

    @pytest.mark.parametrize("kind", [calls.UNARY, calls.BIDI])
    def test_a_refusal_is_no_answer(self, tmp_path: Path, kind: str) -> None:
        """A real gRPC server that has no such method: HTTP status 200, grpc-status 12."""
        server = grpc.server(ThreadPoolExecutor(2))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with pytest.raises(wrk.LoadError, match=r"(?s)status 200, grpc-status 12, 0 octets.*too many errors"):
                self.run(tmp_path, port, kind)
        finally:
            server.stop(None).wait()


class TestAccount:
    def test_what_is_compiled_is_told_by_what_is_mapped(self, tmp_path: Path) -> None:
        """A tree that holds compiled modules, and a process told to use it, prove nothing: it may be half built, or second on the path."""
        library = Path(_ssl.__file__)
        assert maps_library_of(os.getpid(), library.parent)
        assert not maps_library_of(os.getpid(), tmp_path)


class TestProfile:
    def test_self_time_counts_the_top_of_each_stack(self) -> None:
        assert self_time("run (a:1);read (b:2) 3\nrun (a:1) 1\nwrite (c:1);read (b:2) 4\n") == [("read (b:2)", 7), ("run (a:1)", 1)]
