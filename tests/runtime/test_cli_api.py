"""`flui api` and the pages behind it: what a module serves, as people and tools read it, from a sidecar that runs."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf import descriptor_pb2

from flui.runtime.cli import admin as cli
from flui.runtime.cli import main
from support.mesh import Mesh, until
from support.reflected import Reflected, stock


def asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *lines: tuple[str, ...], fields=("item", "token"), names=None, command="api"
) -> list[Result]:
    """What the command says to each line, while the sidecar `stock` runs beside a module that tells its shape."""
    monkeypatch.setattr(cli, "_FOLDER", tmp_path)
    mesh = Mesh(tmp_path)
    found: list[Result] = []

    async def story(module: Reflected) -> None:
        file = mesh.prepare("stock", app=f"h2c://{module.address}")
        file.write_text(file.read_text().replace("admin: off", f"admin: {tmp_path}/flui-stock.sock"))
        side = await mesh.start(file)
        await until(lambda: side.said("api taken up") or side.said("api not known"), "it was asked")
        for line in lines:
            found.append(await asyncio.to_thread(CliRunner().invoke, main, [command, *line]))

    more = {} if names is None else {"names": names}
    with Reflected(stock("Reserve", annotated=True, fields=fields), **more) as module:
        mesh.run(story(module))
    return found


def test_methods_routes_and_a_line_of_curl_for_each(tmp_path, monkeypatch):
    named, alone = asked(tmp_path, monkeypatch, ("stock", "--via", "127.0.0.1:7001"), ())
    assert (named.exit_code, named.stderr) == (0, "")
    lines = named.stdout.splitlines()
    assert lines[:6] == [
        "stock: 1 service, 1 method, from reflection",
        "",
        "shop.Stock",
        "  Reserve",
        "    CALL /shop.Stock/Reserve  items.Item -> items.Item",
        "    GET /v1/reserve/{item}",
    ]
    curls = [shlex.split(line) for line in lines if line.startswith("    curl")]
    assert len(curls) == 3, "by its annotation, by its name, by Connect"
    assert all(words[:3] == ["curl", "-x", "http://127.0.0.1:7001"] for words in curls)
    assert "curl -x http://127.0.0.1:15001 " in alone.stdout


def test_the_same_as_json_and_as_openapi(tmp_path, monkeypatch):
    listed, document = asked(tmp_path, monkeypatch, ("stock", "--json"), ("stock", "--openapi"))
    page = json.loads(listed.stdout)
    assert (page["service"], page["descriptors"], page["origin"], page["left out"]) == ("stock", "auto", "reflection", [])
    (service,) = page["services"]
    (method,) = service["methods"]
    assert (service["service"], method["path"], [route["verb"] for route in method["routes"]]) == (
        "shop.Stock",
        "/shop.Stock/Reserve",
        ["GET", "POST"],
    )
    openapi = json.loads(document.stdout)
    assert openapi["openapi"] == "3.1.0"
    assert openapi["info"] == {"title": "stock", "version": page["version"]}
    assert "/v1/reserve/{item}" in openapi["paths"]
    assert openapi["components"]["schemas"]["items.Item"]["properties"]["token"] == {"type": "string"}, "it is a name, and no secret"


def test_rules_that_are_left_out_are_told_beside_the_list(tmp_path, monkeypatch):
    (told,) = asked(tmp_path, monkeypatch, ("stock",), fields=("other",))
    assert told.exit_code == 0
    assert "left out: shop.Stock.Reserve: GET /v1/reserve/{item}: " in told.stderr


def test_of_a_module_that_tells_nothing_that_is_said(tmp_path, monkeypatch):
    listed, document = asked(tmp_path, monkeypatch, ("stock",), ("stock", "--openapi"), names=())
    assert (listed.exit_code, listed.stdout) == (1, "stock: the module has no server reflection\n")
    assert (document.exit_code, document.stdout) == (1, "")
    assert "nothing is known of the module's interface: the module has no server reflection" in document.stderr


def test_nobody_there_is_1_and_wrong_use_is_2(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_FOLDER", tmp_path)
    run = CliRunner().invoke
    assert run(main, ["api", "stock"]).exit_code == 1
    assert run(main, ["api"]).exit_code == 1
    assert run(main, ["api", "stock", "--json", "--openapi"]).exit_code == 2
    assert run(main, ["api", "stock", "--admin", "/x/y.sock"]).exit_code == 2
    assert "Example: flui api stock" in run(main, ["api", "--help"]).stdout


def test_the_descriptors_themselves_are_had_as_protoc_writes_them(tmp_path, monkeypatch):
    (told,) = asked(tmp_path, monkeypatch, ("/descriptors", "--service", "stock"), command="admin")
    files = descriptor_pb2.FileDescriptorSet.FromString(told.stdout_bytes).file
    assert {file.name for file in files} == {file.name for file in stock("Reserve", annotated=True)}
    (none,) = asked(tmp_path, monkeypatch, ("/descriptors", "--service", "stock"), names=(), command="admin")
    assert (none.exit_code, "nothing is known" in none.stderr) == (1, True)
