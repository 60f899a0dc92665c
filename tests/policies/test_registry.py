"""Policies by name."""

import importlib
import inspect
from typing import Any

import pytest

from kvbound.errors import UsageError
from kvbound.fang2025.adapter import PUBLISHED
from kvbound.policies import POLICIES, describe, make_policy


@pytest.mark.parametrize("name", POLICIES)
def test_names_and_modules_agree(name: str) -> None:
    policy: Any = make_policy(name)
    assert policy.name == name
    assert isinstance(policy.oracle, bool)
    module, _ = POLICIES[name].split(":")
    assert name.startswith(module.replace("_", "-"))
    assert inspect.getmodule(policy) is importlib.import_module(f"kvbound.policies.{module}")
    summary, oracle, options = describe(name)
    assert summary.endswith(".")
    assert oracle == policy.oracle
    assert make_policy(name, **options).name == name


def test_which_policies_see_the_future() -> None:
    oracles = {name for name in POLICIES if describe(name)[1]}
    assert oracles == {"reactive", "page", "lookahead-one", "sa-guided", "belady"}


def test_all_published_policies_but_best_are_registered() -> None:
    assert set(PUBLISHED) - set(POLICIES) == {"best"}


def test_options() -> None:
    assert describe("sa-guided")[2] == {"window": 5, "topk": 0.5}
    assert describe("page")[2] == {"size": 16}
    assert describe("lru")[2] == {}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lri", {}, r"unknown policy 'lri'; did you mean 'lru'\?"),
        ("", {}, r"unknown policy ''"),
        ("lru", {"window": 5}, "policy lru takes no options, not 'window'"),
        ("sa-guided", {"windows": 5}, "policy sa-guided takes window, topk, not 'windows'"),
    ],
)
def test_unknown_names(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_policy(name, **options)
