"""The CPU forward against brute-force float64 NumPy, and its parts against exhaustive or dense grids."""

from functools import cache

import ml_dtypes
import numba
import numpy as np
import pytest

from numba_fa.kernels.cpu import convert, elementary
from numba_fa.kernels.cpu.blas import add_product
from numba_fa.kernels.cpu.forward import make_forward
from numba_fa.kernels.cpu.hooks import make_hooks

DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
# One rounding of the output plus float32 sums over at most 200 keys of values near 1.
TOLERANCE = {"fp32": 4e-6, "fp16": 2e-3, "bf16": 1.6e-2}
BLOCK = 32


def kernel(dtype, causal, block_m=BLOCK, block_n=BLOCK):
    """The forward, taking q, k, v, out, lse, scale."""
    hooks = make_hooks("causal", "none", ("int32",)) if causal else make_hooks("full", "none", ())
    forward = make_forward(dtype=dtype, hooks=hooks, block_m=block_m, block_n=block_n)

    def call(q, k, v, out, lse, scale):
        forward(q, k, v, out, lse, scale, (k.shape[1] - q.shape[1],) if causal else ())

    return call


def carrier(x):
    """What the kernel takes: bfloat16 as uint16 bit patterns, other dtypes as they are."""
    return x.view(np.uint16) if x.dtype == ml_dtypes.bfloat16 else x


def draw(rng, shape, dtype):
    """Standard normal values rounded to ``dtype``."""
    return rng.standard_normal(shape).astype(DTYPES[dtype])


def visible(seqlen_q, seqlen_k, causal):
    """Boolean (seqlen_q, seqlen_k): which key each query sees."""
    i, j = np.arange(seqlen_q)[:, None], np.arange(seqlen_k)
    return j <= i + seqlen_k - seqlen_q if causal else np.ones((seqlen_q, seqlen_k), bool)


def brute_force(q, k, v, scale, causal):
    """O (batch, seqlen_q, heads, head_dim) and LSE (batch, heads, seqlen_q) in float64, one query row at a
    time."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    batch, seqlen_q, heads, _ = q.shape
    keep = visible(seqlen_q, k.shape[1], causal)
    out, lse = np.zeros(q.shape), np.full((batch, heads, seqlen_q), -np.inf)
    for b, h, i in np.ndindex(lse.shape):
        seen, kv = keep[i], h // (heads // k.shape[2])
        if seen.any():
            s = scale * (k[b, seen, kv] @ q[b, i, h])
            p = np.exp(s - s.max())
            out[b, i, h] = p @ v[b, seen, kv] / p.sum()
            lse[b, h, i] = s.max() + np.log(p.sum())
    return out, lse


def compute(q, k, v, scale, dtype, causal):
    """The kernel's O in float64 and LSE; both start as NaN, so an element not written shows."""
    out = np.full(q.shape, np.nan, DTYPES[dtype])
    lse = np.full((q.shape[0], q.shape[2], q.shape[1]), np.nan, np.float32)
    kernel(dtype, causal)(*map(carrier, (q, k, v, out)), lse, scale)
    return out.astype(np.float64), lse


