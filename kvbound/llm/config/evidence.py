"""Read a model of a type that is not in the table by building the model that transformers has for it.

The model is on torch's meta device, which has shapes without data, so that 700 billion parameters take no
memory. Its parameters are counted, and three short runs show how much the cache of each layer grows with a
token. Layers without a cache, shared caches, differing shapes and latent caches therefore need no rules here.
Nothing is downloaded, and code that comes with a model is never run.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from kvbound.errors import InputError, install_command
from kvbound.fields import Fields, show
from kvbound.llm.config.keys import unknown
from kvbound.llm.config.model import Layer, Model
from kvbound.llm.model import MAX_LAYERS

EXPANDED: Final = {"falcon"}  # transformers caches the KV of a group once per query head
_OLDEST: Final = (5, 24)  # earlier versions expand latent caches
_LENGTHS: Final = (2, 3, 4)
# the growth of other caches cannot be told from three lengths
_CACHES: Final = {
    "DynamicLayer", "DynamicSlidingWindowLayer", "DynamicIndexedLayer", "DummyLayer", "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer", "LinearAttentionAndSlidingWindowAttentionLayer",
}  # fmt: skip
# tensors of a fixed size per sequence
_STATES: Final = {"conv_states", "recurrent_states", "ssm_states"}
# keys that count objects, and their largest value
_COUNTED: Final = re.compile(r"layer|expert|head|block|group|depth|stage")
_MOST: Final = 2**16
_ACTIVE: Final = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts", "moe_topk",
    "moe_top_k", "moe_k", "top_k",
)  # fmt: skip
# keys about files, text and training, which model classes need not know
_FILE_KEYS: Final = {
    "model_type", "architectures", "auto_map", "quantization_config", "compression_config", "_name_or_path",
    "transformers_version", "torch_dtype", "dtype",
}  # fmt: skip


def hint() -> str:
    """Return a hint on how to read further types."""
    return f"with transformers more are read: {install_command('hf')}"


def installed() -> bool:
    """Whether the packages that `read` needs are installed."""
    try:
        return all(find_spec(name) is not None for name in ("torch", "transformers"))
    except ValueError:  # a placeholder for a package that must not be imported
        return False


def read(fields: Fields, outer: Fields, kind: str) -> Model:
    """Build the model that transformers has for a configuration, and measure it.

    Parameters
    ----------
    fields, outer
        The language model's part of the file, and the whole file.
    kind
        Type of the language model.

    Raises
    ------
    InputError
        transformers or torch is missing, the type or one of its keys is unknown to transformers, or the model
        has no cache or cannot be run without weights.
    """
    typed = fields if fields.raw("model_type", default=None) is not None else outer
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch
            import transformers
    except ImportError:
        expected = f"a type that is read without transformers, not {kind!r}; {hint()}"
        raise typed.error("model_type", expected) from None
    if tuple(map(int, transformers.__version__.split(".")[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        expected = f"a type that is read without transformers {oldest}, not {kind!r}; {hint()}"
        raise typed.error("model_type", f"{expected} (here is {transformers.__version__})")
    with _quiet(transformers):
        whole, config = _config(fields, outer, kind, transformers)
        try:
            model = _on_meta(whole, config, torch, transformers)
            grown = [_cached(model, length, torch) for length in _LENGTHS]
            return _model(model, config, _growth(grown, typed, kind), kind, transformers.__version__)
        except InputError:
            raise
        except Exception as error:  # any error of a model's code means that it cannot be read
            message = f"a model that transformers {transformers.__version__} runs without weights"
            raise typed.error("model_type", f"{message}, not {kind!r} ({_first_line(error)})") from None


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence warnings of transformers within the block."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)


def _config(fields: Fields, outer: Fields, kind: str, transformers: Any) -> tuple[Any, Any]:
    """Return the configuration and its language model's part as objects of transformers."""
    known = transformers.CONFIG_MAPPING
    whole = outer.raw("model_type", default=kind)
    place, name = (outer, whole) if whole in known else (fields, kind)
    if name not in known:
        version = transformers.__version__
        raise outer.error("model_type", f"a type that kvbound or transformers {version} knows, not {kind!r}")
    _refuse_absurd(place)
    held = {key: place.raw(key) for key in place if key not in _FILE_KEYS}
    try:
        config = transformers.AutoConfig.for_model(name, **held)
        text = config.get_text_config(decoder=True)
        if not isinstance(text, transformers.PreTrainedConfig):
            raise TypeError("no configuration of a language model in it")
    except Exception as error:  # each class validates its fields in its own way
        raise InputError(
            outer.file, "", f"fields as transformers takes them for {name!r} ({_first_line(error)})"
        ) from None
    if getattr(config, "is_encoder_decoder", False):
        raise outer.error("model_type", f"a decoder-only model, and {name!r} has an encoder")
    sources = _sources(type(text))
    unknown_keys = [key for key in unknown(fields, _declared(type(text))) if not _reads(sources, key)]
    if not unknown_keys and type(config) is not type(text) and fields is outer:
        # classes of text and images may ignore keys beside text_config
        beside = unknown(fields, _declared(type(config)))
        unknown_keys = [key for key in beside if getattr(text, key, None) != fields.raw(key)]
    if unknown_keys:
        raise fields.error(unknown_keys[0], f"a key that transformers' class for {name!r} knows")
    layers = getattr(text, "num_hidden_layers", 1)
    if not isinstance(layers, int) or not 1 <= layers <= MAX_LAYERS:
        raise fields.error("num_hidden_layers", f"an integer from 1 to {MAX_LAYERS:,}, not {layers!r}")
    return config, text


