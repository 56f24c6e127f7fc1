"""The house in order: names that stand for one thing in every face, and doors that are documented."""

import ast
import itertools
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa.adapters.arrays import library_of
from numba_fa.flash.biases import DEVICE_BIASES
from numba_fa.flash.masks import DEVICE_MASKS
from numba_fa.flash.program import make_program
from numba_fa.kernels.cpu.variant import numpy_view
from numba_fa.problem import biases, masks
from numba_fa.problem.arrays import ArrayView
from numba_fa.problem.masks import mask_named
from numba_fa.problem.problem import CallSizes
from numba_fa.testing.programs import PROGRAMS, Sizes
from tests.declared import bias_truth, mask_truth

ROOT = Path(__file__).resolve().parents[1]


# Kinds that stand for no function of their own: users' functions, combinations, and tables over them.
MADE = {"mod", "block", "all", "any", "score_mod"}
SIZES = [(1, 1), (1, 3), (2, 9), (5, 5), (8, 3), (8, 9)]


def test_masks_and_biases_have_three_faces():
    device = {name.partition("_")[0] for name in DEVICE_MASKS}  # prefix_int is the prefix mask with a number
    assert set(masks.KINDS) - MADE == device == set(reference.MASK_KINDS)
    assert set(biases.KINDS) - MADE == {*DEVICE_BIASES, "t5"} == set(reference.BIASES)


@pytest.mark.parametrize("name", [name for name, make in PROGRAMS.items() if not make(Sizes(1, 1, 1, 1)).biases])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), SIZES)
def test_faces_of_a_mask_agree_everywhere(name, seqlen_q, seqlen_k):
    sizes = Sizes(2, seqlen_q, seqlen_k, 2)
    asked = PROGRAMS[name](sizes)
    mask = mask_named(asked.mask)
    truth = mask_truth(mask, seqlen_q, seqlen_k)
    program, aux = make_program(mask.name, "none", lambda function: function), arguments_of(mask, sizes)
    for b, h in np.ndindex(2, 2):
        seen = np.broadcast_to(truth(b, h, *np.ogrid[:seqlen_q, :seqlen_k]), (seqlen_q, seqlen_k))
        for i, j in np.ndindex(seqlen_q, seqlen_k):
            assert bool(program.visible(b, h, i, j, aux)) == seen[i, j], (b, h, i, j)
        for first, size in itertools.product(range(seqlen_q), (1, 3, 8)):
            last = min(first + size, seqlen_q) - 1
            some, every = seen[first : last + 1].any(0), seen[first : last + 1].all(0)
            for j in range(seqlen_k):
                there = np.flatnonzero(some[: j + 1])
                reach = program.reach(b, h, first, last, j, aux)
                assert reach <= j and reach >= (there[-1] if there.size else -1e9), (b, h, first, last, j)
                for start in range(j + 1):
                    if program.whole(b, h, first, last, start, j, aux):
                        assert every[start : j + 1].all(), (b, h, first, last, start, j)


@pytest.mark.parametrize("name", ["alibi", "alibi-batch", "dense", "dense-row", "dense-fp16", "t5", "t5-one-way", "softcap"])
@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), SIZES)
def test_faces_of_a_bias_agree_everywhere(name, seqlen_q, seqlen_k):
    sizes = Sizes(2, seqlen_q, seqlen_k, 2)
    (bias,) = PROGRAMS[name](sizes).biases
    truth, program = bias_truth(bias, seqlen_q, seqlen_k), make_program("full", bias.name, lambda function: function)
    aux = arguments_of(bias, sizes)
    scores = np.random.default_rng(0).standard_normal((seqlen_q, seqlen_k))
    for b, h in np.ndindex(2, 2):
        wanted = truth(scores.copy(), b, h, *np.ogrid[:seqlen_q, :seqlen_k])
        for i, j in np.ndindex(seqlen_q, seqlen_k):
            assert np.isclose(program.modify(scores[i, j], b, h, i, j, aux), wanted[i, j], rtol=1e-6, atol=1e-6)


def arguments_of(declaration, sizes):
    """A declaration's launch arguments, as NumPy arrays and numbers."""
    call = CallSizes(sizes.batch, sizes.seqlen_q, sizes.seqlen_k, sizes.heads, "cpu")
    arguments = declaration.viewed(library_of(np.empty(0)).view).arguments(call)
    return tuple(numpy_view(a) if isinstance(a, ArrayView) else a for a in arguments)


def test_every_public_name_resolves_and_is_documented():
    for name in numba_fa.__all__:
        assert getattr(numba_fa, name).__doc__, name
    assert sorted(numba_fa.__all__) == list(numba_fa.__all__) or set(numba_fa.__all__) <= set(dir(numba_fa))
    with pytest.raises(AttributeError):
        numba_fa.no_such_name  # noqa: B018


def test_attention_stays_a_function_whatever_is_imported():
    import numba_fa.kernels.sm90.forward

    assert callable(numba_fa.attention)


def test_every_module_has_a_docstring():
    for path in [*ROOT.glob("numba_fa/**/*.py"), *ROOT.glob("reference/*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_every_folder_of_tests_is_looked_into(request):
    """pytest skips folders of some names, "build" for one, and says nothing."""
    skipped = request.config.getini("norecursedirs")
    parts = {part for path in (ROOT / "tests").rglob("test_*.py") for part in path.parent.relative_to(ROOT).parts}
    assert not [part for part in parts if any(fnmatch(part, pattern) for pattern in skipped)]
