"""Biases as a straight line over a tile's keys: which functions have one, and that it is what the function computes."""

import itertools
import math

import numpy as np
import pytest

from numba_fa.flash.line import make_line
from numba_fa.flash.program import make_program
from numba_fa.problem.biases import ScoreMod

SLOPES = np.array([0.5, 0.125], np.float32)
ROWS, KEYS, SEQLEN = 4, 5, 24


def half(x):
    return x / 2


def no_positions(score, b, h, i, j):
    return score - 3 + b * 0.5


def no_bends(score, b, h, i, j):
    return 0.5 * (j - i) + score


def alibi(score, b, h, i, j, slopes):
    return score - slopes[h] * abs(i - j)


def sign_of_all(score, b, h, i, j, slopes):
    return +score + -abs(slopes[h] * (-j + i - 3)) * half(3)


def two_bends(score, b, h, i, j, slopes):
    return score - slopes[h] * abs(i - j) / 2 + abs(j - 11) * 0.25 - 1


def bend_in_bend(score, b, h, i, j, slopes):
    return 2 - slopes[h] * abs(abs(i - j) - 4) + score


def powers(score, b, h, i, j):
    return score - 2.0 ** (-(h + 1) / 2) * abs(i - j) + (b + 1) ** 2


LINES = [powers, no_positions, no_bends, alibi, sign_of_all, two_bends, bend_in_bend]
OTHERS = [
    lambda s, b, h, i, j: s * 2,
    lambda s, b, h, i, j: -s,
    lambda s, b, h, i, j: s + s - s,
    lambda s, b, h, i, j: abs(s),
    lambda s, b, h, i, j: s / 2,
    lambda s, b, h, i, j: i - j,
    lambda s, b, h, i, j: 1.0,
    lambda s, b, h, i, j: math.tanh(s),
    lambda s, b, h, i, j: s + math.sqrt(j),
    lambda s, b, h, i, j: s + i * j,
    lambda s, b, h, i, j: s + 1 / (j + 1),
    lambda s, b, h, i, j: s + j**2,
    lambda s, b, h, i, j: s + j // 2,
    lambda s, b, h, i, j: s - max(i - j, 0),
    lambda s, b, h, i, j: s if j < i else s - 1,
    lambda s, b, h, i, j: s if j == i else s - 1,
    lambda s, b, h, i, j: s - (j != i),
    lambda s, b, h, i, j: s if i else s - 1,
    lambda s, b, h, i, j: s + float(j),
    lambda s, b, h, i, j: s - 1 / 0,
    lambda s, b, h, i, j: s - math.inf,
]


def line_of(function, *aux):
    return make_line("causal", ScoreMod(function, *aux).name, lambda made: made)


def aux_of(function):
    return (SLOPES,) if function.__code__.co_argcount > 5 else ()


@pytest.mark.parametrize("unit", [1.0, 8.0])
@pytest.mark.parametrize("function", LINES)
def test_a_line_is_what_the_function_computes(function, unit):
    aux = aux_of(function)
    line, straight = line_of(function, *aux), 0
    for b, h in np.ndindex(2, 2):
        for first, start in itertools.product(range(0, SEQLEN, ROWS), range(0, SEQLEN, KEYS)):
            if not line.straight(b, h, first, first + ROWS - 1, start, start + KEYS - 1, (0, *aux)):
                continue
            straight += 1
            steps = set()
            for i in range(first, first + ROWS):
                base, step = (each(b, h, i, start, unit, (0, *aux)) for each in (line.base, line.step))
                steps.add(float(step))
                for j in range(start, start + KEYS):
                    wanted = function(0.75, b, h, i, j, *aux)
                    assert math.isclose(0.75 + (base + step * (j - start)) / unit, wanted, abs_tol=1e-6), (b, h, i, j)
            assert len(steps) == 1
    assert straight >= 4 * 12


@pytest.mark.parametrize("function", OTHERS)
def test_of_other_functions_nothing_is_claimed(function):
    assert line_of(function) is None


def test_arrays_that_positions_index_are_no_line():
    table = np.zeros(SEQLEN, np.float32)
    assert line_of(lambda s, b, h, i, j, table: s + table[j], table) is None
    assert line_of(lambda s, b, h, i, j, table: s + table[i], table) is None
    assert line_of(lambda s, b, h, i, j, table: s + table[h + 1], table) is not None


@pytest.mark.parametrize(("bias", "has"), [
    ("none", False), ("alibi", True), ("alibi+sink", True), ("alibi+alibi", True), ("softcap", False),
    ("softcap+alibi", False), ("alibi+softcap", False), ("dense_bf16", False), ("t5_32_128_b", True),
    ("t5_8_20_u+alibi", True), ("t5_8_20_u+softcap", False),
])  # fmt: skip
def test_built_in_biases(bias, has):
    assert (make_line("all2+causal+padding", bias, lambda function: function) is not None) == has


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(8, 20), (4, 3), (32, 128)])
def test_t5_is_level_beyond_its_last_border(buckets, max_distance, bidirectional):
    name = f"t5_{buckets}_{max_distance}_{'b' if bidirectional else 'u'}"
    line = make_line("full", name, lambda function: function)
    modify = make_program("full", name, lambda function: function).modify
    assert line.level
    table, offset = np.arange(2.0 * buckets, dtype=np.float32).reshape(buckets, 2) ** 2, 5
    straight = 0
    for first, start in itertools.product(range(0, 400, 50), range(0, 400, 40)):
        tile = first, first + 49, start, start + 39
        if line.straight(0, 1, *tile, (offset, table)):
            straight += 1
            added = {modify(0.0, 0, 1, i, j, (offset, table)) for i in tile[:2] for j in range(start, start + 40)}
            assert added == {line.base(0, 1, first, start, 1, (offset, table))}
            assert line.step(0, 1, first, start, 1, (offset, table)) == 0
        else:  # no more than what lies on a border is given up
            assert len({modify(0.0, 0, 1, i, j, (offset, table)) for i in tile[:2] for j in tile[2:]}) > 1
    assert straight >= 30


@pytest.mark.parametrize(("bias", "level"), [("alibi", False), ("t5_8_20_b+alibi", False), ("t5_8_20_b+t5_4_9_u", True)])
def test_level(bias, level):
    assert make_line("full", bias, lambda function: function).level == level


def test_the_users_alibi_is_the_built_in_one():
    """Tile by tile: what is straight before the queries, after them, and not across them."""
    built_in = make_line("full", "alibi", lambda function: function)
    users = line_of(alibi, SLOPES)
    slopes = np.broadcast_to(SLOPES, (2, 2))
    for tile in [(0, 3, 4, 7), (8, 11, 4, 7), (8, 11, 0, 7), (8, 11, 0, 8), (4, 7, 7, 9), (0, 23, 0, 23)]:
        own, theirs = built_in.straight(0, 1, *tile, (0, slopes)), users.straight(0, 1, *tile, (0, SLOPES))
        assert own == theirs == (tile[1] < tile[2] or tile[3] < tile[0]), tile
    program = make_program("full", "alibi", lambda function: function)
    assert program.modify(0.0, 1, 1, 9, 2, (0, slopes)) == built_in.base(1, 1, 9, 2, 1, (0, slopes)) == -7 / 8
