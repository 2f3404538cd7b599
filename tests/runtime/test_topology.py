"""A topology file says one thing, or every mistake in it with its line."""

from pathlib import Path

import pytest

from flui.model.config import ConfigError
from flui.runtime.placement import place
from flui.runtime.topology import is_topology, load

SHOP = Path(__file__).parents[2] / "compose" / "shop.yaml"

PAIR = """\
name: pair
x-flui:
  trust-domain: pair
services:
  front:
    command: [python3, main.py]
    working_dir: /app
    volumes: [./app:/app:ro]
    environment: {HOST: 127.0.0.1, PORT: "8000", OUTBOUND: "http://127.0.0.1:15001", OTHER: "front:80 is a text"}
  front-sidecar:
    network_mode: "service:front"
    command: run -c /etc/flui/sidecar.yaml
    volumes: [./policy:/etc/flui/policy:ro]
    configs: [{source: front, target: /etc/flui/sidecar.yaml}]
configs:
  front:
    content: |
      service: front
      app: http://127.0.0.1:8000
      policy: /etc/flui/policy
      certs: /etc/flui/certs
      services:
        front:
          endpoints:
            - {name: front, address: "front:15006"}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "policy").mkdir()
    return tmp_path


def read(folder, text):
    file = folder / "pair.yaml"
    file.write_text(text)
    return load(file)


def problems(folder, text):
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def line_of(text, part):
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


def test_the_shop_has_five_services_and_three_replicas_of_one():
    shop = load(SHOP)
    assert [module.name for module in shop.modules] == ["web", "orders", "stock-1", "stock-2", "stock-3", "counter", "warehouse"]
    assert [companion.service for companion in shop.companions] == ["web", "orders", "stock", "stock", "stock", "counter", "warehouse"]
    assert shop.trust_domain == "shop"
    assert shop.identities == ("tour",)
    assert all((module.folder / module.twin[-1]).is_file() for module in shop.modules if module.twin)


def test_a_process_is_told_what_a_container_is_told_in_terms_of_this_machine(folder):
    pair = read(folder, PAIR)
    (front,) = place(pair, {"front": "127.7.0.2"}, Path("/run/x"), Path("/run/x/certs"))
    assert (front.app, front.inbound, front.outbound) == ("127.7.0.2:8000", "127.7.0.2:15006", "127.7.0.2:15001")
    assert dict(front.environment) == {
        "HOST": "127.7.0.2",
        "PORT": "8000",
        "OUTBOUND": "http://127.7.0.2:15001",
        "OTHER": "front:80 is a text",
    }
    assert front.settings == {
        "service": "front",
        "app": "http://127.7.0.2:8000",
        "inbound": "127.7.0.2:15006",
        "outbound": "127.7.0.2:15001",
        "admin": "/run/x/front.sock",
        "certs": "/run/x/certs",
        "policy": str(folder / "policy"),
        "services": {"front": {"endpoints": [{"name": "front", "address": "127.7.0.2:15006"}]}},
    }
    assert front.module.folder == folder / "app"


@pytest.mark.parametrize("form", ["{url: h2c://127.0.0.1:8000, api: AT}", "{url: h2c://127.0.0.1:8000, api: {descriptors: AT}}"])
def test_a_descriptor_set_that_a_volume_holds_is_read_where_it_lies_here(folder, form):
    (folder / "shop.binpb").touch()
    text = PAIR.replace("volumes: [./policy", "volumes: [./shop.binpb:/etc/flui/shop.binpb:ro, ./policy")
    (front,) = place(
        read(folder, text.replace("http://127.0.0.1:8000\n      policy", form.replace("AT", "/etc/flui/shop.binpb") + "\n      policy")),
        {"front": "127.7.0.2"},
        Path("/run/x"),
        Path("/run/x/certs"),
    )
    api = front.settings["app"]["api"]
    assert front.settings["app"]["url"] == "h2c://127.7.0.2:8000"
    assert (api if isinstance(api, str) else api["descriptors"]) == str(folder / "shop.binpb")
    text = PAIR.replace("http://127.0.0.1:8000\n      policy", form.replace("AT", "reflection") + "\n      policy")
    assert place(read(folder, text), {"front": "127.7.0.2"}, Path("/run/x"), Path("/c"))[0].companion.descriptors is None


@pytest.mark.parametrize(
    ("old", "new", "where", "says"),
    [
        (
            "app: http://127.0.0.1:8000",
            "app: {url: h2c://127.0.0.1:8000, api: /etc/flui/x.binpb}",
            "app: {",
            "no volume of front-sidecar holds /etc/flui/x.binpb",
        ),
        (
            "app: http://127.0.0.1:8000",
            "app: {url: h2c://127.0.0.1:8000, api: {descriptors: /etc/flui/policy/x.binpb}}",
            "app: {",
            "x.binpb is not a file",
        ),
        ('"service:front"', '"service:back"', "network_mode", "there is no service 'back' for it to stand beside"),
        ('"service:front"', "host", "network_mode", "a sidecar shares the network of its module"),
        ("front:15006", "back:15006", "back:15006", "there is no service 'back'"),
        ("front:15006", "front:1", "front:1", "accepts on port 15006; write front:15006"),
        ("front:15006", "front", "address:", "'front' is not HOST:PORT"),
        ("front:15006", "front:99999", "front:99999", "'99999' is not a port"),
        ("http://127.0.0.1:8000\n", "http://127.0.0.1\n", "app: http", "app: "),
        ("      service: front\n", "", "app: http", "service: "),
        ("source: front", "source: nothing", "source:", "there is no config 'nothing'; name one of front"),
        ("target: /etc/flui/sidecar.yaml", "target: /elsewhere", "configs: [", "nothing is mounted at /etc/flui/sidecar.yaml"),
        ("run -c /etc/flui/sidecar.yaml", "run", "command: run", "a sidecar is run with a file"),
        ("run -c /etc/flui/sidecar.yaml", "run -c 'oops", "command: run", "a quote is not closed"),
        ("./app:/app", "./nowhere:/app", "nowhere", "is not a folder"),
        ("./app:/app", "./app:/other", "working_dir", "no volume holds /app"),
        ("./policy:/etc/flui/policy", "./policy:/policy", "policy: /etc", "no volume of front-sidecar holds /etc/flui/policy"),
        ("trust-domain: pair", "trust-domain: Pair/1", "trust-domain", "is not a trust domain"),
        ("trust-domain: pair", "trust-domian: pair", "trust-domian", "unknown key; use one of cache, identities, trust-domain"),
        ("    command: [python3, main.py]\n", "", "  front:", "it has no command"),
        ("    command: [python3, main.py]\n", "    x-flui: {build: [make]}\n", "build:", "does not say where the result goes"),
        ("[python3, main.py]", "[python3, $NOBODY_SET_THIS]", "NOBODY", "the variable NOBODY_SET_THIS is not set"),
        ("    content: |", "    file: |", "  front:", "it has no inline text"),
        ("name: pair", "name: [", "trust-domain", "not YAML"),
        ("      app: http", "      app: [http", "policy: /etc", "not YAML"),
        ("name: pair", "name: pair\nname: again", "name: again", "written twice, first on line 1"),
        ("  front:\n    command", "  Front:\n    command", "Front", "is not a name"),
    ],
)
def test_every_mistake_names_its_line_and_what_to_write(folder, old, new, where, says):
    text = PAIR.replace(old, new, 1)
    assert text != PAIR
    told = problems(folder, text)
    wanted = {number for number, line in enumerate(text.splitlines(), 1) if where in line}
    found = [line for line in told if says in line]
    assert found, told
    assert int(found[0].split(":")[1]) in wanted, (found, wanted)
    assert "; " in found[0]


def test_a_module_without_a_sidecar_is_told_how_to_get_one(folder):
    text = PAIR.replace("services:\n", "services:\n  lonely: {command: [sleep, '1']}\n", 1)
    assert problems(folder, text) == [
        'pair.yaml:5: services.lonely: it has no sidecar; add a service with `network_mode: "service:lonely"` and the command `run -c FILE`'
    ]


def test_a_module_has_one_sidecar(folder):
    text = PAIR.replace("configs:\n  front:", '  second:\n    network_mode: "service:front"\n    command: run -c x\nconfigs:\n  front:')
    assert any("'front' has a sidecar already: 'front-sidecar'" in line for line in problems(folder, text))


def test_a_sidecar_has_no_sidecar(folder):
    text = PAIR.replace(
        "configs:\n  front:", '  second:\n    network_mode: "service:front-sidecar"\n    command: run -c x\nconfigs:\n  front:'
    )
    assert any("'front-sidecar' is itself a sidecar" in line for line in problems(folder, text))


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(folder):
    text = PAIR.replace("trust-domain: pair", "trust-domain: A").replace("front:15006", "back:1").replace("./app:", "./nowhere:")
    told = problems(folder, text)
    lines = [int(line.split(":")[1]) for line in told]
    assert len(told) == 3
    assert lines == sorted(lines)


def test_a_mistake_in_a_part_that_replicas_share_is_told_once(tmp_path):
    text = SHOP.read_text().replace(
        "app: http://127.0.0.1:8000\n      inbound: 0.0.0.0:15006\n      admin", "app: x\n      inbound: 0.0.0.0:15006\n      admin"
    )
    compose = tmp_path / "compose"
    compose.mkdir()
    for inner in ("web", "orders", "stock", "counter", "warehouse"):
        (tmp_path / "examples" / "services" / inner).mkdir(parents=True)
    (tmp_path / "policy").mkdir()
    (tmp_path / "examples" / "proto").mkdir()
    (tmp_path / "examples" / "proto" / "shop.binpb").touch()
    told = problems(compose, text)
    assert len(told) == 1, told
    assert told[0].startswith(f"pair.yaml:{line_of(text, 'app: x')}: app: ")


def test_an_endpoint_belongs_to_the_service_it_is_listed_under(folder):
    text = PAIR.replace("        front:\n          endpoints", "        stock:\n          endpoints")
    assert any("front is a replica of 'front', not of 'stock'" in line for line in problems(folder, text))


def test_a_sidecars_address_may_stand_in_a_section(folder):
    text = PAIR.replace("app: http://127.0.0.1:8000", "app: {url: http://127.0.0.1:8000, timeout: 2s}\n      outbound: off")
    (front,) = place(read(folder, text), {"front": "127.7.0.2"}, Path("/run/x"), Path("/run/x/certs"))
    assert front.settings["app"] == {"url": "http://127.7.0.2:8000", "timeout": "2s"}
    assert (front.app, front.outbound) == ("127.7.0.2:8000", "")


def test_variables_are_read_as_compose_reads_them(folder, monkeypatch):
    monkeypatch.setenv("SHOP_FILE", "other.py")
    monkeypatch.delenv("SHOP_NOBODY", raising=False)
    text = PAIR.replace("[python3, main.py]", "[python3, '${SHOP_FILE}', '$SHOP_FILE', '${SHOP_NOBODY:-default}', '$$1']")
    assert read(folder, text).modules[0].command == ("python3", "other.py", "other.py", "default", "$1")


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory; name a topology file"):
        load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "services: 7",
        "- a",
        "services: {a: }",
        "a: &a [*a]",
        "\x00",
        "services: {a: {<<: 7}}",
        "a: 2001-99-99",
        "{[a]: b}",
        "a: !!python/name:os.system x",
    ],
)
def test_what_is_no_topology_is_refused_and_never_crashes(folder, text):
    assert problems(folder, text)


def test_a_topology_is_told_from_a_sidecars_file():
    assert is_topology(SHOP.read_text())
    assert is_topology("services: {a: {image: x}}")
    assert not is_topology("service: orders\nservices: {stock: {endpoints: []}}")
    assert not is_topology("[")
