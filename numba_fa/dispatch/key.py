"""DispatchKey: the whole compile-time identity of a kernel, and its slug."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

_SLUG = re.compile(
    r"(?P<op>fwd|block|bwd(?:_[a-z]+\d*)?)-(?P<family>\w+)-(?P<dtype>\w+)-d(?P<head_dim>\d+)-(?P<mask>[\w+]+)(?:-(?P<bias>[\w+]+))?"
    r"-m(?P<block_m>\d+)n(?P<block_n>\d+)s(?P<stages>\d+)"
)
_NUMBERS = ("head_dim", "block_m", "block_n", "stages")
NO_BIAS = "none"


@dataclass(frozen=True, slots=True)
class DispatchKey:
    """Names one specialised kernel. Values that can be launch arguments (lengths, scale) are not in it.

    op: "fwd", "bwd", "block", or one of the other kernels of a backward, "bwd_" and its name, maybe with a bias's number.

    head_dim: as compiled, padded to what the family's instructions take. block_m: queries a tile. block_n: keys a
    tile. stages: depth of the key/value ring (1: no ring). mask: names in prefix order joined by "+", such as
    "all2+causal+padding". bias: names in the order applied, "sink" last; "none" where there are none.

    >>> str(DispatchKey("fwd", "sm90", "bf16", 128, "causal", 128, 128, 2))
    'fwd-sm90-bf16-d128-causal-m128n128s2'
    >>> DispatchKey.parse('fwd-sm90-bf16-d128-causal-m128n128s2').block_n
    128
    >>> DispatchKey.parse('fwd-sm90-bf16-d128-causal-softcap+alibi-m128n128s2').bias
    'softcap+alibi'
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

    @property
    def slug(self) -> str:
        """The key as a file name, test id, benchmark parameter and command-line argument."""
        bias = "" if self.bias == NO_BIAS else f"-{self.bias}"
        return (
            f"{self.op}-{self.family}-{self.dtype}-d{self.head_dim}-{self.mask}{bias}"
            f"-m{self.block_m}n{self.block_n}s{self.stages}"
        )

    __str__ = slug.fget  # type: ignore[attr-defined]

    @classmethod
    def parse(cls, slug: str) -> DispatchKey:
        """The key that `slug` names; ValueError when it names none."""
        found = _SLUG.fullmatch(slug)
        if not found:
            raise ValueError(f"{slug!r} is no slug; one looks like fwd-sm90-bf16-d128-causal-m128n128s2")
        fields: dict[str, Any] = found.groupdict(NO_BIAS)
        return cls(**fields | {name: int(fields[name]) for name in _NUMBERS})
