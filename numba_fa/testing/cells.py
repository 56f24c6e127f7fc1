"""The cells that tests cover: what variants declare, times heads, times shape classes that edges come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numba_fa.dispatch.variant import Variant

_ARRAY_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

# heads, heads_kv: as many, groups of three, one for all
HEADS = {"mha": (2, 2), "gqa": (6, 2), "mqa": (3, 1)}

# batch, seqlen_q, seqlen_k, layout. Lengths around no tile, a part of one, and several.
SHAPES = {
    "one": (1, 1, 1, "bshd"),
    "decode": (2, 1, 77, "bhsd"),
    "ragged": (2, 197, 333, "padded"),
    "tall": (1, 211, 40, "bshd"),  # under a causal mask most rows see nothing
    "tiles": (1, 384, 256, "bhsd"),
}


@dataclass(frozen=True)
class Cell:
    """One combination to be tested. `dtype` is NumPy's name for it."""

    family: str
    dtype: str
    head_dim: int
    mask: str
    heads_class: str
    shape_class: str

    @property
    def id(self) -> str:
        """Readable test id."""
        return f"{self.family}-{self.dtype}-d{self.head_dim}-{self.mask}-{self.heads_class}-{self.shape_class}"

    @property
    def heads(self) -> tuple[int, int]:
        """(heads, heads_kv)."""
        return HEADS[self.heads_class]

    @property
    def shape(self) -> tuple[int, int, int, str]:
        """(batch, seqlen_q, seqlen_k, layout)."""
        return SHAPES[self.shape_class]


def declared_cells(variant: Variant, head_dims: tuple[int, ...] | None = None) -> Iterator[Cell]:
    """Every declared dtype, head_dim (or those of `head_dims`) and plain mask, with every heads and shape class."""
    for dtype, head_dim, mask, bias in variant.cells():
        if bias == "none" and mask in ("full", "causal") and (head_dims is None or head_dim in head_dims):
            for heads_class in HEADS:
                for shape_class in SHAPES:
                    yield Cell(variant.family, _ARRAY_NAMES[dtype], head_dim, mask, heads_class, shape_class)
