"""`flui certs`: a development CA, leaves with SPIFFE IDs, and what stands in any certificate."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, NoReturn

import click

from flui.identity import ca, svid
from flui.identity.spiffe import SpiffeId, trust_domain_problem
from flui.identity.svid import Anchors, SvidError
from flui.model.config import ConfigError
from flui.transport.credentials import BUNDLE, Credentials

DAY_S: Final = 86_400.0
CA_KEY: Final = "ca.key"
_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")

_folder = click.option("--dir", "folder", default="certs", show_default=True, type=click.Path(path_type=Path), help="Folder of the files.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead.")


@click.group(
    epilog="Example: flui certs init --trust-domain shop && flui certs issue web orders && flui certs verify web   "
    "Exit codes: 0 fine, 1 found something wrong, 2 used wrongly."
)
def certs() -> None:
    """Make a development CA and leaves with SPIFFE IDs; show and verify any certificate."""


@certs.command(epilog="Example: flui certs init --dir certs --trust-domain shop")
@_folder
@click.option("--trust-domain", default="flui.local", show_default=True, help="What the SPIFFE IDs begin with.")
@click.option("--days", default=3650, show_default=True, type=click.IntRange(min=1), help="How long the CA is valid.")
@click.option("--force", is_flag=True, help="Replace a CA that is there; every leaf it made is void then.")
def init(folder: Path, trust_domain: str, days: int, *, force: bool) -> None:
    """Make a CA: ca.pem, which every sidecar trusts, and ca.key (mode 0600), which signs."""
    problem = trust_domain_problem(trust_domain)
    if problem:
        raise click.BadParameter(f"{problem}", param_hint="--trust-domain")
    taken = [path for path in (folder / BUNDLE, folder / CA_KEY) if path.exists()]
    if taken and not force:
        _fail(f"{taken[0]} is there already; take another --dir, or replace it with --force")
    made = ca.new_ca(trust_domain, _now(), days * DAY_S)
    _write(folder / CA_KEY, made.key_pem, 0o600)
    _write(folder / BUNDLE, made.certificate_pem, 0o644)
    click.echo(
        f"{folder / BUNDLE}: CA of the trust domain {trust_domain}, valid for {days} days; its key is {folder / CA_KEY}, keep it secret"
    )


@certs.command(epilog="Example: flui certs issue web orders --days 7    flui certs issue web --spiffe-id spiffe://shop/front/web")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_folder
@click.option("--spiffe-id", metavar="URI", help="The identity, for one NAME.  [default: spiffe://TRUST-DOMAIN/NAME]")
@click.option("--days", type=click.IntRange(min=1), help="How long it is valid.  [default: 30]")
@click.option("--minutes", type=click.IntRange(min=1), help="The same in minutes, to try a rotation.")
@click.option("--dns", multiple=True, metavar="HOST", help="A DNS name too, for clients that check one; never an identity here.")
@click.option("--ip", "ips", multiple=True, metavar="ADDRESS", help="An IP address too.")
def issue(
    names: tuple[str, ...],
    folder: Path,
    spiffe_id: str | None,
    days: int | None,
    minutes: int | None,
    dns: tuple[str, ...],
    ips: tuple[str, ...],
) -> None:
    """Make or replace NAME.pem (leaf, then its chain) and NAME.key, signed by the CA in the folder."""
    if days is not None and minutes is not None:
        raise click.UsageError("--days and --minutes say the same thing; give one of them")
    if spiffe_id is not None and len(names) > 1:
        raise click.UsageError("--spiffe-id is for one NAME; two services never share an identity")
    for host in dns:
        if not _HOST.fullmatch(host):
            raise click.BadParameter(f"{host!a} is no host name", param_hint="--dns")
    addresses = [_address(text) for text in ips]
    for name in names:
        _check_name(name)
    authority = _load_ca(folder)
    identities = [_identity(name, spiffe_id, authority.trust_domain) for name in names]
    lifetime_s = minutes * 60.0 if minutes is not None else (days or 30) * DAY_S
    for name, identity in zip(names, identities, strict=True):
        try:
            leaf = ca.issue(authority, identity, _now(), lifetime_s, dns, addresses)
        except ValueError as e:
            _fail(f"{folder / BUNDLE}: {e}; make a new CA with: flui certs init --dir {folder} --force")
        # The key first: a sidecar that looks in between finds a pair that does not fit, keeps the old one and looks again.
        _write(folder / f"{name}.key", leaf.key_pem, 0o600)
        _write(folder / f"{name}.pem", leaf.chain_pem, 0o644)
        ends = svid.lifetime(svid.split(leaf.chain_pem)[0])[1]
        click.echo(f"{folder / name}.pem: {identity}, valid until {svid.moment(ends)}")


@certs.command(epilog="Example: flui certs show certs/web.pem certs/ca.pem")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@_as_json
def show(files: tuple[Path, ...], *, as_json: bool) -> None:
    """Print what stands in certificates: identity, issuer, validity, key usage, fingerprints."""
    shown: list[dict[str, object]] = []
    problems = 0
    for file in files:
        try:
            found = [ca.describe(der) for der in svid.split(_read(file))]
        except ValueError as e:
            click.echo(f"{file}: {e}; give a file with certificates in PEM", err=True)
            problems += 1
            continue
        for number, description in enumerate(found, 1):
            if as_json:
                facts = {"file": str(file), "number": number} | asdict(description)
                shown.append(facts | {key: _stamp(getattr(description, key)) for key in ("not_before", "not_after")})
            else:
                _print(file, number, description)
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    sys.exit(1 if problems else 0)


@certs.command(epilog="Example: flui certs verify web --dir certs    flui certs verify /etc/ssl/their-leaf.pem --dir certs")
@click.argument("target", metavar="NAME|FILE")
@_folder
@_as_json
def verify(target: str, folder: Path, *, as_json: bool) -> None:
    """Say whether peers that trust ca.pem would accept a certificate, or why not.

    A NAME is judged as its sidecar is: certificate, key and bundle are loaded, and a handshake with itself is rehearsed. A FILE
    is judged by its certificates alone.
    """
    is_file = "/" in target or Path(target).is_file()
    identity, ends, problems = _judge_file(Path(target), folder) if is_file else _judge_name(target, folder)
    if as_json:
        told = {
            "target": target,
            "ok": not problems,
            "spiffe_id": identity,
            "not_after": _stamp(ends) if ends else None,
            "problems": problems,
        }
        click.echo(json.dumps(told, indent=2))
    elif not problems:
        click.echo(f"{target}: {click.style('good', fg='green')}: {identity}, until {svid.moment(ends)}")
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(1 if problems else 0)


def _judge_name(name: str, folder: Path) -> tuple[str, float, list[str]]:
    """Identity, notAfter and what is wrong, of a service."""
    _check_name(name)
    try:
        credentials = Credentials(folder, name)
    except ConfigError as e:
        return "", 0.0, [str(problem) for problem in e.problems]
    why = credentials.rehearse()
    problems = [f"{folder / name}.pem: peers that trust {folder / BUNDLE} would refuse it: {_plain(why)}"] if why else []
    return credentials.principal.name, credentials.expires_at, problems


def _judge_file(file: Path, folder: Path) -> tuple[str, float, list[str]]:
    """The same, of a file with a leaf and its chain."""
    bundle = folder / BUNDLE
    try:
        anchors = Anchors(_read(bundle))
    except ValueError as e:
        return "", 0.0, [f"{bundle}: {e}; it holds the certificates of the CAs that are trusted, in PEM"]
    try:
        chain = svid.split(_read(file))
    except ValueError as e:
        return "", 0.0, [f"{file}: {e}; it holds the leaf, then its chain, in PEM"]
    identity, ends = "", 0.0
    problems: list[str] = []
    try:
        identity = svid.principal(chain[0], svid.trust_domain_of(chain[0])).name
    except SvidError as e:
        problems.append(f"{file}: {_plain(e.text)} [{e.reason.value}]")
    try:
        ends = anchors.verify(chain, _now())
    except SvidError as e:
        problems.append(f"{file}: {_plain(e.text)} [{e.reason.value}]")
    return identity, ends, problems


def _identity(name: str, spiffe_id: str | None, trust_domain: str) -> SpiffeId:
    if spiffe_id is None:
        if not trust_domain:
            raise click.UsageError("the CA does not say its trust domain (it was not made by flui); give --spiffe-id URI")
        spiffe_id = f"spiffe://{trust_domain}/{name}"
    try:
        identity = SpiffeId.parse(spiffe_id)
    except ValueError as e:
        raise click.BadParameter(str(e), param_hint="--spiffe-id") from e
    if not identity.path:
        raise click.BadParameter(f"{identity} names no service; write {identity}/{name}", param_hint="--spiffe-id")
    if trust_domain and identity.trust_domain != trust_domain:
        raise click.BadParameter(f"{identity} is not of the CA's trust domain {trust_domain}", param_hint="--spiffe-id")
    return identity


def _check_name(name: str) -> None:
    try:
        SpiffeId.parse(f"spiffe://x/{name}")
    except ValueError:
        fits = False
    else:
        fits = "/" not in name and name != "ca"
    if not fits:
        raise click.BadParameter(
            f"{name!a} cannot be the name of a service; it is made of A-Z a-z 0-9 . - _ and is not `ca`", param_hint="NAME"
        )


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise click.BadParameter(f"{text!a} is no IP address", param_hint="--ip") from None


def _load_ca(folder: Path) -> ca.CA:
    for path in (folder / BUNDLE, folder / CA_KEY):
        if not path.exists():
            _fail(f"{path}: there is no such file; make a CA with: flui certs init --dir {folder}")
    try:
        return ca.load_ca(_read(folder / BUNDLE), _read(folder / CA_KEY))
    except (ValueError, SvidError) as e:
        _fail(f"{folder / BUNDLE} and {CA_KEY}: {e}; put the CA's certificate and key there")


def _read(path: Path) -> bytes:
    """Its octets.

    Raises:
        ValueError: It cannot be read; in words.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except OSError as e:
        raise ValueError(f"it cannot be read ({e.strerror})") from e