def check(q, k, v, dtype, causal, scale=None):
    """Assert that kernel and brute force agree."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, lse = compute(q, k, v, scale, dtype, causal)
    expected_out, expected_lse = brute_force(q, k, v, scale, causal)
    np.testing.assert_allclose(out, expected_out, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=1e-5)


SHAPES = [  # batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim
    (2, 64, 64, 2, 2, 64), (1, 33, 77, 4, 2, 40), (2, 1, 100, 4, 1, 64), (1, 100, 31, 2, 1, 8),
    (1, 45, 45, 1, 1, 256), (1, 31, 200, 6, 3, 8), (1, 17, 1, 1, 1, 40), (1, 65, 129, 3, 1, 64),
]


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_brute_force(shape, dtype, causal):
    batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim = shape
    rng = np.random.default_rng(1)
    q = draw(rng, (batch, seqlen_q, heads, head_dim), dtype)
    k, v = (draw(rng, (batch, seqlen_k, heads_kv, head_dim), dtype) for _ in range(2))
    check(q, k, v, dtype, causal)


def bhsd(x):
    """The same values, stored (batch, heads, seqlen, head_dim)."""
    return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2)


STRIDES = {
    "bhsd": bhsd,
    "reversed-sequence": lambda x: x[:, ::-1],
    "every-other-head-dim-padded": lambda x: np.concatenate([x, x], -1)[..., : x.shape[-1]],
    "broadcast-batch": lambda x: np.broadcast_to(x[:1], x.shape),
    "broadcast-sequence": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "broadcast-heads": lambda x: np.broadcast_to(x[:, :, :1], x.shape),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", STRIDES)
def test_strides(layout, dtype):
    rng = np.random.default_rng(2)
    q, k, v = (STRIDES[layout](draw(rng, (2, 50, 2, 24), dtype)) for _ in range(3))
    check(q, k, v, dtype, True)


@pytest.mark.parametrize("blocks", [(16, 4), (48, 20), (5, 7)], ids=str)
def test_block_sizes(blocks):
    rng = np.random.default_rng(3)
    q, k, v = (draw(rng, (1, 61, 2, 20), "fp32") for _ in range(3))
    out, lse = np.full(q.shape, np.nan, np.float32), np.full((1, 2, 61), np.nan, np.float32)
    kernel("fp32", True, *blocks)(q, k, v, out, lse, 0.3)
    expected_out, expected_lse = brute_force(q, k, v, 0.3, True)
    np.testing.assert_allclose(out, expected_out, rtol=0, atol=TOLERANCE["fp32"])
    np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, -0.5, 20.0])
def test_scale(scale):
    rng = np.random.default_rng(4)
    q, k, v = (draw(rng, (1, 70, 1, 16), "fp32") for _ in range(3))
    out, lse = compute(q, k, v, scale, "fp32", False)
    expected_out, expected_lse = brute_force(q, k, v, scale, False)
    # A score near 300 carries an absolute error near 300 * 2**-24 * sqrt(16) = 7e-5.
    np.testing.assert_allclose(out, expected_out, rtol=0, atol=3e-4)
    np.testing.assert_allclose(lse, expected_lse, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_keys(dtype):
    """Causal with more queries than keys: the first Sq - Sk rows see nothing, across a block edge."""
    rng = np.random.default_rng(5)
    q, k, v = draw(rng, (1, 80, 1, 8), dtype), *(draw(rng, (1, 30, 1, 8), dtype) for _ in range(2))
    out, lse = compute(q, k, v, 1.0, dtype, True)
    assert np.all(out[0, :50] == 0) and np.all(lse[0, 0, :50] == -np.inf)
    assert np.all(np.isfinite(lse[0, 0, 50:])) and np.all(out[0, 50:] != 0)


@pytest.mark.parametrize("causal", [False, True])
def test_no_keys_at_all(causal):
    q, k = np.ones((2, 5, 2, 8), np.float32), np.ones((2, 0, 1, 8), np.float32)
    out, lse = compute(q, k, k, 1.0, "fp32", causal)
    assert np.all(out == 0) and np.all(lse == -np.inf)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("position", [0, 37, 63, 69])
def test_poison_reaches_exactly_the_rows_that_see_it(where, position, poison):
    rng = np.random.default_rng(6)
    x = {name: np.abs(draw(rng, (1, 70, 1, 8), "fp32")) for name in "qkv"}
    x[where][0, position, 0, 3] = poison
    out, lse = compute(*x.values(), 1.0, "fp32", True)
    rows = np.arange(70)
    hit = rows == position if where == "q" else rows >= position
    finite = np.isfinite(out[0, :, 0])
    assert np.array_equal(~finite[:, 3], hit)
    if where == "v":
        assert finite[:, [0, 1, 2, 4, 5, 6, 7]].all() and np.isfinite(lse).all()
    else:
        assert np.array_equal(np.isnan(out[0, :, 0]).all(-1), hit)
        assert np.array_equal(~np.isfinite(lse[0, 0]), hit)


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_nothing_outside_out(dtype):
    """out and lse are windows into larger poisoned arrays."""
    rng = np.random.default_rng(7)
    q, k, v = (draw(rng, (2, 37, 3, 12), dtype) for _ in range(3))
    room = np.full((4, 80, 7, 16), 77, DTYPES[dtype])
    room_lse = np.full((4, 5, 41), 77, np.float32)
    window, window_lse = room[1:3, 3:77:2, 1:7:2, 2:14], room_lse[1:3, 1:4, 2:39]
    kernel(dtype, True)(*map(carrier, (q, k, v, window)), window_lse, 0.25)
    expected_out, expected_lse = brute_force(q, k, v, 0.25, True)
    np.testing.assert_allclose(window.astype(np.float64), expected_out, rtol=0, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(window_lse, expected_lse, rtol=0, atol=1e-5)
    window[...], window_lse[...] = 77, 77
    assert np.all(room == 77) and np.all(room_lse == 77)


def test_lse_is_optional():
    rng = np.random.default_rng(8)
    q, k, v = (draw(rng, (1, 40, 2, 16), "fp32") for _ in range(3))
    out = np.full(q.shape, np.nan, np.float32)
    kernel("fp32", False)(q, k, v, out, None, 0.25)
    assert np.array_equal(out, compute(q, k, v, 0.25, "fp32", False)[0])


def test_result_does_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(9)
    q, k, v = (draw(rng, (2, 150, 3, 32), "fp32") for _ in range(3))
    many = compute(q, k, v, 0.2, "fp32", True)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        one = compute(q, k, v, 0.2, "fp32", True)
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(many[0], one[0]) and np.array_equal(many[1], one[1])


@cache
def over_array(function, dtype):
    """``function`` applied to every element of an array, compiled as a loop."""
    @numba.njit(error_model="numpy", fastmath={"contract"})
    def apply(x):
        y = np.empty(x.size, dtype)
        for i in range(x.size):
            y[i] = function(x[i])
        return y
    return apply


def test_exp2_accuracy_and_edges():
    apply = over_array(elementary.exp2, np.float32)
    x = np.linspace(-125.99, 127.99, 400_001).astype(np.float32)
    exact = np.exp2(x.astype(np.float64))
    assert np.max(np.abs(apply(x) / exact - 1)) < 2e-7
    assert np.array_equal(apply(np.arange(-126, 128, dtype=np.float32)), np.exp2(np.arange(-126.0, 128)))
    edges = np.array([-np.inf, -3e38, -200, -126.5, 128, 3e38, np.inf], np.float32)
    assert apply(edges).tolist() == [0, 0, 0, 0, np.inf, np.inf, np.inf]
    assert np.isnan(apply(np.array([np.nan, -np.nan], np.float32))).all()


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_every_16_bit_pattern(name):
    """Widening equals NumPy's on all 65536 patterns, and narrowing the result gives the pattern back."""
    bits = np.arange(65536, dtype=np.uint16)
    wide = over_array(convert.TO_FLOAT32[name], np.float32)(bits)
    expected = bits.view(DTYPES[name]).astype(np.float32)
    number = ~np.isnan(expected)
    assert np.array_equal(np.isnan(wide), ~number)
    assert np.array_equal(wide[number].view(np.uint32), expected[number].view(np.uint32))
    back = over_array(convert.FROM_FLOAT32[name], np.uint16)(wide)
    assert np.array_equal(back[number], bits[number])
    assert np.isnan(back[~number].view(DTYPES[name]).astype(np.float32)).all()


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_rounding_to_16_bits(name):
    """Random bits, and every midpoint of two neighbours with the floats beside it, round as in NumPy."""
    patterns = np.random.default_rng(10).integers(0, 2**32, 300_000, dtype=np.uint32).view(np.float32)
    infinity = 0x7F80 if name == "bf16" else 0x7C00
    values = np.arange(infinity, dtype=np.uint16).view(DTYPES[name]).astype(np.float64)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(middle, np.float32(side)) for side in (-np.inf, np.inf)]
    overflow = np.array([65519.996, 65520, 65536, 3.3895314e38, 3.3961775e38, np.inf], np.float32)
    x = np.concatenate([patterns, middle, -middle, *beside, overflow, -overflow])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(DTYPES[name])
    result = over_array(convert.FROM_FLOAT32[name], np.uint16)(x)
    number = ~np.isnan(x)
    assert np.array_equal(result[number], expected.view(np.uint16)[number])
    assert np.isnan(result[~number].view(DTYPES[name]).astype(np.float32)).all()


@pytest.mark.parametrize("rows, cols, count", [(4, 16, 1), (8, 48, 33), (12, 32, 0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_product_of_integer_tiles_is_exact(rows, cols, count, transposed):
    rng = np.random.default_rng(11)
    a, c = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((max(count, 1), cols), (rows, cols)))
    b = rng.integers(-8, 9, (rows, max(count, 1))).astype(np.float32)
    expected = c + b[:, :count] @ a[:count]
    stored, strides = (np.ascontiguousarray(b.T), (1, rows)) if transposed else (b, (b.shape[1], 1))
    add_product(a, stored, *strides, c, rows, cols, count)
    assert np.array_equal(c, expected)
