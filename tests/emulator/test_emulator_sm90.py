"""The Hopper forward's own source, emulated, against float64 softmax attention."""

import numpy as np
import pytest

from numba_fa.testing.inputs import LAYOUTS
from tests.emulator.attention_cases import Case, assert_attention, emulate, inputs

TOLERANCE = {"fp16": 6e-4, "bf16": 4e-3}  # two roundings of at most half an ulp: 2**-11 and 2**-9 each
WIDE, TALL = (128, 128, 2), (192, 128, 2)

# (case, tile, multiprocessors): fewer multiprocessors than tiles make blocks take several tiles
CASES = [
    (Case(128, 128, head_dim=16), TALL, 132),
    (Case(100, 130, head_dim=40), TALL, 132),
    (Case(192, 256, head_dim=64, dtype="fp16"), TALL, 132),
    (Case(128, 384, head_dim=128), WIDE, 132),
    (Case(70, 80, head_dim=256), (128, 80, 2), 132),
    (Case(150, 300, "causal", head_dim=40, dtype="fp16"), TALL, 132),
    (Case(260, 260, "causal", head_dim=64), TALL, 132),
    (Case(257, 257, "causal", head_dim=128, dtype="fp16"), WIDE, 132),
    (Case(130, 200, "causal", head_dim=192), (128, 112, 2), 132),
    (Case(40, 333, "causal", head_dim=128), WIDE, 132),
    (Case(300, 40, "causal", head_dim=64), TALL, 132),  # 260 queries see nothing
    (Case(200, 3, "causal", head_dim=128), WIDE, 132),
    (Case(1, 1), TALL, 132),
    (Case(1, 1, "causal", head_dim=128), WIDE, 132),
    (Case(1, 300, "causal", head_dim=16), TALL, 132),
    (Case(65, 129, head_dim=128, heads=4, heads_kv=2), WIDE, 132),
    (Case(65, 129, "causal", head_dim=64, heads=2, heads_kv=1, batch=2), TALL, 132),
    (Case(200, 150, head_dim=64, batch=2), TALL, 3),
    (Case(300, 270, head_dim=128), WIDE, 2),
    (Case(150, 100, head_dim=256, dtype="fp16"), (128, 80, 2), 1),  # O takes Q's room
    (Case(150, 200, "causal", head_dim=256), (128, 64, 2), 1),  # O passes through half its room
    (Case(70, 130, head_dim=192, dtype="fp16"), (128, 96, 2), 1),  # two atoms of 64 columns, then one
    (Case(200, 150, "causal", head_dim=208), (128, 64, 2), 2),  # the last atom is narrower
    (Case(200, 500, head_dim=64), (128, 64, 3), 2),
    (Case(150, 200, "causal", head_dim=192, head_dim_v=128), (128, 112, 2), 1),
    (Case(150, 200, head_dim=64, head_dim_v=128, dtype="fp16"), WIDE, 1),
    (Case(200, 200, "causal", head_dim=40, head_dim_v=24), TALL, 1),
    (Case(130, 100, head_dim=128, head_dim_v=256), (128, 80, 2), 1),
    (Case(130, 100, "causal", head_dim=256, head_dim_v=64), (128, 64, 2), 1),
    (Case(150, 100, head_dim=248, head_dim_v=256), (128, 80, 2), 1),  # O takes Q's room
    (Case(130, 90, head_dim=192, head_dim_v=256), (128, 80, 2), 1),  # O passes through half its room
]


@pytest.mark.parametrize(("case", "tile", "multiprocessors"), CASES, ids=str)
def test_forward(case, tile, multiprocessors):
    arrays = inputs(case)
    out, lse, trace = emulate(case, "sm90", *tile, arrays, multiprocessors)
    assert_attention(case, out, lse, arrays, TOLERANCE[case.dtype])
    assert trace.bytes_loaded and trace.count("mbarrier_phase")


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("mask", ["full", "causal"])
def test_order_of_threads_changes_nothing(mask, seed):
    case = Case(150, 300, mask, head_dim=128)
    arrays = inputs(case)
    first, lse, _ = emulate(case, "sm90", *WIDE, arrays, 1)
    again, lse_again, _ = emulate(case._replace(seed=seed), "sm90", *WIDE, arrays, 1)
    assert first.tobytes() == again.tobytes() and lse.tobytes() == lse_again.tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    case = Case(70, 140, "causal", heads=2)
    arrays = [LAYOUTS[layout](array) for array in inputs(case)]
    out, lse, _ = emulate(case, "sm90", *TALL, arrays)
    assert_attention(case, out, lse, arrays, TOLERANCE["bf16"])


def test_trace_counts_the_work():
    """128 queries against 384 keys: two products of 2 * 128 * 384 * 128 operations; Q, K and V loaded once.

    And one product of 64 x 128 scores a warpgroup for nobody, behind its last tile.
    """
    case = Case(128, 384, head_dim=128)
    _, _, trace = emulate(case, "sm90", *WIDE, inputs(case))
    each = 2 * 64 * 128 * (2 * 384 + 128)
    assert trace.tensor_operations == {1: each, 2: each}
    assert trace.bytes_loaded == 2 * 128 * (128 + 2 * 384)
    assert trace.bytes_stored == 2 * 128 * 128


def test_nan_stays_in_its_row():
    case = Case(96, 96)
    q, k, v = inputs(case)
    q[0, 5, 0, 3] = np.nan
    out, _, _ = emulate(case, "sm90", *TALL, [q, k, v])
    rows = np.isnan(out.astype(np.float32)).any(axis=(0, 2, 3))
    assert list(np.flatnonzero(rows)) == [5]
