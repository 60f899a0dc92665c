"""The files of the catalog as they are."""

from __future__ import annotations

import functools
import tomllib
from importlib import resources
from typing import Any


@functools.cache
def entries(name: str) -> dict[str, dict[str, Any]]:
    """Return the tables of ``instances/catalog/NAME.toml``, which callers copy before they change them."""
    text = resources.files("kvbound").joinpath("instances", "catalog", f"{name}.toml").read_text("utf-8")
    return tomllib.loads(text)
