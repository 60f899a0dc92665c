"""The real set: attention recorded from a small trained model, at several budgets of reads, room and link."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from kvbound.recording.attention import from_qk
from kvbound.recording.library import LICENCE, RECORDINGS
from kvbound.trace import Trace
from tests.instances.layout import LINKS, document, scaled_llm
from tests.paths import DATA

RECORDINGS_HERE: Final = DATA / "attention"


@dataclass(frozen=True)
class Cut:
    """A stretch of one recorded sequence, and which share of the past it reads.

    Parameters
    ----------
    recording
        A name of `kvbound.recording.library`.
    sequence
        Which of its sequences.
    percent
        So many per cent of the past tokens are read.
    steps
        Decode steps, from the recording's own first one; None takes all.
    """

    recording: str
    sequence: int
    percent: int
    steps: int | None = None

    @property
    def name(self) -> str:
        """``native-r15``, and ``native-r15-n64`` when cut."""
        short = self.recording.rstrip("0123456789")
        return f"{short}-r{self.percent}" + ("" if self.steps is None else f"-n{self.steps}")

    def trace(self) -> Trace:
        """Select the reads."""
        recording = next(each for each in RECORDINGS if each.name == self.recording)
        source = (
            f"{recording.what}; sequence {self.sequence}; the {self.percent} % of past tokens with the "
            "largest head-averaged attention probability, which is the mass"
        )
        file = RECORDINGS_HERE / f"qk_{self.recording}_seq{self.sequence}.npz"
        start, share = recording.prefill_tokens, self.percent / 100
        return from_qk(file, 0, start, share, steps=self.steps, source=source, licence=LICENCE)


NATIVE: Final = tuple(Cut("native512", 1, percent) for percent in (40, 15, 10))
SHORT: Final = Cut("native512", 1, 15, 64)
STRETCHED: Final = Cut("ext1024", 0, 15)
CUTS: Final = (*NATIVE, SHORT, STRETCHED)


def traces() -> dict[str, Trace]:
    """The traces of the set by name; several instances share one."""
    return {cut.name: cut.trace() for cut in CUTS}


def documents(traces: dict[str, Trace]) -> Iterator[dict[str, Any]]:
    """Every instance of the set."""
    for cut, room, link in product((*NATIVE, SHORT), (10, 25, 50), LINKS):
        yield instance(cut.name, traces[cut.name], room, link)
    for link in LINKS:
        yield instance(STRETCHED.name, traces[STRETCHED.name], 25, link)
    yield instance(SHORT.name, traces[SHORT.name], 25, 64, migration="prefetch")
    yield instance(SHORT.name, traces[SHORT.name], 25, 64, copies="exclusive")


def instance(trace_name: str, trace: Trace, room: int, link: int, **rules: str) -> dict[str, Any]:
    """One instance, with room for so many per cent of the KV."""
    parts = trace_name.split("-")
    where = [f"c{room}", f"b{link}"]
    name = "-".join([*parts[:2], *where, *parts[2:], *rules.values()])
    llm = scaled_llm(
        "stories260k", trace.past_counts(), "5 layers as recorded; sizes in proportion to an 8B model"
    )
    return document(name, LINKS[link], llm, {"path": f"{trace_name}.trace"}, rules, hbm=f"{room}%")
