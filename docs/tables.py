"""The generated parts of the manual: ``python -m docs.tables`` writes them where they stand.

A page marks such a part by two comments, ``<!-- made by python -m docs.tables: NAME -->`` and
``<!-- end -->``. What stands between them is what the function of that name in PARTS returns, so that the
pages can be read without building the manual. ``tests/test_docs.py`` fails where a part is stale.
"""

from __future__ import annotations

import csv
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer

from kvbound import catalog, library, units
from kvbound.cli.app import build
from kvbound.instance_io import LIBRARY
from kvbound.llm.config.families import FAMILIES, WRAPPERS
from kvbound.report import numbers
from kvbound.solvers.registry import METHODS
from tests.architecture import FLOORS
from tests.paths import ROOT

DOCS = ROOT / "docs"
MARKED = re.compile(r"(<!-- made by python -m docs\.tables: (\S+) -->\n).*?(<!-- end -->)", re.S)


def updated(text: str) -> str:
    """Return a page with its generated parts made again.

    Raises
    ------
    KeyError
        A part has a name that is not in PARTS.
    """
    return MARKED.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]().strip()}\n\n{part[3]}", text)


def pages() -> list[Path]:
    """Return the pages of the manual."""
    return sorted(DOCS.glob("*.md"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; a heading that begins with ``>`` sets its column flush right."""
    rules = ["---:" if name.startswith(">") else "---" for name in head]
    lines = [[name.lstrip(">") for name in head], rules, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def methods() -> str:
    """Solvers with their summaries."""
    return table(
        ("method", "what it does"), ((f"`{name}`", known.summary) for name, known in METHODS.items())
    )


def example() -> str:
    """The file of the examples, as code."""
    return f"```py\n{(DOCS / 'examples.py').read_text(encoding='utf-8').strip()}\n```"


def memories() -> str:
    """Memories of the catalog."""
    known = {name: catalog.entry(catalog.Kind.MEMORY, name) for name in catalog.names(catalog.Kind.MEMORY)}
    rows = ((f"`{name}`", _tiers(each), _rates(each)) for name, each in known.items())
    return table(("memory", "tiers, fast to slow", "GB/s"), rows)


def accelerators() -> str:
    """Accelerators that composed memories begin with."""
    known = {name: catalog.accelerator(name).fields for name in catalog.accelerators()}
    rows = ((f"`{name}`", each["source"], _tiers(each), _rates(each)) for name, each in known.items())
    return table(("accelerator", "what it is", "tiers", "GB/s"), rows)


def parts() -> str:
    """Parts that composed memories consist of beside the accelerator."""

    def row(name: str) -> tuple[str, ...]:
        part = catalog.part(name)
        [tier] = part["tiers"]
        waits = units.format_seconds(units.parse_seconds(tier["latency"]))
        return f"`{name}`", part["source"], _size(tier), waits, _rates(part)

    head = "part", "what it is", ">capacity", ">latency", "GB/s"
    return table(head, map(row, catalog.parts()))


def _tiers(memory: Mapping[str, Any]) -> str:
    return ", ".join(f"{tier['name']} {_size(tier)}" for tier in memory["tiers"])


def _size(tier: Mapping[str, Any]) -> str:
    size = tier["capacity"]
    return numbers.capacity(None if size == "unlimited" else float(units.parse_bytes(size)))


def _rates(memory: Mapping[str, Any]) -> str:
    rates = memory["resources"].items()
    return ", ".join(f"{name} {units.parse_bandwidth(rate) / 1e9:.4g}" for name, rate in rates)


def gpus() -> str:
    """GPUs of the catalog as rooflines."""
    known = map(catalog.gpu, catalog.names(catalog.Kind.GPU))
    rows = (
        (f"`{gpu.name}`", gpu.source, f"{gpu.flops / 1e12:g}", f"{gpu.bandwidth / 1e9:.4g}") for gpu in known
    )
    return table(("gpu", "what it is", ">TFLOP/s", ">GB/s"), rows)


def llms() -> str:
    """Language models of the catalog."""

    def row(name: str) -> tuple[str, ...]:
        llm = catalog.llm(name)
        sizes = (
            max(llm.kv_sizes),
            llm.kv_bytes(1),
            llm.weight_bytes,
            float(llm.weight_reads.mean()),
        )
        return f"`{name}`", str(llm.layers), *map(numbers.size, sizes)

    head = "llm", ">layers", ">KV per token and layer", ">KV per token", ">weights", ">read in a slot"
    return table(head, map(row, catalog.names(catalog.Kind.LLM)))


def model_types() -> str:
    """Types of a ``config.json`` that are read without further packages."""
    known = [(f"`{kind}`", family.about) for kind, family in FAMILIES.items()]
    within = ", ".join(f"`{kind}`" for kind in WRAPPERS)
    return table(("`model_type`", "models"), [*known, (within, "their language model, in `text_config`")])


def readme(path: str, deeper: int) -> str:
    """A file of the instance library, its title left out and its headings so much deeper."""
    text = (LIBRARY / path).read_text(encoding="utf-8").split("\n", 1)[1]
    return re.sub(r"^#", "#" + "#" * deeper, text, flags=re.M)


def contributing() -> str:
    """The file of that name at the top of the repository, its title left out."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n", 1)[1]
    return text.replace("](docs/", "](")


def best_known() -> str:
    """Best known values, a table for each set."""
    parts = []
    for name, entries in groupby(library.entries(), key=lambda entry: entry.set):
        rows = [_best_known(entry) for entry in entries]
        times = ">best known", ">time lower bound", ">gap"
        head = "instance", ">layers", ">prompt + steps", *times, "found", "bound"
        parts.append(f"### Best known: {name}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _best_known(entry: library.Entry) -> tuple[str, ...]:
    shape = f"{entry.prefill_tokens:,} + {entry.decode_steps:,}"
    best = entry.best_known
    assert best is not None  # a test has it that every instance is in the table
    gap = None if best.bound_s is None else (best.time_s - best.bound_s) / best.time_s
    times = numbers.seconds(best.time_s), numbers.seconds(best.bound_s), numbers.gap(gap)
    by = f"`{best.bound_by}`" if best.bound_by else numbers.UNKNOWN
    return f"`{entry.name}`", str(entry.layers), shape, *times, f"`{best.method}`", by


def floors() -> str:
    """Floors of the package, the top first."""
    numbered = zip(range(len(FLOORS) - 1, -1, -1), FLOORS, strict=True)
    rows = ((str(number), ", ".join(f"`{name}`" for name in names)) for number, names in numbered)
    return table((">floor", "modules and folders"), rows)


def api() -> str:
    """Public names with their summaries, as ``reference.rst`` lists them."""
    text = (DOCS / "reference.rst").read_text(encoding="utf-8")
    heading = re.compile(r"^(?P<title>[^\n.]+)\n-+$|^\.\. auto(?P<kind>\w+):: (?P<name>\S+)$", re.M)
    parts: list[tuple[str, list[tuple[str, str]]]] = []
    for found in heading.finditer(text):
        if found["title"]:
            parts.append((found["title"], []))
        else:
            parts[-1][1].extend(_documented(found["kind"], found["name"]))
    return "\n\n".join(f"**{title}**\n\n{table(('name', 'what it is'), rows)}" for title, rows in parts)


def _documented(kind: str, name: str) -> Iterator[tuple[str, str]]:
    """Names and summaries of a directive: of a module, all its classes."""
    if kind == "module":
        module = importlib.import_module(name)
        for member, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == name and not member.startswith("_"):
                yield f"`{name}.{member}`", _summary(value)
        return
    home, _, member = name.rpartition(".")
    yield f"`{name}`", _summary(getattr(importlib.import_module(home), member))


def _summary(value: object) -> str:
    return (inspect.getdoc(value) or "").splitlines()[0].replace("``", "`")


def commands() -> str:
    """Arguments and options of every command."""
    return "\n\n".join(_commands(build(), "kvbound"))


def _commands(app: typer.Typer, name: str) -> Iterator[str]:
    for command in app.registered_commands:
        assert command.callback is not None
        yield _command(f"{name} {command.name}", command.callback)
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, f"{name} {group.name}")


def _command(name: str, function: Callable[..., Any]) -> str:
    arguments, options, usage = [], [], [name, "[OPTIONS]"]
    hints = get_type_hints(function, include_extras=True)
    for key, parameter in inspect.signature(function).parameters.items():
        kind, info = hints[key].__origin__, hints[key].__metadata__[0]
        if isinstance(info, typer.models.ArgumentInfo):
            required = parameter.default is parameter.empty
            usage.append(info.metavar if required else f"[{info.metavar}]")
            arguments.append((f"`{info.metavar}`", info.help))
        else:
            options.append(_option(key, kind, info, parameter.default))
    head = f"### {name}\n\n{inspect.cleandoc(function.__doc__ or '')}\n\n`{' '.join(usage)}`"
    return f"{head}\n\n{table(('argument or option', 'meaning'), arguments + options)}"


def _option(key: str, kind: Any, info: Any, default: object) -> tuple[str, str]:
    # without a default of its own an option has its first name there
    known = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
    names = ", ".join(known) or f"--{key.replace('_', '-')}"
    members = [each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, Enum)]
    value = info.metavar or "|".join(str(member.value) for each in members for member in each)
    said = [info.help]
    if default is inspect.Parameter.empty:
        said.append("Required.")
    elif default != "" and isinstance(default, int | str) and not isinstance(default, bool):
        said.append(f"By default {default}.")
    return f"`{names} {value}`".replace(" `", "`"), " ".join(said)


