"""Where the consistent-hash key of a request is."""

from __future__ import annotations

from flui.model.events import RequestHead
from flui.model.topology import HashKey, KeySource


def hash_key(where: HashKey, head: RequestHead, principal: str) -> bytes:
    """The consistent-hash key of a request, empty when it has none."""
    source = where.source
    if source is KeySource.FLUI_KEY:
        return head.key
    if source is KeySource.PRINCIPAL:
        return principal.encode()
    if source is KeySource.HEADER:
        for field in head.fields:
            if field.name == where.name:
                return field.value
        return b""
    parts = head.path.split(b"/")
    return parts[where.part] if where.part < len(parts) else b""
