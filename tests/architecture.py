"""The floors of the package: ``python -m tests.architecture`` lists every import that goes up.

``--picture FILE`` draws them as an SVG file.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from tests.paths import ROOT

FLOORS = (
    ("__main__",),
    ("cli",),
    ("kvbound",),
    ("studies", "frame", "front", "verify"),
    ("solvers",),
    ("report", "simulation"),
    ("binding",),
    ("models", "bitsets", "fang2025", "tiered2026", "hierarchy", "onset", "limit", "reload"),
    ("cost",),
    ("policies", "result", "library"),
    ("placement", "identity", "tree"),
    ("initial", "weight_placement", "certificate", "residency", "arguments", "instance_io"),
    ("instance", "schedule"),
    ("accuracy", "blocks", "catalog", "consistency", "weights", "workloads", "recording"),
    ("objective",),
    ("llm", "memory", "trace", "overrides", "rules"),
    ("canonical", "fields", "files", "reading", "kernels"),
    ("errors", "units", "arithmetic", "first_fit", "progress", "temporaries", "version", "checker"),
)
"""Rooms of the package from the top down, each a module or a folder: a room imports from floors below it."""
MOST_FILES = 12
"""Modules that a folder of solvers may have."""

Graph = Mapping[str, set[str]]


def imports(package: Path) -> Graph:
    """Return which modules each module imports: at the top, in functions, or only for types."""
    paths = {_name(package, path): path for path in sorted(package.rglob("*.py"))}
    return {name: set(_imported(path, paths)) - {name} for name, path in paths.items()}


def _name(package: Path, path: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                named = f"{node.module}.{alias.name}", f"{node.module}"
                yield from [name for name in named if name in modules][:1]


def circles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other: strongly connected components, by Tarjan."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
            if other in stack:
                low[name] = min(low[name], low[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[-len(group) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def room(module: str) -> str:
    """Return the room of a module: the part of its name below the package's."""
    return (*module.split("."), module)[1]


def problems(graph: Graph, floors: Sequence[Sequence[str]] = FLOORS) -> list[str]:
    """Return one line for each circle, each import that does not go down, and each room without a floor."""
    floor = {name: n for n, names in enumerate(floors) for name in names}
    rooms = {room(module) for module in graph}
    found = [f"in a circle: {', '.join(group)}" for group in circles(graph)]
    found += [f"on no floor: {name}" for name in sorted(rooms - floor.keys())]
    found += [f"not there: {name}" for name in sorted(floor.keys() - rooms)]
    for module, others in graph.items():
        for other in sorted(others):
            here, there = room(module), room(other)
            if here != there and floor.get(here, -1) >= floor.get(there, len(floors)):
                found.append(f"not downwards: {module} imports {other}")
    return found


def crowded(package: Path) -> list[str]:
    """Return one line for each folder of solvers with too many modules."""
    folders = {path.parent for path in (package / "solvers").rglob("*.py")}
    sizes = {folder: len(list(folder.glob("*.py"))) for folder in sorted(folders)}
    return [
        f"{count} modules in {folder.relative_to(package.parent)}"
        for folder, count in sizes.items()
        if count > MOST_FILES
    ]


def lines(package: Path, name: str) -> int:
    """Return the lines of a room's modules."""
    single = package / ("__init__.py" if name == package.name else f"{name}.py")
    paths = [single] if single.exists() else list((package / name).rglob("*.py"))
    return sum(path.read_text().count("\n") for path in paths)


def table(package: Path) -> str:
    """Return the floors as text, the top first: rooms with their numbers of lines."""
    rows = []
    for number, names in zip(range(len(FLOORS) - 1, -1, -1), FLOORS, strict=True):
        rows.append(f"{number:>2}  " + "  ".join(f"{name} {lines(package, name):,}" for name in names))
    return "\n".join(rows)


WIDTH, ROW, BOX, LEFT, LETTER = 880, 44, 30, 40, 7.2


def picture(package: Path) -> str:
    """Return the floors as SVG, a box for each room, its width by its name and its lines."""
    height = ROW * len(FLOORS) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for n, names in enumerate(FLOORS):
        y, x = 10 + ROW * n, float(LEFT)
        parts.append(f'<text x="10" y="{y + 20}" fill="#888888">{len(FLOORS) - 1 - n}</text>')
        for name in names:
            count = f"{lines(package, name):,}"
            width = LETTER * (len(name) + len(count) + 1) + 24
            parts += [
                f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{BOX}" rx="4" '
                'fill="#eef3fa" stroke="#4a6fa5"/>',
                f'<text x="{x + 10:.0f}" y="{y + 20}" fill="#333333">{escape(name)}'
                f' <tspan fill="#888888" font-size="11">{count}</tspan></text>',
            ]
            x += width + 10
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Print the floors, or draw them; exit with 1 if an import goes up."""
    parser = argparse.ArgumentParser(description="The floors of the package, the top first.")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them as an SVG file, too")
    given = parser.parse_args()
    package = ROOT / "kvbound"
    print(table(package))
    found = problems(imports(package)) + crowded(package)
    print("\n".join(found) or "no circle, no import that runs up")
    if given.picture:
        given.picture.write_text(picture(package))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
