"""The house in order: names that stand for one thing in every face, and doors that are documented."""

import ast
from pathlib import Path

import numpy as np
import pytest

import numba_fa
import reference
from numba_fa.flash.masks import DEVICE_MASKS
from numba_fa.problem.masks import MASKS

ROOT = Path(__file__).resolve().parents[1]


def test_masks_have_three_faces():
    assert set(MASKS) == set(DEVICE_MASKS) == set(reference.MASKS)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("seqlen_q", [1, 2, 5, 8])
@pytest.mark.parametrize("seqlen_k", [1, 3, 5, 9])
def test_faces_of_a_mask_agree_everywhere(kind, seqlen_q, seqlen_k):
    q_idx, kv_idx = np.arange(seqlen_q)[:, None], np.arange(seqlen_k)[None]
    truth = np.broadcast_to(reference.MASKS[kind](0, 0, q_idx, kv_idx, seqlen_q, seqlen_k), (seqlen_q, seqlen_k))
    for i in range(seqlen_q):
        seen = [j for j in range(seqlen_k) if truth[i, j]]
        end = DEVICE_MASKS[kind].row_end(i, seqlen_q, seqlen_k)
        assert seen == list(range(max(end, 0)))
    assert DEVICE_MASKS[kind].ragged == (kind == "causal")


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
