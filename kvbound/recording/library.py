"""Make the library's recorded traces from recordings.

The recordings (queries and keys of a Llama-architecture model of 260,000 parameters) are not part of the
package; the traces are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kvbound.progress import Progress, silent
from kvbound.recording.attention import from_qk
from kvbound.trace import write_trace

SHARES: Final = (0.40, 0.15, 0.10)
"""Shares of the past tokens that are read."""
LICENCE: Final = "MIT (model tinyllamas/stories260K by A. Karpathy, as far as known); trace: Apache-2.0"


@dataclass(frozen=True)
class Recording:
    """A file of recorded queries and keys.

    Parameters
    ----------
    name
        Short name, the prefix of its traces' names.
    file
        The .npz file.
    sequences
        Number of sequences.
    prefill_tokens
        Position of the first step of its traces.
    what
        Description of the recorded run.
    """

    name: str
    file: str
    sequences: int
    prefill_tokens: int
    what: str


RECORDINGS: Final = (
    Recording(
        "native512", "stories260k_qk_native512.npz", 4, 128,
        "stories260K (5 layers, 8 query and 4 kv heads) generating from its first token; "
        "sequence 0 greedy, 1-3 sampled at temperature 1, top-p 0.9",
    ),
    Recording(
        "ext1024", "stories260k_qk_ext1024.npz", 2, 512,
        "stories260K with its RoPE frequencies stretched to 1024 tokens, teacher-forced; sequence 0 one long "
        "document (Cinderella, Grimm, tr. M. Hunt 1884), sequence 1 stories sampled from the model",
    ),
)  # fmt: skip


def make_recordings(
    data: Path | str,
    out: Path | str,
    *,
    steps: int | None = None,
    shares: Sequence[float] = SHARES,
    progress: Progress | None = None,
) -> list[Path]:
    """Write one trace folder per recorded sequence and share, NAME-seqN-topNN.trace.

    Parameters
    ----------
    data
        Folder of the recordings.
    out
        Folder for the traces.
    steps
        Number of steps of each trace, by default all.

    Raises
    ------
    InputError
        A recording is missing or invalid.
    """
    report = progress or silent
    jobs = list(_jobs(shares))
    written = []
    for done, (recording, sequence, share) in enumerate(jobs):
        percent = round(100 * share)
        source = (
            f"{recording.what}; sequence {sequence}; the {percent} % of past tokens with the largest "
            "head-averaged attention probability, which is the mass"
        )
        trace = from_qk(
            Path(data) / recording.file, sequence, recording.prefill_tokens, share,
            steps=steps, source=source, licence=LICENCE,
        )  # fmt: skip
        written.append(Path(out) / f"{recording.name}-seq{sequence}-top{percent:02}.trace")
        write_trace(trace, written[-1])
        report(done + 1, len(jobs), written[-1].name)
    return written


def _jobs(shares: Sequence[float]) -> Iterator[tuple[Recording, int, float]]:
    for recording in RECORDINGS:
        for sequence in range(recording.sequences):
            for share in shares:
                yield recording, sequence, share
