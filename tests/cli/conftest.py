"""A small instance on disk, and the command line run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kvbound.cli import main
from tests.instance_documents import linked_tiers, llm

READS = [[[0, 2, 3], [1]], [[0, 4], [1, 2]], [[0, 5, 3], [3]], [[0, 6, 1], [1, 3, 2]]]


class Ran(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run kvbound with these arguments."""
    monkeypatch.delenv("COLUMNS", raising=False)  # some test runners set it

    def call(*argv: object) -> Ran:
        capfd.readouterr()
        code = main([str(arg) for arg in argv])
        return Ran(code, *capfd.readouterr())

    return call


def document(**changes: Any) -> dict[str, Any]:
    """The contents of an instance file; `...` leaves a field out."""
    content: dict[str, Any] = {
        "schema": "kvbound.instance/1",
        "name": "small",
        "memory": linked_tiers(
            {"hbm": "4900GB/s", "down": "64GB/s", "up": "64GB/s", "dram": "500GB/s"}, "40%", "two"
        ),
        "llm": llm(2, "16KiB", reads=[10_000, 20_000], name="tiny"),
        "trace": {"prefill_tokens": 4, "reads": READS},
        "rules": {"migration": "on-read"},
    }
    return {key: value for key, value in (content | changes).items() if value is not ...}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An instance of 2 layers, 4 + 4 tokens."""
    path = tmp_path / "small.json"
    path.write_text(json.dumps(document()))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
