"""The portable forward's own source, emulated, against float64 softmax attention."""

import pytest

from numba_fa.testing.inputs import LAYOUTS
from tests.emulator.attention_cases import Case, assert_attention, emulate, inputs

TOLERANCE = {"fp32": 1e-5, "fp16": 6e-4, "bf16": 4e-3}
TILE = (16, 16, 1)

CASES = [
    (Case(16, 16, dtype="fp32", head_dim=8), TILE),
    (Case(20, 37, dtype="fp16", head_dim=24), TILE),
    (Case(33, 20, dtype="bf16", head_dim=16), (32, 16, 1)),
    (Case(20, 33, "causal", dtype="fp32", head_dim=16), (16, 32, 1)),
    (Case(36, 17, "causal", dtype="bf16", head_dim=8), TILE),  # 19 queries see nothing
    (Case(1, 1, "causal", dtype="fp16", head_dim=8), TILE),
    (Case(9, 18, "causal", dtype="fp32", head_dim=8, heads=4, heads_kv=2, batch=2), TILE),
]


@pytest.mark.parametrize(("case", "tile"), CASES, ids=str)
def test_forward(case, tile):
    arrays = inputs(case)
    out, lse, _ = emulate(case, "simt", *tile, arrays)
    assert_attention(case, out, lse, arrays, TOLERANCE[case.dtype])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout(layout):
    case = Case(9, 18, "causal", dtype="bf16", head_dim=8, heads=2, batch=2, seed=3)
    arrays = [LAYOUTS[layout](array) for array in inputs(case)]
    out, lse, _ = emulate(case, "simt", *TILE, arrays)
    assert_attention(case, out, lse, arrays, TOLERANCE["bf16"])