def mutation() -> str:
    """Scores of the mutation run, as it wrote them."""
    path = ROOT / "docs" / "mutation.csv"
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    head, *lines = rows
    return table([head[0], *(f">{name}" for name in head[1:])], lines)


PARTS: dict[str, Callable[[], str]] = {
    "accelerators": accelerators,
    "api": api,
    "best-known": best_known,
    "catalog": partial(readme, "catalog/README.md", 0),
    "commands": commands,
    "contributing": contributing,
    "example": example,
    "floors": floors,
    "gpus": gpus,
    "library": partial(readme, "README.md", 0),
    "llms": llms,
    "memories": memories,
    "methods": methods,
    "model-types": model_types,
    "mutation": mutation,
    "paper": partial(readme, "paper/README.md", 1),
    "parts": parts,
    "real": partial(readme, "real/README.md", 1),
    "batch": partial(readme, "batch/README.md", 1),
    "tiers": partial(readme, "tiers/README.md", 1),
    "small": partial(readme, "small/README.md", 1),
    "tiny": partial(readme, "tiny/README.md", 1),
    "weights": partial(readme, "weights/README.md", 1),
}


def main() -> None:
    """Write the pages whose generated parts are stale, and name them."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (made := updated(text)) != text:
            page.write_text(made, encoding="utf-8")
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
