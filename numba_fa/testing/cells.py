"""The cells that tests cover: what variants declare, times heads, times shape classes that edges come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from numba_fa.dispatch.variant import Variant
from numba_fa.testing.programs import PROGRAMS, Sizes

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
PLAIN = ("full", "causal")
# head_dim, head_dim_v where values have their own: multi-head latent attention's first; wider, narrower, at the edges.
VALUE_DIMS = ((192, 128), (64, 128), (128, 64), (24, 8), (72, 256), (256, 40))


@dataclass(frozen=True)
class Cell:
    """One combination to be tested. `dtype` is NumPy's name for it; program is one of `PROGRAMS`: mask and biases.

    head_dim_v None: as head_dim.
    """

    family: str
    dtype: str
    head_dim: int
    program: str
    heads_class: str
    shape_class: str
    head_dim_v: int | None = None

    @property
    def id(self) -> str:
        """Readable test id."""
        values = "" if self.head_dim_v is None else f"v{self.head_dim_v}"
        return f"{self.family}-{self.dtype}-d{self.head_dim}{values}-{self.program}-{self.heads_class}-{self.shape_class}"

    @property
    def heads(self) -> tuple[int, int]:
        """(heads, heads_kv)."""
        return HEADS[self.heads_class]

    @property
    def shape(self) -> tuple[int, int, int, str]:
        """(batch, seqlen_q, seqlen_k, layout)."""
        return SHAPES[self.shape_class]

    @property
    def sizes(self) -> Sizes:
        """What its mask and biases are made for."""
        return Sizes(*self.shape[:3], self.heads[0])


def declared_cells(variant: Variant, head_dims: tuple[int, ...] | None = None) -> Iterator[Cell]:
    """Every declared dtype, head_dim (or those of `head_dims`) and plain mask, with every heads and shape class."""
    for dtype in variant.dtypes:
        for head_dim in variant.head_dims if head_dims is None else head_dims:
            for mask in PLAIN:
                for heads_class in HEADS:
                    for shape_class in SHAPES:
                        yield Cell(variant.family, _ARRAY_NAMES[dtype], head_dim, mask, heads_class, shape_class)


def value_cells(
    variant: Variant, programs: tuple[str, ...] = PLAIN, shapes: tuple[str, ...] = ("ragged", "tall", "tiles")
) -> Iterator[Cell]:
    """Every declared dtype with values of their own head_dim, for some of the other axes."""
    for dtype in variant.dtypes:
        for head_dim, head_dim_v in VALUE_DIMS:
            for program in programs:
                for shape_class in shapes:
                    name = _ARRAY_NAMES[dtype]
                    yield Cell(variant.family, name, head_dim, program, "gqa", shape_class, head_dim_v)


def programs_of(variant: Variant) -> tuple[str, ...]:
    """The programs all of whose masks and biases a variant declares."""
    sizes = Sizes(1, 1, 1, 1)
    found = []
    for name, make in PROGRAMS.items():
        asked = make(sizes)
        kinds = {asked.mask} if isinstance(asked.mask, str) else set(asked.mask.kinds)
        biases = {bias.kind for bias in asked.biases}
        if kinds <= set(variant.masks) and biases <= set(variant.biases) and (asked.sink_logits is None or variant.sink):
            found.append(name)
    return tuple(found)


def program_cells(
    variant: Variant, head_dims: tuple[int, ...], dtypes: tuple[str, ...] | None = None,
    heads: tuple[str, ...] = ("gqa",), shapes: tuple[str, ...] = ("ragged", "tall", "decode"),
) -> Iterator[Cell]:  # fmt: skip
    """Every declared mask and bias beyond the plain ones, and their compositions, for some of the other axes."""
    for dtype in dtypes or variant.dtypes:
        for head_dim in head_dims:
            for program in programs_of(variant):
                if program in PLAIN:
                    continue
                for heads_class in heads:
                    for shape_class in shapes:
                        yield Cell(variant.family, _ARRAY_NAMES[dtype], head_dim, program, heads_class, shape_class)
