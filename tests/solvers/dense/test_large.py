"""Full attention at full size: 32 layers, 65,792 steps, within minutes and a few gigabytes."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
import kvbound as kv
from kvbound.instance_io import make_instance

copies, migration, prompt = sys.argv[1], sys.argv[2], int(sys.argv[3])
shape = {"kind": "dense", "layers": 32, "prefill_tokens": prompt, "decode_steps": 65792}
instance = make_instance(
    "large", memory="h100-pcie5", llm="llama-3.1-8b", trace={"synthetic": shape},
    rules={"copies": copies, "migration": migration}, capacity="50%",
)
result = kv.solve(instance, "pricing", time_limit=30)
report = kv.check(instance, result)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps([result.gap, result.bound.status, report.ok, peak]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("copies", "migration", "prompt"), [("inclusive", "on-read", 1024), ("exclusive", "none", 65_536)]
)
def test_a_schedule_and_a_certified_bound_are_close(copies: str, migration: str, prompt: int) -> None:
    command = [sys.executable, "-c", PROGRAM, copies, migration, str(prompt)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500)
    gap, status, accepted, peak = json.loads(done.stdout)
    assert gap < 0.01
    assert status == "certified"
    assert accepted
    assert peak < 3  # GB; the bits of all layers take 17 or 35
