"""The Hopper backward's own source, emulated, against float64 gradients."""

import numpy as np
import pytest

from numba_fa.testing.inputs import LAYOUTS
from tests.emulator.attention_cases import Case
from tests.emulator.backward_cases import Arrays, Problem, assert_gradients, emulate, inputs
from tests.kernels import programs

# P, dS and the result are rounded to at most half an ulp, 2**-12 or 2**-9 each; P twice beyond head_dim 128.
TOLERANCE = {"fp16": 6e-4, "bf16": 4e-3}

# (case, blocks): fewer blocks than tiles of keys make a block take several
CASES = [
    (Case(128, 128, head_dim=16), None),
    (Case(100, 130, head_dim=40, dtype="fp16"), None),
    (Case(300, 270, head_dim=64), 1),
    (Case(64, 384, head_dim=128), None),
    (Case(200, 150, head_dim=104, dtype="fp16"), 1),
    (Case(130, 130, head_dim=136), 1),
    (Case(70, 200, head_dim=192, dtype="fp16"), 2),
    (Case(140, 130, head_dim=256), 1),
    (Case(260, 260, "causal", head_dim=64), 1),
    (Case(257, 257, "causal", head_dim=128, dtype="fp16"), None),
    (Case(150, 300, "causal", head_dim=80), 2),
    (Case(130, 200, "causal", head_dim=256), None),
    (Case(40, 333, "causal", head_dim=128), None),
    (Case(300, 40, "causal", head_dim=64), None),  # 260 queries see nothing
    (Case(300, 40, "causal", head_dim=200), None),
    (Case(1, 1), None),
    (Case(1, 1, "causal", head_dim=128), None),
    (Case(1, 300, "causal", head_dim=16), 1),
    (Case(65, 129, head_dim=128, heads=4, heads_kv=2), 1),
    (Case(65, 129, "causal", head_dim=64, heads=3, heads_kv=1, batch=2), None),
    (Case(65, 70, "causal", head_dim=192, heads=2, heads_kv=1, batch=2), 3),
    (Case(130, 140, "causal", head_dim=192, head_dim_v=128), 1),
    (Case(130, 140, head_dim=128, head_dim_v=192, dtype="fp16", heads=2, heads_kv=1), 1),
    (Case(140, 150, "causal", head_dim=128, head_dim_v=64), 1),
    (Case(140, 150, head_dim=24, head_dim_v=128, dtype="fp16"), 1),
    (Case(140, 130, head_dim=64, head_dim_v=256), None),
    (Case(140, 130, "causal", head_dim=48, head_dim_v=8), 1),
]


@pytest.mark.parametrize(("case", "blocks"), CASES, ids=str)
def test_backward(case, blocks):
    problem = Problem(case)
    arrays, truth = inputs(problem)
    *results, trace = emulate(problem, arrays, blocks=blocks)
    assert_gradients(results, truth, TOLERANCE[case.dtype])
    assert trace.bytes_loaded and trace.count("mbarrier_phase")


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_order_of_threads_changes_nothing(head_dim, seed):
    problem = Problem(Case(200, 200, "causal", head_dim=head_dim))
    arrays, _ = inputs(problem)
    first = emulate(problem, arrays, blocks=1)
    again = emulate(problem, arrays, blocks=1, seed=seed)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first[:3], again[:3]))


@pytest.mark.parametrize("op", ["bwd_det", "bwd_red"])
@pytest.mark.parametrize("mask", [programs.full, programs.causal, programs.window(40, 10)])
@pytest.mark.parametrize(("head_dim", "head_dim_v"), [(64, 64), (128, 128), (192, 192), (192, 128), (64, 128)])
def test_other_ways_to_sum_up_dq(op, mask, head_dim, head_dim_v):
    problem = Problem(Case(200, 300, head_dim=head_dim, head_dim_v=head_dim_v, heads=2), mask)
    arrays, truth = inputs(problem)
    *results, _ = emulate(problem, arrays, op=op)
    assert_gradients(results, truth, TOLERANCE["bf16"])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("head_dim", [64, 72, 192])
def test_any_layout(layout, head_dim):
    problem = Problem(Case(70, 140, "causal", heads=2, batch=2, head_dim=head_dim))
    arrays, truth = inputs(problem)
    arrays = Arrays(*map(LAYOUTS[layout], arrays[:5]), arrays.lse)
    assert_gradients(emulate(problem, arrays)[:3], truth, TOLERANCE["bf16"])


