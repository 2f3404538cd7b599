"""A connection that is being dialled and may turn out to be shared, and whoever waits for it beside the one who dials."""

from __future__ import annotations

import asyncio

from flui.upstream.owner import Owner
from flui.upstream.shared import Lane


class Opening:
    """One dial that others have joined."""

    __slots__ = ("waiters",)

    def __init__(self) -> None:
        self.waiters: dict[Owner, asyncio.Future[Lane | None]] = {}
        """Each gets a lane; None: there is none left for it, or the connection is of the other kind."""
