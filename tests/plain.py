"""Modules of compiled functions without numba."""

import importlib.util
from types import ModuleType

import pytest

from kvbound import kernels


def without_numba(module: ModuleType) -> ModuleType:
    """Load a module of compiled functions again, as plain Python."""
    assert module.__file__ is not None
    spec = importlib.util.spec_from_file_location(f"plain_{module.__name__.split('.')[-1]}", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_trouble", lambda: "it is not there")
        spec.loader.exec_module(plain)
    assert not any(hasattr(thing, "py_func") for name, thing in vars(plain).items() if owned(plain, name))
    return plain


def owned(module: ModuleType, name: str) -> bool:
    """Whether a module defines a name, rather than importing it."""
    return getattr(getattr(module, name), "__module__", None) == module.__name__
