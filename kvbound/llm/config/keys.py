"""The fields of a ``config.json`` under common names, with the model class's defaults for absent ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from kvbound.errors import InputError
from kvbound.fields import Fields

MAX_SIZE: Final = 2**24
_MISSING: Any = object()

# an unknown key is refused if its name suggests that it affects cache or weights
_RELEVANT: Final = re.compile(
    r"layer|head|expert|moe|shar(e|ing)|window|cache|kv|group|att(n|ention)|cla(_|$)|block|ssm|mamba|linear"
    r"|recurr|rank|latent|index|conv|state|sliding|local|lru|rwkv|per_token|pattern|interleav|sparse|chunk|hybrid|swa"
    r"|[mg]qa|mla|query|compress|loop|repeat|depth"
)
_IRRELEVANT: Final = re.compile(
    r"drop|norm_?(eps|epsilon)|softmax|init|flash|rope|rotary|_token_(id|index)$|attn_implementation|scale_attn"
    # the choice of experts, and modules that predict further tokens
    r"|aux_loss|router|expert_group|^n_group$|topk_(group|method)|grouped_topk|moe_renormalize|mtp|nextn|use_nope"
    r"|^(use_cache|cache_implementation|is_llama_config|output_(attentions|hidden_states)|dtype|torch_dtype"
    r"|chunk_size_feed_forward|label2id|id2label|gradient_checkpointing|pretraining_tp|pruned_heads"
    r"|num_beam_groups|cross_attention_hidden_size|tie_encoder_decoder|layer_norm.*|attn_scale"
    r"|attn_logit_softcapping|quantization_config|compression_config|kv_cache_dtype|_name_or_path|auto_map)$"
)
# values with which a key has no effect, given the other fields of the file
_NEUTRAL: Final[Mapping[str, Callable[[Any, Fields], bool]]] = {
    "attention_head_dim": lambda value, fields: value == fields.raw("head_dim", default=None),
    "attn_type_list": lambda value, fields: isinstance(value, list) and set(map(str, value)) == {"1"},
    "cla_share_factor": lambda value, fields: fields.raw("use_cla", default=None) is False,
    "max_window_layers": lambda value, fields: fields.raw("use_sliding_window", default=None) is False,
    "moe_layer_freq": lambda value, fields: value == 1,
    "sliding_window": lambda value, fields: fields.raw("use_sliding_window", default=None) is False,
}


class Keys:
    """Reader of a model's fields by their common names.

    Null counts as a value: it overrides the class default, as it does for the model class.

    Parameters
    ----------
    fields
        The language model's part of the file.
    aliases
        Common name to its alternative names.
    defaults
        Values of the model class for absent keys, under any of these names.

    Raises
    ------
    InputError
        From every method, for a field that is missing or invalid.
    """

    def __init__(
        self, fields: Fields, aliases: Mapping[str, tuple[str, ...]], defaults: Mapping[str, Any]
    ) -> None:
        self._fields, self._aliases, self._defaults = fields, aliases, defaults
        self.assumed: dict[str, int] = {}

    def has(self, key: str) -> bool:
        """Whether the file or the model class gives `key` a value."""
        return self._find(key)[1] is not None

    def stated(self, key: str) -> bool:
        """Whether the file itself gives `key` a value."""
        return any(self._fields.raw(name, default=None) is not None for name in self._names(key))

    def integer(self, key: str, low: int = 1, high: int = MAX_SIZE, default: Any = _MISSING) -> int:
        """Return an integer in [low, high]; defaults of the model class are recorded in `assumed`."""
        name, value = self._find(key)
        if value is None:
            return Fields({}, self._fields.file, self._fields.field).integer(name, low, high, **_or(default))
        if not self.stated(key):
            self.assumed[name] = value
        return self._holding(name, value).integer(name, low, high)

    def boolean(self, key: str, default: bool = False) -> bool:
        """Return a boolean."""
        name, value = self._find(key)
        return default if value is None else self._holding(name, value).boolean(name)

    def items(self, key: str) -> list[Any] | None:
        """Return a list without validating its items, or None if there is none."""
        name, value = self._find(key)
        return None if value is None else list(self._holding(name, value).items(name))

    def error(self, key: str, expected: str) -> InputError:
        """Return an InputError about `key`, under the name that the file uses."""
        return self._fields.error(self._find(key)[0], expected)

    def _names(self, key: str) -> tuple[str, ...]:
        return (key, *self._aliases.get(key, ()))

    def _holding(self, name: str, value: object) -> Fields:
        return Fields({name: value}, self._fields.file, self._fields.field)

    def _find(self, key: str) -> tuple[str, Any]:
        """Return the name in use, and its value."""
        names = self._names(key)
        present = [name for name in names if self._fields.has(name)]
        for name in present:
            if (value := self._fields.raw(name)) is not None:
                return name, value
        if present:
            return present[0], None
        for name in names:
            if self._defaults.get(name) is not None:
                return name, self._defaults[name]
        return names[0], None


def _or(default: Any) -> dict[str, Any]:
    return {} if default is _MISSING else {"default": default}


def unknown(fields: Fields, known: Collection[str]) -> list[str]:
    """Return the keys outside `known` that may affect cache or weights, unless null, false or empty."""
    return [
        key for key in fields
        if key not in known and _RELEVANT.search(key) and not _IRRELEVANT.search(key)
        and fields.raw(key) not in (None, False, [], {})
        and not (key in _NEUTRAL and _NEUTRAL[key](fields.raw(key), fields))
    ]  # fmt: skip
