"""transformers and torch, if they are installed."""

import os
import warnings
from typing import Any

import pytest


@pytest.fixture(scope="session")
def transformers() -> Any:
    """The package; without it tests are skipped, or fail if KVBOUND_TEST_HF requires it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if os.environ.get("KVBOUND_TEST_HF"):
            import torch  # noqa: F401
            import transformers

            return transformers
        pytest.importorskip("torch")
        return pytest.importorskip("transformers")
