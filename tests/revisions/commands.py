"""The commands that are run on both revisions."""

from __future__ import annotations

from collections.abc import Iterator

from tests.revisions.revision import Revision

TINY_SLOTS, SMALL_SLOTS, REAL_SLOTS = 16, 400, 5_000
RULE = f"""\
By layers times steps: up to {TINY_SLOTS} all methods, annealing with NumPy too;
up to {SMALL_SLOTS} all methods; up to {REAL_SLOTS:,} policies, pricing, dual and anneal;
larger instances are cut. Left out is 'reproduce', whose solvers stop by time."""

REAL = """\
instance info {name}
instance info {name} --json
instance validate {name}
compare {name} --methods {methods} --work 20 --seed 1 --out compare
check {name} compare --json
solve {name} --method anneal --work 2 --seed 1 --out anneal
check {name} anneal
bound {name} --work 150 --seed 2 --certificate certificate.npz
bound {name} --work 20 --resume certificate.npz --certificate further.npz --json
check {name} certificate.npz
api {name}
"""
SMALL = """\
check {name} compare
instance expand {name} -o expanded.json
solve {name} --work 20 --seed 1 --out solve --json
solve {name} --work 20 --method anneal --start compare/lru/schedule.npz --out started
solve {name} --work 100 --method pricing --gap 0 --out pricing
simulate {name} --policy sa-guided --set window=1,2,5 --set topk=0.2,1 --json
simulate {name} --policy page --set size=1,4
compare {name} --methods {policies},dual,pricing --work 3 --kernel numpy --out numpy
export {name} -o model.mps
export {name} -o model.lp --format lp
model {name}
"""
TINY = """\
solve {name} --method anneal --work 3 --kernel numpy --out numpy-anneal
"""
LARGE = """\
instance info {name} --json
compare {name} {cut} --methods all --work 20 --seed 1 --out compare
check {name} {cut} compare
simulate {name} {cut} --policy sa-guided --set window=1,5 --set topk=0.2,1 --json
compare {name} {cut} --rule accounting=physical --methods lru,pricing,dual,anneal --work 5 --out physical
"""
CUT = {
    "trace.synthetic.prefill_tokens": 160,
    "trace.synthetic.decode_steps": 16,
    "llm.weight_bytes": "100MB",
    "llm.weight_read_bytes_per_layer": "1MB",
    "memory.tiers.hbm.capacity": "40%",
}
OTHER = {
    "trace": """\
trace synth -o fang --layers 2 --prefill 60 --steps 20 --seed 3
trace synth -o swap --layers 12 --prefill 60 --steps 20 --kind random-swap --sparsity 80%
trace info fang --layers
trace info swap --json
trace export swap -o swap.csv
trace import swap.csv -o imported
trace info imported --json
instance make -o made.json --memory h100-pcie5 --llm gpt2 --trace swap --capacity 30%
compare --memory h100-pcie5 --llm gpt2 --trace swap --capacity 30% --work 5 --out made
""",
    "mistakes": """\
solve nowhere
solve tiny-on-read --method nothing
solve tiny-on-read --override memory.tiers.fast.capacity=1GB
solve tiny-no-room --override memory.tiers.near.capacity=0
simulate tiny-on-read --policy lru --set size=3
solve tiny-on-read --work 5 --time-limit 3s
bound paper-low --work 5
check tiny-on-read nowhere.npz
compare tiny-on-read --capacity 0.3
""",
    "help": """\
--help
solve --help
bound --help
compare --help
simulate --help
reproduce --help
check --help
catalog --help
export --help
instance --help
trace --help
""",
    "lists": "instance list\ninstance list --json\ncatalog\ncatalog --json\n",
}


def jobs(revision: Revision) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield name and commands of every job, by the library and the catalog of a revision."""
    catalog = revision.ask("catalog")
    policies = ",".join(map(str, catalog["policy"]))
    cut = " ".join(f"--override {path}={value}" for path, value in CUT.items())
    for entry in sorted(revision.ask("instance", "list")["instances"], key=_slots):
        name, slots = entry["name"], _slots(entry)
        methods = "all" if slots <= SMALL_SLOTS else f"{policies},pricing,dual"
        text = LARGE if slots > REAL_SLOTS else REAL
        text += SMALL if slots <= SMALL_SLOTS else ""
        text += TINY if slots <= TINY_SLOTS else ""
        text = text.format(name=name, cut=cut, methods=methods, policies=policies)
        yield f"{entry['set']}/{name}", [line.split() for line in text.splitlines()]
    for name, text in OTHER.items():
        yield f"other/{name}", [line.split() for line in text.splitlines()]
    names = [("catalog", section, str(entry)) for section, entries in catalog.items() for entry in entries]
    yield "other/catalog", [[*words, *more] for words in names for more in ((), ("--json",))]


def _slots(entry: dict[str, str | int]) -> int:
    return int(entry["layers"]) * int(entry["decode_steps"])
