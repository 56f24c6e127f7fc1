"""More of `shortcuts`: what Numba-CUDA does around each of its 26 passes over a function; a kernel has 33 functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from types import BuiltinFunctionType
from typing import Any

Replacement = tuple[Any, str, Callable[..., Any]]


def replacements() -> Iterator[Replacement]:
    """(owner, attribute, what to put there)."""
    yield _signature_once()
    yield _passes_alone()
    yield _builtins_by_name()
    yield from _uses_by_kind()


def _signature_once() -> Replacement:
    """A Python function's signature, which is asked for at each call of it and of each operator: once a function."""
    from numba.cuda import utils  # type: ignore[attr-defined]

    return utils, "pysignature", lru_cache(None)(utils.pysignature)


def _passes_alone() -> Replacement:
    """A pass without clocks, events and words for a listener, where nobody listens or has a pass printed."""
    from numba.cuda.core import errors, event
    from numba.cuda.core.compiler_machinery import FunctionPass, PassManager
    from numba.cuda.core.ir_utils import enforce_no_dels

    run = PassManager._runPass

    def run_alone(self: Any, index: int, one: Any, state: Any) -> None:
        if self._print_before or self._print_after or self._print_wrap or self._ENFORCING or any(event._registered.values()):
            return run(self, index, one, state)
        one.analysis = self._analysis
        with errors.new_error_context(f"Pass {one.name()}"):
            one.run_initialization(state)
            one.run_pass(state)
            one.run_finalizer(state)
        if isinstance(one, FunctionPass):
            enforce_no_dels(state.func_ir)

    return PassManager, "_runPass", run_alone


def _builtins_by_name() -> Replacement:
    """The type of an operator or another of Python's own functions: looked up first, not tried as a value of each kind."""
    from numba.cuda.target import CUDATypingContext

    resolve = CUDATypingContext.resolve_value_type

    def resolve_value_type(self: Any, value: Any) -> Any:
        found = self._lookup_global(value) if type(value) is BuiltinFunctionType else None
        return resolve(self, value) if found is None else found

    return CUDATypingContext, "resolve_value_type", resolve_value_type


def _uses_by_kind() -> Iterator[Replacement]:
    """Which variables a block uses and defines: an assignment's looked for once, and not to see what is defined as well."""
    from numba.cuda import lowering
    from numba.cuda.core import analysis, ir
    from numba.cuda.core.ir_utils import compat_list_vars_stmt

    plain, kinds = analysis.compute_use_defs, dict[tuple[type, type], int]()
    instruction, variable, nothing, other = 1, 2, 3, 4
    constants = ir.arg_types, ir.const_types, ir.global_types, ir.freevar_types
    families = (ir.inst_types, instruction), (ir.var_types, variable), *[(family, nothing) for family in constants]

    def kind_of(statement: Any, value: Any) -> int:
        if not isinstance(statement, ir.assign_types):
            return other
        return next(number for family, number in families if isinstance(value, family))

    def compute_use_defs(blocks: Any) -> Any:
        if analysis.ir_extension_usedefs:
            return plain(blocks)
        uses: dict[Any, set[str]] = {}
        defines: dict[Any, set[str]] = {}
        for offset, block in blocks.items():
            used, defined = uses.setdefault(offset, set()), defines.setdefault(offset, set())
            for statement in block.body:
                value: Any = getattr(statement, "value", None)
                key = type(statement), type(value)
                kind = kinds.get(key) or kinds.setdefault(key, kind_of(statement, value))
                if kind == instruction:
                    names = {one.name for one in value.list_vars()}
                elif kind == variable:
                    names = {value.name}
                elif kind == nothing:
                    names = set()
                else:
                    used.update(one.name for one in compat_list_vars_stmt(statement) if one.name not in defined)
                    continue
                if statement.target.name not in names:
                    defined.add(statement.target.name)
                used |= names - defined
        return analysis._use_defs_result(usemap=uses, defmap=defines)

    yield analysis, "compute_use_defs", compute_use_defs
    yield lowering, "compute_use_defs", compute_use_defs
