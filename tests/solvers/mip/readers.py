"""Other solvers that read the files of `kvbound export`; each returns the optimum of a file."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_PULP = "import pulp; print(pulp.PULP_CBC_CMD().path)"
_GLPK = """
import sys, swiglpk as g
g.glp_term_out(g.GLP_OFF)
p, name = g.glp_create_prob(), sys.argv[1]
bad = g.glp_read_lp(p, None, name) if name.endswith("lp") else g.glp_read_mps(p, g.GLP_MPS_FILE, None, name)
how = g.glp_iocp()
g.glp_init_iocp(how)
how.presolve = g.GLP_ON
assert not bad and not g.glp_intopt(p, how) and g.glp_mip_status(p) == g.GLP_OPT
print(g.glp_mip_obj_val(p))
"""
_SCIP = """
import sys, pyscipopt
model = pyscipopt.Model()
model.hideOutput()
model.readProblem(sys.argv[1])
model.optimize()
assert model.getStatus() == "optimal"
print(model.getObjVal())
"""


def _printed(script: str, *arguments: object) -> str:
    """Run a script in a process of its own and return the last line printed; warnings are ignored."""
    command = [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def cbc(path: Path) -> float:
    """Solve with CBC, from the package `pulp`."""
    command = [_printed(_PULP), str(path), "solve", "quit"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert not re.search("does not appear|errors on input|bad image", output, re.IGNORECASE), output
    assert "Optimal solution found" in output
    return float(re.findall(r"Objective value: *([\d.e+-]+)", output)[-1])


def glpk(path: Path) -> float:
    """Solve with GLPK, from the package `swiglpk`."""
    return float(_printed(_GLPK, path))


def scip(path: Path) -> float:
    """Solve with SCIP, from the package `pyscipopt`."""
    return float(_printed(_SCIP, path))


READERS: dict[str, Callable[[Path], float]] = {"cbc": cbc, "glpk": glpk, "scip": scip}
