"""Masks and biases to test with: at least one of every kind that can be declared, and what people combine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import numba_fa
from numba_fa.dispatch.key import NO_BIAS
from numba_fa.problem.biases import Bias
from numba_fa.problem.masks import Mask, mask_named


@dataclass(frozen=True)
class Sizes:
    """Of a call: what masks and biases are made for."""

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads: int


@dataclass(frozen=True)
class Asked:
    """A mask, biases and sink_logits with NumPy arrays."""

    mask: Mask | str = "full"
    biases: tuple[Bias, ...] = ()
    sink_logits: Any = None

    @property
    def names(self) -> tuple[str, str]:
        """The mask's and the biases' names in a slug."""
        names = [bias.name for bias in self.biases] + (["sink"] if self.sink_logits is not None else [])
        return mask_named(self.mask).name, "+".join(names) or NO_BIAS

    def moved(self, move: Callable[[Any], Any]) -> Asked:
        """The same with `move(array)` in place of each array."""

        def there(part: Any) -> Any:
            return part if isinstance(part, str) else part.with_arrays(iter([move(array) for _, array in part.arrays]))

        sink = None if self.sink_logits is None else move(self.sink_logits)
        return Asked(there(self.mask), tuple(map(there, self.biases)), sink)

    def varied(self) -> Asked:
        """The same with another function for each of a user's, which takes and returns the same."""
        return Asked(_varied(self.mask), tuple(map(_varied, self.biases)), self.sink_logits)


def _varied(part: Any) -> Any:
    """A mask or bias, of a user's function another."""
    function = getattr(part, "function", None)

    def shifted(score, b, h, q_idx, kv_idx, *aux):
        return function(score, b, h, q_idx, kv_idx, *aux) + 0.25

    def shorter(b, h, q_idx, kv_idx, *aux):
        return function(b, h, q_idx, kv_idx, *aux) & (kv_idx < 123456)

    if isinstance(part, numba_fa.ScoreMod):
        return numba_fa.ScoreMod(shifted, *part.aux)
    return numba_fa.MaskMod(shorter, *part.aux) if isinstance(part, numba_fa.MaskMod) else part


def lengths(sizes: Sizes) -> np.ndarray:
    """int32 (batch,), from none to all of the keys."""
    return np.linspace(sizes.seqlen_k, 0, sizes.batch).astype(np.int32)


