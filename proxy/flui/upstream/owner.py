"""Who stands around a connection to an endpoint: whoever it works for, and whoever keeps it between two requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flui.upstream.connection import Connection


class Pumps(Protocol):
    """Who writes what has become ready: a caller's connection."""

    def pump(self, now: float) -> None:
        """Carries on, and writes once to every socket touched."""


class Owner(Protocol):
    """Who uses a connection, or a lane of one, for an exchange."""

    @property
    def waits_since(self) -> float:
        """When the request was sent whose answer has not begun; infinite when none is waited for. Monotonic seconds."""
        ...

    def upstream_spoke(self, now: float) -> Pumps | None:
        """The codec has events: they are heard now.

        Returns:
            Whom to `pump` when all owners that one read concerns were told, once however many of them ask for it; None: nobody.
        """
        ...


class Keeper(Protocol):
    """Who keeps connections: a pool."""

    def forget(self, connection: Connection) -> None:
        """The connection is gone or must not be used again."""
