"""``kvbound catalog``: memories, language models, GPUs, policies and methods, with their sources."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from kvbound.cli import console, options
from kvbound.errors import UsageError

_BEST: tuple[str, bool, dict[str, Any]] = (
    "Also called ideal: placement is no constraint; a time lower bound, no schedule",
    True,
    {},
)


_COMPOSED = (
    "\nA memory is also composed of an accelerator and the parts behind it, in the order of the tiers: "
    "h100+ddr5+nvme5+400gbe. Its name stands wherever a memory's does; "
    "'kvbound catalog memory h100+ddr5+nvme5+400gbe' prints it with its sources."
)


class Section(StrEnum):
    """Sections of the catalog."""

    MEMORY = "memory"
    LLM = "llm"
    GPU = "gpu"
    POLICY = "policy"
    METHOD = "method"


def catalog(
    section: Annotated[
        Section | None,
        typer.Argument(metavar="SECTION", help="memory, llm, gpu, policy or method; by default all."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="One entry, or a composed memory such as h100+ddr5+nvme5, with its sources.",
        ),
    ] = None,
    from_config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With llm: read a Hugging Face config.json."),
    ] = None,
    kv_dtype: options.KvDtype = None,
    weight_dtype: options.WeightDtype = None,
    as_json: options.Json = False,
) -> None:
    """List memories, language models, GPUs, policies and methods.

    With a name: one entry, with the source of every number.
    """
    if from_config is not None:
        if section is not Section.LLM or name is not None:
            raise UsageError("--from-config goes with 'kvbound catalog llm' and no name")
        _from_config(from_config, kv_dtype, weight_dtype, as_json)
    elif kv_dtype or weight_dtype:
        raise UsageError("--kv-dtype and --weight-dtype go with --from-config")
    elif section is None:
        _overview(as_json)
    elif name is None:
        _list(section, as_json)
    else:
        _entry(section, name, as_json)


def _names() -> dict[str, list[str]]:
    from kvbound.catalog import Kind, names
    from kvbound.policies import POLICIES
    from kvbound.solvers.registry import METHODS

    return {
        "memory": list(names(Kind.MEMORY)),
        "llm": list(names(Kind.LLM)),
        "gpu": list(names(Kind.GPU)),
        "policy": [*POLICIES, "best"],
        "method": list(METHODS),
    }


def _overview(as_json: bool) -> None:
    from kvbound.report.tables import pairs_table

    if as_json:
        console.show_json(_names())
    else:
        console.show(pairs_table((kind, ", ".join(names)) for kind, names in _names().items()))
        console.show(
            "\nFurther memories are composed by name, such as h100+ddr5+nvme5 (see 'kvbound catalog memory')."
        )


def _list(section: Section, as_json: bool) -> None:
    if as_json:
        console.show_json({name: _plain(section, name) for name in _names()[section]})
        return
    from kvbound import catalog as known
    from kvbound.report import catalog as report
    from kvbound.report.tables import table

    names = _names()[section]
    match section:
        case Section.MEMORY:
            accelerators = {name: known.accelerator(name).fields for name in known.accelerators()}
            parts = {name: known.part(name) for name in known.parts()}
            console.show(report.memories_table([known.memory(name) for name in names]), "")
            console.show(report.accelerators_table(accelerators), "", report.parts_table(parts), _COMPOSED)
        case Section.LLM:
            console.show(report.llms_table([known.llm(name) for name in names]))
        case Section.GPU:
            console.show(report.gpus_table([known.gpu(name) for name in names]))
        case Section.POLICY:
            console.show(report.policy_table({name: _policy(name) for name in names}))
        case Section.METHOD:
            console.show(table(("method", "what"), [(name, _method(name)) for name in names]))
            console.show("\nEvery policy is a method as well.")


def _entry(section: Section, name: str, as_json: bool) -> None:
    from kvbound import catalog as known
    from kvbound.report import catalog as report

    plain = _plain(section, name)  # raises for unknown names
    if as_json:
        console.show_json(plain)
        return
    match section:
        case Section.MEMORY:
            console.show(*report.memory_details(known.memory(name)))
        case Section.LLM:
            console.show(*report.llm_details(known.llm(name)))
        case Section.GPU:
            console.show(*report.gpu_details(known.gpu(name)))
        case Section.POLICY:
            console.show(report.policy_table({name: _policy(name)}))
        case Section.METHOD:
            console.show(f"{name}: {_method(name)}")


def _plain(section: Section, name: str) -> Any:
    """Return one entry as JSON values; memories and llms in the form of instance files."""
    from kvbound import catalog as known

    match section:
        case Section.MEMORY | Section.LLM | Section.GPU:
            return known.entry(known.Kind(section), name)
        case Section.POLICY:
            summary, oracle, defaults = _policy(name)
            return {"name": name, "summary": summary, "sees_the_future": oracle, "options": defaults}
        case Section.METHOD:
            return {"name": name, "summary": _method(name)}


def _policy(name: str) -> tuple[str, bool, dict[str, Any]]:
    from kvbound.policies import describe

    return _BEST if name in ("best", "ideal") else describe(name)


def _method(name: str) -> str:
    from kvbound.fields import did_you_mean
    from kvbound.solvers.registry import METHODS

    if name not in METHODS:
        raise UsageError(f"no method {name!r}{did_you_mean(name, METHODS)} (known: {', '.join(METHODS)})")
    return METHODS[name].summary


def _from_config(path: Path, kv_dtype: str | None, weight_dtype: str | None, as_json: bool) -> None:
    from kvbound.llm.config import read_config
    from kvbound.report.catalog import architecture_details

    architecture = read_config(
        path,
        kv_dtype=options.number_format("--kv-dtype", kv_dtype),
        weight_dtype=options.number_format("--weight-dtype", weight_dtype),
    )
    if as_json:
        console.show_json(architecture.to_mapping())
    else:
        console.show(*architecture_details(architecture))
