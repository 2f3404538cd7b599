"""Tells when files in a folder may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing

from watchfiles import awatch


async def changes(folders: Collection[str], poll_s: float, debounce_ms: int) -> AsyncGenerator[None, None]:
    """Something may have changed: at once, after each notification, and every `poll_s`, as a replaced folder tells nobody.

    Args:
        folders: Watched without what is below them.
        poll_s: Longest silence, in seconds.
        debounce_ms: Notifications closer together than this are one.
    """
    while True:
        yield
        try:
            seen = awatch(
                *folders,
                watch_filter=None,
                debounce=debounce_ms,
                step=200,
                rust_timeout=int(poll_s * 1000),
                yield_on_timeout=True,
                recursive=False,
            )
            async with aclosing(seen):
                async for _ in seen:
                    yield
        except (OSError, RuntimeError):
            # No folder just now, or no inotify left in this container: then by the clock alone.
            await asyncio.sleep(poll_s)
