"""What `flui explain` says of a request that means a gRPC call: dialect, method, how messages are put, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

from flui.decide import Snapshot
from flui.model.api import OFF
from flui.model.config import Sidecar
from flui.model.events import RequestHead
from flui.model.fault import DIALECTS, Fault
from flui.model.grpc import STATUSES, Status, http_of
from flui.model.spoken import Dialect
from flui.model.topology import APP, Protocol
from flui.runtime import adminclient, apifile
from flui.runtime.adminclient import clean
from flui.translate.base import HTTP_FAULTS, Mapped
from flui.translate.listing import kind
from flui.translate.rest import NO_ROUTES, RestRoutes
from flui.translate.rest_grpc import RestCall
from flui.translate.schema import NO_SCHEMA, Schema
from flui.translate.status import CONNECT_CODES
from flui.translate.template import value_of

_KINDS: Final = {
    "unary": "one message each way",
    "server": "a stream of answers",
    "client": "a stream of requests",
    "bidi": "streams both ways",
}
_NEEDS: Final = "REST, and messages in JSON, hang on it"


class Known(NamedTuple):
    """What is known of the module beside a sidecar."""

    routes: RestRoutes
    told: str
    """From where, or why nothing is."""


def is_translated(sidecar: Sidecar) -> bool:
    """Whether callers of the module may speak another dialect than its own."""
    app = next((cluster for cluster in sidecar.clusters if cluster.name == APP), None)
    return app is not None and (app.protocol is Protocol.HTTP2 or bool(sidecar.api.file))


def known_of(sidecar: Sidecar) -> Known:
    """What is known of the module: from the file that the configuration names, else from the sidecar, if it runs.

    Raises:
        ConfigError: The file cannot be used.
    """
    api = sidecar.api
    if api.file:
        return _known(apifile.read(api.file))
    if api.descriptors == OFF:
        return Known(NO_ROUTES, f"nothing is known of the module (`app.api` is off); {_NEEDS}")
    why = "no admin API is configured"
    if sidecar.admin is not None:
        where = str(sidecar.admin)
        try:
            return _known(_asked(where, sidecar.service))
        except (adminclient.NoAnswerError, ValueError, apifile.UnusableError) as error:
            why = clean(str(error))
    return Known(NO_ROUTES, f"the module tells it by reflection, and its sidecar could not be asked ({why}); {_NEEDS}")


def _known(routes: RestRoutes) -> Known:
    schema = routes.schema
    return Known(routes, clean(f"{schema.origin}, version {schema.version}"))


def _asked(where: str, service: str) -> RestRoutes:
    """What a running sidecar knows.

    Raises:
        NoAnswerError: Nobody answers there who may be believed.
        ValueError: What was answered is none of that.
        UnusableError: The same.
    """
    if "/" in where and where not in adminclient.sockets(Path(where).parent, Path(where).name):
        raise adminclient.NoAnswerError(f"nobody of ours listens on {where}")
    page = json.loads(adminclient.get(where, "/api").body)
    if not isinstance(page, dict) or page.get("service") != service:
        raise ValueError(f"{where} is not the sidecar of {service}")
    answer = adminclient.get(where, "/descriptors")
    if answer.status != 200:
        raise adminclient.NoAnswerError(f"it does not know it either: {page.get('known')}")
    return apifile.of_set(answer.body, [str(each["service"]) for each in page["services"]], str(page["origin"]))


class Meant(NamedTuple):
    """What a request means."""

    head: RequestHead
    """What is decided on: of the call, where it means one."""
    dialect: Dialect | None
    """None: it is HTTP, and passes as it is."""
    shown: dict[str, object]
    """Lines about it."""
    refused: dict[str, object]
    """How it is turned away where policy lets it in; empty: it is not."""


def meant(head: RequestHead, snapshot: Snapshot, known: Known | None) -> Meant:
    """What a validated request means.

    Args:
        head: Of the request.
        snapshot: With what is known of the module.
        known: The same, and from where; None: nothing is translated where the request arrives.
    """
    if known is None:
        return Meant(head, Dialect.GRPC if head.grpc else None, {}, {})
    told: dict[str, object] = {"schema": known.told}
    behind = snapshot.dialects is not None and snapshot.dialects.behind(head.path) is not None
    if head.grpc:
        return Meant(head, Dialect.GRPC, _call_shown(head, known.routes, behind=behind) | told, {})
    mapped = snapshot.dialects.call(head) if snapshot.dialects is not None else None
    if mapped is None:
        return Meant(head, None, {"dialect": "http, which names no method of the module"} | told, {})
    shown = _shown(mapped, snapshot.schema)
    if behind and mapped.refused is None:
        shown["module is asked"] = _rest_shown(head.path, known.routes)
    return Meant(mapped.head, mapped.dialect, shown | told, _refused(mapped))


def _shown(mapped: Mapped, schema: Schema) -> dict[str, object]:
    lines: dict[str, object] = {"dialect": mapped.dialect.label}
    lines |= _method_shown(mapped.head.path, schema)
    if isinstance(mapped, RestCall) and mapped.bound is not None:
        way = mapped.bound.way
        lines["REST route"] = clean(f"{way.rule.method} {way.rule.path}") + ("" if way.annotated else " (the default one)")
        values = zip(way.places, mapped.bound.captures, strict=True)
        variables = {place.path: value_of(value, several=place.variable.several) or "?" for place, value in values}
        if variables:
            lines["variables"] = variables
    asks, tells = mapped.formats
    if mapped.refused is not None:
        lines["cannot be carried out"] = mapped.refused.why
    elif asks:
        lines |= {"request": asks, "answer": tells}
    return lines


def _method_shown(path: bytes, schema: Schema) -> dict[str, object]:
    method = schema.methods.get(path)
    name = clean(path.decode("latin-1"))
    if method is None:
        return {"method": f"{name}, which the module does not have" if schema is not NO_SCHEMA and path.count(b"/") == 2 else name}
    return {"method": f"{name} ({_KINDS[kind(method)]}), {method.asks.name} -> {method.tells.name}"}


def _rest_shown(path: bytes, routes: RestRoutes) -> list[str]:
    """REST routes that a module may be asked by: the first one that can say the message is taken."""
    ways = routes.ways(routes.schema.methods[path])
    return [clean(f"{way.rule.method} {way.rule.path}") for way in [way for way in ways if way.annotated] or ways]


def _call_shown(head: RequestHead, routes: RestRoutes, *, behind: bool) -> dict[str, object]:
    lines: dict[str, object] = {"dialect": Dialect.GRPC.label}
    lines |= _method_shown(head.path, routes.schema)
    lines |= dict.fromkeys(("request", "answer"), "protobuf, as it comes")
    method = routes.schema.methods.get(head.path)
    if behind:
        lines["module is asked"] = _rest_shown(head.path, routes)
    elif method is not None:
        lines["reached also by"] = [clean(f"{way.rule.method} {way.rule.path}") for way in routes.ways(method)]
    return lines


def _refused(mapped: Mapped) -> dict[str, object]:
    refused = mapped.refused
    if refused is None:
        return {}
    fault = refused.fault
    lines: dict[str, object] = {"action": "reply"}
    if fault in HTTP_FAULTS:
        lines["status"] = DIALECTS[fault].http
    else:
        lines |= told_as(mapped.dialect, fault, refused.status)
    lines["fault"] = fault.value
    if refused.allow:
        lines["allow"] = refused.allow.decode()
    return lines


def told_as(dialect: Dialect, fault: Fault, status: Status | None = None) -> dict[str, object]:
    """How a caller is told that we refuse.

    Args:
        dialect: That it speaks.
        fault: For which.
        status: gRPC's, where it is another one than the fault's own.
    """
    if status is None:
        status = STATUSES[DIALECTS[fault].grpc]
    if dialect is Dialect.REST:
        return {"status": DIALECTS[fault].http, "grpc status": status.name}
    if dialect is Dialect.CONNECT:
        return {"status": http_of(status), "connect code": CONNECT_CODES[status.value]}
    if dialect is Dialect.CONNECT_STREAM:
        return {"status": 200, "connect code": CONNECT_CODES[status.value]}
    return {"grpc status": status.name}