def _refuse_absurd(fields: Fields) -> None:
    """Refuse numbers of layers and the like so large that building the model would take hours."""
    for key in fields:
        value = fields.raw(key)
        if isinstance(value, Mapping):
            _refuse_absurd(fields.child(key))
        elif isinstance(value, int | float) and (counted := _COUNTED.search(key)):
            most = MAX_LAYERS if counted[0] == "layer" else _MOST
            if not value <= most and not key.endswith(("_size", "_dim")):
                raise fields.error(key, f"at most {most:,}, not {show(value)}")


def _declared(kind: type) -> set[str]:
    """Return the keys that a config class declares, under all their names."""
    named = set(inspect.signature(kind).parameters)
    fields = set(getattr(kind, "__dataclass_fields__", {}))
    spellings: Mapping[str, str] = getattr(kind, "attribute_map", {})
    return named | fields | set(spellings) | set(spellings.values())


def _sources(kind: type) -> str:
    """Return the source text of a config class and of its models."""
    folder = Path(inspect.getfile(kind)).parent
    files = sorted({*folder.glob("configuration_*.py"), *folder.glob("modeling_*.py")})
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def _reads(source: str, key: str) -> bool:
    """Whether the source text uses `key` of a configuration, even if the class does not declare it."""
    return re.search(rf"config\.{re.escape(key)}\b|['\"]{re.escape(key)}['\"]", source) is not None


def _on_meta(whole: Any, text: Any, torch: Any, transformers: Any) -> Any:
    """Build the language model alone if transformers can, else the model of text and images."""
    if type(text) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        build, config = transformers.AutoModelForCausalLM.from_config, text
    else:
        build, config = transformers.AutoModelForImageTextToText.from_config, whole
    options: dict[str, Any] = {"trust_remote_code": False, "attn_implementation": "eager"}
    with torch.device("meta"):
        try:
            # experts as one batched product, as a loop over the chosen ones would need data
            model = build(config, **options, experts_implementation="batched_mm")
        except (TypeError, ValueError):
            model = build(config, **options)
    return model.eval()


def _parameters(model: Any, text: bool) -> list[Any]:
    """Return the language model's parameters, without those of a vision part."""
    if text:
        return list(model.parameters())
    parts = (model.get_decoder(), model.get_output_embeddings())
    return list({id(each): each for part in parts for each in part.parameters()}.values())


def _cached(model: Any, length: int, torch: Any) -> list[tuple[str, int, int | None]]:
    """Return class, cached values and window of each layer's cache after a run over `length` tokens."""
    with torch.device("meta"), torch.no_grad():
        result = model(input_ids=torch.zeros((1, length), dtype=torch.long), use_cache=True)
    cache = getattr(result, "past_key_values", None)
    found = []
    for layer in getattr(cache, "layers", ()):
        values = sum(
            tensor.numel() for name, tensor in vars(layer).items()
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and name not in _STATES
        )  # fmt: skip
        found.append((type(layer).__name__, values, getattr(layer, "sliding_window", None)))
    return found


