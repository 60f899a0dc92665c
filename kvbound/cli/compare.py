"""``kvbound compare``: many methods on one instance, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvbound.cli import complete, console, options, output, source
from kvbound.errors import InputError, KvboundError, UsageError

if TYPE_CHECKING:
    import kvbound.instance
    from kvbound.policies import Policy
    from kvbound.result import Result


def compare(
    instance: options.MaybeInstance = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Names, FILE.py:Class for a policy of yours, 'all' for all names; by default all policies "
            "and a solver.",
            autocompletion=complete.method_lists,
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
    time_limit: options.TimeLimit = None,
    work: options.Work = None,
    seed: options.Seed = 0,
    kernel: options.Kernel = None,
    out: options.OutDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare policies and solvers.

    Times are given relative to the strongest time lower bound of all results.
    """
    from kvbound.report import comparison
    from kvbound.result import share_bound

    limits = options.limits(time_limit, work)
    output.check_folder(out)
    parts = source.Parts(memory, llm, trace, capacity, rule, override, kv_dtype, weight_dtype, objective)
    case = source.load(instance, parts, quiet=quiet)
    output.check_same(case, out, each=True)
    with console.Bar(quiet=quiet) as bar:
        settings = limits | {"seed": seed, "kernel": kernel, "record": out is not None}
        run = _Run(case, settings | {"progress": bar}, quiet)
        run.all(_chosen(case, methods), lenient="all" in (methods or "").split(","))
    if run.failed is not None and not run.results:
        raise run.failed
    results = share_bound(run.results)
    unsaved = output.save_all(results, out)
    if as_json:
        console.show_json(comparison.document(results))
    else:
        _show(case, results)
    if unsaved is not None:
        raise unsaved
    if run.interrupted:
        raise KeyboardInterrupt
    if run.failed is not None:
        raise run.failed
    for result in results[:1]:
        output.finish(result)


@dataclass
class _Run:
    """Runs methods in turn; those that fail are skipped, and an interrupt keeps the results so far."""

    instance: kvbound.instance.Instance
    settings: dict[str, Any]
    quiet: bool
    results: list[Result] = field(default_factory=list)
    interrupted: bool = False
    failed: KvboundError | None = None

    def all(self, methods: Sequence[Policy | str], *, lenient: bool) -> None:
        """Run the methods; if `lenient`, methods that do not support the instance only cause a remark."""
        from kvbound.result import Reason
        from kvbound.solvers.portfolio import solve

        try:
            for method in methods:
                try:
                    result = solve(self.instance, method, **self.settings)
                except KvboundError as error:
                    unsupported = lenient and isinstance(error, UsageError | InputError)
                    if not unsupported and self.failed is None:
                        self.failed = error  # raised after the other results are printed
                        continue
                    name = method if isinstance(method, str) else method.name
                    console.note(f"{name} is left out: {error}", quiet=self.quiet)
                    continue
                self.results.append(result)
                if result.termination.reason is Reason.INTERRUPTED:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.interrupted = True


def _show(instance: kvbound.instance.Instance, results: Sequence[Result]) -> None:
    """Print what binds the instance, the table and a verdict; nothing if all results are infeasible."""
    from kvbound.binding import binding
    from kvbound.report import comparison, numbers
    from kvbound.report.binding import made_of, sentences
    from kvbound.result import Status, ranked

    if all(result.status is Status.INFEASIBLE for result in results):
        return
    tokens = instance.workload.prefill_tokens, instance.decode_steps, instance.workload.tokens
    size = numbers.shape(instance.layers, *tokens)
    console.show(f"{instance.name}: {size}")
    if (bound := binding(instance)) is not None:
        console.show(sentences(instance, bound))
    console.show("", comparison.compare_table(results), "\n" + comparison.verdict(results))
    console.show(*made_of(instance, ranked(results)[0]))


def _chosen(instance: kvbound.instance.Instance, text: str | None) -> list[Policy | str]:
    """Return the methods to run; their names must be distinct, as they identify rows and folders."""
    from kvbound.solvers.portfolio import choose

    methods = choose(instance, text)
    names = [method if isinstance(method, str) else method.name for method in methods]
    names = ["best" if name == "ideal" else name for name in names]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        own = {each.name for each in methods if not isinstance(each, str)}
        hint = "; give your policy another 'name'" if repeated[0] in own else ""
        raise UsageError(f"--methods: expected every name once, found {repeated[0]!r} twice{hint}")
    return methods
