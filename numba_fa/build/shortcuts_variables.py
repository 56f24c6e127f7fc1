"""More of `shortcuts`: what Numba-CUDA asks of variables, for each pass over a function: which are used, and how long."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from types import CodeType
from typing import Any

from numba_fa.build.shortcuts_passes import Replacement, does


def replacements(target: Any) -> Iterator[Replacement]:
    """(owner, attribute, what to put there)."""
    yield _lifetimes_when_wanted()
    yield _ends_where_counted(target)
    yield _variables_by_kind()
    yield _leave_what_is_over()
    yield _assigned_once()
    yield from _uses_by_kind()


def _lifetimes_when_wanted() -> Replacement:
    """Which variables live where is worked out when it is asked for, and not after every pass."""
    from numba.cuda.core import transforms
    from numba.cuda.core.postproc import PostProcessor, VariableLifetime

    run = PostProcessor.run

    def lean(self: Any, emit_dels: bool = False, extend_lifetimes: bool = False) -> None:
        code = self.func_ir
        if code.is_generator:
            return run(self, emit_dels, extend_lifetimes)
        code.blocks = transforms.canonicalize_cfg(code.blocks)
        code.variable_lifetime = VariableLifetime(code.blocks)
        code.generator_info = None
        if emit_dels:
            self._insert_var_dels(extend_lifetimes=extend_lifetimes)

    return PostProcessor, "run", lean


def _ends_where_counted(target: Any) -> Replacement:
    """Ends of variables' lives are written into a function where something is done there: where references are counted.

    Numba writes them three times a function, and takes them out twice. Lists made into arrays are found by them, too.
    """
    from numba.cuda.core.postproc import PostProcessor

    insert, ours = PostProcessor._insert_var_dels, threading.get_ident()

    def insert_var_dels(self: Any, extend_lifetimes: bool = False) -> None:
        code = self.func_ir
        if target.enable_nrt or code.is_generator or threading.get_ident() != ours or makes_lists(code.func_id.code):
            insert(self, extend_lifetimes)

    return PostProcessor, "_insert_var_dels", insert_var_dels


def makes_lists(code: CodeType) -> bool:
    """Whether a function makes a list, or a function that might."""
    return does(code, "BUILD_LIST", "MAKE_FUNCTION")


def _variables_by_kind() -> Replacement:
    """What of an instruction's parts is a variable: told by the part's type, which is looked into once."""
    from numba.cuda.core import ir

    kinds: dict[type, int] = {}
    variable, instruction, sequence, mapping = 1, 2, 3, 4
    families = (ir.var_types, variable), (ir.inst_types, instruction), ((list, tuple), sequence), (dict, mapping)

    def kind_of(part: Any) -> int:
        kind = kinds.get(type(part))
        if kind is None:
            kind = kinds[type(part)] = next((number for family, number in families if isinstance(part, family)), 0)
        return kind

    def collect(part: Any, kind: int, found: list[Any]) -> None:
        if kind == variable:
            found.append(part)
        elif kind == instruction:
            found += part.list_vars()
        else:
            for item in part if kind == sequence else part.values():
                inner = kinds.get(type(item))
                if inner is None:
                    inner = kind_of(item)
                if inner == variable:
                    found.append(item)
                elif inner:
                    collect(item, inner, found)

    def variables(self: Any, part: Any) -> list[Any]:
        found: list[Any] = []
        kind = kind_of(part)
        if kind:
            collect(part, kind, found)
        return found

    return ir.Inst, "_rec_list_vars", variables


def _leave_what_is_over() -> Replacement:
    """The end of a variable's life is no code where nothing is counted."""
    from numba.cuda.lowering import CUDALower

    delete = CUDALower.delvar

    def delvar(self: Any, name: str) -> None:
        if self.context.enable_nrt or self._disable_sroa_like_opt or name in self.poly_var_set:
            return delete(self, name)
        if name not in self._blk_local_varmap:
            self._singly_assigned_vars.discard(name)
        self._alloca_var(name, self.typeof(name))

    return CUDALower, "delvar", delvar


def _assigned_once() -> Replacement:
    """Variables that need no memory, assigned once and used in that block only: counted in one walk, not one a variable."""
    from numba.cuda import lowering
    from numba.cuda.core import ir

    def find(self: Any) -> None:
        self._singly_assigned_vars, self._blk_local_varmap = set(), {}
        if self.func_ir.func_id.is_generator:
            return
        blocks = self.func_ir.blocks
        targets = [one.target.name for block in blocks.values() for one in block.find_insts(ir.assign_types)]
        once = {name for name, times in Counter(targets).items() if times == 1}
        elsewhere = set().union(*lowering.compute_use_defs(blocks).usemap.values())
        self._singly_assigned_vars = once - elsewhere - set(lowering.must_use_alloca(blocks))

    return lowering.Lower, "_find_singly_assigned_variable", find


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
