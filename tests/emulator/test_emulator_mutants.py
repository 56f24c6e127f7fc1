"""Every line of the Hopper forward that orders threads, copies or products is missed when it is left out."""

import numpy as np
import pytest

import numba_fa
from numba_fa.emulator import EmulationError
from numba_fa.kernels.sm90 import forward
from tests.emulator.attention_cases import Case, emulate, inputs
from tests.emulator.mutants import make_mutant, sites

# Three tiles of queries and several of keys in one block: every buffer is used again.
CASE, TILE = Case(300, 200, head_dim=64), (128, 64, 2)
WIDE = Case(300, 100, "causal", head_dim=256)  # the first tiles of queries visit one tile of keys, the last two
O_IN_Q, HALVES = (128, 80, 2), (128, 64, 2)  # where O takes Q's room, or passes through its own in two halves
# The consumers' turns at the tensor cores: they order speed, not data.
PING_PONG = ("consumer", "bar_sync")
SITES = [site for site in sites() if (site[0], site[2]) != PING_PONG]


def test_sites_are_found():
    assert len(SITES) >= 25 and {name for name, _, _ in SITES} == {"producer", "consumer", "epilogue", "forward"}


@pytest.mark.parametrize("site", SITES, ids=lambda site: "-".join(map(str, site)))
def test_a_line_left_out_is_found(site, monkeypatch):
    name, line, word = site
    factory = make_mutant(*site)
    seed = line % 3
    with pytest.raises(EmulationError):
        case = CASE._replace(seed=seed)
        emulate(case, "sm90", *TILE, inputs(case), 1, factory)
        # Not on that path, so on one of the others.
        case = WIDE._replace(seed=seed)
        emulate(case, "sm90", *O_IN_Q, inputs(case), 1, factory)
        emulate(case, "sm90", *HALVES, inputs(case), 1, factory)
        # Nor there, so where biases are a line over keys.
        monkeypatch.setattr(forward, "make_forward", factory)
        slopes = np.array([0.01], np.float32)
        options = {"family": "sm90", "tile": TILE, "multiprocessors": 1, "seed": seed}
        numba_fa.emulate(*inputs(CASE), bias=numba_fa.ALiBi(slopes), **options)
