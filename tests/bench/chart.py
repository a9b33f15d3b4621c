"""Bars as SVG, without a library: one panel a case, servers from the cheapest to the dearest.

Each panel has its own scale, from zero; a bar's value stands at its end, so nothing has to be read off an axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLUMNS, WIDTH, LABEL, BAR, GAP, HEAD, MARGIN = 2, 460, 104, 15, 5, 34, 16
VALUE = 52  # room for a value behind the longest bar
COLOURS = {"tampah": "#0b6e4f", "tampah-2": "#6bbf9c", "echo": "#b8b8b8"}
OTHER = "#5b7fa6"
TITLE = "Server CPU microseconds an answer: shorter is better"


@dataclass(frozen=True, slots=True)
class Panel:
    """A title, and (server, CPU microseconds an answer) for each bar."""

    title: str
    bars: Sequence[tuple[str, float]]

    @property
    def height(self) -> int:
        return HEAD + len(self.bars) * (BAR + GAP) + MARGIN


def draw(panels: Sequence[Panel]) -> str:
    """The whole picture."""
    rows = [panels[start : start + COLUMNS] for start in range(0, len(panels), COLUMNS)]
    heights = [max(panel.height for panel in row) for row in rows]
    width, height = COLUMNS * WIDTH + 2 * MARGIN, sum(heights) + 2 * MARGIN + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{MARGIN}" y="{MARGIN + 10}" font-size="14">{TITLE}</text>',
    ]
    top = MARGIN + 20
    for row, tall in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            lines += _panel(panel, MARGIN + column * WIDTH, top)
        top += tall
    return "\n".join([*lines, "</svg>", ""])


def _panel(panel: Panel, left: int, top: int) -> Iterator[str]:
    yield f'<text x="{left}" y="{top + 22}" font-weight="600">{escape(panel.title)}</text>'
    longest = max(value for _, value in panel.bars) or 1.0
    room = WIDTH - LABEL - VALUE - MARGIN
    for place, (server, value) in enumerate(panel.bars):
        y = top + HEAD + place * (BAR + GAP)
        length = max(1.0, value / longest * room)
        weight = ' font-weight="600"' if server.startswith("tampah") else ""
        yield f'<text x="{left + LABEL - 6}" y="{y + 12}" text-anchor="end"{weight}>{escape(server)}</text>'
        yield (
            f'<rect x="{left + LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" '
            f'fill="{COLOURS.get(server, OTHER)}"/>'
        )
        yield f'<text x="{left + LABEL + length + 5:.1f}" y="{y + 12}"{weight}>{value:,.1f}</text>'
