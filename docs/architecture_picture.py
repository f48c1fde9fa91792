"""Draws `architecture.svg`: the rooms of the package, each above all that it imports.

python docs/architecture_picture.py
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "autoadapt"
WIDTH, ROW, BOX, SPACE, LETTER = 500, 62, 30, 44, 7.3
STYLE = """
text { font: 12px ui-monospace, monospace; fill: #333; text-anchor: middle }
rect { fill: #dbe7f6; stroke: #4472a8 }
line { stroke: #999 }
@media (prefers-color-scheme: dark) { text { fill: #ddd } rect { fill: #24384f } line { stroke: #777 } }
"""


def imports() -> dict[str, set[str]]:
    """Which rooms each room imports: files and folders on the top level, without the two files that only pass on."""
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    rooms -= {"__init__", "__main__"}
    found: dict[str, set[str]] = {room: set() for room in sorted(rooms)}
    for path in sorted(PACKAGE.rglob("*.py")):
        here = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if here in rooms else ():
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("autoadapt."):
                found[here].add(node.module.split(".")[1])
    return {room: (below - {room}) & rooms for room, below in found.items()}


def floors(below: dict[str, set[str]]) -> list[list[str]]:
    """Rooms from the ground up: each on the lowest floor that is above all that it imports."""
    height: dict[str, int] = {}
    while len(height) < len(below):
        for room, needed in below.items():
            if needed <= height.keys():
                height[room] = 1 + max((height[one] for one in needed), default=-1)
    return [[room for room in below if height[room] == floor] for floor in range(max(height.values()) + 1)]


def direct(below: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Imports without those that another way leads to as well."""
    reached: dict[str, set[str]] = {}
    for room in (room for floor in floors(below) for room in floor):
        farther = set().union(*(reached[one] for one in below[room]))
        reached[room] = below[room] | farther
        yield from ((room, one) for one in sorted(below[room] - farther))


def picture() -> str:
    """The picture as SVG: what is imported stands below, ways that another one contains are left out."""
    below = imports()
    lines, stacked = list(direct(below)), floors(below)
    place: dict[str, tuple[float, float]] = {}
    for number, floor in enumerate(stacked):
        y = (len(stacked) - number - 0.5) * ROW
        place |= {room: (x, y) for room, x in _spread(floor, lines, stacked, place)}
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(stacked) * ROW}" role="img">',
            "<title>The rooms of the package, each above all that it imports</title>",
            f"<style>{STYLE}</style>",
            *(_line(*place[room], *place[one]) for room, one in lines),
            *(line for room, spot in place.items() for line in _box(room, *spot)),
            "</svg>\n",
        ]
    )


def _spread(
    floor: list[str], lines: list[tuple[str, str]], stacked: list[list[str]], place: dict[str, tuple[float, float]]
) -> Iterator[tuple[str, float]]:
    """Where each box of a floor has its middle: one alone above what it imports; of several, long ways run outside."""
    if len(floor) == 1 and place:
        under = [place[one][0] for room, one in lines if room == floor[0]]
        yield floor[0], sum(under) / len(under)
        return
    highest = {one: number for number, above in enumerate(stacked) for room, one in lines if room in above}
    left = (WIDTH - sum(map(_width, floor)) - SPACE * (len(floor) - 1)) / 2
    for room in sorted(floor, key=lambda one: -highest.get(one, 0)):
        yield room, left + _width(room) / 2
        left += _width(room) + SPACE


def _width(room: str) -> float:
    return len(room) * LETTER + 24


def _line(x: float, y: float, other_x: float, other_y: float) -> str:
    return f'<line x1="{x:g}" y1="{y + BOX / 2:g}" x2="{other_x:g}" y2="{other_y - BOX / 2:g}"/>'


def _box(room: str, x: float, y: float) -> Iterator[str]:
    width = _width(room)
    yield f'<rect x="{x - width / 2:g}" y="{y - BOX / 2:g}" width="{width:g}" height="{BOX}" rx="4"/>'
    yield f'<text x="{x:g}" y="{y + 4:g}">{room}</text>'


if __name__ == "__main__":
    (Path(__file__).parent / "architecture.svg").write_text(picture(), encoding="utf-8")
