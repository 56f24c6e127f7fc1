"""Shortcuts through Numba's compiler: in force in the version they are for, gone afterwards, without trace in the code."""

import sys
import threading

import pytest

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.build import shortcuts as module
from numba_fa.build.compiler import compile_kernel
from numba_fa.build.shortcuts import shortcuts
from numba_fa.dispatch.registry import variant_of
from numba_fa.dispatch.tuning import key_for
from numba_fa.testing.programs import PROGRAMS, Sizes

REPLACED = {
    ("CUDATypingContext", "refresh"), ("CUDATargetContext", "refresh"), ("Function", "get_call_type"),
    ("PostProcessor", "run"), ("Inst", "_rec_list_vars"), ("TargetConfig", "values"),
    ("CUDATargetContext", "get_abi_sizeof"), ("CUDALower", "delvar"), ("numba.cuda.utils", "pysignature"),
    ("CUDATypingContext", "resolve_value_type"), ("PassManager", "_runPass"),
    ("numba.cuda.core.analysis", "compute_use_defs"), ("numba.cuda.lowering", "compute_use_defs"),
    ("PostProcessor", "_insert_var_dels"), ("PassManager", "dependency_analysis"), ("Flow", "_run_handle_exception"),
    ("RewriteArrayOfConsts", "match"), ("WarningsFixer", "catch_warnings"), ("numba.cuda.core.errors", "new_error_context"),
    ("numba.cuda.core.typeinfer", "new_error_context"), ("numba.cuda.lowering", "new_error_context"),
    ("numba.cuda.core.byteflow", "_logger"), ("numba.cuda.core.interpreter", "_logger"), ("numba.cuda.core.ssa", "_logger"),
    ("numba.cuda.core.typeinfer", "_logger"), ("_TypeMetaclass", "__instancecheck__"),
    ("_TypeMetaclass", "__subclasscheck__"), ("TypeVarMap", "__missing__"), ("TypeVarMap", "__getitem__"),
    ("numba.cuda.core.interpreter", "peep_hole_delete_with_exit"),
    ("numba.cuda.core.interpreter", "peep_hole_fuse_dict_add_updates"), ("NumpyRulesArrayOperator", "generic"),
    ("Lower", "_find_singly_assigned_variable"), ("CUDATypingContext", "resolve_getattr"),
    ("numba.cuda.core.transforms", "find_setupwiths"),
}  # fmt: skip


@pytest.fixture
def replaced(monkeypatch):
    """What gets replaced, as it happens: (class, attribute, what was there)."""
    seen, real = [], module._replaced
    monkeypatch.setattr(module, "_replaced", lambda *a: seen.append((*a[:2], vars(a[0]).get(a[1]))) or real(*a))
    return seen


def test_in_force_inside_and_gone_outside(replaced):
    with shortcuts():
        for owner, name, before in replaced:
            assert vars(owner)[name] is not before
    assert {(owner.__name__, name) for owner, name, _ in replaced} == REPLACED
    for owner, name, before in replaced:
        assert vars(owner).get(name) is before


def test_gone_after_an_error(replaced):
    with pytest.raises(ZeroDivisionError), shortcuts():
        raise ZeroDivisionError
    assert replaced and all(vars(owner).get(name) is before for owner, name, before in replaced)


def test_another_version_of_numba_cuda_is_left_alone(monkeypatch, replaced):
    monkeypatch.setattr(module, "versions", lambda: {"numba-cuda": "0.31.0"})
    with shortcuts():
        pass
    assert not replaced


def test_a_rearranged_release_is_left_alone(monkeypatch, replaced):
    monkeypatch.setattr(module, "_size_once", lambda owner: owner.no_such_attribute)
    with shortcuts():
        assert replaced and all(vars(owner).get(name) is before for owner, name, before in replaced)


@pytest.mark.parametrize("program", ["causal", "score_mod", "document", "dense-fp16"])
@pytest.mark.parametrize(("family", "dtype"), [("sm90", "bf16"), ("simt", "fp32")])
def test_machine_code_is_the_same_without_them(monkeypatch, family, dtype, program):
    key = key_for("fwd", family, dtype, 64, *PROGRAMS[program](Sizes(1, 1024, 1024, 4)).names)
    quick = compile_kernel(key, variant_of(key).factory(), "sm_90a")
    monkeypatch.setattr(module, "KNOWN", "no version")
    assert compile_kernel(key, variant_of(key).factory(), "sm_90a").cubin == quick.cubin


def test_scipy_is_hidden_from_this_thread_alone():
    finder, found = module._WithoutScipy(), []
    with pytest.raises(ModuleNotFoundError):
        finder.find_spec("scipy.linalg")
    assert finder.asked and finder.find_spec("scipy.special") is None
    other = threading.Thread(target=lambda: found.append(finder.find_spec("scipy.linalg")))
    other.start()
    other.join()
    assert found == [None]


def test_the_importer_is_gone():
    with shortcuts():
        assert not any(isinstance(finder, module._WithoutScipy) for finder in sys.meta_path)
