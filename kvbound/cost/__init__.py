"""THE cost model: what a schedule moves, and how long that takes."""
