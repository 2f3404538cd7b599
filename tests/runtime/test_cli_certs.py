import json
import stat

import pytest
from click.testing import CliRunner

from flui.identity import svid
from flui.runtime.cli import main
from flui.transport.credentials import Credentials
from support.pki import Authority, pkcs8, replace, wall_clock, write


@pytest.fixture
def flui(tmp_path):
    """Runs `flui certs …` on a folder of its own."""

    def run(*arguments, code=0):
        result = CliRunner().invoke(main, ["certs", *map(str, arguments)])
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    run.folder = tmp_path / "certs"
    return run


@pytest.fixture
def ca(flui):
    flui("init", "--dir", flui.folder, "--trust-domain", "shop")
    return flui.folder


def test_init_and_issue_make_what_a_sidecar_reads(flui, ca):
    told = flui("issue", "web", "orders", "--dir", ca).stdout
    assert "spiffe://shop/web" in told
    assert sorted(path.name for path in ca.iterdir()) == ["ca.key", "ca.pem", "orders.key", "orders.pem", "web.key", "web.pem"]
    for service in ("web", "orders"):
        credentials = Credentials(ca, service)
        assert credentials.principal.name == f"spiffe://shop/{service}"
        assert credentials.rehearse() == ""
    for key in ca.glob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----"), "PKCS#8"


def test_init_does_not_overwrite_a_ca_unless_forced(flui, ca):
    before = (ca / "ca.pem").read_bytes()
    refused = flui("init", "--dir", ca, code=1)
    assert "is there already" in refused.stderr
    assert "--force" in refused.stderr
    assert (ca / "ca.pem").read_bytes() == before
    (ca / "ca.pem").unlink()
    assert "ca.key is there already" in flui("init", "--dir", ca, code=1).stderr, "a key alone is a CA worth keeping too"
    flui("init", "--dir", ca, "--force")
    assert (ca / "ca.pem").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("init", "--trust-domain", "Shop"), "upper case"),
        (("init", "--days", "0"), "--days"),
        (("issue",), "NAME"),
        (("issue", "a/b"), "cannot be the name"),
        (("issue", "ca"), "cannot be the name"),
        (("issue", ".."), "cannot be the name"),
        (("issue", "web", "--days", "1", "--minutes", "1"), "give one of them"),
        (("issue", "web", "orders", "--spiffe-id", "spiffe://shop/x"), "for one NAME"),
        (("issue", "web", "--spiffe-id", "spiffe://shop/web?x"), "a query is not allowed"),
        (("issue", "web", "--spiffe-id", "spiffe://shop"), "names no service"),
        (("issue", "web", "--spiffe-id", "spiffe://other/web"), "not of the CA's trust domain shop"),
        (("issue", "web", "--ip", "999.1.1.1"), "no IP address"),
        (("issue", "web", "--dns", "spiffe://x"), "no host name"),
        (("show",), "FILE"),
        (("verify",), "NAME|FILE"),
        (("verify", "ca"), "cannot be the name"),
    ],
)
def test_wrong_use_ends_with_2_and_says_why(flui, ca, arguments, what):
    command, *rest = arguments
    where = [] if command == "show" else ["--dir", ca]
    before = sorted(path.name for path in ca.iterdir())
    assert what in flui(command, *rest, *where, code=2).stderr
    assert sorted(path.name for path in ca.iterdir()) == before


def test_issue_says_how_long_and_for_whom(flui, ca):
    flui("issue", "web", "--dir", ca, "--minutes", "10", "--spiffe-id", "spiffe://shop/front/web", "--dns", "web.example", "--ip", "::1")
    (told,) = json.loads(flui("show", ca / "web.pem", "--json").stdout)
    assert told["uris"] == ["spiffe://shop/front/web"]
    assert (told["dns"], told["ips"]) == (["web.example"], ["::1"])
    assert Credentials(ca, "web").expires_at == pytest.approx(wall_clock() + 600, abs=10)


def test_issue_again_replaces_the_pair_and_leaves_nothing_else(flui, ca):
    flui("issue", "web", "--dir", ca)
    credentials = Credentials(ca, "web")
    serial = credentials.principal.serial
    flui("issue", "web", "--dir", ca)
    assert credentials.reload()
    assert credentials.principal.serial != serial
    assert len(list(ca.iterdir())) == 4


def test_issue_without_a_ca_says_how_to_make_one(flui):
    assert "flui certs init" in flui("issue", "web", "--dir", flui.folder, code=1).stderr
    assert not flui.folder.exists()


def test_issue_with_a_key_of_another_ca_says_so(flui, ca):
    replace(ca / "ca.key", pkcs8(Authority("shop").key))
    assert "belongs to no certificate of the bundle" in flui("issue", "web", "--dir", ca, code=1).stderr


def test_a_ca_made_by_others_needs_the_whole_identity(flui, tmp_path):
    theirs = Authority("shop")
    (tmp_path / "ca.pem").write_bytes(theirs.pem)
    (tmp_path / "ca.key").write_bytes(pkcs8(theirs.key))
    assert "give --spiffe-id" in flui("issue", "web", "--dir", tmp_path, code=2).stderr
    flui("issue", "web", "--dir", tmp_path, "--spiffe-id", "spiffe://shop/web")
    flui("verify", "web", "--dir", tmp_path)


