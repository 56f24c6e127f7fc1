"""The flop counts are those behind published figures."""
import pytest

from numba_fa.testing import forward_flops


def test_counts_every_multiply_and_add_of_both_products():
    """q k^T by loops: D multiply-adds a score; p v: Dv a score."""
    count = 0
    for _score in range(2 * 3 * 4 * 5):
        count += 2 * 6 + 2 * 7
    assert forward_flops(2, 3, 4, 5, 6, 7, False) == count


@pytest.mark.parametrize("seqlen_q, seqlen_k", [(1, 1), (3, 5), (5, 3), (8192, 8192)])
def test_causal_is_exactly_half(seqlen_q, seqlen_k):
    whole = forward_flops(2, 3, seqlen_q, seqlen_k, 64, 33, False)
    half = forward_flops(2, 3, seqlen_q, seqlen_k, 64, 33, True)
    assert isinstance(half, int) and 2 * half == whole


def test_a_published_size():
    """16k tokens, hidden 2048 as 16 heads of 128, one sequence: 4 * 16 * 16384**2 * 128 = 2**41."""
    assert forward_flops(1, 16, 16384, 16384, 128, 128, False) == 2**41
