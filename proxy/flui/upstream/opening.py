"""A connection on its way."""

from __future__ import annotations

import asyncio

from flui.upstream.owner import Owner
from flui.upstream.shared import Lane


class Opening:
    """A connection that is being dialled and may turn out to be shared: whom it is awaited by beside the one who dials."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: dict[Owner, asyncio.Future[Lane | None]] = {}
