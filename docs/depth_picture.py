"""Draws `depth.svg`: levels of three old backbones by depth and stride, and what of a new one serves them.

python docs/depth_picture.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROWS = (
    ("a pyramid", (2, 4, 8, 16, 32)),
    ("dilated after stride 8", (2, 4, 8, 8, 8)),
    ("cut after stride 8", (2, 4, 8)),
    ("the new backbone", (2, 4, 8, 16, 32)),
)
LEFT, STEP, ROW, TOP = 190, 92, 92, 40
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #333 }
.box { fill: #dbe7f6; stroke: #4472a8 }
.new { fill: #dff0dc; stroke: #4d8a45 }
.link { stroke: #999; stroke-dasharray: 3 3 }
.middle { text-anchor: middle }
@media (prefers-color-scheme: dark) {
  text { fill: #ddd } .box { fill: #24384f } .new { fill: #27402a }
}
"""


def picture() -> str:
    """The picture as SVG: depth runs to the right, and a box is as large as its grid of cells."""
    width, height = LEFT + 5 * STEP + 10, TOP + len(ROWS) * ROW + 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            "<title>Levels of equal depth serve each other, whatever their strides</title>",
            f"<style>{STYLE}</style>",
            *_links(),
            *(f'<text class="middle" x="{_x(i)}" y="20">depth {i + 1}</text>' for i in range(5)),
            *(line for row, (name, strides) in enumerate(ROWS) for line in _row(row, name, strides)),
            "</svg>\n",
        ]
    )


def _links() -> Iterator[str]:
    """A line from each depth that is wanted down to the level of the new backbone that serves it."""
    for i in range(5):
        x = _x(i)
        yield f'<line class="link" x1="{x}" y1="{_y(0)}" x2="{x}" y2="{_y(len(ROWS) - 1)}"/>'


def _row(row: int, name: str, strides: tuple[int, ...]) -> Iterator[str]:
    y = _y(row)
    yield f'<text x="10" y="{y + 4}">{name}</text>'
    kind = "new" if row == len(ROWS) - 1 else "box"
    for i, stride in enumerate(strides):
        side = 60 - 9 * (stride.bit_length() - 2)
        x = _x(i) - side / 2
        yield f'<rect class="{kind}" x="{x:g}" y="{y - side / 2:g}" width="{side}" height="{side}"/>'
        yield f'<text class="middle" x="{_x(i)}" y="{y + 4}">/{stride}</text>'


def _x(depth: int) -> int:
    return LEFT + depth * STEP + STEP // 2


def _y(row: int) -> int:
    return TOP + row * ROW + ROW // 2


if __name__ == "__main__":
    (Path(__file__).parent / "depth.svg").write_text(picture(), encoding="utf-8")
