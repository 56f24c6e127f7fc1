"""DispatchKey: the whole compile-time identity of a kernel, and its slug."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

_SLUG = re.compile(
    r"(?P<op>fwd|block|bwd(?:_[a-z]+\d*)?)-(?P<family>\w+)-(?P<dtype>\w+)-d(?P<head_dim>\d+)(?:v(?P<head_dim_v>\d+))?-(?P<mask>[\w+]+)(?:-(?P<bias>[\w+]+))?"
    r"-m(?P<block_m>\d+)n(?P<block_n>\d+)s(?P<stages>\d+)"
)
_NUMBERS = ("head_dim", "head_dim_v", "block_m", "block_n", "stages")
NO_BIAS = "none"


class HeadDims(NamedTuple):
    """head_dim of queries and keys, and of values."""

    head_dim: int
    head_dim_v: int

    @classmethod
    def parse(cls, text: str) -> HeadDims:
        """Of "128", or of "192:128" where values have their own."""
        head_dim, _, head_dim_v = text.partition(":")
        return cls(int(head_dim), int(head_dim_v or head_dim))

    def __str__(self) -> str:
        return f"{self.head_dim}" + (f":{self.head_dim_v}" if self.head_dim_v != self.head_dim else "")


@dataclass(frozen=True, slots=True)
class DispatchKey:
    """Names one specialised kernel. Values that can be launch arguments (lengths, scale) are not in it.

    op: "fwd", "bwd", "block", or one of the other kernels of a backward, "bwd_" and its name, maybe with a bias's number.

    head_dim, head_dim_v: columns of queries and keys, and of values, as compiled, padded to what the family's instructions
    take; head_dim_v 0 becomes head_dim, and a slug names it where it is another. block_m: queries a tile. block_n: keys a
    tile. stages: depth of the key/value ring (1: no ring). mask: names in prefix order joined by "+", such as
    "all2+causal+padding". bias: names in the order applied, "sink" last; "none" where there are none.

    >>> str(DispatchKey("fwd", "sm90", "bf16", 128, "causal", 128, 128, 2))
    'fwd-sm90-bf16-d128-causal-m128n128s2'
    >>> DispatchKey.parse('fwd-sm90-bf16-d128-causal-m128n128s2').block_n
    128
    >>> DispatchKey.parse('fwd-sm90-bf16-d128-causal-softcap+alibi-m128n128s2').bias
    'softcap+alibi'
    >>> DispatchKey.parse('fwd-sm90-bf16-d192v128-causal-m128n112s2').head_dim_v
    128
    >>> DispatchKey.parse('bwd_det-sm90-bf16-d128-causal-m64n128s2').op
    'bwd_det'
    """

    op: str
    family: str
    dtype: str
    head_dim: int
    mask: str
    block_m: int
    block_n: int
    stages: int
    bias: str = NO_BIAS
    head_dim_v: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)

    @property
    def dims(self) -> HeadDims:
        """Both."""
        return HeadDims(self.head_dim, self.head_dim_v)

    @property
    def widest(self) -> int:
        """The wider of the two."""
        return max(self.dims)

    @property
    def slug(self) -> str:
        """The key as a file name, test id, benchmark parameter and command-line argument."""
        bias = "" if self.bias == NO_BIAS else f"-{self.bias}"
        values = "" if self.head_dim_v == self.head_dim else f"v{self.head_dim_v}"
        return (
            f"{self.op}-{self.family}-{self.dtype}-d{self.head_dim}{values}-{self.mask}{bias}"
            f"-m{self.block_m}n{self.block_n}s{self.stages}"
        )

    __str__ = slug.fget  # type: ignore[attr-defined]

    @classmethod
    def parse(cls, slug: str) -> DispatchKey:
        """The key that `slug` names; ValueError when it names none."""
        found = _SLUG.fullmatch(slug)
        if not found:
            raise ValueError(f"{slug!r} is no slug; one looks like fwd-sm90-bf16-d128-causal-m128n128s2")
        fields: dict[str, Any] = found.groupdict()
        numbers = {name: int(fields[name] or 0) for name in _NUMBERS}
        return cls(**fields | numbers | {"bias": fields["bias"] or NO_BIAS})