def _write(path: Path, octets: bytes, mode: int) -> None:
    """Replaces a file in one step, never readable by more than `mode` says."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(octets)
            Path(new).replace(path)
        except BaseException:
            Path(new).unlink(missing_ok=True)
            raise
    except OSError as e:
        _fail(f"{path}: it cannot be written ({e.strerror})")


def _print(file: Path, number: int, told: ca.Description) -> None:
    """One certificate for people."""
    now = _now()
    begins, ends = svid.moment(told.not_before), svid.moment(told.not_after)
    state = (
        click.style("expired", fg="red")
        if now >= told.not_after
        else click.style("not yet valid", fg="red")
        if now < told.not_before
        else ""
    )
    rows = (
        ("identity", ", ".join(told.uris)),
        ("subject", told.subject),
        ("issuer", told.issuer),
        ("valid", f"{begins} to {ends}"),
        ("serial", told.serial),
        ("names", ", ".join(told.dns + told.ips)),
        ("kind", f"{'CA' if told.is_ca else 'leaf'}, {told.key}, signed with {told.signature}"),
        ("key usage", ", ".join(told.key_usage)),
        ("used for", ", ".join(told.extended_key_usage)),
        ("SHA-256", told.sha256),
        ("key SHA-256", told.key_sha256),
    )
    click.echo(click.style(f"{file} #{number}", bold=True) + (f"  {state}" if state else ""))
    for label, value in rows:
        if value:
            click.echo(f"  {label:<12} {_plain(value)}")


def _plain(text: str) -> str:
    """Without what could drive a terminal: names in certificates are written by others."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _stamp(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> float:
    return time.time()  # noqa: TID251  floor 4: certificates are dated in Unix seconds


def _fail(text: str) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(1)
