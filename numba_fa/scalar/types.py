"""Numba types of the scalars that user functions compute with, and how they unify.

Under Numba's own rules int32 + int32 is int64 and float32 * 0.5 is float64; on a GPU that costs more than the kernel.
"""

from __future__ import annotations

from typing import Any

from numba.cuda import types
from numba.cuda.datamodel.models import ArrayModel, PrimitiveModel, StructModel
from numba.cuda.models import register_model

__all__ = [
    "DualType", "IndexType", "RealType", "ScalarArray", "ScalarType", "StoredType", "family", "joined", "kinds_by_name",
    "scalar_of",
]  # fmt: skip


class ScalarType(types.Type):
    """What the operator tables are for. It converts to and from numbers by casts only, never in overload resolution."""

    def unify(self, typingctx: Any, other: Any) -> Any:
        """A branch's type with another's: `score if seen else -math.inf` is a Real."""
        return joined([self, other])


class RealType(ScalarType):
    """A float32. fast: whether tanh may take the hardware's approximation (relative error 2**-11)."""

    def __init__(self, fast: bool = False) -> None:
        self.fast = fast
        super().__init__("Real(fast)" if fast else "Real")


class DualType(ScalarType):
    """A float32 with its derivative by the score: what a function is given to be differentiated. fast: as RealType's."""

    def __init__(self, fast: bool = False) -> None:
        self.fast = fast
        super().__init__("Dual(fast)" if fast else "Dual")


class IndexType(ScalarType):
    """A 32-bit integer with its float32 twin; the compiler drops the one that nobody uses.

    natural: it is known not to be negative, so as an index of an array it needs no wrapping round.
    """

    def __init__(self, natural: bool = False) -> None:
        self.natural = natural
        super().__init__("Position" if natural else "Index")


class StoredType(ScalarType):
    """An element as an array stores it. It acts as the Real or Index `meaning` that it becomes when it is used."""

    def __init__(self, storage: Any, meaning: ScalarType) -> None:
        self.storage, self.meaning = storage, meaning
        super().__init__(f"Stored({storage}, {meaning})")


class ScalarArray(types.Array):
    """An array of a user function: it is only read, and its elements are scalars."""


register_model(ScalarArray)(ArrayModel)


@register_model(RealType)
class _RealModel(PrimitiveModel):
    def __init__(self, manager: Any, numba_type: RealType) -> None:
        super().__init__(manager, numba_type, manager[types.float32].get_value_type())


@register_model(DualType)
class _DualModel(StructModel):
    def __init__(self, manager: Any, numba_type: DualType) -> None:
        super().__init__(manager, numba_type, [("value", types.float32), ("slope", types.float32)])


@register_model(IndexType)
class _IndexModel(StructModel):
    def __init__(self, manager: Any, numba_type: IndexType) -> None:
        super().__init__(manager, numba_type, [("whole", types.int32), ("base", types.float32), ("rest", types.float32)])


@register_model(StoredType)
class _StoredModel(PrimitiveModel):
    def __init__(self, manager: Any, numba_type: StoredType) -> None:
        super().__init__(manager, numba_type, manager[numba_type.storage].get_data_type())


def scalar_of(numba_type: Any, fast: bool) -> Any:
    """What a user function sees of a launch argument: a number as a scalar, an array as an array of scalars."""
    if isinstance(numba_type, types.Array) and isinstance(numba_type.dtype, types.Number | types.Boolean):
        meaning = scalar_of(numba_type.dtype, fast)
        stored = StoredType(numba_type.dtype, meaning) if isinstance(meaning, ScalarType) else meaning
        return ScalarArray(stored, numba_type.ndim, numba_type.layout)
    if isinstance(numba_type, types.Integer):
        return IndexType()
    if isinstance(numba_type, types.Float | type(types.bfloat16)):
        return RealType(fast)
    return numba_type


def kinds_by_name(arguments: list[Any]) -> dict[str, Any]:
    """Types that user functions may be called with, by their names: of scalars and of launch arguments of these types."""
    kinds = [kind(flag) for kind in (RealType, DualType, IndexType) for flag in (False, True)]
    for fast in (False, True):
        scalars = [scalar_of(each, fast) for each in arguments]
        kinds += [*scalars, types.BaseTuple.from_types(scalars)]
    return {str(kind): kind for kind in kinds}


def family(numba_type: Any) -> str:
    """How an operand takes part: "dual", "real", "index", or "" when it is none of ours and no number."""
    if isinstance(numba_type, StoredType):
        numba_type = numba_type.meaning
    if isinstance(numba_type, DualType):
        return "dual"
    if isinstance(numba_type, RealType | types.Float | type(types.bfloat16)):
        return "real"
    return "index" if isinstance(numba_type, IndexType | types.Integer | types.Boolean) else ""


def joined(operands: list[Any]) -> Any:
    """The scalar type that numbers and scalars meet in; None when one is neither."""
    families = {family(operand) for operand in operands}
    if "" in families:
        return None
    if "dual" in families or "real" in families:
        return (DualType if "dual" in families else RealType)(any(_fast(operand) for operand in operands))
    return IndexType(all(isinstance(operand, IndexType) and operand.natural for operand in operands))


def _fast(numba_type: Any) -> bool:
    meaning = getattr(numba_type, "meaning", numba_type)
    return isinstance(meaning, RealType | DualType) and meaning.fast
