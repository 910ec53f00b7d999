"""Draws the pictures of the documentation: docs/pictures/NAME.txt becomes docs/NAME.svg.

    python docs/draw.py           writes every picture
    python docs/draw.py --check   only says which ones are out of date; exit status 1 if any is

A description has one element on each line, with lengths in pixels:

    picture WIDTHxHEIGHT Title              comes first; the title is what a screen reader reads
    lane X,Y WIDTHxHEIGHT Title             an area with a title, behind everything else
    box NAME X,Y WIDTHxHEIGHT KIND          ours, kernel, others or outside; the indented lines that follow are its
                                            text: the first in bold, one in backquotes in a fixed-width font
    arrow FROM TO Label                     from box to box: straight if they overlap in x or y, else with one corner
    text X,Y Words                          a remark

Text that does not fit into its box is an error. There are no dependencies outside the standard library.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
PADDING, LINE = 9, 17
FIXED_WIDTH, SANS_WIDTH, BOLD_WIDTH = 7.3, 6.4, 7.3
"""The widest that a character of each font is on average, at the size used here."""

# Each class, with its properties in light and in dark.
STYLE = {
    ".paper": ("fill:#ffffff", "fill:#0d1117"),
    ".lane": ("fill:#f3f5f8;stroke:#d0d7de", "fill:#151b23;stroke:#3d444d"),
    ".ours": ("fill:#dcecff;stroke:#1f6feb", "fill:#12294a;stroke:#4493f8"),
    ".kernel": ("fill:#ffffff;stroke:#6e7781", "fill:#212830;stroke:#9198a1"),
    ".others": ("fill:#fff4d6;stroke:#9a6700", "fill:#3a2c07;stroke:#d29922"),
    ".outside": ("fill:none;stroke:#6e7781;stroke-dasharray:4 3", "fill:none;stroke:#9198a1;stroke-dasharray:4 3"),
    ".line": ("fill:none;stroke:#57606a", "fill:none;stroke:#9198a1"),
    ".head": ("fill:#57606a", "fill:#9198a1"),
    "text": ("fill:#1f2328", "fill:#f0f6fc"),
    ".code": ("fill:#0550ae", "fill:#79c0ff"),
    ".remark": ("fill:#57606a", "fill:#9198a1"),
}
FONTS = (
    "text{font:12px 'DejaVu Sans',Verdana,sans-serif}"
    ".code{font:12px 'DejaVu Sans Mono',Menlo,Consolas,monospace}.title{font-weight:bold}.line,.box{stroke-width:1.3}"
)


class DrawError(Exception):
    """A description that cannot be drawn, with the line that is wrong."""


@dataclass
class Box:
    """A rectangle with text; x and y are those of its upper left corner."""

    name: str
    x: float
    y: float
    width: float
    height: float
    kind: str
    lines: list[str] = field(default_factory=list)

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


def draw(description: str) -> str:
    """Return the SVG of one description. Raises DrawError."""
    head: list[str] = []
    lanes: list[str] = []
    arrows: list[str] = []
    texts: list[str] = []
    boxes: dict[str, Box] = {}
    last: Box | None = None
    for line in description.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith(" "):
            if last is None:
                raise DrawError(f"text without a box: {line!r}")
            last.lines.append(line.strip())
            continue
        last = None
        word, _, rest = line.partition(" ")
        if word == "picture":
            head = _head(rest)
        elif word == "lane":
            lanes += _lane(rest)
        elif word == "box":
            last = _box(rest)
            boxes[last.name] = last
        elif word == "arrow":
            arrows += _arrow(rest, boxes)
        elif word == "text":
            place, _, words = rest.partition(" ")
            x, y = _pair(place, ",")
            texts.append(_text(x, y, words, "remark"))
        else:
            raise DrawError(f"unknown element: {line!r}")
    if not head:
        raise DrawError("no line begins with `picture`")
    drawn = [part for box in boxes.values() for part in _drawn(box)]
    return "\n".join([*head, *lanes, *arrows, *drawn, *texts, "</svg>", ""])


def _head(rest: str) -> list[str]:
    size, _, title = rest.partition(" ")
    width, height = _pair(size, "x")
    light = "".join(f"{name}{{{style}}}" for name, (style, _) in STYLE.items())
    dark = "".join(f"{name}{{{style}}}" for name, (_, style) in STYLE.items())
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img">',
        "<!-- docs/draw.py makes this file from the description of the same name in docs/pictures. -->",
        f"<title>{escape(title)}</title>",
        f"<style>{FONTS}{light}",
        f"@media (prefers-color-scheme: dark) {{{dark}}}</style>",
        f'<rect class="paper" width="{width:g}" height="{height:g}"/>',
    ]


def _lane(rest: str) -> list[str]:
    place, size, title = rest.split(" ", 2)
    (x, y), (width, height) = _pair(place, ","), _pair(size, "x")
    return [_rectangle(x, y, width, height, "lane"), _text(x + PADDING, y + LINE + 1, title, "title")]


def _box(rest: str) -> Box:
    name, place, size, kind = rest.split()
    if f".{kind}" not in STYLE:
        raise DrawError(f"unknown kind of box: {kind!r}")
    return Box(name, *_pair(place, ","), *_pair(size, "x"), kind)


def _drawn(box: Box) -> list[str]:
    parts = [_rectangle(box.x, box.y, box.width, box.height, f"box {box.kind}")]
    if len(box.lines) * LINE + 8 > box.height:
        raise DrawError(f"box {box.name}: {len(box.lines)} lines do not fit into {box.height:g} pixels")
    for number, line in enumerate(box.lines):
        is_code = line.startswith("`")
        style, wide = ("code", FIXED_WIDTH) if is_code else ("", SANS_WIDTH)
        if number == 0:
            style, wide = ("code title" if is_code else "title", BOLD_WIDTH)
        words = line.strip("`")
        if len(words) * wide > box.width - PADDING:
            raise DrawError(f"box {box.name}: {words!r} does not fit into {box.width:g} pixels")
        parts.append(_text(box.x + PADDING, box.y + LINE * (number + 1), words, style))
    return parts


def _arrow(rest: str, boxes: dict[str, Box]) -> list[str]:
    names, label = rest.split(" ", 2)[:2], " ".join(rest.split(" ", 2)[2:])
    try:
        one, other = (boxes[name] for name in names)
    except KeyError as error:
        raise DrawError(f"arrow {rest!r}: no box {error} stands before it") from error
    top, bottom = max(one.y, other.y), min(one.bottom, other.bottom)
    left, right = max(one.x, other.x), min(one.right, other.right)
    if top < bottom:
        y = (top + bottom) / 2
        points = [(one.right, y), (other.x, y)] if one.x < other.x else [(one.x, y), (other.right, y)]
        place, anchor = ((points[0][0] + points[1][0]) / 2, y - 6), "middle"
    elif left < right:
        x = (left + right) / 2
        points = [(x, one.bottom), (x, other.y)] if one.y < other.y else [(x, one.y), (x, other.bottom)]
        place, anchor = (x + 6, (points[0][1] + points[1][1]) / 2 + 4), "start"
    else:
        y, x = one.y + one.height / 2, other.x + other.width / 2
        start = (one.right if x > one.x else one.x, y)
        points = [start, (x, y), (x, other.y if other.y > y else other.bottom)]
        place, anchor = ((start[0] + x) / 2, y - 6), "middle"
    path = " ".join(f"{'L' if i else 'M'}{x:g} {y:g}" for i, (x, y) in enumerate(points))
    parts = [f'<path class="line" d="{path}"/>', _arrow_head(points[-2], points[-1])]
    if label:
        parts.append(_text(*place, label, "remark", anchor))
    return parts


def _arrow_head(before: tuple[float, float], end: tuple[float, float]) -> str:
    (x0, y0), (x, y) = before, end
    length = abs(x - x0) + abs(y - y0)
    dx, dy = (x - x0) / length, (y - y0) / length
    corners = [(x, y), (x - 8 * dx - 4 * dy, y - 8 * dy - 4 * dx), (x - 8 * dx + 4 * dy, y - 8 * dy + 4 * dx)]
    return f'<polygon class="head" points="{" ".join(f"{a:g},{b:g}" for a, b in corners)}"/>'


def _rectangle(x: float, y: float, width: float, height: float, style: str) -> str:
    return f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4"/>'


def _text(x: float, y: float, words: str, style: str, anchor: str = "start") -> str:
    classes = f' class="{style}"' if style else ""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text{classes} x="{x:g}" y="{y:g}"{where}>{escape(words)}</text>'


def _pair(text: str, separator: str) -> tuple[float, float]:
    match = re.fullmatch(rf"([\d.]+){separator}([\d.]+)", text)
    if match is None:
        raise DrawError(f"{text!r} is not two numbers with {separator!r} between them")
    return float(match[1]), float(match[2])


def main(arguments: list[str]) -> int:
    """Write the pictures, or check them; return the exit status."""
    stale = []
    for source in sorted((HERE / "pictures").glob("*.txt")):
        try:
            picture = draw(source.read_text())
        except DrawError as error:
            print(f"{source.name}: {error}", file=sys.stderr)
            return 2
        target = HERE / f"{source.stem}.svg"
        if target.exists() and target.read_text() == picture:
            continue
        stale.append(target.name)
        if "--check" not in arguments:
            target.write_text(picture)
    if "--check" not in arguments:
        return 0
    unknown = {p.stem for p in HERE.glob("*.svg")} - {p.stem for p in (HERE / "pictures").glob("*.txt")}
    for name in stale:
        print(f"{name} is out of date: run `make docs`", file=sys.stderr)
    for name in sorted(unknown):
        print(f"{name}.svg has no description in docs/pictures", file=sys.stderr)
    return 1 if stale or unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
