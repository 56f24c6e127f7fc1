"""The kernel that makes block masks, as dispatch sees it."""

from __future__ import annotations

from typing import Any

from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.variant import Variant

SIGNATURE = ("array:int32:4", "int32", "int32", "int32", "int32")


def _unused(*_: Any) -> Any:
    raise NotImplementedError("a block mask is made of a mask, not of a problem")


def block_key(mask: str) -> DispatchKey:
    """The key of the kernel that fills the table of a mask, given by its text. Block sizes are launch arguments."""
    return DispatchKey("block", "common", "int32", 0, mask, 1, 1, 1)


BLOCK_TABLE = Variant(
    name="block-table",
    op="block",
    family="common",
    dtypes=(),
    head_dims=range(0),
    masks=(),
    alignment=1,
    source="numba_fa.kernels.common.block_table:make_block_table",
    signature=lambda dtype: SIGNATURE,
    key_for=_unused,
    grid=_unused,
    arguments=_unused,
)
