import pytest

from kvbound.cli.source import Parts, assemble, literal, pairs
from kvbound.errors import UsageError


def test_pairs() -> None:
    assert pairs("--set", ["a=1", "b=x=y"]) == [("a", "1"), ("b", "x=y")]
    for wrong in (["a"], ["=1"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(UsageError, match="--set"):
            pairs("--set", wrong)


def test_literals() -> None:
    assert [literal(text) for text in ("1", "0.5", "null", "[1]", "23GiB", "30%", "on-read")] == [
        1, 0.5, None, [1], "23GiB", "30%", "on-read",
    ]  # fmt: skip


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match=r"missing: --llm, --trace"):
        assemble(Parts(memory="gh200-144"))
