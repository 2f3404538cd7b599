"""What there is to an endpoint, whatever it speaks.

    connection   Single (HTTP/1.1: one exchange at a time)        Shared (HTTP/2: many)
    upstream     the same object                                  one Lane for each exchange

An exchange holds an `Upstream` and knows no more of it than what both kinds have: `codec`, `member`, `owner`, `flush`.
"""

from __future__ import annotations

from typing import TypeAlias

from flui.upstream.owner import Keeper, Owner, Pumps
from flui.upstream.shared import Lane, Shared
from flui.upstream.single import Single

Connection: TypeAlias = Single | Shared
"""One socket."""
Upstream: TypeAlias = Single | Lane
"""What one exchange holds."""

__all__ = ["Connection", "Keeper", "Lane", "Owner", "Pumps", "Shared", "Single", "Upstream"]
