"""`app.api` of the configuration file: every key read, every default told, every mistake named with its line and fix."""

import dataclasses
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from flui.model.api import AUTO, NO_API, OFF, REFLECTION, Api, Cors
from flui.model.config import ConfigError, Problem
from flui.runtime import _api, _yaml, apifile
from flui.runtime._schema import Reader
from flui.runtime.cli import main
from flui.runtime.configfile import Flags, from_flags, interpret, read
from support.reflected import descriptor_set, stock

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
GRPC = "h2c://127.0.0.1:50051"
REST = "http://127.0.0.1:8000"


def text(api: str, url: str = GRPC) -> str:
    """A file whose `api` stands in line 5."""
    return f"service: stock\ncerts: certs\napp:\n  url: {url}\n  {api}\n"


def configured(api: str, url: str = GRPC) -> Api:
    tree, problems = _yaml.parse(text(api, url).encode(), "f")
    return interpret(tree, Reader(problems)).api


@pytest.mark.parametrize(
    ("api", "means"),
    [
        ("", Api(AUTO)),
        ("api: auto", Api(AUTO)),
        ("api: reflection", Api(REFLECTION)),
        ("api: off", Api(OFF)),
        ("api: shop.binpb", Api("./shop.binpb")),
        ("api: ./auto", Api("./auto")),
        ("api: /etc/shop.binpb", Api("/etc/shop.binpb")),
        ("api: {}", Api(AUTO)),
        ("api: {descriptors: reflection, unknown: refuse}", Api(REFLECTION, refuses_unknown=True)),
        ("api: {descriptors: a/shop.binpb, unknown: forward}", Api("a/shop.binpb")),
        ("api: {cors: {origins: [https://shop.example, 'http://localhost:8080', 'http://[::1]:1', https://10.0.0.1:444], max_age: 1h}}",
         Api(AUTO, Cors(("https://shop.example", "http://localhost:8080", "http://[::1]:1", "https://10.0.0.1:444"), 3600.0))),
        ('api: {descriptors: off, cors: {origins: ["*"]}}', Api(OFF, Cors(("*",), 600.0))),
        ("api: {cors: off}", Api(AUTO)),
    ],
)  # fmt: skip
def test_what_a_grpc_module_is_told(api: str, means: Api) -> None:
    assert configured(api) == means


def test_a_rest_module_has_an_api_only_by_a_file() -> None:
    assert configured("", REST) == NO_API
    assert configured("api: off", REST) == NO_API
    assert configured("api: shop.binpb", REST) == Api("./shop.binpb")
    cors = Cors(("https://shop.example",))
    assert configured("api: {descriptors: shop.binpb, cors: {origins: [https://shop.example]}}", REST) == Api("./shop.binpb", cors)


def test_a_file_is_beside_the_configuration_and_a_flag_says_no_more_than_where_the_module_is(tmp_path: Path) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(text("api: shop.binpb"))
    assert read(str(file)).api.file == f"{tmp_path}/shop.binpb"
    assert read(str(file), Flags(app="h2c://127.0.0.1:9")).api.file == f"{tmp_path}/shop.binpb"
    assert from_flags(Flags(service="stock", app=GRPC, certs="certs")).api == Api(AUTO)
    assert from_flags(Flags(service="stock", app=REST, certs="certs")).api == NO_API
    assert (Api(AUTO).required, Api(REFLECTION).required, Api("./a").required, Api("./a").file) == (False, True, True, "./a")