def test_show_prints_every_certificate_of_every_file(flui, ca):
    flui("issue", "web", "--dir", ca)
    text = flui("show", ca / "web.pem", ca / "ca.pem").stdout
    for part in (
        "spiffe://shop/web",
        "issuer",
        "shop development CA",
        "valid",
        "serial",
        "digitalSignature",
        "keyCertSign",
        "SHA-256",
        "EC P-256",
    ):
        assert part in text
    assert "\x1b" not in text, "no colours but on a terminal"
    told = json.loads(flui("show", ca / "web.pem", ca / "ca.pem", "--json").stdout)
    assert [one["is_ca"] for one in told] == [False, True]
    assert told[0]["not_after"].endswith("Z")


def test_show_names_what_holds_no_certificate_and_shows_the_rest(flui, ca):
    result = flui("show", ca / "ca.key", ca / "none.pem", ca / "ca.pem", code=1)
    assert "ca.key: there is no certificate in it" in result.stderr
    assert "none.pem: there is no such file" in result.stderr
    assert "shop development CA" in result.stdout


def test_show_lets_no_certificate_drive_the_terminal(flui, tmp_path):
    (tmp_path / "x.pem").write_bytes(Authority("shop", subject="a\x1b[2Jb\x07").pem)
    text = flui("show", tmp_path / "x.pem").stdout
    assert "\x1b" not in text
    assert "\x07" not in text


def test_verify_says_good(flui, ca):
    flui("issue", "web", "--dir", ca)
    assert "good: spiffe://shop/web" in flui("verify", "web", "--dir", ca).stdout
    assert "good: spiffe://shop/web" in flui("verify", ca / "web.pem", "--dir", ca).stdout
    told = json.loads(flui("verify", "web", "--dir", ca, "--json").stdout)
    assert (told["ok"], told["spiffe_id"], told["problems"]) == (True, "spiffe://shop/web", [])


SHOP = Authority("shop")


@pytest.mark.parametrize(
    ("leaf", "of_name", "of_file"),
    [
        (Authority("shop").leaf(), "unable to get local issuer certificate", "[untrusted]"),
        (SHOP.leaf(begins=-900.0, lasts=-60.0), "expired at", "[expired]"),
        (SHOP.leaf(uris=("spiffe://shop/a", "spiffe://shop/b")), "2 URI SANs", "[not_one_uri]"),
        (SHOP.leaf(usage=None), "has no key usage", "[key_usage]"),
        (SHOP.leaf(ca=True), "is a CA's", "[is_ca]"),
    ],
)
def test_verify_says_why_not(flui, tmp_path, leaf, of_name, of_file):
    write(tmp_path, "web", leaf, SHOP)
    assert of_name in flui("verify", "web", "--dir", tmp_path, code=1).stderr
    assert of_file in flui("verify", tmp_path / "web.pem", "--dir", tmp_path, code=1).stderr
    told = json.loads(flui("verify", "web", "--dir", tmp_path, "--json", code=1).stdout)
    assert told["ok"] is False
    assert told["problems"]


def test_verify_names_what_is_missing(flui, tmp_path):
    assert "ca.pem: there is no such file" in flui("verify", "web", "--dir", tmp_path, code=1).stderr
    assert "ca.pem: there is no such file" in flui("verify", tmp_path / "web.pem", "--dir", tmp_path, code=1).stderr
    (tmp_path / "ca.pem").write_bytes(SHOP.pem)
    assert "web.pem: there is no such file" in flui("verify", tmp_path / "web.pem", "--dir", tmp_path, code=1).stderr


def test_a_ca_is_replaced_without_a_gap(flui, ca, tmp_path):
    """The recipe of certs/README.md: both in the bundle, new leaves, the old one out."""
    flui("issue", "web", "orders", "--dir", ca)
    web, orders = Credentials(ca, "web"), Credentials(ca, "orders")
    old = (ca / "ca.pem").read_bytes()
    flui("init", "--dir", tmp_path / "next", "--trust-domain", "shop")
    new = (tmp_path / "next" / "ca.pem").read_bytes()
    replace(ca / "ca.pem", old + new)
    assert web.reload()
    assert orders.reload()
    replace(ca / "ca.key", (tmp_path / "next" / "ca.key").read_bytes())
    flui("issue", "web", "orders", "--dir", ca)
    for credentials in (web, orders):
        assert credentials.reload()
        assert credentials.rehearse() == ""
    replace(ca / "ca.pem", new)
    for credentials in (web, orders):
        assert credentials.reload()
        assert credentials.rehearse() == ""
        assert credentials.trust.anchors.ders == set(svid.split(new))


@pytest.mark.parametrize("command", ["init", "issue", "show", "verify"])
def test_every_command_has_help_with_an_example(flui, command):
    assert "Example: flui certs" in flui(command, "--help").stdout
