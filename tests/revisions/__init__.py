"""Compare two revisions of kvbound: are their results the same byte for byte, and which one is faster?

    python -m tests.revisions BASE [HEAD] [--only PATTERN] [--keep DIR] [--times [--runs N]]

BASE and HEAD (by default the last commit) may be anything that git resolves to a commit; for uncommitted
changes use ``$(git stash create)``. Each revision is unpacked into a temporary folder and used from there
through its command line and public API, in jobs: a few commands on one instance of the library, on traces and
so on, with a fixed seed and ``--work`` in place of a time limit. PATTERN is a regular expression on the names
of jobs.

Everything that the commands write and print is compared: arrays by name, type, shape and bytes, the rest as
text, without wall time, memory, kernel and version. Each file that differs gets a line; the exit code is 1.

With ``--times`` some typical commands run in turn on both revisions instead, N times each in new processes.

DIR keeps what was unpacked, compiled and written, by commit; what is there already is reused.
"""
