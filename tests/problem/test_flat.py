"""Masks and biases as text, numbers and arrays, and back."""

import numpy as np
import pytest

import numba_fa
from numba_fa import ProblemError
from numba_fa.problem.flat import flat, parameters, together
from numba_fa.problem.masks import mask_named
from numba_fa.testing.programs import PROGRAMS, Sizes


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_was_taken_apart_is_put_together(name):
    asked = PROGRAMS[name](Sizes(2, 19, 23, 2))
    mask = mask_named(asked.mask)
    text, ints, floats, arrays = flat(mask, asked.biases)
    assert all(type(n) is int for n in ints) and all(type(x) is float for x in floats)
    assert together(text, ints, floats, arrays) == (mask, asked.biases)
    for number, bias in enumerate(asked.biases):
        place = parameters(text).get(f"bias{number}")
        assert (place is None) == (not bias.parameter)
        assert place is None or arrays[place] is getattr(bias, bias.parameter)


def test_numbers_of_other_libraries():
    text, ints, floats, arrays = flat(numba_fa.PrefixLM(np.int64(3)), [numba_fa.Softcap(np.float32(2.5))])
    assert (text, ints, floats, arrays) == ("prefix(i)|softcap(f)", [3], [2.5], [])
    text, ints, _, arrays = flat(numba_fa.Full(), [numba_fa.T5Bias("table", np.int32(64), bidirectional=False)])
    assert (text, ints, arrays) == ("full()|t5(a,i,F)", [64], ["table"])


def test_a_text_of_functions_that_nobody_declared():
    with pytest.raises(ProblemError, match="mod_0123456789 is a function that this process has not declared"):
        together("mod_0123456789(i)", [1], [], [])