def test_gradient_of_the_lse():
    problem = Problem(Case(90, 100, "causal", heads=2))
    arrays, _ = inputs(problem)
    dlse = np.random.default_rng(1).standard_normal((1, 2, 90)).astype(np.float32)
    truth = problem.truth(*arrays[:4], dlse)
    assert_gradients(emulate(problem, arrays, dlse=dlse)[:3], truth, TOLERANCE["bf16"])


MASKS = {
    "window": programs.window(70, 20), "window-sinks": programs.window(30, 0, 5), "padding": programs.padding,
    "no-keys": programs.no_keys, "document": programs.document, "prefix": programs.prefix,
    "prefix-int": programs.prefix_int, "user": programs.checkers,
    "all": programs.all_of(programs.causal, programs.padding), "any": programs.any_of(programs.causal, programs.document),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("head_dim", [64, 128, 144])
def test_masks(name, head_dim):
    problem = Problem(Case(150, 200, heads=2, batch=2 if head_dim == 128 else 1, head_dim=head_dim), MASKS[name])
    arrays, truth = inputs(problem)
    assert_gradients(emulate(problem, arrays)[:3], truth, TOLERANCE["bf16"])


@pytest.mark.parametrize(("case", "mask"), [
    (Case(4300, 130, head_dim=16), programs.all_of(programs.causal, programs.padding)),  # 32 tiles before the first seen
    (Case(2300, 2300, head_dim=72), programs.all_of(programs.window(100, 20), programs.padding)),  # and behind the last
])  # fmt: skip
def test_a_warp_looks_again_where_none_of_32_tiles_is_seen(case, mask):
    problem = Problem(case, mask)
    arrays, truth = inputs(problem)
    *results, trace = emulate(problem, arrays)
    assert_gradients(results, truth, TOLERANCE["bf16"])
    every = 5 * 2 * case.seqlen_q * case.seqlen_k * case.head_dim
    assert sum(trace.tensor_operations.values()) < every / 4
    *results, _ = emulate(problem, arrays, op="bwd_det")
    assert_gradients(results, truth, TOLERANCE["bf16"])


@pytest.mark.parametrize("name", MASKS)
def test_masks_in_one_order(name):
    """A block that waited for one that adds nothing, or that starts after it, would never end."""
    problem = Problem(Case(330, 400, heads=2, heads_kv=1, batch=2, head_dim=32), MASKS[name])
    arrays, truth = inputs(problem)
    assert_gradients(emulate(problem, arrays, op="bwd_det")[:3], truth, TOLERANCE["bf16"])


BIASES = {
    "alibi": [programs.alibi], "dense": [programs.dense("bf16", "hij")], "t5": [programs.t5()],
    "softcap": [programs.softcap()], "user": [programs.wave], "three": [programs.softcap(), programs.alibi, programs.wave],
}  # fmt: skip


@pytest.mark.parametrize("name", BIASES)
@pytest.mark.parametrize("head_dim", [64, 128, 136])
def test_biases(name, head_dim):
    problem = Problem(Case(100, 140, heads=2, head_dim=head_dim), programs.causal, *BIASES[name])
    arrays, truth = inputs(problem)
    assert_gradients(emulate(problem, arrays)[:3], truth, 2 * TOLERANCE["bf16"])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("head_dim", "mask"), [(64, programs.full), (128, programs.causal), (136, programs.padding),
                                                (256, programs.full)])  # fmt: skip
@pytest.mark.parametrize("op", ["bwd", "bwd_det"])
def test_t5_far_from_the_queries(op, head_dim, mask, bidirectional):
    """Most tiles lie beyond the last border of the buckets."""
    problem = Problem(Case(300, 260, heads=2, head_dim=head_dim), mask, programs.t5(8, 20, bidirectional))
    arrays, truth = inputs(problem)
    assert_gradients(emulate(problem, arrays, op=op)[:3], truth, 2 * TOLERANCE["bf16"])


def test_trace_counts_the_work():
    """128 queries against 256 keys: five products; a dQ product for each tile; K, V once, Q, dO for each tile of keys."""
    problem = Problem(Case(128, 256, head_dim=128))
    arrays, _ = inputs(problem)
    trace = emulate(problem, arrays)[3]
    each = 5 * 2 * 128 * 256 * 128 // 2
    assert trace.tensor_operations == {1: each, 2: each}
