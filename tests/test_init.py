"""The public names of the package, and the cost of importing it."""

import subprocess
import sys
import textwrap

import pytest

import kvbound

HEAVY = ["pandas", "scipy", "highspy", "pyomo", "matplotlib", "numba", "rich", "typer", "torch"]


def heavy_after(code: str) -> list[str]:
    """Heavy packages that a new interpreter has imported after running the code."""
    script = textwrap.dedent(code) + "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return sorted(set(HEAVY) & set(done.stdout.split()))


def test_import_loads_no_heavy_package() -> None:
    assert heavy_after("import kvbound") == []


def test_simulating_loads_no_heavy_package() -> None:
    code = """
        import kvbound as kv
        memory = {"name": "m", "resources": {"a": 2, "b": 1}, "tiers": [
            {"name": "x", "capacity": 2, "reads": ["a"], "writes": ["a"]},
            {"name": "y", "capacity": None, "reads": ["b"], "writes": ["b"]}]}
        llm = {"name": "l", "layers": 1, "kv_bytes_per_token_layer": 1, "weight_bytes": 0,
               "weight_read_bytes_per_layer": 0}
        trace = {"prefill_tokens": 1, "reads": [[[0]], [[1]]]}
        instance = kv.make_instance("t", memory=memory, llm=llm, trace=trace)
        assert kv.simulate(instance, "lru").time_s >= kv.ideal(instance) > 0
    """
    assert heavy_after(code) == []


@pytest.mark.parametrize("name", kvbound.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(kvbound, name) is not None
    assert name in dir(kvbound)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="'kvbound' has no attribute 'simulat'"):
        _ = kvbound.simulat


def test_version() -> None:
    assert kvbound.__version__.count(".") == 2
