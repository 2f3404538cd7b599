"""How much of every table fits on a screen: which columns, how wide, how many rows. Pure numbers, nothing is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

GAP: Final = 2
"""Columns of the screen between two columns of a table."""
_LEAST: Final = 3
"""Width of a word of which something can still be told."""


class Column(NamedTuple):
    """A column of a table."""

    title: str
    rank: int = 0
    """The highest goes first when there is no room; 0: it stays."""
    right: bool = False
    """Aligned to the right."""
    least: int = 0
    """It may be cut, down to this width if possible; 0: it is shown whole or not at all."""
    usual: int = 0
    """It is at least this wide, so that it does not jump with every number."""


def fit(columns: Sequence[Column], widths: Sequence[int], room: int | None) -> list[tuple[int, int]]:
    """Which columns are shown, and how wide.

    First columns that may be cut are, the widest first; when that is not enough, the one of highest rank goes, until the
    rest fits. When only those are left that always stay, they are cut further.

    Args:
        columns: all of them, in order.
        widths: what each needs; 0: it has nothing to show, and goes.
        room: columns of the screen; None: as much as is needed.

    Returns:
        Number and width of each column that is shown, in order.
    """
    shown = [at for at, width in enumerate(widths) if width]
    if room is None:
        return [(at, widths[at]) for at in shown]
    while True:
        cut = {at: widths[at] for at in shown}
        least = {at: columns[at].least for at in shown if columns[at].least}
        if _cut(cut, least, room):
            return list(cut.items())
        highest = max(shown, key=lambda at: columns[at].rank)
        if not columns[highest].rank:
            _cut(cut, dict.fromkeys(least, _LEAST), room)
            return list(cut.items())
        shown.remove(highest)


def _cut(widths: dict[int, int], least: Mapping[int, int], room: int) -> bool:
    """Cuts the widest columns until all fit, none below its least; whether that was enough."""
    over = sum(widths.values()) + GAP * (len(widths) - 1) - room
    while over > 0:
        loose = [at for at, width in least.items() if widths[at] > width]
        if not loose:
            return False
        widths[max(loose, key=lambda at: widths[at])] -= 1
        over -= 1
    return True


def fair(wants: Sequence[int], room: int | None) -> list[int]:
    """Rows for every table: each gets the same, and what one does not need goes to the others.

    Args:
        wants: rows that each has.
        room: rows of the screen; None: as many as are wanted.
    """
    if room is None:
        return list(wants)
    given = [0] * len(wants)
    while room > 0 and given != list(wants):
        for at, want in enumerate(wants):
            if given[at] < want and room > 0:
                given[at] += 1
                room -= 1
    return given
