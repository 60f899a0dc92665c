"""Users' own policies: what they may leave out, and how their mistakes are reported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kvbound as kv
from kvbound.errors import UsageError
from kvbound.policies import Birth, MoveRequest, Slot, make_policy
from kvbound.policies.lru import Lru
from tests.cost_cases import assert_sound, same, schedule_of, toy

FILE = '''
from dataclasses import dataclass

import numpy as np
from beside import WORTH


@dataclass
class Mine:
    """Keep some."""

    keep: int = 2

    def step(self, slot):
        return np.arange(slot.tokens + 1) % self.keep * WORTH


class Wrong:
    name = "wrong"

    def step(self, slot):
        return slot.nothing


class Idle:
    pass


def function():
    pass
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WORTH = 1.0\n")
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


class Least:
    """No name, no start, no oracle."""

    def step(self, slot: Slot) -> Any:
        return np.arange(slot.tokens + 1)


def test_only_step_is_required() -> None:
    for policy in (Least, Least()):
        result = kv.simulate(toy(), policy)  # type: ignore[arg-type]
        assert result.method == "Least"
        assert_sound(toy(), result)
        window = kv.simulate(toy(), "recency-window")
        assert same(schedule_of(result), schedule_of(window))


def test_from_a_file(file: Path) -> None:
    result = kv.simulate(toy(), f"{file}:Mine", keep=np.int64(3))
    assert (result.method, result.options) == ("Mine", {"keep": 3})
    assert_sound(toy(), result)
    assert kv.solve(toy(), f"{file}:Mine").time_s is not None
    assert kv.solve(toy(), Least()).method == "Least"  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="method Least takes no gap"):
        kv.solve(toy(), Least, gap="1%")
    with pytest.raises(UsageError, match=r"mine\.py:Mine takes keep, not 'kept'"):
        kv.simulate(toy(), f"{file}:Mine", kept=3)


def test_compare_mixes_names_objects_classes_and_files(file: Path) -> None:
    table = kv.compare(toy(), ["lru", Least(), Least, f"{file}:Mine", "ideal"])  # type: ignore[list-item]
    assert sorted(table["method"]) == ["Least", "Least", "Mine", "ideal", "lru"]
    assert table["method"].iloc[-1] == "ideal"
    timed = table.dropna(subset="time_s")
    assert np.allclose(timed["share_of_bound"], timed["bound_s"] / timed["time_s"])


@pytest.mark.parametrize("methods", ["lru", ["lru"], ("lru",), {"lru"}, iter(["lru"])])
def test_one_method_or_many(methods: Any) -> None:
    assert list(kv.compare(toy(), methods)["method"]) == ["lru"]
    assert list(kv.compare(toy(), Least)["method"]) == ["Least"]
    assert set(kv.compare(toy(), "lru, lfu")["method"]) == {"lru", "lfu"}


def test_built_in_classes_are_not_wrapped() -> None:
    lru = Lru()
    assert make_policy(lru) is lru
    assert kv.simulate(toy(), Lru).method == "lru"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Wrong", r"policy wrong: step raised AttributeError: .*'nothing' \(mine.py, line \d+\)"),
        ("Mind", r"has no Mind; did you mean 'Mine'\?"),
        ("", "expected FILE.py:Class; its classes are Mine, Wrong, Idle"),
        ("Idle", r"policy Idle has no method step\(slot\)"),
        ("function", "function is no class; its classes are"),
        ("np", "np is no class"),
    ],
)
def test_mistakes_in_a_file(file: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kv.simulate(toy(), f"{file}:{name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", r"mine.py raised SyntaxError: .*\(mine.py, line 1\)"),
        ("x = 1\nimport no_such_module\n", r"mine.py raised ModuleNotFoundError: .* \(mine.py, line 2\)"),
        ("raise SystemExit(3)\n", "raised SystemExit: 3"),
        (
            "class Mine:\n def __init__(self, x): pass\n def step(self, slot): pass\n",
            r"Mine\(\) raised TypeError",
        ),
        (
            "class Mine:\n def __init__(self): raise SystemExit(3)\n def step(self, slot): pass\n",
            r"policy .*: Mine\(\) raised SystemExit: 3 \(mine.py, line 2\)",
        ),
        (
            "class Mine:\n def step(self, slot): raise SystemExit(3)\n",
            r"policy Mine: step raised SystemExit: 3 \(mine.py, line 2\)",
        ),
        ("class Mine:\n name = 'a/b'\n def step(self, slot): pass\n", r"expected a name .*, not 'a/b'"),
        ("class Mine:\n name = 3\n def step(self, slot): pass\n", r"expected a name .*, not 3"),
    ],
)
def test_files_that_do_not_load(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=message):
        kv.simulate(toy(), f"{tmp_path / 'mine.py'}:Mine")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"policy none\.py:Mine: there is no file none\.py"):
        kv.compare(toy(), ["lru", "none.py:Mine"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"policy Odd: expected scores of shape \(4,\), not None"),
        ("high", "not 'high'"),
        ([[1], [1, 2]], r"not \[\[1\], \[1, 2\]\]"),
        (
            MoveRequest(promote=np.ones(3, bool)),
            r"a MoveRequest's promote is a list of token ids, not bool of shape \(3,\)",
        ),
        (MoveRequest(evict=np.array([0.5])), "evict is a list of token ids, not float64"),
        (
            MoveRequest(evict=np.array([9])),
            "policy Odd: a MoveRequest's evict holds 9, expected one of the past",
        ),
        (MoveRequest(promote=np.array([-2, 1])), "promote holds -2, expected one of the past tokens 0 to 2"),
        (MoveRequest(birth="slow"), "a Birth, or a list of one for each of the new tokens .1., not 'slow'"),  # type: ignore[arg-type]
    ],
)
def test_errors_about_return_values_name_the_policy(answer: object, message: str) -> None:
    class Odd:
        def step(self, slot: Slot) -> Any:
            return answer

    with pytest.raises(UsageError, match=message):
        kv.simulate(toy(), Odd())  # type: ignore[arg-type]


def test_a_file_that_shares_its_name_with_a_module_of_kvbound_is_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("class Mine:\n def step(self): pass\n")
    with pytest.raises(UsageError, match=r"raised TypeError: .* 2 were given$"):
        kv.simulate(toy(), f"{tmp_path / 'own.py'}:Mine")


def test_options_of_the_wrong_type_are_refused_by_the_policy() -> None:
    for options in ({"topk": "half"}, {"window": 2.5}):
        with pytest.raises(UsageError, match=r"^sa-guided needs a whole window >= 1 and 0 < topk <= 1, not"):
            kv.simulate(toy(), "sa-guided", **options)
    with pytest.raises(UsageError, match=r"policy int has no method step"):
        kv.simulate(toy(), int)


def test_lists_are_ids_too() -> None:
    class Lists:
        def step(self, slot: Slot) -> Any:
            return MoveRequest(list(slot.misses), [0], birth=Birth.SLOW)  # type: ignore[arg-type]

    assert_sound(toy(), kv.simulate(toy(), Lists()))  # type: ignore[arg-type]


def test_an_error_keeps_its_cause() -> None:
    class Failing:
        def start(self, instance: object, rng: object) -> None:
            raise ZeroDivisionError("oh")

        def step(self, slot: Slot) -> Any:
            return None

    with pytest.raises(UsageError, match=r"policy Failing: start raised ZeroDivisionError: oh") as caught:
        kv.simulate(toy(), Failing())  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("limit", ["3s", 3, np.int64(3), np.float32(3)])
def test_time_limits_as_people_write_them(limit: Any) -> None:
    found = kv.solve(toy(), "exact", time_limit=limit, gap="1%", seed=int(np.int64(1)))
    assert found.time_s is not None
    assert list(kv.compare(toy(), ["lru"], time_limit=limit)["method"]) == ["lru"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"time_limit": "3 sec"}, "time_limit: expected a time such as 10us, 30ms"),
        ({"time_limit": -1}, "time_limit: expected"),
        ({"time_limit": None}, "time_limit: expected"),
        ({"gap": "one"}, "gap: expected a share such as 60%"),
    ],
)
def test_invalid_limits(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kv.solve(toy(), "exact", **option)
