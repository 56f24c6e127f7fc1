"""Shared-memory layout of 16-bit tiles for TMA and wgmma: atoms of 64 columns with the 128-byte swizzle.

A tile of r rows and c columns is ceil(c / 64) atoms of r rows x 128 bytes, one after another. Within an atom the
16-byte chunk j of row i lies at chunk j ^ (i & 7) (PTX ISA, "Matrix descriptor", 128-byte swizzling).
"""

ATOM_COLUMNS = 64
ATOM_ROW_BYTES = 128
SWIZZLE_ALIGNMENT = 1024
# What a block may use on sm_90, in bytes.
SHARED_LIMIT = 232448

_SWIZZLE_128 = 1 << 62
_STRIDE_8_ROWS = (1024 >> 4) << 32


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def k_major_descriptor() -> int:
    """Descriptor bits of an operand whose rows run along the summed axis; the address is or-ed in."""
    return _SWIZZLE_128 | _STRIDE_8_ROWS | 1 << 16


def mn_major_descriptor(atom_bytes: int) -> int:
    """Descriptor bits of an operand whose rows run across the summed axis; atom_bytes: from atom to atom."""
    return _SWIZZLE_128 | _STRIDE_8_ROWS | (atom_bytes >> 4) << 16


def k_major_step(step: int, atom_bytes: int) -> int:
    """What the step-th 16 columns add to a K-major descriptor, in units of 16 bytes."""
    atom, within = divmod(step, ATOM_COLUMNS // 16)
    return atom * (atom_bytes >> 4) + within * 2


def mn_major_step(step: int) -> int:
    """What the step-th 16 rows add to an MN-major descriptor, in units of 16 bytes."""
    return step * (16 * ATOM_ROW_BYTES >> 4)
