"""Seconds before the first result: the import beyond NumPy's, and the first call with an empty and with a filled store."""

from __future__ import annotations

import subprocess
import sys

from .common import Measured

IMPORT = "import numpy, time; t = time.perf_counter(); from numba_fa import attention; print(time.perf_counter() - t)"
# Named as in `numba_fa.testing.programs`.
PROGRAMS = ["causal", "score_mod-alibi"]


def setup_cache():
    """{("import",): seconds, (program, store's state): seconds}; without a GPU the first call ends with its kernel."""
    from numba_fa.testing.first_call import states

    points = {("import",): min(_seconds_of_import() for _ in range(5))}
    for program in PROGRAMS:
        for state, measured in states("bfloat16", 128, program):
            points[program, state] = measured["call"]
    return points


setup_cache.timeout = 300


def _seconds_of_import():
    return float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout)


def track_import(points):
    """`from numba_fa import attention`, NumPy there already."""
    return round(points["import",], 4)


track_import.unit = "s"


class FirstCall(Measured):
    """A process's first call beyond imports, head_dim 128, bfloat16."""

    params = [PROGRAMS, ["cold", "warm"]]
    param_names = ["program", "store"]

    def track_seconds(self, points, *at):
        """Seconds."""
        return round(points[at], 4)

    track_seconds.unit = "s"
