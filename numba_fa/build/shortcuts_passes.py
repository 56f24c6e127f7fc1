"""More of `shortcuts`: what Numba-CUDA does around each of its 26 passes over a function, and in a few of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from opcode import opmap
from types import BuiltinFunctionType, CodeType
from typing import Any

Replacement = tuple[Any, str, Any]


def replacements() -> Iterator[Replacement]:
    """(owner, attribute, what to put there)."""
    yield _signature_once()
    yield _passes_alone()
    yield _builtins_by_name()
    yield _order_once()
    yield _no_exceptions_where_none()
    yield _arrays_of_lists()
    yield from _rewrites_of_what_is_there()


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


def _order_once() -> Replacement:
    """What each pass of a sequence depends on: for the same sequence worked out once, and not four times a function."""
    from numba.cuda.core.compiler_machinery import PassManager

    analyse, known = PassManager.dependency_analysis, dict[Any, Any]()

    def dependency_analysis(self: Any) -> Any:
        sequence = tuple(one for one, _ in self.passes)
        if sequence not in known:
            known[sequence] = analyse(self)
        return known[sequence]

    return PassManager, "dependency_analysis", dependency_analysis


def _no_exceptions_where_none() -> Replacement:
    """After each instruction of bytecode: whether an exception would be handled, where the function handles any."""
    from numba.cuda.core.byteflow import Flow

    handle = Flow._run_handle_exception

    def run_handle_exception(self: Any, runner: Any, state: Any) -> Any:
        if getattr(self._bytecode, "exception_entries", True):
            return handle(self, runner, state)
        state.advance_pc()

    return Flow, "_run_handle_exception", run_handle_exception


def _arrays_of_lists() -> Replacement:
    """Arrays made of lists of constants are looked for where a list is made."""
    from numba.cuda.core.inline_closurecall import RewriteArrayOfConsts

    match = RewriteArrayOfConsts.match

    def match_lists(self: Any, code: Any, block: Any, *types: Any) -> Any:
        return any(block.find_exprs("build_list")) and match(self, code, block, *types)

    return RewriteArrayOfConsts, "match", match_lists


def _rewrites_of_what_is_there() -> Iterator[Replacement]:
    """With and long dictionaries are looked for and rewritten where byte code has any."""
    from numba.cuda.core import interpreter, transforms

    leave, fuse = interpreter.peep_hole_delete_with_exit, interpreter.peep_hole_fuse_dict_add_updates
    find = transforms.find_setupwiths

    def delete_with_exit(code: Any) -> Any:
        return leave(code) if handles_exceptions(code.func_id.code) else code

    def fuse_dict_add_updates(code: Any) -> Any:
        return fuse(code) if does(code.func_id.code, "DICT_UPDATE") else code

    def find_setupwiths(code: Any) -> Any:
        return find(code) if handles_exceptions(code.func_id.code) else ([], code)

    yield transforms, "find_setupwiths", find_setupwiths
    yield interpreter, "peep_hole_delete_with_exit", delete_with_exit
    yield interpreter, "peep_hole_fuse_dict_add_updates", fuse_dict_add_updates


def handles_exceptions(code: CodeType) -> bool:
    """Whether a function handles exceptions, as leaving a with does. Before Python 3.11 nobody tells."""
    return bool(getattr(code, "co_exceptiontable", True))


def does(code: CodeType, *names: str) -> bool:
    """Whether a function's byte code has one of these operations; it may, where Python names them otherwise."""
    operations = code.co_code[::2]
    return any(name not in opmap or opmap[name] in operations for name in names)
