"""What is minimised: fields, hashes, and their mistakes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import kvbound as kv
from kvbound.errors import InputError
from kvbound.instance_io import from_mapping, write_instance
from kvbound.objective import TIME_ALONE, Objective
from tests.energy_cases import energies, scaled
from tests.instance_documents import DOCUMENT
from tests.objective_cases import swap


def test_time_alone_changes_neither_hash_nor_documents() -> None:
    plain = swap()
    for same in (swap(time=1.0), swap(time=1, energy=0)):
        assert same.sha256 == plain.sha256
        assert same.expanded() == plain.expanded()
    system = swap(level="system", point="low")
    assert system.sha256 == plain.sha256
    assert system.expanded()["objective"] == {"time": 1, "energy": 0, "level": "system", "point": "low"}
    assert "objective" not in kv.simulate(plain, "lru").to_json()["options"]


def test_the_hash_holds_weights_and_then_energies() -> None:
    mix = swap(energy=0.5)
    known = {mix.sha256, swap().sha256}
    for other in (
        swap(energy=0.25),
        swap(time=2.0),
        swap(energy=0.5, point="low"),
        swap(time=0, energy=1),
    ):
        assert other.sha256 not in known
        known.add(other.sha256)
    assert replace(mix, memory=scaled(mix.memory, 2.0)).sha256 not in known
    free = replace(mix.memory, mac_energy={"device": {"mid": 9.0}})
    assert replace(mix, memory=free).sha256 == mix.sha256


def test_instance_files(tmp_path: Path) -> None:
    mix = swap(time=0.5, energy=2.0, point="high")
    write_instance(mix, tmp_path / "mix.json")
    assert json.loads((tmp_path / "mix.json").read_text())["objective"]["energy"] == 2
    read = kv.read_instance(tmp_path / "mix.json")
    assert read.objective == mix.objective
    assert read.sha256 == mix.sha256
    changed = kv.read_instance(tmp_path / "mix.json", overrides={"objective.energy": 3})
    assert changed.objective == replace(mix.objective, energy=3.0)
    whole = {"objective": {"time": 0, "energy": 1}, "objective.point": "mid"}
    assert kv.read_instance(tmp_path / "mix.json", overrides=whole).objective == Objective(0.0, 1.0)


@pytest.mark.parametrize(
    ("objective", "field"),
    [
        ({"time": 0, "energy": 0}, "objective"), ({"time": -1}, "objective.time"),
        ({"energy": float("nan")}, "objective.energy"), ({"energy": 1e300}, "objective.energy"),
        ({"energy": 1e-300}, "objective.energy"), ({"energy": True}, "objective.energy"),
        ({"level": "chip"}, "objective.level"), ({"point": "best"}, "objective.point"),
        ({"watts": 1}, "objective.watts"), ("energy", "objective"),
    ],
)  # fmt: skip
def test_mistakes_are_named(objective: object, field: str) -> None:
    given = DOCUMENT | {"objective": objective}
    with pytest.raises(InputError) as error:
        from_mapping(given)
    assert error.value.field == field


def test_unknown_energies_and_other_accountings_are_refused() -> None:
    with pytest.raises(InputError, match="energies known at level device, point mid; memory"):
        kv.read_instance("native-r15-c25-b64-n64", overrides={"objective.energy": 1})
    with pytest.raises(InputError, match="time alone under accounting fang2025"):
        swap().with_rules(accounting="fang2025").with_objective(time=2.0)
    memory = replace(swap().memory, energy=energies(dict.fromkeys(swap().memory.resources, 0.0)))
    with pytest.raises(InputError, match="energies above 0"):
        replace(swap(), memory=memory, objective=Objective(0.0, 1.0))


@pytest.mark.parametrize("text", ["time", "energy", "time=1,energy=0.5", "energy,level=system", "point=low"])
def test_text_for_the_command_line(text: str) -> None:
    objective = Objective.from_mapping(Objective.from_text(text))
    assert Objective.from_mapping(Objective.from_text(str(objective))) == objective


def test_text_that_is_none() -> None:
    for text in ("", "power", "time=fast", "energy=", "time=1;energy=2"):
        with pytest.raises(InputError):
            Objective.from_text(text)
    assert Objective.from_mapping(Objective.from_text("time")) == TIME_ALONE
