"""What the module serves: taken up, kept fresh, told; over grpcio's reflection and from files, while a sidecar runs."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise

import pytest
from grpc_reflection.v1alpha import reflection_pb2

from flui.runtime import apifile, apiwatch, views
from flui.runtime.admin import Query
from flui.telemetry.families import API_METHODS, API_REFRESHES
from flui.translate.descriptors import files_of_set
from support.h2module import H2Module
from support.mesh import Mesh, until
from support.pki import replace
from support.reflected import Reflected, descriptor_set, stock, unreadable

FRESH_S = 5.0
"""Issue 6: a module replaced by a version with a changed proto is served by its new shape within 5 s."""


def config(address, api="", scheme="h2c"):
    return f"{{url: '{scheme}://{address}'{', api: ' + api if api else ''}}}"


def side(mesh, address, api="", **more):
    return mesh.sidecar("stock", app=config(address, api), **more)


def methods(side):
    return sorted(path.decode() for path in side.running.relay.snapshot.schema.methods)


def results(side):
    return {result: int(count) for (result,), count in side.running.meters.samples(API_REFRESHES).items()}


def ready(side):
    reply = views.routes(side.running)["/ready"](Query("/ready", {}))
    return reply.status, json.loads(reply.body)


def test_a_modules_shape_is_learned_and_told(tmp_path):
    mesh = Mesh(tmp_path)

    async def story(module):
        stock_ = await side(mesh, module.address)
        await until(lambda: methods(stock_) == ["/shop.Stock/Reserve"], "it is known")
        assert ready(stock_) == (200, {"ready": True, "why": [], "api": "1 service, 1 method, from reflection"})
        (line,) = stock_.said("api taken up")
        assert (line["level"], line["services"], line["methods"], line["origin"]) == ("info", "shop.Stock", 1, "reflection")
        assert line["version"] == stock_.running.relay.snapshot.schema.version
        assert results(stock_) == {"changed": 1}
        assert dict(stock_.running.meters.samples(API_METHODS)) == {(): 1}

    with Reflected(stock("Reserve")) as module:
        mesh.run(story(module))


def test_a_module_that_is_replaced_is_known_anew_within_five_seconds(tmp_path):
    mesh = Mesh(tmp_path)

    async def story(first):
        stock_ = await side(mesh, first.address)
        await until(lambda: methods(stock_), "it is known")
        for version, names in ((1, ("Reserve", "Release")), (2, ("Release",))):
            await asyncio.to_thread(first.stop, None)
            with Reflected(stock(*names), at=first.address) as module:
                wanted = [f"/shop.Stock/{name}" for name in sorted(names)]
                took = await until(lambda wanted=wanted: methods(stock_) == wanted, f"{names} are known", FRESH_S)
                print(f"version {version} was known {took:.2f} s after it listened")
                first = module
                await until(lambda version=version: results(stock_)["changed"] == version + 1, "no look is under way")
                await asyncio.to_thread(module.stop, None)
        assert results(stock_)["changed"] == 3
        assert not stock_.said("chore failed")

    with Reflected(stock("Reserve")) as module:
        mesh.run(story(module))


def test_the_same_again_changes_nothing_and_a_module_that_is_away_is_still_known(tmp_path):
    mesh = Mesh(tmp_path)

    async def story(first):
        stock_ = await side(mesh, first.address)
        await until(lambda: methods(stock_), "it is known")
        before = stock_.running.relay.snapshot
        await asyncio.to_thread(first.stop, None)
        await until(lambda: "cannot be reached" in ready(stock_)[1]["api"], "it is away")
        status, page = ready(stock_)
        assert (status, page["api"].startswith("1 service, 1 method, from reflection; but now the module cannot be reached")) == (200, True)
        with Reflected(stock("Reserve"), at=first.address):
            await until(lambda: results(stock_).get("unchanged"), "it was asked again", FRESH_S)
            assert ready(stock_)[1]["api"] == "1 service, 1 method, from reflection"
            assert stock_.running.relay.snapshot is before
            assert len(stock_.said("api taken up")) == 1

    with Reflected(stock("Reserve")) as module:
        mesh.run(story(module))


def test_a_graceful_stop_of_the_module_does_not_wait_for_us(tmp_path):
    mesh = Mesh(tmp_path)

    async def story(module):
        stock_ = await side(mesh, module.address)
        await until(lambda: methods(stock_), "it is known")
        assert await asyncio.to_thread(module.ended.acquire, True, 5.0), "the stream has ended"
        began = time.monotonic()
        await asyncio.to_thread(module.stop, 20.0)
        assert time.monotonic() - began < 2.0

    with Reflected(stock("Reserve")) as module:
        mesh.run(story(module))


def test_a_module_without_reflection_is_fine_unless_it_must_have_it(tmp_path):
    mesh = Mesh(tmp_path)

    async def story(module):
        easy = await side(mesh, module.address)
        await until(lambda: easy.said("api not known"), "it was asked")
        assert ready(easy) == (200, {"ready": True, "why": [], "api": "the module has no server reflection"})
        assert [line["level"] for line in easy.said("api not known")] == ["info"]
        file = mesh.prepare("strict", app=config(module.address, "reflection"))
        strict = await mesh.start(file)
        await until(lambda: strict.said("api not known"), "it was asked")
        why = "the module has no server reflection"
        assert ready(strict) == (503, {"ready": False, "why": [f"api: {why}"], "api": why})
        assert [line["level"] for line in strict.said("api not known")] == ["warn"]
        await asyncio.to_thread(module.stop, None)
        with Reflected(stock("Reserve"), at=module.address):
            await until(lambda: ready(strict)[0] == 200, "it is ready", FRESH_S)
            await until(lambda: methods(easy) == methods(strict) == ["/shop.Stock/Reserve"], "both know it", FRESH_S)

    with Reflected(stock("Reserve"), names=()) as module:
        mesh.run(story(module))


def test_until_the_module_was_heard_a_sidecar_is_not_ready_but_not_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(apiwatch, "FIRST_S", 0.3)
    mesh = Mesh(tmp_path)

    async def story():
        silent = await H2Module(answers=False).listen()
        try:
            stock_ = await side(mesh, silent.address)
            why = "the module has not told its shape yet"
            assert ready(stock_) == (503, {"ready": False, "why": [f"api: {why}"], "api": why})
            assert await until(lambda: ready(stock_)[0] == 200, "it is") < 1.0
        finally:
            silent.stop()

    mesh.run(story())


def test_a_connection_that_the_module_keeps_closing_makes_no_busy_loop(tmp_path):
    mesh = Mesh(tmp_path)

    async def hangs_up(backend, request, reader, writer):
        writer.transport.abort()
        return False

    async def story():
        backend = await mesh.backend(hangs_up)
        stock_ = await side(mesh, backend.address)
        await until(lambda: backend.connections >= 3, "it was tried again")
        before, began = backend.connections, time.monotonic()
        await until(lambda: time.monotonic() - began > 2.0, "two seconds")
        assert 1 <= backend.connections - before <= 8
        assert len(stock_.said("api not known")) <= 3, "it is told once, in whatever way it failed"

    mesh.run(story())


def test_what_cannot_be_used_stays_out_and_what_was_known_stays(tmp_path):
    mesh = Mesh(tmp_path)

    def lies(requests):
        for request in requests:
            answer = reflection_pb2.ServerReflectionResponse()
            if request.HasField("list_services"):
                answer.list_services_response.service.add(name="shop.Other")
            else:
                answer.file_descriptor_response.file_descriptor_proto.append(stock("Reserve")[1].SerializeToString())
            yield answer

    async def story(first):
        stock_ = await side(mesh, first.address)
        await until(lambda: methods(stock_), "it is known")
        await asyncio.to_thread(first.stop, None)
        with Reflected(stock("Reserve"), at=first.address, answers=lies):
            await until(lambda: stock_.said("api refused"), "it is told", FRESH_S)
            (line,) = stock_.said("api refused")
            assert line["level"] == "warn"
            assert line["in_force"] == stock_.running.relay.snapshot.schema.version
            assert methods(stock_) == ["/shop.Stock/Reserve"]
            status, page = ready(stock_)
            assert (status, "cannot be used" in page["api"]) == (200, True)

    with Reflected(stock("Reserve")) as module:
        mesh.run(story(module))


def test_a_module_that_changes_without_closing_is_looked_at_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(apiwatch, "REFRESH_S", 0.1)
    mesh = Mesh(tmp_path)

    async def story(module):
        stock_ = await side(mesh, module.address)
        await until(lambda: methods(stock_), "it is known")
        before = stock_.running.relay.snapshot
        await until(lambda: results(stock_).get("unchanged", 0) >= 2, "it is asked again")
        assert stock_.running.relay.snapshot is before
        module.becomes(stock("Release"))
        await until(lambda: methods(stock_) == ["/shop.Stock/Release"], "it is known")

    with Reflected(stock("Reserve")) as module:
        mesh.run(story(module))


def test_a_descriptor_set_is_read_before_the_first_request_and_again_when_it_changes(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        file = mesh.prepare("stock", app=config(backend.address, "shop.binpb"))
        described = file.parent / "shop.binpb"
        described.write_bytes(descriptor_set(stock("Reserve", annotated=True)))
        stock_ = await mesh.start(file)
        assert methods(stock_) == ["/shop.Stock/Reserve"]
        assert ready(stock_)[1] == {"ready": True, "why": [], "api": "1 service, 1 method, from shop.binpb"}
        replace(described, descriptor_set(stock("Reserve", "Release")))
        await until(lambda: len(methods(stock_)) == 2, "it is taken up", FRESH_S)
        replace(described, b"nonsense")
        await until(lambda: stock_.said("api refused"), "it is refused", FRESH_S)
        (line,) = stock_.said("api refused")
        assert (line["level"], "shop.binpb: is no descriptor set; make it with" in line["why"]) == ("warn", True)
        assert len(methods(stock_)) == 2
        described.unlink()
        await until(lambda: len(stock_.said("api refused")) == 2, "it is gone", FRESH_S)
        replace(described, descriptor_set(stock("Release")))
        await until(lambda: methods(stock_) == ["/shop.Stock/Release"], "it is taken up", FRESH_S)
        assert ready(stock_)[0] == 200

    mesh.run(story())


def test_a_descriptor_set_that_is_missing_keeps_the_sidecar_from_being_ready(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        file = mesh.prepare("stock", app=config(backend.address, "shop.binpb", "http"))
        stock_ = await mesh.start(file)
        status, page = ready(stock_)
        assert status == 503
        (why,) = page["why"]
        assert why.startswith("api: ")
        assert "shop.binpb: cannot be read (No such file or directory); make it with `protoc" in why
        replace(file.parent / "shop.binpb", descriptor_set(stock("Reserve")))
        await until(lambda: ready(stock_)[0] == 200, "it is there", FRESH_S)

    mesh.run(story())


UNREADABLE = "descriptors do not hold together (UnicodeDecodeError)"


def test_a_set_with_a_name_that_is_no_text_is_refused_at_the_start_and_later(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        backend = await mesh.backend()
        file = mesh.prepare("stock", app=config(backend.address, "shop.binpb"))
        described = file.parent / "shop.binpb"
        described.write_bytes(unreadable("Reserve"))
        stock_ = await mesh.start(file)
        status, page = ready(stock_)
        assert (status, f"shop.binpb: {UNREADABLE}; make it with `protoc" in page["api"]) == (503, True)
        replace(described, descriptor_set(stock("Release")))
        await until(lambda: methods(stock_) == ["/shop.Stock/Release"], "it is taken up", FRESH_S)
        replace(described, unreadable("Reserve", "Release"))
        await until(lambda: len(stock_.said("api refused")) == 2, "it is refused", FRESH_S)
        assert methods(stock_) == ["/shop.Stock/Release"]
        assert UNREADABLE in ready(stock_)[1]["api"]
        assert not stock_.said("chore failed")
        replace(described, descriptor_set(stock("Reserve")))
        await until(lambda: methods(stock_) == ["/shop.Stock/Reserve"], "it is taken up", FRESH_S)

    mesh.run(story())


def test_a_module_that_tells_a_name_that_is_no_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(apiwatch, "REFRESH_S", 0.1)
    mesh = Mesh(tmp_path)

    def told(requests):
        for request in requests:
            answer = reflection_pb2.ServerReflectionResponse()
            if request.HasField("list_services"):
                answer.list_services_response.service.add(name="shop.Stock")
            else:
                answer.file_descriptor_response.file_descriptor_proto.extend(files_of_set(unreadable("Reserve")))
            yield answer

    async def story():
        with Reflected(stock("Reserve"), answers=told) as module:
            stock_ = await side(mesh, module.address)
            await until(lambda: results(stock_).get("refused", 0) >= 2, "it is asked again")
            (line,) = stock_.said("api refused")
            assert UNREADABLE in line["why"]
            assert UNREADABLE in ready(stock_)[1]["api"]
            assert not stock_.said("chore failed")

    mesh.run(story())


@pytest.mark.parametrize("source", ["", "shop.binpb"])
def test_what_nobody_foresaw_is_told_and_the_same_is_not_read_again(tmp_path, monkeypatch, source):
    mesh = Mesh(tmp_path)
    tries = []

    def breaks(*_):
        tries.append(time.monotonic())
        raise LookupError("nobody foresaw it")

    monkeypatch.setattr(apifile, "understood", breaks)
    monkeypatch.setattr(apiwatch, "FAILED_S", 0.1)
    monkeypatch.setattr(apiwatch, "REFRESH_S", 0.1)

    async def story(module):
        file = mesh.prepare("stock", app=config(module.address, source))
        (file.parent / "shop.binpb").write_bytes(descriptor_set(stock("Reserve")))
        stock_ = await mesh.start(file)
        await until(lambda: stock_.said("api not known"), "it is told")
        why = "what the module serves cannot be read (LookupError: nobody foresaw it)"
        await until(lambda: ready(stock_)[1]["api"] == why, "it is shown")
        assert results(stock_)["failed"] >= 1
        assert [line["why"] for line in stock_.said("api not known")] == [why]
        if not source:
            await until(lambda: results(stock_).get("refused", 0) >= 2, "it is asked again")
            assert ready(stock_)[1]["api"] == why
        assert len(stock_.said("chore failed")) == len(tries) == 1
        assert methods(stock_) == []

    with Reflected(stock("Reserve")) as module:
        mesh.run(story(module))


def test_what_nobody_foresaw_is_tried_more_and_more_rarely(tmp_path, monkeypatch):
    mesh = Mesh(tmp_path)
    tries = []

    async def breaks(*_):
        tries.append(time.monotonic())
        raise LookupError("nobody foresaw it")

    monkeypatch.setattr(apiwatch, "connect", breaks)
    monkeypatch.setattr(apiwatch, "FAILED_S", 0.05)

    async def story():
        backend = await mesh.backend()
        stock_ = await side(mesh, backend.address)
        await until(lambda: len(tries) >= 4, "it is tried again")
        gaps = [after - before for before, after in pairwise(tries)]
        assert [gap >= 0.049 * 2**n for n, gap in enumerate(gaps[:3])] == [True] * 3, gaps
        assert results(stock_)["failed"] >= 3
        assert len(stock_.said("api not known")) == 1

    mesh.run(story())


def test_rules_that_cannot_be_served_are_told(tmp_path):
    mesh = Mesh(tmp_path)

    async def story():
        files = stock("Reserve", annotated=True, fields=("other",))
        with Reflected(files) as module:
            stock_ = await side(mesh, module.address)
            await until(lambda: stock_.said("api rule left out"), "it is told")
            (line,) = stock_.said("api rule left out")
            assert "shop.Stock.Reserve: GET /v1/reserve/{item}" in line["why"]

    mesh.run(story())


@pytest.mark.parametrize("after", ["off", "shop.binpb"])
def test_a_reload_changes_from_where_it_is_known(tmp_path, after):
    mesh = Mesh(tmp_path)

    async def story(module):
        stock_ = await side(mesh, module.address)
        await until(lambda: methods(stock_), "it is known")
        (stock_.folder / "shop.binpb").write_bytes(descriptor_set(stock("Release")))
        stock_.file.write_text(stock_.file.read_text().replace("'}", f"', api: {after}}}"))
        await stock_.running.reload()
        wanted = [] if after == "off" else ["/shop.Stock/Release"]
        await until(lambda: methods(stock_) == wanted, "that holds", FRESH_S)
        assert ready(stock_)[1].get("api", "") == ("" if after == "off" else "1 service, 1 method, from shop.binpb")
        if after == "off":
            await until(lambda: module.ended.acquire(blocking=False), "nobody asks any more")
            stock_.file.write_text(stock_.file.read_text().replace(", api: off", ""))
            await stock_.running.reload()
            await until(lambda: methods(stock_) == ["/shop.Stock/Reserve"], "it is asked again", FRESH_S)

    with Reflected(stock("Reserve")) as module:
        mesh.run(story(module))
