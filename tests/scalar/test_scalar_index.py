"""Index: 32-bit integers with Python's meaning, made into float32 exactly."""

import operator

import numpy as np
import pytest

from numba_fa.scalar.types import IndexType, RealType
from tests.scalar import host

NUMBERS = [0, 1, 2, 3, 7, 64, 127, 128, 129, 1000, 4095, 2**21 + 1]
PLACES = [(0.0, 0, 0, q, kv) for q in NUMBERS for kv in NUMBERS]


def agrees(function, aux=(), places=PLACES, exact=True):
    """The compiled function equals Python's, its twin too."""
    results, kind = host.scores(function, places, aux)
    for place, result in zip(places, results, strict=True):
        truth = function(*place, *aux)
        if isinstance(kind, IndexType):
            assert result == (truth, float(np.float32(truth))), place
        else:
            assert result == truth if exact else np.isclose(result, truth, rtol=1e-6), place
    return kind


@pytest.mark.parametrize("op", [operator.add, operator.sub, min, max, operator.and_, operator.or_, operator.xor])
def test_operators(op):
    assert agrees(lambda score, b, h, q, kv: op(q, kv)) == IndexType()
    assert agrees(lambda score, b, h, q, kv: op(kv - 1000, 37)) == IndexType()


def test_products_and_shifts():
    places = [place for place in PLACES if place[3] * place[4] < 2**31]
    assert agrees(lambda score, b, h, q, kv: (q - 5) * kv, places=places) == IndexType()
    assert agrees(lambda score, b, h, q, kv: (q - kv) >> 3) == IndexType()
    assert agrees(lambda score, b, h, q, kv: (q << 4) + 1) == IndexType()


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 64, 100, 511, 512, 1000, 4096, 5000, -1, -3, -8])
def test_division_by_a_constant_rounds_down(divisor):
    assert agrees(lambda score, b, h, q, kv: (q - kv) // divisor) == IndexType()
    assert agrees(lambda score, b, h, q, kv: (q - kv) % divisor) == IndexType()


def test_division_by_a_variable_rounds_down():
    places = [place for place in PLACES if place[4] != 3]
    assert agrees(lambda score, b, h, q, kv: (q - 100) // (kv - 3), places=places) == IndexType()
    assert agrees(lambda score, b, h, q, kv: (q - 100) % (kv - 3), places=places) == IndexType()
    assert agrees(lambda score, b, h, q, kv, n: q // n * n + q % n, (37,)) == IndexType()


def test_unary_and_power():
    assert agrees(lambda score, b, h, q, kv: -(q - kv)) == IndexType()
    assert agrees(lambda score, b, h, q, kv: abs(q - kv)) == IndexType()
    assert agrees(lambda score, b, h, q, kv: ~(q - kv)) == IndexType()
    assert agrees(lambda score, b, h, q, kv: (q % 64) ** 3) == IndexType()
    assert agrees(lambda score, b, h, q, kv: 2 ** -(q % 64), exact=False) == RealType()


@pytest.mark.parametrize("op", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne])
def test_comparisons(op):
    agrees(lambda score, b, h, q, kv: op(q, kv))
    agrees(lambda score, b, h, q, kv: op(q, 128))
    agrees(lambda score, b, h, q, kv: op(q * 0.5, kv))


def test_masks():
    ids = (np.arange(4096) // 100).astype(np.int64)[None]
    places = [place for place in PLACES if max(place[3:]) < 4096]
    agrees(lambda score, b, h, q, kv: kv <= q and (q - kv < 64 or kv < 4))
    agrees(lambda score, b, h, q, kv: not (kv > q) and q // 128 == kv // 128)
    agrees(lambda score, b, h, q, kv, ids: ids[b, q] == ids[b, kv], (ids,), places)
    agrees(lambda score, b, h, q, kv, low, high: (q + low <= kv) & (kv <= q + high), (-(2**30), 7))


def test_negative_indices_wrap_round():
    table = np.arange(17, dtype=np.float32)
    places = [(0.0, 0, 0, q, kv) for q in range(8) for kv in range(8)]
    agrees(lambda score, b, h, q, kv, table: table[q - kv], (table,), places)


def test_loops_count_in_indices():
    def function(score, b, h, q, kv):
        total = 0
        for i in range(q % 8):
            total += i * kv
        for i in range(2, kv % 8 + 2):
            score += i * 0.5
        return total + score

    agrees(function, exact=False)


def test_every_integer_array_mixes():
    for dtype in (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64):
        values = np.array([0, 1, 100], dtype)
        places = [(0.25, 0, 0, q, 5) for q in range(3)]
        agrees(lambda score, b, h, q, kv, a: a[q] + kv, (values,), places)
        agrees(lambda score, b, h, q, kv, a: a[q] * score, (values,), places)
        agrees(lambda score, b, h, q, kv, a: a[q] / 4, (values,), places)
    flags = np.array([False, True, True])
    agrees(lambda score, b, h, q, kv, a: a[q % 3] and kv > 5, (flags,))
    agrees(lambda score, b, h, q, kv, a: kv + a[q % 3], (flags,))


def test_large_integers_become_rounded_floats():
    values = np.array([2**30 + 1, -(2**31)], np.int32)
    agrees(lambda score, b, h, q, kv, a: a[q] * 1.0, (values,), [(0.0, 0, 0, q, 0) for q in range(2)], exact=False)
    agrees(lambda score, b, h, q, kv: (q * 1000) // 7 * 1.0, exact=False, places=[(0.0, 0, 0, 2**21, 0)])
