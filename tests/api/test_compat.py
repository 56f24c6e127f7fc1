"""flash_attn_func: FlashAttention's argument order and meaning, and nothing it is asked for ignored."""

import inspect

import numpy as np
import pytest

import numba_fa
from numba_fa import (
    ALiBi,
    Causal,
    ProblemError,
    SlidingWindow,
    Softcap,
    UnsupportedError,
    attention,
    compat,
    flash_attn_func,
)
from numba_fa.testing.inputs import random_qkv

Q, K, V = random_qkv(2, 7, 11, 4, 2, 16)

# flash_attn 2.8, flash_attn/flash_attn_interface.py: names, order and defaults.
SIGNATURE = [
    ("q", inspect.Parameter.empty), ("k", inspect.Parameter.empty), ("v", inspect.Parameter.empty),
    ("dropout_p", 0.0), ("softmax_scale", None), ("causal", False), ("window_size", (-1, -1)), ("softcap", 0.0),
    ("alibi_slopes", None), ("deterministic", False), ("return_attn_probs", False),
]  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """What flash_attn_func asks of `attention`: a list of keyword arguments."""
    calls = []
    monkeypatch.setattr(compat, "attention", lambda q, k, v, **options: calls.append(options))
    return calls


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


@pytest.mark.parametrize(("window", "causal", "mask"), [
    ((-1, 0), False, Causal()), ((3, 3), False, SlidingWindow(3, 3)), ((0, 0), True, SlidingWindow(0, 0)),
    ((-1, 2), False, SlidingWindow(-1, 2)), ((-1, 2), True, Causal()), ((5, -1), True, SlidingWindow(5, 0)),
    ((5, None), False, SlidingWindow(5)), ([4, 4], False, SlidingWindow(4, 4)), ((7, 9), True, SlidingWindow(7, 0)),
])  # fmt: skip
def test_windows_that_bound(asked, window, causal, mask):
    """A causal mask forces the right bound to 0, as in FlashAttention."""
    flash_attn_func(Q, K, V, causal=causal, window_size=window)
    assert asked[0]["mask"] == mask and asked[0]["bias"] is None


def test_softcap_comes_before_alibi(asked):
    slopes = np.ones(4, np.float32)
    flash_attn_func(Q, K, V, alibi_slopes=slopes, softcap=30.0)
    flash_attn_func(Q, K, V, alibi_slopes=slopes)
    flash_attn_func(Q, K, V, softcap=30.0)
    assert [call["bias"] for call in asked] == [[Softcap(30.0), ALiBi(slopes)], [ALiBi(slopes)], [Softcap(30.0)]]


@pytest.mark.parametrize("window", [(-2, 0), (3, -5), (1.5, 0), 3, (1, 2, 3), None])
def test_windows_that_mean_nothing(window):
    with pytest.raises(ProblemError, match="window"):
        flash_attn_func(Q, K, V, window_size=window)


@pytest.mark.parametrize("softcap", [-1.0, float("inf"), float("nan")])
def test_a_softcap_that_caps_nothing(softcap):
    with pytest.raises(ProblemError, match="softcap"):
        flash_attn_func(Q, K, V, softcap=softcap)


def test_slopes_of_other_heads_or_dtype():
    with pytest.raises(ProblemError, match="slopes has shape"):
        flash_attn_func(Q, K, V, alibi_slopes=np.ones(3, np.float32))
    with pytest.raises(ProblemError, match="slopes is float64"):
        flash_attn_func(Q, K, V, alibi_slopes=np.ones(4))


def test_dropout_is_refused():
    with pytest.raises(UnsupportedError, match="dropout_p") as caught:
        flash_attn_func(Q, K, V, dropout_p=0.1)
    assert "without dropout_p" in caught.value.nearest


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
