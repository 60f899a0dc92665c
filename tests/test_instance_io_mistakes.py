"""Every mistake in an instance file: one sentence that names file and field."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvbound.errors import InputError
from kvbound.instance import Instance
from kvbound.instance_io import from_mapping, read_instance
from kvbound.reading import read_json
from kvbound.trace import write_trace
from tests.instance_documents import DOCUMENT, changed

WRONG: list[tuple[str, object, str]] = [
    ("schema", ..., "schema"),
    ("schema", "kvbound.instance/2", "schema"),
    ("schema", 1, "schema"),
    ("name", ..., "name"),
    ("name", "", "name"),
    ("name", ["x"], "name"),
    ("memory", ..., "memory"),
    ("memory", 5, "memory"),
    ("memory", None, "memory"),
    ("memory", "no-such", "memory"),
    ("memory/resources", {}, "memory.tiers.hbm.reads"),
    ("memory/resources/fast", "fast", "memory.resources.fast"),
    ("memory/resources/fast", -1, "memory.resources.fast"),
    ("memory/resources/fast", 0, "memory.resources.fast"),
    ("memory/tiers", [], "memory.tiers"),
    ("memory/tiers", {"hbm": {}}, "memory.tiers"),
    ("memory/tiers/0", "hbm", "memory.tiers.0"),
    ("memory/tiers/0/capacity", ..., "memory.tiers.hbm.capacity"),
    ("memory/tiers/0/capacity", -1, "memory.tiers.hbm.capacity"),
    ("memory/tiers/0/capacity", None, "memory.tiers.hbm.capacity"),
    ("memory/tiers/0/capacity", "3 GB/s", "memory.tiers.hbm.capacity"),
    ("memory/tiers/0/capacity", "101%", "memory.tiers.hbm.capacity"),
    ("memory/tiers/0/reads", ["pcie"], "memory.tiers.hbm.reads"),
    ("memory/tiers/0/size", 1, "memory.tiers.hbm.size"),
    ("llm", ..., "llm"),
    ("llm", [], "llm"),
    ("llm", "no-such", "llm"),
    ("llm/layers", 0, "llm.layers"),
    ("llm/layers", 2, "llm.weight_read_bytes_per_layer"),
    ("llm/kv_bytes_per_token_layer", 0, "llm.kv_bytes_per_token_layer"),
    ("llm/kv_bytes_per_token_layer", 0.5, "llm.kv_bytes_per_token_layer"),
    ("llm/weight_bytes", "many", "llm.weight_bytes"),
    ("llm/weight_read_bytes_per_layer", [3, 3], "llm.weight_read_bytes_per_layer"),
    ("llm/wieghts", 1, "llm.wieghts"),
    ("trace", ..., "trace"),
    ("trace", 5, "trace"),
    ("trace", {}, "trace.reads"),
    ("trace/prefill_tokens", ..., "trace.prefill_tokens"),
    ("trace/prefill_tokens", -1, "trace.prefill_tokens"),
    ("trace/prefill_tokens", 2.5, "trace.prefill_tokens"),
    ("trace/reads", [], "trace.reads"),
    ("trace/reads", "all", "trace.reads"),
    ("trace/reads", [[]], "trace.reads[0]"),
    ("trace/reads", [[[0], [0]]], "trace.layers"),
    ("trace/reads", [[[0]], [[0], [0]]], "trace.reads[1]"),
    ("trace/reads", [[[3]]], "trace.reads[0][0]"),
    ("trace/reads", [[[0, 0]]], "trace.reads[0][0]"),
    ("trace/reads", [[[-1]]], "trace.reads[0][0]"),
    ("trace/reads", [[[0.5]]], "trace.reads[0][0]"),
    ("trace/reads", [[["0"]]], "trace.reads[0][0]"),
    ("trace/reads", [[[True]]], "trace.reads[0][0]"),
    ("trace/reads", [[[10**30]]], "trace.reads[0][0]"),
    ("trace/layers", 1, "trace.layers"),
    ("trace", {"path": 5}, "trace.path"),
    ("trace", {"path": ""}, "trace.path"),
    ("trace", {"path": "t.trace", "reads": []}, "trace.reads"),
    ("trace", {"path": "t.trace", "layers": 2}, "trace.layers"),
    ("trace", {"path": "t.trace", "prefill_tokens": 1}, "trace.prefill_tokens"),
    ("trace", {"path": "t.trace", "decode_steps": 3}, "trace.decode_steps"),
    ("trace", {"path": "t.trace", "sha256": ["0" * 64]}, "trace.sha256"),
    ("trace", {"path": "t.trace", "sha256": "0"}, "trace.sha256"),
    ("trace", {"synthetic": {}}, "trace.synthetic.kind"),
    ("trace", {"synthetic": {"kind": "noise"}}, "trace.synthetic.kind"),
    ("trace", {"synthetic": 5}, "trace.synthetic"),
    ("trace", {"synthetic": {"kind": "random-swap"}, "path": "x"}, "trace.path"),
    ("rules", [], "rules"),
    ("rules", "exclusive", "rules"),
    ("rules/copies", "both", "rules.copies"),
    ("rules/migration", None, "rules.migration"),
    ("rules/granularity", 0, "rules.granularity"),
    ("rules/granularity", 1.5, "rules.granularity"),
    ("rules/granularity", True, "rules.granularity"),
    ("rules/order", "lru", "rules.order"),
    ("overrides", [], "overrides"),
    ("overrides", {"memory.tier": {}}, "memory.tier"),
    ("overrides", {"memory.resources": 5}, "memory.resources"),
    ("extra", 1, "extra"),
]


@pytest.mark.parametrize(("path", "value", "field"), WRONG, ids=lambda part: str(part)[:40])
def test_mistakes_are_named(tmp_path: Path, path: str, value: object, field: str) -> None:
    write_trace(from_mapping(DOCUMENT).trace, tmp_path / "t.trace")
    file = tmp_path / "x.json"
    file.write_text(json.dumps(changed(path, value)))
    with pytest.raises(InputError) as error:
        read_instance(file)
    assert (error.value.file, error.value.field) == (str(file), field)
    assert str(error.value).startswith(f"{file}: {field}: expected ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["nothing.trace", "nothing.csv", "x" * 5000])
def test_a_missing_trace(tmp_path: Path, path: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps(changed("trace", {"path": path})))
    with pytest.raises(InputError, match="nothing is there") as error:
        read_instance(tmp_path / "x.json")
    assert error.value.file == str(tmp_path / path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "JSON, but Expecting value at line 1 column 1"),
        (b"{", "JSON"),
        (b"[]", "a table of named fields"),
        (b"null", "a table of named fields"),
        (b'{"schema": "kvbound.instance/1",}', "JSON"),
        (b'{"name": "x", "name": "y"}', "every field once"),
        (b'{"memory": {"tiers": [{"a": 1, "a": 2}]}}', "every field once"),
        (b'{"name": NaN}', "finite numbers, found NaN"),
        (b'{"name": -Infinity}', "finite numbers, found -Infinity"),
        (b'{"name": ' + b"1" * 5000 + b"}", "numbers of at most a few thousand digits"),
        (b"[" * 100_000, "nested"),
        (b'{"name": "\xff"}', "UTF-8"),
        (b"\xef\xbb\xbf{}", "JSON"),
    ],
)
def test_files_that_are_no_json(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_instance(file)
    assert error.value.file == str(file)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_many_fields_are_read_in_no_time(tmp_path: Path) -> None:
    """A table of 200,000 fields took minutes when each was compared with all before it."""
    (tmp_path / "x.json").write_text(json.dumps({str(n): n for n in range(200_000)}))
    assert len(read_json(tmp_path / "x.json")) == 200_000


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
PLACES = ["memory", "llm", "trace", "rules", "overrides", "memory/tiers/0", "memory/resources", "trace/reads"]


@given(ANYTHING, st.sampled_from(PLACES))
@settings(deadline=None)
def test_any_value_gives_an_instance_or_a_sentence(value: object, path: str) -> None:
    said = ""
    try:
        assert isinstance(from_mapping(changed(path, value), file="x.json"), Instance)
    except InputError as error:
        said = str(error)
    assert "expected" in (said or "expected")
