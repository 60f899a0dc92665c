"""Instances from command-line arguments."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvbound.cli import console, options
from kvbound.errors import InputError, KvboundError, UsageError

if TYPE_CHECKING:
    import kvbound.instance
    from kvbound.llm.model import Llm
    from kvbound.memory import Memory


@dataclass(frozen=True)
class Parts:
    """Options that describe or change an instance."""

    memory: str | None = None
    llm: str | None = None
    trace: str | None = None
    capacity: str | None = None
    rules: Sequence[str] | None = None
    overrides: Sequence[str] | None = None
    kv_dtype: str | None = None
    weight_dtype: str | None = None
    objective: str | None = None

    @property
    def given(self) -> bool:
        """Whether any option is given."""
        given = (self.memory, self.llm, self.trace, self.capacity, self.rules, self.overrides)
        return any((*given, self.kv_dtype, self.weight_dtype, self.objective))


def load(name: str | None, parts: Parts | None = None, *, quiet: bool = False) -> kvbound.instance.Instance:
    """Read an instance by its name, or assemble one from its parts.

    Raises
    ------
    UsageError
        Both or neither are given, or the parts do not form a valid instance.
    InputError
        A file is invalid.
    """
    parts = parts or Parts()
    instance = assemble(parts) if name is None else _changed(name, parts)
    warn_of_capacity(instance, quiet)
    _warn_of_own_reads(instance, quiet)
    return instance


def _changed(name: str, parts: Parts) -> kvbound.instance.Instance:
    """Read an instance and apply the options; errors that only these cause are usage errors."""
    from kvbound.instance_io import read_instance

    if parts.memory or parts.llm or parts.trace:
        raise UsageError(f"give either the instance {name} or --memory, --llm and --trace")
    changes = _overrides(parts)
    options = {path: f"--override {path}" for path in changes}
    for key, value in _rules(parts.rules or ()).items():
        changes[f"rules.{key}"], options[f"rules.{key}"] = value, f"--rule {key}"
    if parts.objective is not None:
        changes["objective"] = _objective(parts.objective)
        options["objective"] = f"--objective {parts.objective}"
    if parts.capacity is not None:
        changes["memory.tiers.0.capacity"] = _capacity(parts.capacity)
        options["memory.tiers.0.capacity"] = f"--capacity {parts.capacity}"
    try:
        return read_instance(name, overrides=changes)
    except InputError as error:
        cause = error
    field = cause.field.removeprefix("overrides.")
    if field in options:
        raise UsageError(f"{options[field]}: expected {cause.expected}")
    above = [option for path, option in options.items() if field.startswith(f"{path}.")]
    if above or (changes and _is_readable(name)):
        given = ", ".join(above or options.values())
        raise UsageError(f"{given}: {field}: expected {cause.expected}")
    raise cause


def _is_readable(name: str) -> bool:
    """Whether an instance can be read without any change."""
    from kvbound.instance_io import read_instance

    try:
        read_instance(name)
    except KvboundError:
        return False
    return True


def assemble(parts: Parts, name: str = "command line") -> kvbound.instance.Instance:
    """Assemble an instance from options; invalid options are usage errors."""
    from kvbound.instance_io import make_instance

    if not (parts.memory and parts.llm and parts.trace):
        missing = [f"--{part}" for part in ("memory", "llm", "trace") if not getattr(parts, part)]
        raise UsageError(f"give an instance, or --memory, --llm and --trace (missing: {', '.join(missing)})")
    with _options(name):
        return make_instance(
            name,
            memory=_memory(parts.memory),
            llm=_llm(parts),
            trace=_read(parts.trace) if _is_json(parts.trace) else parts.trace,
            rules=_rules(parts.rules or ()),
            objective=None if parts.objective is None else _objective(parts.objective),
            overrides=_overrides(parts),
            capacity=_capacity(parts.capacity),
        )


def hardware(parts: Parts, tokens: int) -> tuple[Memory, Llm]:
    """Return the memory and the language model; a capacity may be a share of the KV of so many tokens."""
    from kvbound.instance_io import read_hardware

    name, changes = "command line", _overrides(parts)
    with _options(name):
        return read_hardware(_memory(parts.memory or ""), _llm(parts), tokens, overrides=changes, file=name)


@contextmanager
def _options(name: str) -> Iterator[None]:
    """Turn an InputError about `name` into a UsageError: no file is wrong, the options do not match."""
    try:
        yield
    except InputError as error:
        if error.file != name:
            raise
        field = error.field.replace("overrides.", "--override ", 1)
        raise UsageError(f"{field}: expected {error.expected}") from None


def pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Split KEY=VALUE texts.

    Raises
    ------
    UsageError
        A text has another form, or a key occurs twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or not value:
            raise UsageError(f"{option}: expected KEY=VALUE, not {text!r}")
        if key in found:
            raise UsageError(f"{option}: {key} is given twice")
        found[key] = value
    return list(found.items())


def _overrides(parts: Parts) -> dict[str, Any]:
    return {path: literal(text) for path, text in pairs("--override", parts.overrides or ())}


def _rules(texts: Sequence[str]) -> dict[str, Any]:
    from kvbound.rules import Rules

    rules = {
        key: int(text) if text.isdecimal() and len(text) < 20 else text
        for key, text in pairs("--rule", texts)
    }
    try:
        Rules.from_mapping(rules, "--rule")
        return rules
    except InputError as error:
        raise UsageError(str(error)) from None


def _objective(text: str) -> dict[str, Any]:
    from kvbound.objective import Objective

    try:
        return Objective.from_text(text)
    except InputError as error:
        raise UsageError(f"--objective: expected {error.expected}") from None


def _capacity(text: str | None) -> str | None:
    from kvbound.units import UnitError, is_bare_fraction, is_share, parse_bytes, parse_share, show

    if text is not None:
        try:
            size = parse_share(text) if is_share(text) else float(parse_bytes(text))
        except UnitError:
            expected = "a share from 0% to 100%, or a size such as 23GiB, 144GB or a number of bytes"
            raise UsageError(f"--capacity: expected {expected}, not {show(text)}") from None
        if is_bare_fraction(text):
            raise UsageError(
                f"--capacity: {text} is not a size; expected a share such as {100 * size:g}%, "
                f"or a size with its unit such as {text}GB"
            )
    return text


def literal(text: str) -> Any:
    """Return the value of a text that is JSON, else the text itself."""
    from kvbound.units import Written

    try:
        return json.loads(text, parse_float=Written)
    except (ValueError, RecursionError):
        return text


def _is_json(name: str) -> bool:
    return name.endswith(".json")


def _read(name: str) -> Any:
    from kvbound.reading import read_json

    return read_json(Path(name))


def _memory(name: str) -> Any:
    if not _is_json(name):
        return name
    from kvbound.memory import Memory

    mapping = _read(name)
    Memory.from_mapping(mapping, name, share_of=math.floor)  # errors name the file
    return mapping


def _llm(parts: Parts) -> Any:
    name = parts.llm or ""
    formats = {
        "kv_dtype": options.number_format("--kv-dtype", parts.kv_dtype),
        "weight_dtype": options.number_format("--weight-dtype", parts.weight_dtype),
    }
    if _is_json(name):
        from kvbound.llm.config import read_llm

        return read_llm(Path(name), **formats)
    if any(formats.values()):
        raise UsageError(f"--kv-dtype and --weight-dtype go with a config.json, not with --llm {name}")
    return name


def warn_of_capacity(instance: kvbound.instance.Instance, quiet: bool) -> None:
    """Print a remark on capacities above those in the catalog."""
    from kvbound import catalog
    from kvbound.units import format_bytes

    memory = instance.memory
    if quiet or catalog.find(catalog.Kind.MEMORY, memory.name) is None:
        return
    own = {tier.name: tier.capacity for tier in catalog.memory(memory.name).tiers}
    for tier in memory.tiers:
        most = own.get(tier.name)
        if most is not None and tier.capacity is not None and tier.capacity > most:
            console.note(
                f"{tier.name} of {memory.name} holds {format_bytes(most)}; "
                f"this instance gives it {format_bytes(tier.capacity)}"
            )


def _warn_of_own_reads(instance: kvbound.instance.Instance, quiet: bool) -> None:
    """Print a remark on how many reads of steps' own tokens physical accounting leaves out."""
    from kvbound.trace import Trace

    if quiet or not instance.physical or not isinstance(instance.workload, Trace):
        return
    own = int(instance.workload.own_reads().sum())
    if own:
        all_reads = int(instance.workload.counts().sum())
        console.note(
            f"{own:,} of {all_reads:,} reads are of the token being made; its KV is still on the chip, "
            "so physical accounting leaves them out"
        )
