"""What shortcuts leave out of Numba's front end is nowhere missed: errors, warnings and lists are as they were."""

import re
import warnings
from collections import Counter

import numpy as np
import pytest
from numba.core.errors import NumbaPerformanceWarning
from numba.cuda import types
from numba.cuda.core.errors import WarningsFixer
from numba.cuda.core.postproc import PostProcessor
from numba.cuda.extending import intrinsic
from numba.cuda.lowering import CUDALower
from numba.cuda.typing import npydecl

from numba_fa.build import shortcuts as module
from numba_fa.build.compiler import _compiling_for
from numba_fa.build.shortcuts_passes import does, handles_exceptions
from numba_fa.build.shortcuts_variables import makes_lists
from numba_fa.jit import device


def make_warning():
    """What warns when it is typed; once, since Numba keeps types."""

    @intrinsic
    def warning(typing_context, x):
        warnings.warn(NumbaPerformanceWarning("slow"), stacklevel=1)
        warnings.warn("a user's", UserWarning, stacklevel=1)
        return types.int32(x), lambda context, builder, signature, arguments: arguments[0]

    return warning


def unknown_name(x):
    return x + no_such_name  # noqa: F821


def wrong_types(x):
    return x + (x, x)


def wrong_inside(x):
    y = inner_wrong(x)
    return y + 1


def tried(x):
    try:
        return 1 // x
    except ZeroDivisionError:
        return 0


def entered(x):
    with x:
        return 1


def listed(x):
    return np.array([1, 2, 3])[x]


def comprehended(x):
    return np.array([i + x for i in range(4)])[0]


def dictionary(x):
    return {"a": x, **{"b": x}}


inner_wrong = device(wrong_types)


def _compiled(function):
    with _compiling_for((9, 0, "a")):
        device(function).compile_device((types.int32,))


def _error(function):
    try:
        _compiled(function)
    except Exception as error:
        # Numba indents further with each error of a process, and names functions by address.
        return type(error), re.sub(r" at 0x\w+", "", re.sub(r"^ +", "", str(error), flags=re.M))


@pytest.mark.parametrize(
    "function", [unknown_name, wrong_types, wrong_inside, tried, entered, listed, comprehended, dictionary]
)
def test_errors_are_worded_as_ever(monkeypatch, function):
    quick = _error(function)
    monkeypatch.setattr(module, "KNOWN", "no version")
    assert quick == _error(function)


def test_warnings_come_from_where_they_came(monkeypatch):
    def warned():
        first, second = make_warning(), make_warning()
        inner = device(lambda x: first(x))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            _compiled(lambda x: inner(x) + second(x))
        return Counter((one.category, str(one.message), one.filename, one.lineno) for one in found)

    quick = warned()
    assert {kind for kind, *_ in quick} == {NumbaPerformanceWarning, UserWarning}
    monkeypatch.setattr(module, "KNOWN", "no version")
    assert quick == warned()


def test_filters_of_warnings_are_set_for_the_outermost_only(monkeypatch):
    set_, plain = [], WarningsFixer.catch_warnings
    monkeypatch.setattr(WarningsFixer, "catch_warnings", lambda *a, **k: set_.append(a) or plain(*a, **k))
    inner = device(lambda x: x * x * x * x)
    _compiled(lambda x: inner(x))
    quick = len(set_)
    monkeypatch.setattr(module, "KNOWN", "no version")
    inner = device(lambda x: x * x * x * x)
    _compiled(lambda x: inner(x))
    assert quick < (len(set_) - quick) / 2


def test_ends_of_lives_are_written_for_lists_only(monkeypatch):
    written, plain = [], PostProcessor._patch_var_dels
    monkeypatch.setattr(PostProcessor, "_patch_var_dels", lambda *a, **k: written.append(a) or plain(*a, **k))
    _compiled(lambda x: x + 1)
    assert not written
    _error(listed)
    assert written


def looped(x):
    total = 0
    for i in range(x):
        y = i * i
        if y > 3:
            total += y
        else:
            z = y + 1
            z = z * z
            total -= z
    return total + x


@pytest.mark.parametrize("function", [looped, lambda x: x * x + 1])
def test_what_needs_no_memory_is_what_numba_finds(monkeypatch, function):
    found, create, plain = [], CUDALower.init, CUDALower._find_singly_assigned_variable

    def init(self):
        create(self)
        ours = set(self._singly_assigned_vars)
        plain(self)
        found.append((ours, set(self._singly_assigned_vars)))

    monkeypatch.setattr(CUDALower, "init", init)
    _compiled(function)
    [(ours, numbas)] = found
    assert ours == numbas and ours


def test_operators_on_numbers_go_through_no_ufunc(monkeypatch):
    asked, plain = [], npydecl.Numpy_rules_ufunc.generic
    monkeypatch.setattr(npydecl.Numpy_rules_ufunc, "generic", lambda *a: asked.append(a) or plain(*a))
    _compiled(lambda x: x * 3 + 1 < x)
    assert not asked


@pytest.mark.parametrize(
    ("function", "operation", "done"), [(dictionary, "DICT_UPDATE", True), (looped, "DICT_UPDATE", False)]
)
def test_operations_of_byte_code(function, operation, done):
    assert does(function.__code__, operation) is done


@pytest.mark.parametrize(("function", "handled"), [(entered, True), (tried, True), (looped, False), (listed, False)])
def test_who_handles_exceptions(function, handled):
    assert handles_exceptions(function.__code__) is handled


@pytest.mark.parametrize(("function", "made"), [(listed, True), (comprehended, True), (tried, False), (entered, False)])
def test_who_makes_lists(function, made):
    assert makes_lists(function.__code__) is made
