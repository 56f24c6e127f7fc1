"""Where the Hopper backward's blocks work: each tile of keys once, the longest first, on any number of multiprocessors."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_fa.dispatch.device import HOPPER
from numba_fa.emulator.translate import Translator
from numba_fa.kernels.sm90.backward_shape import BackwardShape
from numba_fa.kernels.sm90.backward_variant import _together, main_key
from numba_fa.kernels.sm90.backward_visits import make_place

OPS = {op: main_key("bf16", 64, "causal", op=op) for op in ("bwd", "bwd_det")}
PLACES = {op: Translator().function(make_place(BackwardShape(key)).py_func) for op, key in OPS.items()}


@pytest.mark.parametrize("op", OPS)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 25))
def test_every_tile_of_keys_is_taken_once(op, tiles, heads_kv, batch, together):
    seen = [tuple(map(int, PLACES[op](turn, tiles, heads_kv, batch, together))) for turn in range(tiles * heads_kv * batch)]
    assert sorted(seen) == [(t, h, b) for t in range(tiles) for h in range(heads_kv) for b in range(batch)]


def test_the_first_tiles_of_a_group_come_first_and_in_order_the_last():
    order = [tuple(map(int, PLACES["bwd"](turn, 3, 3, 1, 2))) for turn in range(9)]
    assert order == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 1, 0), (0, 2, 0), (1, 2, 0), (2, 2, 0)]
    assert [int(PLACES["bwd_det"](turn, 3, 3, 1, 2)[0]) for turn in range(9)] == [2, 2, 1, 1, 0, 0, 2, 1, 0]


@pytest.mark.parametrize(("mask", "op", "multiprocessors", "seqlen_k", "together"), [
    ("causal", "bwd", 132, 2048, 8), ("causal", "bwd", 132, 8192, 2), ("causal", "bwd", 132, 65536, 1),
    ("causal", "bwd", 78, 2048, 4), ("causal", "bwd", 132, 128, 8), ("full", "bwd", 132, 2048, 1),
    ("window", "bwd", 132, 2048, 1), ("document", "bwd", 144, 2048, 8), ("causal", "bwd_det", 132, 2048, 16),
    ("full", "bwd_det", 78, 2048, 9), ("full", "bwd_det", 132, 65536, 1),
])  # fmt: skip
def test_how_many_heads_go_together(mask, op, multiprocessors, seqlen_k, together):
    """A wave of tiles of 128 keys, of 8 heads at most; two waves where order matters; one head where tiles are alike."""
    key, device = main_key("bf16", 128, mask, op=op), replace(HOPPER, multiprocessors=multiprocessors)
    assert _together(SimpleNamespace(seqlen_k=seqlen_k), key, device) == together