MISTAKES = [
    ("api: reflection", REST, "app.api: server reflection is a gRPC service", "write `url: h2c://…`"),
    ("api: {descriptors: auto}", REST, "app.api.descriptors: server reflection is a gRPC service", "the path of a descriptor set"),
    ("api: shop.proto", GRPC, "app.api: shop.proto is a source, not a descriptor set", "--descriptor_set_out=shop.binpb shop.proto"),
    ('api: ""', GRPC, "app.api: this is not a file", "`auto`, `reflection`, `off` or the path"),
    ("api: [a]", GRPC, "app.api: this is a list", "write a section"),
    ("api: {descriptor: a}", GRPC, "app.api.descriptor: there is no key", "did you mean `descriptors`?"),
    ("api: {unknown: refuse}", GRPC, "app.api.unknown: nothing need be known of the module", "add `descriptors: reflection`"),
    ("api: {unknown: refuse, descriptors: off}", GRPC, "app.api.unknown: nothing need be known", "or remove this key"),
    ("api: {unknown: deny}", GRPC, "app.api.unknown: there is no answer to unknown methods 'deny'", "write one of forward, refuse"),
    (
        "api: {cors: {origins: [https://a.b]}}",
        REST,
        "app.api.cors: nothing is translated for an HTTP/1.1 module",
        "add `descriptors: FILE`",
    ),
    ("api: {cors: all}", GRPC, "app.api.cors: this is the text 'all'", "write `off`, or a section"),
    ("api: {cors: {max_age: 1h}}", GRPC, "app.api.cors.origins: it is missing", "write whose pages may call"),
    ("api: {cors: {origins: https://a.b}}", GRPC, "app.api.cors.origins: this is the text", "write a list"),
    ("api: {cors: {origins: []}}", GRPC, "app.api.cors.origins: the list is empty", "write an origin, or remove `cors`"),
    ("api: {cors: {origins: [https://a.b, https://a.b]}}", GRPC, "https://a.b is in the list already", "remove one of the two"),
    ('api: {cors: {origins: ["*", https://a.b]}}', GRPC, "`*` is everyone", "or remove `*`"),
    ("api: {cors: {origins: [https://a.b], max_age: 48h}}", GRPC, "app.api.cors.max_age: 48h is out of range", "write 0 to 24h"),
    ("api: {cors: {origins: [https://a.b], max_age: 600}}", GRPC, "app.api.cors.max_age: '600' has no unit", "such as `600s`"),
    ("api: {cors: {origins: [a.b]}}", GRPC, "'a.b' is not an origin", "write `https://HOST`"),
    ("api: {cors: {origins: ['null']}}", GRPC, "'null' is not an origin", "`*` for any"),
    ("api: {cors: {origins: [ftp://a.b]}}", GRPC, "'ftp://a.b' is not an origin", "write `https://HOST`"),
    ("api: {cors: {origins: [https://a.b/]}}", GRPC, "has more than an origin has", "write `https://a.b`"),
    ("api: {cors: {origins: [https://u@a.b]}}", GRPC, "has more than an origin has", "write `https://a.b`"),
    ("api: {cors: {origins: ['https://*.a.b']}}", GRPC, "has a `*`", "write each origin out"),
    ("api: {cors: {origins: [https://A.b]}}", GRPC, "has upper-case letters", "write `https://a.b`"),
    ("api: {cors: {origins: ['https://a.b:443']}}", GRPC, "has the port that https has anyway", "write `https://a.b`"),
    ("api: {cors: {origins: ['http://a.b:0']}}", GRPC, "0 is out of range", "write 1 to 65535"),
    ("api: {cors: {origins: ['http://[0::1]']}}", GRPC, "is not how a browser writes it", "write `http://[::1]`"),
    ("api: {cors: {origins: ['http://']}}", GRPC, "is neither an IP address nor a host name", "write it as in"),
]


