"""A BERT sentence encoder in NumPy float32 whose attention is whatever function it is given.

Source: Devlin et al., "BERT" (2019), section 3: post-layer-norm blocks, GELU by the error function; mean
pooling and L2 normalisation after Reimers and Gurevych, "Sentence-BERT" (2019), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from numba_fa.demo.weights import Checkpoint

Attention = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention for one sentence.

    q, k, v, out are (1, seqlen, heads, head_dim), lse is (1, heads, seqlen). q, k, v are in the dtype the
    encoder was asked to use, out and lse in the dtypes the attention returned.
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    out: np.ndarray
    lse: np.ndarray


@dataclass(frozen=True)
class Encoding:
    """What n sentences became.

    `embeddings` is (n, hidden) float32 with rows of length 1, `tokens[s]` sentence s's word pieces,
    `calls[s][layer]` the attention it went through, and `layer_inputs[s][layer]` the (seqlen, hidden) float32
    activations that entered that layer.
    """

    embeddings: np.ndarray
    tokens: list[list[str]]
    calls: list[list[AttentionCall]]
    layer_inputs: list[list[np.ndarray]]


class Encoder:
    """The encoder of a Checkpoint. It holds no state between calls, so one serves many attentions."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint

    def encode(
        self,
        sentences: Sequence[str],
        attention: Attention,
        dtype: np.typing.DTypeLike = np.float32,
        on_batch: Callable[[list[int], int], None] = lambda members, seqlen: None,
    ) -> Encoding:
        """Encodes `sentences`; sentences of equal token count share a batch, so nothing is padded or masked.

        `attention(q, k, v) -> (out, lse)` is called once a layer and batch with arrays (batch, seqlen, heads,
        head_dim) of `dtype`, and returns out of that shape and lse (batch, heads, seqlen). `on_batch(members,
        seqlen)` hears of each finished batch. ValueError when `attention` returns other shapes.
        """
        encoded = [self.checkpoint.tokenizer.encode(sentence) for sentence in sentences]
        embeddings = np.empty((len(encoded), self._tensor("embeddings.LayerNorm.weight").size), np.float32)
        calls: list[list[AttentionCall]] = [[] for _ in encoded]
        layer_inputs: list[list[np.ndarray]] = [[] for _ in encoded]
        for members in _equal_lengths([len(one.ids) for one in encoded]):
            x = self._embed(np.array([encoded[s].ids for s in members]))
            for layer in range(self.checkpoint.layers):
                entering = x
                x, call = self._layer(layer, x, attention, dtype)
                for row, s in enumerate(members):
                    layer_inputs[s].append(entering[row])
                    calls[s].append(_row(call, row))
            embeddings[members] = _unit(x.mean(axis=1))
            on_batch(members, x.shape[1])
        return Encoding(embeddings, [one.tokens for one in encoded], calls, layer_inputs)

    def _embed(self, ids: np.ndarray) -> np.ndarray:
        """Token ids (batch, seqlen) to activations (batch, seqlen, hidden): word + position + segment 0."""
        words = self._tensor("embeddings.word_embeddings.weight")[ids]
        positions = self._tensor("embeddings.position_embeddings.weight")[: ids.shape[1]]
        segment = self._tensor("embeddings.token_type_embeddings.weight")[0]
        return self._norm("embeddings.LayerNorm", words + positions + segment)

    def _layer(
        self, layer: int, x: np.ndarray, attention: Attention, dtype: np.typing.DTypeLike
    ) -> tuple[np.ndarray, AttentionCall]:
        """One block: x (batch, seqlen, hidden) to the same shape, and the attention it made."""
        name = f"encoder.layer.{layer}"
        by_head = (*x.shape[:2], self.checkpoint.heads, -1)
        q, k, v = (
            self._dense(f"{name}.attention.self.{role}", x).reshape(by_head).astype(dtype)
            for role in ("query", "key", "value")
        )
        out, lse = attention(q, k, v)
        _check_shapes(q, out, lse)
        mixed = self._dense(f"{name}.attention.output.dense", out.astype(np.float32).reshape(x.shape))
        x = self._norm(f"{name}.attention.output.LayerNorm", x + mixed)
        widened = _gelu(self._dense(f"{name}.intermediate.dense", x))
        x = self._norm(f"{name}.output.LayerNorm", x + self._dense(f"{name}.output.dense", widened))
        return x, AttentionCall(q, k, v, out, lse)

    def _tensor(self, name: str) -> np.ndarray:
        return self.checkpoint.tensors[name]

    def _dense(self, name: str, x: np.ndarray) -> np.ndarray:
        """x W^T + b with W (out, in) as the checkpoint stores it."""
        return x @ self._tensor(f"{name}.weight").T + self._tensor(f"{name}.bias")

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """Layer normalisation over the last axis."""
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt(variance + np.float32(self.checkpoint.norm_eps))
        return scaled * self._tensor(f"{name}.weight") + self._tensor(f"{name}.bias")


def _equal_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """The indices of `lengths` grouped by equal value, shortest first."""
    return [[s for s, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))]


def _row(call: AttentionCall, row: int) -> AttentionCall:
    """The part of a batch's call that belongs to one sentence, batch axis kept."""
    only = slice(row, row + 1)
    return AttentionCall(call.q[only], call.k[only], call.v[only], call.out[only], call.lse[only])


def _check_shapes(q: np.ndarray, out: np.ndarray, lse: np.ndarray) -> None:
    """ValueError unless out is (batch, seqlen, heads, head_dim) and lse (batch, heads, seqlen)."""
    batch, seqlen, heads, _ = q.shape
    if out.shape != q.shape or lse.shape != (batch, heads, seqlen):
        raise ValueError(
            f"attention returned out {out.shape} and lse {lse.shape}; "
            f"the encoder needs {q.shape} and {(batch, heads, seqlen)}"
        )


def _gelu(x: np.ndarray) -> np.ndarray:
    """x times the normal distribution function of x (Hendrycks and Gimpel, 2016), by the error function."""
    return np.float32(0.5) * x * (1 + erf(x * np.float32(0.5**0.5)))


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows scaled to Euclidean length 1."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
