"""What the admin API shows of the module's interface: `/api` for people and `flui api`, `/openapi.json` and `/descriptors` for tools."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING

from flui.runtime.admin import Reply, problem

if TYPE_CHECKING:
    from flui.runtime.sidecar import Running


def api(running: Running) -> Reply:
    """Services, methods and their REST routes, and from where they are known."""
    from flui.translate.listing import listing  # noqa: PLC0415 - for this page alone

    known = running.api
    routes = known.routes
    schema = known.schema
    service = running.config.service
    return _as_said(
        {
            "service": service,
            "known": known.told(),
            "descriptors": running.config.api.descriptors,
            "origin": schema.origin,
            "version": schema.version,
            "services": listing(schema, routes, service) if routes is not None else [],
            "left out": list(routes.mistakes) if routes is not None else [],
        }
    )


def openapi(running: Running) -> Reply:
    """The REST side as an OpenAPI document; 404 while nothing is known of the module."""
    from flui.translate.openapi import document  # noqa: PLC0415 - for this page alone

    known = running.api
    if known.routes is None:
        return problem(404, "Not Found", f"nothing is known of the module's interface: {known.told()}")
    return _as_said(document(known.schema, known.routes, running.config.service))


def descriptors(running: Running) -> Reply:
    """The descriptors in force, as `protoc --descriptor_set_out` writes them; 404 while nothing is known of the module."""
    known = running.api
    if not known.schema.packed:
        return problem(404, "Not Found", f"nothing is known of the module's interface: {known.told()}")
    return Reply(200, "application/x-protobuf", zlib.decompress(known.schema.packed))


def _as_said(value: object) -> Reply:
    """As it is: an interface is no secret, and fields that are called like one (`token`, `password`) are part of it."""
    return Reply(200, "application/json", json.dumps(value, indent=2, allow_nan=False).encode() + b"\n")