@pytest.mark.parametrize(("api", "url", "what", "fix"), MISTAKES)
def test_every_mistake_has_its_line_and_what_to_write_instead(api: str, url: str, what: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(api, url)
    (problem,) = caught.value.problems
    assert str(problem).startswith("f:5: app.api")
    assert what in str(problem)
    assert fix in problem.fix


def test_an_api_beside_an_url_that_is_wrong_is_not_blamed_for_it() -> None:
    with pytest.raises(ConfigError) as caught:
        configured("api: reflection", "grpc://127.0.0.1:50051")
    (problem,) = caught.value.problems
    assert problem.key == "app.url"


@given(st.text(max_size=40), st.sampled_from(["api", "origin", "descriptors", "unknown"]))
@settings(max_examples=200)
def test_any_text_is_read_or_refused_in_plain_words(value: str, where: str) -> None:
    quoted = "'" + value.replace("'", "''") + "'"
    api = {
        "api": f"api: {quoted}",
        "origin": f"api: {{cors: {{origins: [{quoted}]}}}}",
        "descriptors": f"api: {{descriptors: {quoted}}}",
        "unknown": f"api: {{unknown: {quoted}}}",
    }[where]
    problems: tuple[Problem, ...] = ()
    try:
        configured(api)
    except ConfigError as error:
        problems = error.problems
    assert all(problem.what and problem.fix for problem in problems)


def test_the_documentation_names_every_key_and_default() -> None:
    section = DOCS.read_text("utf-8").partition("\n## `app.api`\n")[2].partition("\n## ")[0]
    for key in (*_api.API_KEYS, *_api.CORS_KEYS, AUTO, REFLECTION, OFF):
        assert f"`{key}`" in section, key
    (age,) = [field.default for field in dataclasses.fields(Cors) if field.name == "max_age_s"]
    assert age == 600.0
    assert "`10m`" in section


# -- the file itself ---------------------------------------------------------------------------------------------------


def test_check_reads_the_descriptor_set_that_a_configuration_names(tmp_path: Path) -> None:
    (tmp_path / "certs").mkdir()
    for name in ("ca.pem", "stock.pem", "stock.key"):
        (tmp_path / "certs" / name).touch()
    file = tmp_path / "sidecar.yaml"
    file.write_text(text("api: shop.binpb"))
    described = tmp_path / "shop.binpb"

    def check(*more):
        return CliRunner().invoke(main, ["check", *more, str(file)], env={"FLUI_CERTS": None})

    missing = check()
    assert (missing.exit_code, missing.stderr.startswith(f"{described}: cannot be read (No such file or directory); make it")) == (1, True)
    assert check("--no-files").exit_code == 0
    described.write_bytes(descriptor_set(stock("Reserve", annotated=True)))
    right = check()
    assert (right.exit_code, right.stderr) == (0, "")
    assert f"{described} (descriptors)" in right.stdout
    described.write_bytes(descriptor_set(stock("Reserve", annotated=True, fields=("other",))))
    warned = check()
    assert warned.exit_code == 0
    assert "shop.Stock.Reserve: GET /v1/reserve/{item}: " in warned.stderr
    assert "(a warning)" in warned.stderr


@pytest.mark.parametrize(
    ("octets", "what"),
    [
        (b"", "is no descriptor set"),
        (b"service: stock\n", "is no descriptor set"),
        (descriptor_set(stock("Reserve")[:1]), "there is no service in it"),
        (descriptor_set(stock("Reserve")[1:]), "shop/stock.proto imports items/item.proto, which is missing"),
        (bytes(apifile.MAX_OCTETS + 1), "is larger than 10 MiB"),
    ],
)
def test_what_is_no_descriptor_set_or_not_whole_is_refused_with_what_to_do(tmp_path: Path, octets: bytes, what: str) -> None:
    file = tmp_path / "shop.binpb"
    file.write_bytes(octets)
    with pytest.raises(ConfigError) as caught:
        apifile.read(str(file))
    (problem,) = caught.value.problems
    assert (problem.file, what in problem.what, bool(problem.fix)) == (str(file), True, True)


def test_without_protobuf_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "shop.binpb"
    file.write_bytes(descriptor_set(stock("Reserve")))
    monkeypatch.delitem(__import__("sys").modules, "flui.translate.descriptors", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "google.protobuf.descriptor", None)
    with pytest.raises(ConfigError, match=r"descriptors cannot be read without the package google\.protobuf.*; install flui-mesh\[grpc\]"):
        apifile.read(str(file))