def _growth(
    grown: list[list[tuple[str, int, int | None]]], typed: Fields, kind: str
) -> list[tuple[int, int | None]]:
    """Return for each layer the values that a token adds to its cache, and its window."""
    layers = []
    for runs in zip(*grown, strict=True):
        name, window = runs[0][0], runs[0][2]
        values = [run[1] for run in runs]
        steps = {later - earlier for earlier, later in pairwise(values)}
        narrow = window is not None and window <= _LENGTHS[-1] + 1
        if name not in _CACHES or len(steps) != 1 or narrow:
            expected = f"a cache that grows alike with every token, not {name}"
            raise typed.error("model_type", f"{expected} as {kind!r} has it")
        layers.append((steps.pop(), window if values[0] else None))
    if not any(size for size, _ in layers):
        raise typed.error("model_type", f"a model that hands out a KV cache, and {kind!r} hands out none")
    return layers


def _model(model: Any, config: Any, kv: list[tuple[int, int | None]], kind: str, version: str) -> Model:
    stated = getattr(config, "num_hidden_layers", len(kv))
    if len(kv) < stated:  # caches end with the last layer that has one
        kv = kv + [(0, None)] * (stated - len(kv))
    how = f"transformers {version}, its {type(model).__name__}"
    active = next((value for key in _ACTIVE if (value := getattr(config, key, None)) is not None), None)
    active = active[0] if isinstance(active, (list, tuple)) and active else active
    text_only = type(model.config) is type(config)
    total = sum(parameter.numel() for parameter in _parameters(model, text_only))
    stack = _stack(model if text_only else model.get_decoder(), len(kv))
    if stack is None:
        tables = [module for module in model.modules() if type(module).__name__ == "Embedding"]
        each = (total - sum(table.weight.numel() for table in tables)) // len(kv)
        text = f"a guess, as {how} has no list of {len(kv)} layers: an equal part of all but embeddings"
        layers = tuple(Layer(size, window, ffn=each, how=text, kv_how=_kv_how(size)) for size, window in kv)
    else:
        seen: set[int] = set()
        layers = tuple(
            _layer(module, seen, active, size, window)
            for module, (size, window) in zip(stack, kv, strict=True)
        )
    outside = total - sum(layer.held for layer in layers)
    return Model(layers, outside, f"{outside:,} outside them", {"model": f"{how} on torch's meta device"})


def _kv_how(size: int) -> str:
    return f"{size:,} values, by which the cache of transformers' model grows"


def _stack(model: Any, layers: int) -> Any:
    """Return the model's list of layers: the largest list of that length."""
    lists = [
        module for module in model.modules()
        if type(module).__name__ == "ModuleList" and len(module) == layers
    ]  # fmt: skip
    sizes = [sum(parameter.numel() for parameter in each.parameters()) for each in lists]
    return lists[sizes.index(max(sizes))] if lists else None


def _layer(module: Any, seen: set[int], active: Any, size: int, window: int | None) -> Layer:
    """Count one layer's parameters by shapes and names; tensors in `seen` belong to another layer."""
    attention = ffn = experts = passed = router = vectors = 0
    guess = ""
    for name, parameter in module.named_parameters():
        number = parameter.numel()
        parts = name.split(".")
        routed = any("expert" in part and "shared" not in part for part in parts)
        one_of_many = routed and (parameter.ndim == 3 or any(part.isdigit() for part in parts))
        first = id(parameter) not in seen
        seen.add(id(parameter))
        if parameter.ndim < 2 or parts[-1].endswith("bias") or any("norm" in part for part in parts):
            vectors += number if first else 0
        elif one_of_many:
            many = parameter.shape[0] if parameter.ndim == 3 else _siblings(module, parts)
            experts += number if first else 0
            if isinstance(active, int) and 1 <= active <= many:
                passed += number * active // many
            else:
                passed += number
                guess = "; a guess: all experts, as no key says how many a token passes"
        elif not first:
            passed += number
        elif parts[-2:-1] and ("router" in name or parts[-2] == "gate"):
            router += number
        elif re.search("attn|attention|mixer|mamba", name):
            attention += number
        else:
            ffn += number
    how = f"attention and the like {attention:,} + FFN {ffn:,}"
    if router or passed:
        how += f" + router {router:,} + experts {passed:,} of {experts:,}{guess}"
    return Layer(size, window, attention, ffn, experts, passed, router, vectors, f"({how})", _kv_how(size))


def _siblings(module: Any, parts: list[str]) -> int:
    """Return the length of the list of experts, located by the first number in a parameter's name."""
    place = next(index for index, part in enumerate(parts) if part.isdigit())
    for part in parts[:place]:
        module = getattr(module, part)
    return len(module)


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:120]}"
