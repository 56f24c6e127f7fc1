"""Tables of block masks against the mask itself, and the forward that reads them: what it skips, what it masks."""

import numpy as np
import pytest

from numba_fa.errors import FunctionError
from numba_fa.kernels.cpu.block_table import block_table
from tests.kernels import programs
from tests.kernels.test_cpu_programs import MASKS, SIZES, compute, drawn


def table_of(part, sizes, block_m, block_n):
    batch, heads, seqlen_q, seqlen_k = sizes
    return block_table(part.text, part.tokens, part.aux, batch=batch, heads=heads, seqlen_q=seqlen_q,
                       seqlen_k=seqlen_k, block_m=block_m, block_n=block_n)  # fmt: skip


def true_table(keep, block_m, block_n):
    """As the table is defined, from a bool (batch, heads, seqlen_q, seqlen_k)."""
    batch, heads, seqlen_q, seqlen_k = keep.shape
    table = np.full((batch, heads, -(-seqlen_q // block_m), -(-seqlen_k // block_n)), -1)
    for b, h, m, n in np.ndindex(table.shape):
        tile = keep[b, h, m * block_m : (m + 1) * block_m, n * block_n : (n + 1) * block_n]
        table[b, h, m, n] = 2 * n + tile.all() if tile.any() else table[b, h, m, n - 1] if n else -1
    return table


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("blocks", [(32, 16), (13, 25), (128, 128)], ids=str)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_table(mask, blocks, sizes):
    part = mask(sizes)
    table = table_of(part, sizes, *blocks)
    assert table.dtype == np.int32
    assert np.array_equal(table, true_table(np.broadcast_to(part.meaning, sizes), *blocks))


def with_table(part, sizes, block_m, block_n):
    """A mask as a block mask of it; block sizes are powers of two."""
    table = table_of(part, sizes, block_m, block_n)
    _, heads, rows, columns = table.shape
    tokens = ("array:int32:2", *["int32"] * 4, *part.tokens)
    aux = (table.reshape(-1, columns), heads * rows, rows, block_m.bit_length() - 1, block_n.bit_length() - 1, *part.aux)
    return part._replace(text=f"block+{part.text}", tokens=tokens, aux=aux)


@pytest.mark.parametrize("blocks", [(32, 16), (128, 128), (8, 64)], ids=str)
@pytest.mark.parametrize("name", ["window-sinks", "document", "mod", "padding-nothing"])
def test_forward_with_a_table_computes_the_same(name, blocks):
    sizes = SIZES["ragged"]
    plain = MASKS[name](sizes)
    q, k, v = drawn(sizes, "fp32")
    out, lse = compute(q, k, v, "fp32", plain)
    blocked, blocked_lse = compute(q, k, v, "fp32", with_table(plain, sizes, *blocks))
    np.testing.assert_allclose(blocked, out, rtol=0, atol=1e-6)
    np.testing.assert_allclose(blocked_lse, lse, rtol=0, atol=1e-6)


def test_no_keys():
    assert table_of(programs.full(programs.Sizes(1, 1, 5, 0)), programs.Sizes(1, 1, 5, 0), 4, 4).shape == (1, 1, 2, 0)


TILE = (32, 16)  # of `compute`


def _only_in(score, b, h, q_idx, kv_idx, allowed):
    return (score,)[0 if allowed[q_idx // 32, kv_idx // 16] else 1]


def _causal_only_in(b, h, q_idx, kv_idx, offset, allowed):
    return (kv_idx <= q_idx + offset,)[0 if allowed[q_idx // 32, kv_idx // 16] else 1]


def strays(mask, bias, sizes):
    """Whether a function of the mask or the bias was called where it is not allowed."""
    try:
        compute(*drawn(sizes, "fp32", heads_kv=1), "fp32", mask, bias)
    except FunctionError as error:
        assert isinstance(error.__cause__, IndexError)
        return True
    return False


SQUARE = programs.Sizes(1, 1, 200, 200)


@pytest.mark.parametrize("name, tabled", [
    *[(name, False) for name in ("causal", "window", "window-sinks", "padding", "prefix-int", "window|prefix")],
    *[(name, True) for name in ("causal", "document", "mod")],  # of most nothing is known without a table
])  # fmt: skip
def test_tiles_that_no_query_sees_are_not_computed(name, tabled):
    part = MASKS[name](SQUARE)
    seen = true_table(np.broadcast_to(part.meaning, SQUARE), *TILE)[0, 0]
    allowed = seen >> 1 == np.arange(seen.shape[1])
    part = with_table(part, SQUARE, *TILE) if tabled else part
    bias = programs.user_bias(_only_in, (allowed,), None)
    assert not strays(part, [bias], SQUARE)
    m, n = np.argwhere(allowed)[-1]
    allowed[m, n] = False  # and every other tile is computed
    assert strays(part, [bias], SQUARE)


def test_tiles_that_are_seen_whole_are_not_masked():
    table = true_table(np.broadcast_to(programs.causal(SQUARE).meaning, SQUARE), *TILE)
    partial = table[0, 0] == 2 * np.arange(table.shape[3])
    part = programs.user_mask(_causal_only_in, (0, np.ones_like(partial)), None)
    tabled = with_table(part, SQUARE, *TILE)
    tabled = tabled._replace(aux=(*tabled.aux[:-1], partial))
    assert not strays(tabled, [], SQUARE)
    assert strays(part._replace(aux=(0, partial)), [], SQUARE)
