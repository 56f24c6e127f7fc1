"""flash_attn_func: FlashAttention's argument order and meaning, and nothing it is asked for ignored."""

import inspect

import numpy as np
import pytest

import numba_fa
from numba_fa import ProblemError, UnsupportedError, attention, flash_attn_func
from numba_fa.testing.inputs import random_qkv

Q, K, V = random_qkv(2, 7, 11, 4, 2, 16)

# flash_attn 2.8, flash_attn/flash_attn_interface.py: names, order and defaults.
SIGNATURE = [
    ("q", inspect.Parameter.empty), ("k", inspect.Parameter.empty), ("v", inspect.Parameter.empty),
    ("dropout_p", 0.0), ("softmax_scale", None), ("causal", False), ("window_size", (-1, -1)), ("softcap", 0.0),
    ("alibi_slopes", None), ("deterministic", False), ("return_attn_probs", False),
]  # fmt: skip

UNSUPPORTED = {
    "dropout_p": 0.1,
    "window_size": (4, 0),
    "softcap": 30.0,
    "alibi_slopes": np.ones(4, np.float32),
}


def test_the_signature_is_flash_attentions():
    parameters = inspect.signature(flash_attn_func).parameters.values()
    assert [(parameter.name, parameter.default) for parameter in parameters] == SIGNATURE
    assert all(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)


def test_defaults():
    assert np.array_equal(flash_attn_func(Q, K, V), attention(Q, K, V))


def test_every_argument_by_position():
    out, lse, probabilities = flash_attn_func(Q, K, V, 0.0, 0.375, True, (-1, -1), 0.0, None, True, True)
    expected = attention(Q, K, V, mask="causal", scale=0.375, return_lse=True)
    assert np.array_equal(out, expected[0])
    assert np.array_equal(lse, expected[1])
    assert probabilities is None


def test_softmax_scale_and_causal_by_name():
    assert np.array_equal(flash_attn_func(Q, K, V, softmax_scale=0.5), attention(Q, K, V, scale=0.5))
    causal = flash_attn_func(Q, K, V, causal=True)
    assert np.array_equal(causal, attention(Q, K, V, mask="causal"))
    assert not np.array_equal(causal, attention(Q, K, V))


def test_deterministic_changes_nothing():
    assert np.array_equal(flash_attn_func(Q, K, V, deterministic=True), attention(Q, K, V))


def test_the_return_triple():
    result = flash_attn_func(Q, K, V, return_attn_probs=True)
    assert len(result) == 3
    assert result[0].shape == Q.shape
    assert result[1].shape == (2, 4, 7)
    assert result[1].dtype == np.float32
    assert result[2] is None


@pytest.mark.parametrize(("window", "causal"), [((-1, -1), False), ((-1, -1), True), ((-1, 0), True),
                                                ([-1, -1], False)])  # fmt: skip
def test_windows_that_bound_nothing(window, causal):
    expected = attention(Q, K, V, mask="causal" if causal else "full")
    assert np.array_equal(flash_attn_func(Q, K, V, causal=causal, window_size=window), expected)


@pytest.mark.parametrize("name", list(UNSUPPORTED))
def test_what_is_not_there_yet_is_refused(name):
    with pytest.raises(UnsupportedError, match=name) as caught:
        flash_attn_func(Q, K, V, **{name: UNSUPPORTED[name]})
    assert name in caught.value.nearest
    assert not any(other in str(caught.value) for other in UNSUPPORTED if other != name)


@pytest.mark.parametrize(("window", "causal"), [((-1, 0), False), ((3, 3), False), ((0, 0), True), ((-1, 2), False),
                                                ((5, -1), True), ([4, 4], False)])  # fmt: skip
def test_every_window_that_bounds_is_refused(window, causal):
    with pytest.raises(UnsupportedError, match="window_size"):
        flash_attn_func(Q, K, V, causal=causal, window_size=window)


def test_all_that_is_not_there_is_told_at_once():
    with pytest.raises(UnsupportedError) as caught:
        flash_attn_func(Q, K, V, **UNSUPPORTED)
    assert all(name in caught.value.summary and name in caught.value.nearest for name in UNSUPPORTED)


@pytest.mark.parametrize("dropout_p", [1.5, 1.0, -0.1, float("nan")])
def test_a_dropout_that_is_no_probability(dropout_p):
    with pytest.raises(ProblemError, match=f"dropout_p is {dropout_p}"):
        flash_attn_func(Q, K, V, dropout_p=dropout_p)


def test_other_faults_are_as_of_attention():
    with pytest.raises(ProblemError, match="scale is 0"):
        flash_attn_func(Q, K, V, softmax_scale=0)
    with pytest.raises(ProblemError, match="104"):
        flash_attn_func(*(np.zeros((1, 2, 1, 100), np.float32),) * 3)


def test_tensors_of_torch():
    torch = pytest.importorskip("torch")
    out, lse, _ = flash_attn_func(*(torch.from_numpy(array) for array in (Q, K, V)), return_attn_probs=True)
    assert isinstance(out, torch.Tensor)
    assert np.array_equal(out.numpy(), attention(Q, K, V))
    assert lse.dtype == torch.float32


def test_it_is_public():
    assert "flash_attn_func" in numba_fa.__all__
