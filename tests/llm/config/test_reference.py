"""Every known model type against the models that transformers builds."""

import json
from itertools import islice
from typing import Any

import pytest

from kvbound.fields import Fields
from kvbound.llm.config import class_defaults, known_model
from kvbound.llm.config.families import FAMILIES
from kvbound.llm.config.model import Model
from tests.llm.config import reference

CASES = json.loads(reference.REFERENCE.read_text(encoding="utf-8"))
# transformers repeats the KV of a group for each of its query heads before it is cached
REPEATED = "falcon", "new_decoder_architecture"
# remote code of their own, which transformers does not have
ELSEWHERE = {"chatglm"}


def read(config: dict[str, Any]) -> Model:
    fields = Fields(config, "config.json")
    return known_model(fields, config["model_type"])


def test_every_type_is_compared() -> None:
    assert set(CASES) == set(FAMILIES) - ELSEWHERE == set(class_defaults())


@pytest.mark.parametrize("kind", CASES)
def test_as_transformers_builds_it(kind: str) -> None:
    for case in CASES[kind]:
        model = read(case["config"])
        repeated = REPEATED[0] == kind and case["config"].get(REPEATED[1])
        kv = [layer.kv_values for layer in model.layers]
        if repeated:
            heads = case["config"]["num_attention_heads"] // case["config"]["num_kv_heads"]
            kv = [heads * values for values in kv]
        assert kv == case["kv_values"], case["config"]
        assert [layer.window for layer in model.layers] == case["windows"], case["config"]
        read_now = [layer.attention + layer.ffn + layer.active + layer.router for layer in model.layers]
        assert read_now == case["read"], case["config"]
        # transformers does not count the bias of DeepSeek-V3's router as a parameter
        biases = sum(layer.router // 7168 for layer in model.layers) if kind == "deepseek_v3" else 0
        assert model.parameters == case["parameters"] + biases


@pytest.mark.slow
def test_reference_is_what_transformers_has(transformers: Any) -> None:
    assert reference.class_defaults() == class_defaults()
    assert reference.reference() == CASES


@pytest.mark.slow
def test_types_that_are_read_with_transformers(transformers: Any) -> None:
    assert len(list(islice(reference.types(), 60))) == 60
