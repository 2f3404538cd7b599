"""Draws views: as lines for a terminal or a pipe, and as an SVG picture. The only file that knows the library rich.

flui top  1 sidecar  over 1.0 s                     q ends
orders  spiffe://shop/orders  up 2m 3s  ready  …              or a table, of several sidecars
LISTENER  SERVICE  ROUTE    REQ/S  …
inbound   orders   app      312.0                             the tables share the height: each shrinks before one is lost
… 3 more
"""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from flui.runtime.adminclient import clean
from flui.runtime.top.layout import GAP, fair, fit
from flui.runtime.top.tables import BAD, FAINT, TITLE, Cell, Table, facts, tables
from flui.runtime.top.view import Lost, View

_ROOMY: Final = 6
"""With that many lines for each table, there is a line of air between them."""
_UNBOUNDED: Final = 100_000

# Nothing is loaded from elsewhere, unlike in rich's own frame
_SVG: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{unique_id}-title">
<title id="{unique_id}-title">flui top</title>
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""  # noqa: E501 -- one rule of CSS


def frame(views: Sequence[View | Lost], width: int | None, height: int | None, keys: str = "") -> list[Text]:
    """The lines that show some sidecars.

    Args:
        views: one or more.
        width: columns; None: as many as are needed, and nothing is cut.
        height: lines, never exceeded; None: as many as are needed.
        keys: what stands at the right of the first line, for a screen that listens.
    """
    lines = [_top(views, width, keys)]
    lines += [Text(clean(f"{each.sidecar}: {each.why}"), BAD) for each in views if isinstance(each, Lost)]
    if len(views) == 1 and isinstance(views[0], View):
        lines += _wrapped(facts(views[0].head), width)
    found = tables(views)
    room = None if height is None else max(height - len(lines), 0)
    if room is not None:
        found = found[: room // 2]  # a title and a row are the least that says something
    rows = sum(len(table.rows) + 1 for table in found)
    airy = room is None or rows + len(found) <= room or room >= _ROOMY * len(found)
    shares = fair([len(table.rows) for table in found], None if room is None else room - len(found) * (2 if airy else 1))
    for table, share in zip(found, shares, strict=True):
        if airy:
            lines.append(Text())
        lines += _drawn(table, share, width)
    for line in lines:
        if width is not None:
            line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def ansi(lines: Sequence[Text], *, coloured: bool, styled: bool = True) -> list[str]:
    """Lines as a terminal takes them.

    Args:
        lines: of `frame`.
        coloured: with the eight colours.
        styled: bold and faint, at least.
    """
    console = Console(
        file=StringIO(),
        width=_UNBOUNDED,
        force_terminal=styled,
        color_system="standard" if styled else None,
        no_color=not coloured,
        legacy_windows=False,
        highlight=False,
    )
    made: list[str] = []
    for line in lines:
        with console.capture() as captured:
            console.print(line, end="", soft_wrap=True)
        made.append(captured.get())
    return made


def svg(lines: Sequence[Text]) -> str:
    """Lines as a picture that stands alone."""
    width = max(line.cell_len for line in lines)
    console = Console(
        file=StringIO(), width=width, record=True, force_terminal=True, color_system="standard", highlight=False, no_color=False
    )
    for line in lines:
        console.print(line, no_wrap=True, crop=False)
    console.print()  # rich forgets the frame of the last line
    return console.export_svg(title="flui top", code_format=_SVG, unique_id="flui-top")


def _top(views: Sequence[View | Lost], width: int | None, keys: str) -> Text:
    well = [each for each in views if isinstance(each, View)]
    told = ["flui top", f"{len(views)} sidecars" if len(views) > 1 else "1 sidecar"]
    if well:
        over_s = max(each.over_s for each in well)
        told.append("since the start" if all(each.since_start for each in well) else f"over {over_s:.1f} s")
    text = "   ".join(told)
    if width is not None:
        text = f"{text}{keys:>{max(width - len(text), 0)}}" if len(text) + len(keys) < width else text
        text = text.ljust(width)
    return Text(text, "reverse" if width is not None else "bold")


def _wrapped(cells: Sequence[Cell], width: int | None) -> list[Text]:
    """Facts behind one another, on as many lines as they need."""
    lines = [Text()]
    for cell in cells:
        text = Text(clean(cell.text), cell.style)
        if lines[-1].cell_len:
            if width is not None and lines[-1].cell_len + GAP + text.cell_len > width:
                lines.append(Text())
            else:
                lines[-1].append(" " * GAP)
        lines[-1].append_text(text)
    return lines


def _drawn(table: Table, share: int, width: int | None) -> list[Text]:
    """A table's title and as many of its rows as it may have; the last line says how many more there are."""
    cut = len(table.rows) > share
    rows = [[Cell(clean(cell.text), cell.style) for cell in row] for row in table.rows[: share - 1 if cut else share]]
    widths = [
        max(cell_len(column.title), column.usual, *(cell_len(row[at].text) for row in rows)) if any(row[at].text for row in rows) else 0
        for at, column in enumerate(table.columns)
    ]
    if not rows:
        widths = [cell_len(column.title) for column in table.columns]
    shown = fit(table.columns, widths, width)
    titles = [Cell(column.title, TITLE) for column in table.columns]
    lines = [_line(row, table, shown) for row in (titles, *rows)]
    if cut:
        lines.append(Text(f"… {len(table.rows) - len(rows)} more", FAINT))
    return lines


def _line(row: Sequence[Cell], table: Table, shown: Sequence[tuple[int, int]]) -> Text:
    line = Text()
    for at, width in shown:
        if line.cell_len:
            line.append(" " * GAP)
        text = Text(row[at].text, row[at].style)
        text.truncate(width, overflow="ellipsis")
        if table.columns[at].right:
            text.align("right", width)
        else:
            text.pad_right(max(width - text.cell_len, 0))
        line.append_text(text)
    line.rstrip()
    return line
