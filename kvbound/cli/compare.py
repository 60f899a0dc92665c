"""``kvbound compare``: many methods on one instance, in one table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbound.cli import console, options, output, source
from kvbound.errors import UsageError

if TYPE_CHECKING:
    import kvbound.instance
    from kvbound.result import Result


def compare(
    instance: options.MaybeInstance = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Names, or 'all'; by default every policy and a solver that pays."
        ),
    ] = None,
    memory: options.Memory = None,
    llm: options.Llm = None,
    trace: options.Trace = None,
    capacity: options.Capacity = None,
    rule: options.RulePairs = None,
    override: options.Overrides = None,
    time_limit: options.TimeLimit = "60",
    seed: options.Seed = 0,
    kernel: options.Kernel = None,
    out: options.OutDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Set policies and solvers side by side.

    Times are set against the time lower bound, the strongest any of them gave.
    """
    from kvbound.report import comparison, numbers
    from kvbound.result import Status
    from kvbound.solvers import share_bound

    names, limit = _names(methods), options.seconds("--time-limit", time_limit)
    output.check_folder(out)
    parts = source.Parts(memory, llm, trace, capacity, rule, override)
    case = source.load(instance, parts, quiet=quiet)
    with console.Bar(quiet=quiet) as bar:
        settings = {"time_limit": limit, "seed": seed, "kernel": kernel, "record": out is not None}
        run = _Run(case, settings | {"progress": bar}, quiet)
        run.all(names, lenient=methods == "all")
    results = share_bound(run.results)
    if out is not None:
        _save(results, out)
    if as_json:
        console.show_json(comparison.document(results))
    elif any(result.status is not Status.INFEASIBLE for result in results):  # else one sentence says all
        size = numbers.shape(case.layers, case.prefill_tokens, case.decode_steps)
        console.show(f"{case.name}: {size}\n", comparison.compare_table(results))
        console.show("\n" + comparison.verdict(results))
    if run.interrupted:
        raise KeyboardInterrupt
    for result in results[:1]:
        output.finish(case, result)


@dataclass
class _Run:
    """Methods one after the other; an interrupt ends the run and keeps what there is."""

    instance: kvbound.instance.Instance
    settings: dict[str, Any]
    quiet: bool
    results: list[Result] = field(default_factory=list)
    interrupted: bool = False

    def all(self, names: list[str] | None, *, lenient: bool) -> None:
        """Run them; `lenient` leaves out those that do not fit the instance."""
        from kvbound.solvers import default_methods, solve

        try:
            for name in default_methods(self.instance) if names is None else names:
                try:
                    result = solve(self.instance, name, **self.settings)
                except UsageError as error:
                    if not lenient:
                        raise
                    console.note(f"{name} is left out: {error}", quiet=self.quiet)
                    continue
                self.results.append(result)
                if result.termination.reason == "interrupted":
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.interrupted = True


def _names(text: str | None) -> list[str] | None:
    """Method names, each once and known."""
    from kvbound.fields import did_you_mean
    from kvbound.policies import POLICIES
    from kvbound.solvers import METHODS

    known = [*POLICIES, "best", *METHODS]
    if text is None or text == "all":
        return None if text is None else known
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown method {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})"
            )
    if len(set(names)) < len(names):
        raise UsageError(f"--methods: expected every name once, not {text!r}")
    return names


def _save(results: list[Result], folder: Path) -> None:
    from kvbound.instance_io import write_json
    from kvbound.report import comparison

    for result in results:
        output.save(result, folder / result.method)
    comparison.write_csv(results, folder / "compare.csv")
    write_json(comparison.document(results), folder / "compare.json")
