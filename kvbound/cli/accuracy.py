"""``kvbound accuracy``: what number formats of the KV cache do to a trained model's predictions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvbound.cli import complete, console, options, output
from kvbound.errors import InputError, UsageError

if TYPE_CHECKING:
    from kvbound.accuracy.cache import Setting
    from kvbound.accuracy.models import Trained

_CONTEXT = 1024


def accuracy(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A GGUF file, a .bin file of llama2.c, or smollm2-135m from its package.",
            autocompletion=complete.trained,
        ),
    ],
    formats: Annotated[
        str,
        typer.Option(
            metavar="F,...",
            help="How the cache is stored: formats, K and V apart (k=q8_0:v=q4_0), or by age "
            "(first4=f16:recent64=f16:rest=q4_0).",
        ),
    ] = "f16,fp8,q8_0,q5_0,q4_0,k=q8_0:v=q4_0",
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text in UTF-8; by default the start of Alice in Wonderland."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=2, help="Read at most this many tokens of the text.")
    ] = 2048,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Tokens of a segment, which is decoded on its own; by default 1,024 or the model's context.",
        ),
    ] = None,
    seed: options.Seed = 0,
    out: options.OutDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure what a quantized KV cache does to a trained model.

    The model reads a text token by token, once with a float32 cache and once with each given one, and
    predicts every next token. Perplexities, their changes with an interval, how often the likeliest tokens
    are the same, and the error of attention's output are reported, beside the bytes of a token.
    """
    from kvbound.accuracy.measure import compare, segments
    from kvbound.accuracy.models import read_model
    from kvbound.report.accuracy import Run, describe, document

    settings = _settings(formats)
    output.check_folder(out)
    name, content = _text(text)
    trained = read_model(model)
    length = _length(trained, context)
    ids = trained.tokenizer.encode(content)[:tokens]
    texts = segments(ids, length, trained.tokenizer.begin)
    with console.Bar(quiet=quiet) as bar:
        found = compare(trained.decoder, texts, settings, bar)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    known = document(Run(trained, name, sha256, [len(each) for each in texts], length, seed), found)
    unsaved = output.save_accuracy(known, out)
    if as_json:
        console.show_json(known)
    else:
        console.show(*describe(known))
    if unsaved is not None:
        raise unsaved


def _settings(formats: str) -> list[Setting]:
    """Return the settings in a list."""
    from kvbound.accuracy.cache import parse

    names = [name.strip() for name in formats.split(",")]
    if len(set(names)) < len(names):
        raise UsageError("--formats: expected each setting once")
    try:
        return [parse(name) for name in names]
    except UsageError as error:
        raise UsageError(f"--formats: {error}") from None


def _text(path: Path | None) -> tuple[str, str]:
    """Return the name and the content of a text, by default of the one that comes with the package."""
    if path is None:
        from importlib.resources import files

        place = files("kvbound").joinpath("accuracy", "texts", "alice.txt")
        return "alice.txt", place.read_text(encoding="utf-8")
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(path, "", "a text; there is no such file") from None
    except UnicodeDecodeError:
        raise InputError(path, "", "a text in UTF-8") from None
    if not content.strip():
        raise InputError(path, "", "a text, not an empty one")
    return path.name, content


def _length(trained: Trained, context: int | None) -> int:
    """Return the tokens of a segment."""
    most = trained.decoder.shape.context
    if context is None:
        return min(_CONTEXT, most)
    if context > most:
        raise UsageError(f"--context: expected at most the {most:,} tokens of the model, not {context:,}")
    return context
