"""``kvbound simulate``: one policy, with one or several settings of its options."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from kvbound.cli import complete, console, options, output, source
from kvbound.errors import UsageError
from kvbound.units import show

_MOST = 2**53


def simulate(
    policy: Annotated[
        str,
        typer.Option(
            metavar="P",
            help="A name from 'kvbound catalog policy', or FILE.py:Class for a policy of yours.",
            autocompletion=complete.policies,
        ),
    ],
    instance: options.MaybeInstance = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A policy's option; comma-separated values are swept; repeatable.",
        ),
    ] = None,
    memory: options.Memory = None,
    llm: options.Llm = None,
    trace: options.Trace = None,
    capacity: options.Capacity = None,
    rule: options.RulePairs = None,
    objective: options.Objective = None,
    override: options.Overrides = None,
    kv_dtype: options.KvDtype = None,
    weight_dtype: options.WeightDtype = None,
    seed: options.Seed = 0,
    kernel: options.Kernel = None,
    out: options.OutDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run one policy, or sweep its options.

    Comma-separated values, such as --set window=1,5,10, run every combination.
    """
    import kvbound
    from kvbound.report import comparison

    with console.aside():  # importing a user's policy may print
        combinations = list(_combinations(policy, settings or ()))
    if out is not None and len(combinations) > 1:
        raise UsageError("--out holds one result, not those of a sweep")
    output.check_folder(out)
    parts = source.Parts(memory, llm, trace, capacity, rule, override, kv_dtype, weight_dtype, objective)
    case = source.load(instance, parts, quiet=quiet)
    output.check_same(case, out)
    common: dict[str, Any] = {"seed": seed, "kernel": kernel, "record": out is not None}
    with console.Bar(quiet=quiet) as bar:
        results = [
            kvbound.simulate(case, policy, **common, progress=bar, **chosen) for chosen in combinations
        ]
    unsaved = output.save(results[0], out)
    if as_json:
        one = len(results) == 1
        console.show_json(results[0].to_json() if one else comparison.document(results))
    elif len(results) == 1:
        output.show(results[0])
    else:
        swept = [name for name in combinations[0] if len({chosen[name] for chosen in combinations}) > 1]
        console.show(comparison.compare_table(results, options=swept))
    output.finish(results[0], unsaved)


def _combinations(policy: str, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the options' values."""
    known = _options(policy)
    values: dict[str, list[Any]] = {}
    for name, text in source.pairs("--set", texts):
        if name not in known:
            takes = ", ".join(known) or "no options"
            raise UsageError(f"policy {policy} takes {takes}, not {name!r}")
        read = (_value(name, part.strip(), known[name]) for part in text.split(","))
        values[name] = list(dict.fromkeys(read))
    for chosen in itertools.product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def _options(policy: str) -> dict[str, Any]:
    """A policy's options and their defaults."""
    from kvbound.policies import describe

    return {} if policy in ("best", "ideal") else describe(policy)[2]


def _value(name: str, text: str, default: object) -> Any:
    """Read a value of the default's type."""
    kind: Any = type(default)
    if kind not in (bool, int, float, str):  # an option of a user's own policy
        return source.literal(text)
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is float:
            from kvbound.units import is_share, parse_share

            return parse_share(text) if is_share(text) else float(text)
        value = kind(text)
        if kind is int and abs(value) > _MOST:
            raise ValueError
        return value
    except (KeyError, ValueError):
        words = {"bool": "true or false", "int": "an integer", "float": "a number"}
        expected = words.get(kind.__name__, kind.__name__)
        raise UsageError(f"--set {name}: expected {expected}, not {show(text)}") from None
