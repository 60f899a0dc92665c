"""Schedules: dense and flat forms, files that are read back unchanged, files that are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvbound.errors import InputError
from kvbound.placement import write_placement
from kvbound.schedule import LayerEvents, Schedule, from_flat, from_tiers, read_schedule
from kvbound.trace.timeline import Timeline

SHA256 = "5" * 64
seeds = st.integers(0, 2**32 - 1)


def dense(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[NDArray[np.uint8]]]:
    """Initial tiers (layers, prefill) and per layer the tiers after every slot (steps, tokens)."""
    layers, prefill, steps = int(rng.integers(1, 4)), int(rng.integers(0, 6)), int(rng.integers(1, 6))
    initial = rng.integers(0, 3, (layers, prefill)).astype(np.uint8)
    after = [rng.integers(0, 3, (steps, prefill + steps)).astype(np.uint8) for _ in range(layers)]
    return initial, after


def replayed(schedule: Schedule, layer: int, steps: int) -> list[dict[int, int]]:
    """Tier of every token born, after every step."""
    tier = {token: int(k) for token, k in enumerate(schedule.initial[layer])}
    events, seen = schedule.events[layer], []
    for step in range(steps):
        for n in np.flatnonzero(events.step == step):
            tier[int(events.token[n])] = int(events.tier[n])
        seen.append(dict(tier))
    return seen


@given(seeds)
def test_a_dense_placement_is_replayed(seed: int) -> None:
    initial, after = dense(np.random.default_rng(seed))
    schedule = from_tiers(initial, after)
    prefill = initial.shape[1]
    for layer, rows in enumerate(after):
        for step, tier in enumerate(replayed(schedule, layer, len(rows))):
            assert list(tier.values()) == rows[step, : prefill + step + 1].tolist()


@given(seeds)
def test_dense_placements_have_one_birth_per_step_and_it_comes_last(seed: int) -> None:
    initial, after = dense(np.random.default_rng(seed))
    schedule = from_tiers(initial, after)
    assert (schedule.layers, schedule.prefill_tokens) == initial.shape
    for layer, events in enumerate(schedule.events):
        births = schedule.births(layer)
        assert events.step[births].tolist() == list(range(len(after[layer])))
        assert np.all(np.diff(events.step) >= 0)
        last = np.append(np.diff(events.step) > 0, True)
        assert np.array_equal(births, last)


@given(seeds)
def test_flat_events_are_sorted_by_slot_and_come_back(seed: int) -> None:
    initial, after = dense(np.random.default_rng(seed))
    schedule, tokens = from_tiers(initial, after), after[0].shape[1]
    slot, item, tier = schedule.flat(tokens)
    assert [str(part.dtype) for part in (slot, item, tier)] == ["int64", "int64", "uint8"]
    assert np.all(np.diff(slot) >= 0)
    assert np.array_equal(slot % schedule.layers, item // tokens)
    again = from_flat(schedule.initial, slot, item, tier, tokens)
    for one, other in zip(schedule.events, again.events, strict=True):
        assert np.array_equal(one.step, other.step)
        assert np.array_equal(one.token, other.token)
        assert np.array_equal(one.tier, other.tier)


def example() -> Schedule:
    rng = np.random.default_rng(0)
    after = [rng.integers(0, 3, (4, 7)).astype(np.uint8) for _ in range(2)]
    return from_tiers(np.array([[0, 1, 2], [2, 1, 0]], np.uint8), after)


def read(path: Path) -> Schedule:
    return read_schedule(path, instance_sha256=SHA256, layers=2, timeline=Timeline.of(3, 4), tiers=3)


def test_files_come_back_and_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    schedule = example()
    for name in ("one.npz", "two.npz"):
        write_placement(schedule, tmp_path / name, instance_sha256=SHA256, tokens=7)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    again = read(tmp_path / "one.npz")
    assert np.array_equal(again.initial, schedule.initial)
    (slot, item, tier), (slot2, item2, tier2) = schedule.flat(7), again.flat(7)
    assert np.array_equal(slot, slot2)
    assert np.array_equal(item, item2)
    assert np.array_equal(tier, tier2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def arrays() -> dict[str, Any]:
    slot, item, tier = example().flat(7)
    schema, sha256 = np.array("kvbound.schedule/1"), np.array(SHA256)
    return {
        "schema": schema, "instance_sha256": sha256, "initial": example().initial,
        "slot": slot, "item": item, "tier": tier,
    }  # fmt: skip


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in arrays().items() if key != name}


def changed(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> dict[str, Any]:
    return arrays() | {name: change(arrays()[name])}


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (without("schema"), "schema"),
        (arrays() | {"schema": np.array("kvbound.schedule/2")}, "schema"),
        (arrays() | {"instance_sha256": np.array("6" * 64)}, "instance_sha256"),
        (without("instance_sha256"), "instance_sha256"),
        (without("initial"), "initial"),
        (without("slot"), "slot"),
        (without("item"), "item"),
        (without("tier"), "tier"),
        (changed("initial", lambda a: a.astype(np.int64)), "initial"),
        (changed("initial", lambda a: a[:, 1:]), "initial"),
        (changed("initial", lambda a: a[0]), "initial"),
        (changed("initial", lambda a: a + np.uint8(3)), "tier"),
        (changed("slot", lambda a: a.astype(np.float64)), "slot"),
        (changed("slot", lambda a: a[1:]), "slot"),
        (changed("slot", lambda a: a[::-1].copy()), "slot"),
        (changed("slot", lambda a: a - 1), "slot"),
        (changed("slot", lambda a: a + 1), "slot"),
        (changed("item", lambda a: a[:, None]), "item"),
        (changed("item", lambda a: a + 7), "item"),
        (changed("item", lambda a: a - 7), "item"),
        (changed("item", lambda a: a // 7 * 7 + 6), "item"),
        (changed("item", lambda a: a // 7 * 7), "item"),
        (changed("tier", lambda a: a + np.uint8(250)), "tier"),
        (arrays() | {name: arrays()[name][:-1] for name in ("slot", "item", "tier")}, "item"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_named(tmp_path: Path, content: dict[str, Any], field: str) -> None:
    path = tmp_path / "wrong.npz"
    np.savez_compressed(path, **content)
    with pytest.raises(InputError) as error:
        read(path)
    assert (error.value.file, error.value.field) == (str(path), field)
    assert "\n" not in str(error.value)


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "pickled.npz"
    np.savez(path, **(arrays() | {"slot": np.array([{"a": 1}], dtype=object)}))
    with pytest.raises(InputError, match=r"a schedule file \(.npz\), but it is damaged"):
        read(path)


def test_missing_files_and_other_kinds_of_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found nothing there"):
        read(tmp_path / "none.npz")
    for content in (b"", b"{}", b"PK\x03\x04", b"\x93NUMPY"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InputError, match="a schedule file"):
            read(tmp_path / "bad.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InputError, match="a schedule file"):
        read(tmp_path / "array.npy")
    with pytest.raises(InputError, match="a schedule file"):
        read(tmp_path)


def test_damage_ends_in_one_sentence(tmp_path: Path) -> None:
    """Whatever the readers of a damaged archive raise, the user reads a sentence."""
    path = tmp_path / "damaged.npz"
    write_placement(example(), path, instance_sha256=SHA256, tokens=7)
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    cut = [good[: rng.integers(len(good))] for _ in range(20)]
    damaged = cut.copy()
    for at in rng.choice(len(good), 250, replace=False):
        damaged.append(good[:at] + bytes([good[at] ^ int(rng.integers(1, 256))]) + good[at + 1 :])
    said = []
    for content in damaged:
        path.write_bytes(content)
        try:
            read(path)
        except InputError as error:
            said.append(str(error))
    assert len(said) > len(cut)
    assert all(str(path) in sentence and "\n" not in sentence for sentence in said)


def test_arrays_are_converted_to_the_types_of_the_fields() -> None:
    events = LayerEvents.of([0, 1], [3, 4], [0, 2])
    assert [str(part.dtype) for part in (events.step, events.token, events.tier)] == [
        "int32",
        "int32",
        "uint8",
    ]


def test_as_a_frame() -> None:
    """Token 1 leaves tier 0 in step 1 and comes back in step 2; 0 stays where it is."""
    initial = np.array([[1, 0, 1], [0, 0, 0]], np.uint8)
    busy = LayerEvents.of([0, 1, 1, 1, 2, 2], [3, 1, 0, 4, 1, 5], [0, 1, 1, 1, 0, 0])
    idle = LayerEvents.of([0, 1, 2], [3, 4, 5], [0, 0, 0])
    frame = Schedule(initial, (busy, idle)).to_frame()
    assert list(frame.columns) == ["step", "layer", "token", "tier", "event"]
    assert frame["step"].is_monotonic_increasing
    assert (frame["event"] == "start").sum() == 6
    assert (frame["event"] == "birth").sum() == 6
    moves = frame[~frame["event"].isin(["start", "birth"])]
    assert moves.to_numpy().tolist() == [
        [1, 0, 1, 1, "down"], [1, 0, 0, 1, "stay"], [2, 0, 1, 0, "up"],
    ]  # fmt: skip
    assert frame[frame["layer"] == 0].tail(1).to_numpy().tolist() == [[2, 0, 5, 0, "birth"]]
