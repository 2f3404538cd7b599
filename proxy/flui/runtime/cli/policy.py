"""`flui policy`: lint, test, explain and compare policies, and list who may do what."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final, Never

import click

from flui.model.config import ConfigError, Problem
from flui.policy import casbin, source
from flui.policy.base import Request, Rule, Text, Verdict
from flui.policy.cases import Failure, read_cases
from flui.policy.cases import run as run_cases
from flui.policy.diff import Change, diff, read_requests
from flui.policy.explain import Explanation, who_can
from flui.policy.explain import explain as explain_request
from flui.policy.index import GUARDS

_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_FOLDER: Final = click.Path(file_okay=False)
_POLICY: Final = click.option(
    "--policy", "folder", default="policy", show_default=True, type=_FOLDER, help="Folder with model.conf and *.csv files."
)


@click.group(epilog="Example: flui policy explain --as spiffe://shop/web stock POST /items/1/reserve")
def policy() -> None:
    """Lint, test, explain and compare policy."""


@policy.command(epilog="Example: flui policy check policy")
@click.argument("folder", default="policy", type=_FOLDER)
@_JSON
def check(folder: str, *, as_json: bool) -> None:
    """Say everything that is wrong with the policy in FOLDER (default: policy), and which parts of its model are indexed."""
    examined = _examine(folder)
    shape = examined.shape.describe() if examined.shape is not None else []
    if as_json:
        _print_json(
            {
                "ok": examined.loaded is not None,
                "problems": [_problem_json(problem) for problem in examined.problems],
                "warnings": [_problem_json(warning) for warning in examined.warnings],
                "indexed": shape,
                "rules": len(examined.loaded.policy.rules) if examined.loaded else 0,
                "grants": len(examined.loaded.policy.grants) if examined.loaded else 0,
                "version": examined.loaded.policy.version if examined.loaded else None,
            }
        )
    else:
        _tell(examined.problems, examined.warnings)
        if examined.loaded is not None:
            found = examined.loaded.policy
            click.echo(f"{click.style('ok', fg='green')}  {len(found.rules)} rules, {len(found.grants)} grants, version {found.version}")
        for line in shape:
            click.echo(f"    indexed: {line}")
    raise SystemExit(0 if examined.loaded is not None else 1)


@policy.command(epilog="Example: flui policy test policy")
@click.argument("folder", default="policy", type=_FOLDER)
@_JSON
def test(folder: str, *, as_json: bool) -> None:
    """Run the cases in FOLDER/cases/*.yaml against the policy in FOLDER, and ask pycasbin the same.

    Where we deny on purpose what pycasbin would allow (a caller called like a role) the two need not agree.
    """
    loaded = _load(folder)
    try:
        cases = read_cases(source.read_cases(folder))
    except ConfigError as error:
        _refuse(error.problems)
    failures = run_cases(loaded.policy, cases)
    reference = casbin.Reference(source.read(folder).model.content, loaded.shape, loaded.policy)
    compared = diff(reference, loaded.policy, (case.request for case in cases))
    differing = [change for change in compared if change.new.rule not in GUARDS]
    if as_json:
        _print_json(
            {
                "ok": not failures and not differing,
                "cases": len(cases),
                "failures": [_failure_json(failure) for failure in failures],
                "pycasbin_differs": [_change_json(change) for change in differing],
            }
        )
    else:
        for failure in failures:
            click.echo(f"{click.style('failed', fg='red')}  {failure}", err=True)
        for change in differing:
            click.echo(f"{click.style('differs', fg='red')}  from pycasbin: {change}", err=True)
        word = click.style("ok", fg="green") if not failures and not differing else click.style("failed", fg="red")
        click.echo(f"{word}  {len(cases) - len(failures)} of {len(cases)} cases hold")
    raise SystemExit(1 if failures or differing else 0)


@policy.command(epilog="Example: flui policy explain --as spiffe://shop/web stock POST /items/1/reserve")
@click.option("--as", "subject", required=True, metavar="SUBJECT", help="Who asks: spiffe://… or jwt:ISSUER:SUBJECT.")
@click.argument("service")
@click.argument("action")
@click.argument("object_", metavar="OBJECT")
@_POLICY
@_JSON
def explain(subject: str, service: str, action: str, object_: str, folder: str, *, as_json: bool) -> None:
    """Say which rule decides, through which roles, and for a denial the nearest rule that would allow."""
    explanation = explain_request(_load(folder).policy, Request(subject, service, action, object_))
    if as_json:
        _print_json(_explanation_json(explanation))
    else:
        _print_explanation(explanation)


@policy.command("who-can", epilog="Example: flui policy who-can stock GET /items/1")
@click.argument("service")
@click.argument("action")
@click.argument("object_", metavar="OBJECT")
@_POLICY
@_JSON
def who_can_command(service: str, action: str, object_: str, folder: str, *, as_json: bool) -> None:
    """List every caller that may do ACTION on OBJECT of SERVICE, with the rule and the roles."""
    found = who_can(_load(folder).policy, service, action, object_)
    if as_json:
        _print_json([{"subject": subject, **_verdict_json(verdict)} for subject, verdict in found])
        return
    for subject, verdict in found:
        name = "everyone" if subject == "*" else subject
        click.echo(f"{name}  by {verdict.rule}  {_chain(verdict)}".rstrip())
    if not found:
        click.echo("nobody")


@policy.command("diff", epilog="Example: flui policy diff policy policy.new --requests access.log")
@click.argument("old", type=_FOLDER)
@click.argument("new", type=_FOLDER)
@click.option(
    "--requests",
    "requests_file",
    type=click.Path(dir_okay=False),
    help="JSON lines with as, service, action, object; or an access log.",
)
@_JSON
def diff_command(old: str, new: str, requests_file: str | None, *, as_json: bool) -> None:
    """Show only the decisions that change from the policy in OLD to the one in NEW; exit 1 when one does.

    Compared are the requests of FILE and of the cases in both folders.
    """
    before, after = _load(old).policy, _load(new).policy
    requests: list[Request] = []
    try:
        for folder in (old, new):
            requests.extend(case.request for case in read_cases(source.read_cases(folder)))
        if requests_file is not None:
            requests.extend(read_requests(_read_text(requests_file)))
    except ConfigError as error:
        _refuse(error.problems)
    if not requests:
        raise click.UsageError("there is nothing to compare: name --requests FILE, or put cases/*.yaml into a policy folder")
    changes = diff(before, after, requests)
    asked = len(set(requests))
    if as_json:
        _print_json({"requests": asked, "changes": [_change_json(change) for change in changes]})
    else:
        for change in changes:
            click.echo(click.style(str(change), fg="green" if change.new.allowed else "red"))
        click.echo(f"{len(changes)} of {asked} decisions change")
    raise SystemExit(1 if changes else 0)


def _examine(folder: str) -> casbin.Examined:
    try:
        return casbin.examine(source.read(folder))
    except ConfigError as error:
        return casbin.Examined(None, error.problems, (), None)


def _load(folder: str) -> casbin.Loaded:
    examined = _examine(folder)
    if examined.loaded is None:
        _refuse(examined.problems)
    return examined.loaded


def _read_text(path: str) -> Text:
    try:
        return Text(path, Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((Problem(path, 0, "", f"cannot be read ({error})", "name a UTF-8 file of JSON lines"),)) from error


def _tell(problems: tuple[Problem, ...], warnings: tuple[Problem, ...] = ()) -> None:
    for problem in problems:
        click.echo(f"{click.style('error', fg='red')}  {problem}", err=True)
    for warning in warnings:
        click.echo(f"{click.style('warning', fg='yellow')}  {warning}", err=True)


def _refuse(problems: tuple[Problem, ...]) -> Never:
    _tell(problems)
    raise SystemExit(1)


def _chain(verdict: Verdict) -> str:
    return " > ".join(verdict.chain) if len(verdict.chain) > 1 else ""


def _print_explanation(explanation: Explanation) -> None:
    subject, service, action, obj = explanation.request
    verdict = explanation.verdict
    word = click.style("allowed", fg="green") if verdict.allowed else click.style("denied", fg="red")
    click.echo(f"{word}  {subject} {action} {obj} on {service}")
    click.echo(f"rule     {verdict.rule}" + (f"  {explanation.rule}" if explanation.rule else ""))
    if len(verdict.chain) > 1:
        click.echo(f"through  {_chain(verdict)}")
    click.echo(f"roles    {', '.join(explanation.roles) or 'none'}")
    nearest = explanation.nearest
    if nearest is not None:
        click.echo(f"nearest  {nearest.rule.place}  {nearest.rule}")
        for difference in nearest.differences:
            click.echo(f"         {difference.field}: {difference.change}")
        if not nearest.differences:
            click.echo(f"         it would allow, but the deny in {verdict.rule} wins")


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _problem_json(problem: Problem) -> dict[str, object]:
    return dataclasses.asdict(problem)


def _verdict_json(verdict: Verdict) -> dict[str, object]:
    return {"allowed": verdict.allowed, "rule": verdict.rule, "chain": list(verdict.chain)}


def _request_json(request: Request) -> dict[str, object]:
    return {"as": request.subject, "service": request.service, "action": request.action, "object": request.obj}


def _rule_json(rule: Rule) -> dict[str, object]:
    return {"place": rule.place, "row": str(rule)}


def _failure_json(failure: Failure) -> dict[str, object]:
    case = failure.case
    expected = "allow" if case.allow else "deny"
    place = f"{case.file}:{case.line}"
    return {"case": place, **_request_json(case.request), "expect": expected, "why": case.why, **_verdict_json(failure.verdict)}


def _change_json(change: Change) -> dict[str, object]:
    return {**_request_json(change.request), "old": _verdict_json(change.old), "new": _verdict_json(change.new)}


def _explanation_json(explanation: Explanation) -> dict[str, object]:
    nearest = explanation.nearest
    return {
        **_request_json(explanation.request),
        **_verdict_json(explanation.verdict),
        "row": str(explanation.rule) if explanation.rule else None,
        "roles": list(explanation.roles),
        "nearest": None
        if nearest is None
        else {**_rule_json(nearest.rule), "differences": [dataclasses.asdict(difference) for difference in nearest.differences]},
    }