def documents(sizes: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """Segment ids of queries and keys, int32 (batch, seqlen): rising, with a stray that comes back."""
    ids = []
    for seqlen in (sizes.seqlen_q, sizes.seqlen_k):
        place = np.arange(seqlen) * 5 // max(seqlen, 1)
        place[seqlen // 3 : seqlen // 3 + 3] = 4
        ids.append(np.stack([(place + b) % 5 for b in range(sizes.batch)]).astype(np.int32))
    return ids[0], ids[1]


def slopes(sizes: Sizes) -> np.ndarray:
    """ALiBi's geometric slopes, float32 (heads,)."""
    return 2.0 ** (-8 * (np.arange(sizes.heads, dtype=np.float32) + 1) / sizes.heads)


def random(*shape: int, seed: int = 1) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def striped(b, h, q_idx, kv_idx, marks, period):
    """A mask_mod: stripes that differ between heads, and keys that carry a mark."""
    return ((q_idx + kv_idx + h) % period != 0) | (marks[kv_idx] > 0)


def causal_mod(b, h, q_idx, kv_idx, offset):
    """A mask_mod equal to the causal mask."""
    return kv_idx <= q_idx + offset


def alibi_mod(score, b, h, q_idx, kv_idx, offset, slopes):
    """A score_mod equal to ALiBi."""
    return score - slopes[h] * abs(q_idx + offset - kv_idx)


def wave(score, b, h, q_idx, kv_idx, height):
    """A score_mod with branches and a transcendental function."""
    if kv_idx > q_idx:
        return score * 0.5
    return score + height * math.exp(-0.01 * (q_idx - kv_idx))


def _marks(s: Sizes) -> np.ndarray:
    return (np.arange(s.seqlen_k) % 7 == 0).astype(np.int32)


def _offset(s: Sizes) -> int:
    return s.seqlen_k - s.seqlen_q


def _blocked(s: Sizes) -> Mask:
    return numba_fa.block_mask(
        numba_fa.Document(*documents(s)), batch=s.batch, seqlen_q=s.seqlen_q, seqlen_k=s.seqlen_k, block_size=(64, 32)
    )


PROGRAMS: dict[str, Callable[[Sizes], Asked]] = {
    "full": lambda s: Asked("full"),
    "causal": lambda s: Asked("causal"),
    "window": lambda s: Asked(numba_fa.SlidingWindow(40, 9)),
    "window-sinks": lambda s: Asked(numba_fa.SlidingWindow(50, 0, sinks=4)),
    "padding": lambda s: Asked(numba_fa.KeyPadding(lengths(s))),
    "document": lambda s: Asked(numba_fa.Document(*documents(s))),
    "prefix": lambda s: Asked(numba_fa.PrefixLM(lengths(s) // 2)),
    "prefix-int": lambda s: Asked(numba_fa.PrefixLM(s.seqlen_k // 3)),
    "mod": lambda s: Asked(numba_fa.MaskMod(striped, _marks(s), 3)),
    "mod-causal": lambda s: Asked(numba_fa.MaskMod(causal_mod, _offset(s))),
    "block": lambda s: Asked(_blocked(s)),
    "all": lambda s: Asked(numba_fa.Causal() & numba_fa.KeyPadding(lengths(s))),
    "any": lambda s: Asked(numba_fa.SlidingWindow(20, 0) | numba_fa.PrefixLM(17)),
    "nested": lambda s: Asked((numba_fa.SlidingWindow(60, 10) | numba_fa.Document(*documents(s))) & numba_fa.Causal()),
    "block-causal": lambda s: Asked(_blocked(s) & numba_fa.Causal()),
    "alibi": lambda s: Asked("causal", (numba_fa.ALiBi(slopes(s)),)),
    "alibi-batch": lambda s: Asked("full", (numba_fa.ALiBi(random(s.batch, s.heads) ** 2 / 8),)),
    "dense": lambda s: Asked("causal", (numba_fa.DenseBias(random(s.batch, s.heads, s.seqlen_q, s.seqlen_k)),)),
    "dense-row": lambda s: Asked("full", (numba_fa.DenseBias(random(1, s.heads, 1, s.seqlen_k)),)),
    "dense-fp16": lambda s: Asked("full", (numba_fa.DenseBias(random(s.seqlen_q, s.seqlen_k).astype(np.float16)),)),
    "t5": lambda s: Asked("full", (numba_fa.T5Bias(random(32, s.heads)),)),
    "t5-one-way": lambda s: Asked("causal", (numba_fa.T5Bias(random(16, s.heads), 64, bidirectional=False),)),
    "softcap": lambda s: Asked("causal", (numba_fa.Softcap(2.0),)),
    "score_mod": lambda s: Asked("causal", (numba_fa.ScoreMod(wave, 0.75),)),
    "score_mod-alibi": lambda s: Asked("causal", (numba_fa.ScoreMod(alibi_mod, _offset(s), slopes(s)),)),
    "sink": lambda s: Asked("causal", (), random(s.heads)),
    "everything": lambda s: Asked(
        numba_fa.SlidingWindow(50, 0, sinks=4), (numba_fa.Softcap(20.0), numba_fa.ALiBi(slopes(s))), random(s.heads)
    ),
    "window-padding-dense": lambda s: Asked(
        numba_fa.SlidingWindow(70, 30) & numba_fa.KeyPadding(lengths(s)),
        (numba_fa.DenseBias(random(s.batch, 1, s.seqlen_q, s.seqlen_k)), numba_fa.ScoreMod(wave, -0.5)),
    ),
}
