"""Draw how far the policies are from the time lower bound: ``python docs/picture.py INSTANCE FILE.svg``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import kvbound as kv
from kvbound.result import Result
from kvbound.solvers import run_all

LEFT, WIDTH, TOP, ROW = 130, 520, 58, 26
FOUND, POLICY, BOUND, TEXT, GRID = "#1b7f5c", "#4a6fa5", "#b5462f", "#333333", "#dddddd"


def draw(name: str) -> str:
    """Run every policy and return the picture."""
    results = run_all(kv.read_instance(name))
    found = sorted((r for r in results if r.time_s), key=lambda r: r.time_s or 0.0)
    bound = found[0].bound.time_s or math.nan
    ratios = [(result.time_s or 0.0) / bound for result in found]
    scale = [m * 10**e for e in range(9) for m in (1, 2, 5)]
    top = next(mark for mark in scale if mark > max(ratios))
    marks = [mark for mark in scale if mark <= top]

    def x(ratio: float) -> float:
        return LEFT + WIDTH * math.log(ratio) / math.log(top)

    height = TOP + ROW * len(found) + 44
    parts = [_text(LEFT, 20, f"{name}: decode time over the time lower bound", size=15)]
    for mark in marks:
        parts.append(_line(x(mark), TOP - 6, x(mark), height - 40, BOUND if mark == 1 else GRID))
        parts.append(_text(x(mark), height - 24, f"{mark}", anchor="middle"))
    parts.append(_text(x(1), TOP - 14, f"no schedule takes less than {bound * 1e6:.1f} us", color=BOUND))
    for n, (result, ratio) in enumerate(zip(found, ratios, strict=True)):
        parts.append(_row(result, ratio, x(ratio), n))
    parts.append(_text(LEFT + WIDTH / 2, height - 6, "times the bound (logarithmic)", anchor="middle"))
    size = f'width="{LEFT + WIDTH + 70}" height="{height}"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([head, background, *parts, "</svg>", ""])


def _row(result: Result, ratio: float, end: float, row: int) -> str:
    y = TOP + ROW * (row + 0.5)
    color = FOUND if result.method == "exact" else POLICY
    return (
        _text(LEFT - 10, y + 4, result.method, anchor="end")
        + f'<rect x="{LEFT}" y="{y - 7:.1f}" width="{max(end - LEFT, 1):.1f}" height="14" fill="{color}"/>'
        + _text(end + 6, y + 4, f"{ratio:.3g}")
    )


def _line(x1: float, y1: float, x2: float, y2: float, color: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, color: str = TEXT) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}"'
    return f"<text {place}>{escape(text)}</text>"


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(draw(sys.argv[1]), encoding="utf-8")
