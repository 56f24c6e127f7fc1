"""A small transformer over characters, in torch, that takes its attention as an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import numba_fa

# Causal attention of q, k, v (batch, seqlen, heads, head_dim), of which k and v may have fewer heads.
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def numba_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """numba_fa's."""
    return numba_fa.attention(q, k, v, mask="causal")


def torch_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's own."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


@dataclass(frozen=True)
class Sizes:
    """Of a model and of what it is fed."""

    layers: int
    heads: int
    heads_kv: int
    head_dim: int
    seqlen: int
    batch: int

    @property
    def width(self) -> int:
        """Numbers a position."""
        return self.heads * self.head_dim


class Block(nn.Module):
    """Attention, then a network of two layers, each added to what comes in."""

    def __init__(self, sizes: Sizes, attention: Attention):
        super().__init__()
        self.sizes, self.attention = sizes, attention
        width, width_kv = sizes.width, sizes.heads_kv * sizes.head_dim
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, width + 2 * width_kv, bias=False)
        self.gathered = nn.Linear(width, width, bias=False)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        sizes = self.sizes
        heads = self.qkv(self.before(x)).unflatten(2, (-1, sizes.head_dim))
        q, k, v = heads.split([sizes.heads, sizes.heads_kv, sizes.heads_kv], 2)
        x = x + self.gathered(self.attention(q, k, v).flatten(2))
        return x + self.network(self.between(x))


class LanguageModel(nn.Module):
    """Logits of the next character, (batch, seqlen, characters), from characters (batch, seqlen)."""

    def __init__(self, characters: int, sizes: Sizes, attention: Attention):
        super().__init__()
        self.characters, self.positions = nn.Embedding(characters, sizes.width), nn.Embedding(sizes.seqlen, sizes.width)
        self.blocks = nn.Sequential(*[Block(sizes, attention) for _ in range(sizes.layers)])
        self.last, self.logits = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, characters, bias=False)
        self.apply(_small)

    def forward(self, text: Tensor) -> Tensor:
        x = self.characters(text) + self.positions.weight[: text.shape[1]]
        return self.logits(self.last(self.blocks(x)))

    @torch.no_grad()
    def continued(self, text: Tensor, length: int) -> Tensor:
        """A text (1, seqlen) with `length` characters more, drawn by their probabilities."""
        for _ in range(length):
            logits = self(text[:, -self.positions.num_embeddings :])[:, -1].float()
            text = torch.cat([text, torch.multinomial(logits.softmax(1), 1)], 1)
        return text


def _small(module: Any) -> None:
    """GPT-2's weights before training (Radford et al. 2019)."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
