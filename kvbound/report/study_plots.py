"""Figures of a reproduced study: its schedules' times over the bounds for each table, and curves."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, Final

from kvbound.errors import MissingPackageError
from kvbound.files import atomic_write
from kvbound.report.sections import Curves

FORMATS: Final = ("png", "svg")
_MARKS: Final = "osD^vP"


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(name: str, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write NAME.png and NAME.svg: times over the certified time lower bound, one row per cell.

    Raises
    ------
    MissingPackageError
        Matplotlib is not installed.
    """
    if not available():
        raise MissingPackageError("plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["bound_s"]]
    figure = Figure(figsize=(7, 1.2 + 0.32 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for mark, method in zip(_MARKS, dict.fromkeys(m for row in rows for m in row["physical"]), strict=False):
        times = [row["physical"].get(method, {}).get("time_s") for row in rows]
        over = [time / row["bound_s"] if time else nan for time, row in zip(times, rows, strict=True)]
        axes.plot(over, range(len(rows)), mark, label=method, alpha=0.8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["cell"] for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("decode time / certified time lower bound")
    axes.set_title(name)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, name, folder)


def draw_curves(name: str, curves: Curves, folder: Path) -> None:
    """Write NAME.png and NAME.svg: lines over a common axis.

    Raises
    ------
    MissingPackageError
        Matplotlib is not installed.
    """
    if not available():
        raise MissingPackageError("plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, (x, y) in curves.lines.items():
        axes.plot(x, y, label=label, linewidth=1.4)
    if curves.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel(curves.x)
    axes.set_ylabel(curves.y)
    axes.set_title(name)
    axes.legend(frameon=False)
    _save(figure, name, folder)


def _save(figure: Any, name: str, folder: Path) -> None:
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        for kind in FORMATS:
            with atomic_write(folder / f"{name}.{kind}") as place:
                figure.savefig(place, metadata={"Date": None} if kind == "svg" else {"Software": None})
