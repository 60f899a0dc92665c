"""Sliding windows by model type."""

from typing import Any

from kvbound.llm.config import read_config

TINY: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 96, "vocab_size": 100,
}  # fmt: skip


def windows(kind: str, **more: Any) -> tuple[int | None, ...]:
    return read_config(TINY | {"model_type": kind} | more).windows


def test_windows() -> None:
    full, half = (None,) * 6, (4, None, 4, None, 4, None)
    assert windows("llama") == full
    assert windows("mistral", sliding_window=4) == (4,) * 6
    assert windows("mistral", sliding_window=None) == full
    assert windows("mistral") == (4096,) * 6
    assert windows("gemma2", sliding_window=4) == half
    assert windows("gemma3_text", sliding_window=4) == (4, 4, 4, 4, 4, None)
    assert windows("gemma3_text", sliding_window=4, sliding_window_pattern=3) == (4, 4, None, 4, 4, None)
    types = ["sliding_attention", "full_attention"] * 3
    assert windows("gemma3_text", sliding_window=4, layer_types=types, sliding_window_pattern=3) == half


def test_qwen_switches_windows_on() -> None:
    assert windows("qwen2", sliding_window=4, max_window_layers=4) == (None,) * 6
    on = windows("qwen2", sliding_window=4, use_sliding_window=True, max_window_layers=4)
    assert on == (None, None, None, None, 4, 4)
    types = ["sliding_attention"] * 6
    assert windows("qwen2", sliding_window=4, use_sliding_window=False, layer_types=types) == (None,) * 6


def test_chunks_of_llama_4() -> None:
    assert windows("llama4_text", attention_chunk_size=4) == (4, 4, 4, None, 4, 4)
    assert windows("llama4_text", attention_chunk_size=4, no_rope_layers=[]) == (4, 4, 4, None, 4, 4)
    assert windows("llama4_text", attention_chunk_size=4, no_rope_layers=[0, 1] * 3) == (None, 4) * 3
    types = ["chunked_attention", "full_attention"] * 3
    assert windows("llama4_text", attention_chunk_size=4, layer_types=types) == (4, None) * 3
