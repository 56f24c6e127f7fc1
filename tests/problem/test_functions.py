"""Users' functions: a name that follows what they compute, and what cannot be taken."""

import math
import types

import numpy as np
import pytest

from numba_fa.errors import ProblemError
from numba_fa.problem import frozen
from numba_fa.problem.biases import ScoreMod
from numba_fa.problem.functions import FUNCTIONS, functions_of
from numba_fa.problem.masks import MaskMod

IDS = np.zeros(3, np.int32)


def made(source, name="f", **scope):
    """The function that `source` defines, in a scope of its own."""
    scope |= {"__name__": "user"}
    exec(compile(source, "user.py", "exec"), scope)
    return scope[name]


def name_of(source, name="f", aux=(), **scope):
    return MaskMod(made(source, name, **scope), *aux).name


PLAIN = "def f(b, h, q_idx, kv_idx):\n    return kv_idx <= q_idx + 3\n"
SAME = {
    "another name": ("def g(b, h, q_idx, kv_idx):\n    return kv_idx <= q_idx + 3\n", "g"),
    "other parameters' names": ("def f(a, c, i, j):\n    return j <= i + 3\n", "f"),
    "other lines": ("\n\n# three\ndef f(b, h, q_idx, kv_idx):\n\n    return (kv_idx <=\n        q_idx + 3)\n", "f"),
    "a docstring": ("def f(b, h, q_idx, kv_idx):\n    'What it does.'\n    return kv_idx <= q_idx + 3\n", "f"),
    "annotations": ("def f(b: int, h: int, q_idx: int, kv_idx: int) -> bool:\n    return kv_idx <= q_idx + 3\n", "f"),
    "a lambda": ("f = lambda b, h, q_idx, kv_idx: kv_idx <= q_idx + 3\n", "f"),
}
OTHER = {
    "a constant": "def f(b, h, q_idx, kv_idx):\n    return kv_idx <= q_idx + 4\n",
    "a constant's type": "def f(b, h, q_idx, kv_idx):\n    return kv_idx <= q_idx + 3.0\n",
    "an operator": "def f(b, h, q_idx, kv_idx):\n    return kv_idx < q_idx + 3\n",
    "which parameter": "def f(b, h, q_idx, kv_idx):\n    return kv_idx <= h + 3\n",
    "a local more": "def f(b, h, q_idx, kv_idx):\n    x = q_idx\n    return kv_idx <= x + 3\n",
    "an argument more": "def f(b, h, q_idx, kv_idx, *rest):\n    return kv_idx <= q_idx + 3\n",
}


@pytest.mark.parametrize("case", list(SAME))
def test_names_and_places_do_not_count(case):
    assert name_of(*SAME[case]) == name_of(PLAIN)


@pytest.mark.parametrize("case", list(OTHER))
def test_an_edit_counts(case):
    assert name_of(OTHER[case]) != name_of(PLAIN)


def test_a_name_is_a_kind_and_a_hash():
    name = name_of(PLAIN)
    assert name.startswith("mod_") and len(bytes.fromhex(name[4:])) == 5
    score = ScoreMod(lambda score, b, h, q_idx, kv_idx: score).name
    assert score.startswith("score_mod_") and score in FUNCTIONS and name in FUNCTIONS


GLOBAL = "def f(b, h, q_idx, kv_idx):\n    return kv_idx <= q_idx + x\n"


@pytest.mark.parametrize(("x", "y"), [(3, 4), (3, 3.0), (0.0, -0.0), (1, True), (np.float32(1), np.float64(1)),
                                      ((1, 2), (1, 3)), (np.int32(3), 3), (None, 0), (math.sin, math.cos)])  # fmt: skip
def test_globals_count_by_value_and_type(x, y):
    assert name_of(GLOBAL, x=x) == name_of(GLOBAL, x=x)
    assert name_of(GLOBAL, x=x) != name_of(GLOBAL, x=y)


def test_closures_count_as_globals_do():
    def within(x):
        return MaskMod(lambda b, h, q_idx, kv_idx: kv_idx <= q_idx + x).name

    assert within(3) == within(3) != within(4)
    assert within(0.0) != within(-0.0)


def test_defaults_count():
    def within(x):
        return MaskMod(lambda b, h, q_idx, kv_idx, limit=x: kv_idx <= q_idx + limit).name

    assert within(3) == within(3) != within(4)
    assert within(0.0) != within(-0.0)


CALLING = "def helper(i):\n    return i + {}\ndef f(b, h, q_idx, kv_idx):\n    return kv_idx <= helper(q_idx)\n"


def test_called_functions_count_and_their_names_do_not():
    assert name_of(CALLING.format(3)) == name_of(CALLING.format(3)) != name_of(CALLING.format(4))
    renamed = CALLING.format(3).replace("helper", "other")
    assert name_of(renamed) == name_of(CALLING.format(3))
    deeper = "def deep(i):\n    return i + {}\ndef helper(i):\n    return deep(i)\n" + CALLING.split("\n", 2)[2]
    assert name_of(deeper.format(3)) != name_of(deeper.format(4))


def test_dispatchers_count_as_the_function_in_them():
    numba = pytest.importorskip("numba")
    plain, other = made(CALLING.format(3), "helper"), made(CALLING.format(4), "helper")
    source = "def f(b, h, q_idx, kv_idx):\n    return kv_idx <= helper(q_idx)\n"
    name = name_of(source, helper=plain)
    assert name_of(source, helper=numba.njit(plain)) == name != name_of(source, helper=numba.njit(other))
    assert MaskMod(numba.njit(made(PLAIN))).name == name_of(PLAIN)


def test_modules_count_by_what_is_taken_of_them():
    source = "def f(b, h, q_idx, kv_idx):\n    return lib.limit > kv_idx\n"
    first, second = types.ModuleType("lib"), types.ModuleType("lib")
    first.limit, second.limit = 3, 4
    assert name_of(source, lib=first) != name_of(source, lib=second)
    taken = "def f(b, h, q_idx, kv_idx):\n    return math.{}(kv_idx) > 0.5\n"
    assert name_of(taken.format("sin"), math=math) != name_of(taken.format("cos"), math=math)


def test_aux_kinds_count_and_values_do_not():
    source = "def f(b, h, q_idx, kv_idx, a):\n    return kv_idx <= a\n"
    assert name_of(source, aux=(3,)) == name_of(source, aux=(4,)) != name_of(source, aux=(3.0,))
    taken = "def f(b, h, q_idx, kv_idx, a):\n    return kv_idx <= a[b]\n"
    assert name_of(taken, aux=(IDS,)) == name_of(taken, aux=(IDS.copy(),))
    assert name_of(taken, aux=(IDS,)) != name_of(taken, aux=(IDS.astype(np.int64),))


def test_numpys_numbers_are_numbers():
    mask = MaskMod(lambda b, h, i, j, a, c, d: j <= a, np.int64(3), np.float32(0.5), True)
    assert mask.aux == (3, 0.5, 1) and mask.tokens == ("int32", "float32", "int32")


def test_a_declaration_is_of_its_moment():
    """What is edited later is not what was declared; declaring again sees it."""
    scope = {"__name__": "user", "x": 3}
    exec(GLOBAL, scope)
    first = MaskMod(scope["f"])
    scope["x"] = 40
    second = MaskMod(scope["f"])
    assert first.name != second.name
    assert not FUNCTIONS[first.name].built()(0, 0, 1, 10) and FUNCTIONS[second.name].built()(0, 0, 1, 10)
    scope["x"] = 3
    assert MaskMod(scope["f"]).name == first.name


def test_an_edited_helper_is_seen_by_the_next_declaration():
    scope = {"__name__": "user"}
    exec(CALLING.format(3), scope)
    first = MaskMod(scope["f"]).name
    exec("def helper(i):\n    return i + 5\n", scope)
    second = MaskMod(scope["f"]).name
    scope["helper"].__code__ = (lambda i: i + 6).__code__
    assert len({first, second, MaskMod(scope["f"]).name}) == 3


def test_functions_are_rebuilt_with_what_they_call():
    seen = []

    def jit(function):
        seen.append(function.__name__)
        return function

    mask = MaskMod(made(CALLING.format(3)))
    function = FUNCTIONS[mask.name].built(jit)
    assert [function(0, 0, 2, j) for j in (4, 5, 6)] == [True, True, False]
    assert seen == ["helper", "f"]


def test_functions_are_found_from_a_keys_texts():
    mask, score = MaskMod(made(PLAIN)), ScoreMod(lambda s, b, h, i, j: s * 2)
    found = functions_of(f"all2+causal+{mask.name}", f"softcap+{score.name}+sink")
    assert [user.name for user in found] == [mask.name, score.name]
    assert [user.role for user in found] == ["mask", "score"]
    assert functions_of("causal", "none") == []
    with pytest.raises(ProblemError, match="mod_0123456789"):
        functions_of("mod_0123456789", "none")


def refusal(make):
    with pytest.raises(ProblemError) as caught:
        make()
    return caught.value.faults


@pytest.mark.parametrize("held", [[1], {1: 2}, {1}, np.zeros(3), bytearray(b"x"), ([1], 2), object()],
                         ids=lambda held: type(held).__name__)  # fmt: skip
def test_what_may_change_is_refused_by_name(held):
    table = held
    (fault,) = refusal(lambda: MaskMod(lambda b, h, i, j: table[0] > j))
    assert "table" in fault and "aux" in fault and "tuple" in fault
    (fault,) = refusal(lambda: MaskMod(made(GLOBAL, x=held)))
    assert " x," in fault and "f (user.py:1)" in fault


def test_every_fault_is_told_at_once():
    source = "def f(b, h, q_idx, kv_idx):\n    return first[0] + second[0] > missing\n"
    faults = refusal(lambda: MaskMod(made(source, first=[1], second={}), [1]))
    assert len(faults) == 4
    assert all(any(word in fault for fault in faults) for word in ("first", "second", "missing", "aux 0 is a list"))


@pytest.mark.parametrize(("function", "word"), [
    (lambda b, h, i: True, "takes 3 arguments, and is called with 4: (b, h, q_idx, kv_idx)"),
    (lambda b, h, i, j, k: True, "takes 5"),
    (lambda b, h, i, j, *, k: True, "keyword-only"), (lambda b, h, i, j, **k: True, "**keywords"),
    (lambda b, h, i, j: (yield), "generator"),
    (len, "built-in"), (3, "3"), ("causal", "'causal'"), (math, "math"),
])  # fmt: skip
def test_what_is_no_mask_function(function, word):
    assert any(word in fault for fault in refusal(lambda: MaskMod(function)))


def test_a_score_function_takes_the_score_first():
    (fault,) = refusal(lambda: ScoreMod(lambda b, h, i, j: 0.0, 3))
    assert "called with 6: (score, b, h, q_idx, kv_idx, aux 0)" in fault


def test_parameters_may_be_optional_or_many():
    MaskMod(lambda b, h, i, j, k=3: True)
    MaskMod(lambda b, h, i, j, k=3: True, 5)
    MaskMod(lambda b, h, i, j, *rest: True, 5, 6)
    MaskMod(lambda *everything: True)


def test_recursion_is_refused():
    source = "def f(b, h, q_idx, kv_idx):\n    return f(b, h, q_idx, kv_idx)\n"
    assert any("circle" in fault for fault in refusal(lambda: MaskMod(made(source))))


REFUSED = {
    "raise ValueError(q_idx)": "raises an exception, and none leaves a kernel",
    "assert q_idx > 3": "raises an exception",
    "try:\n        q_idx += 1\n    except ValueError:\n        q_idx = 0": "has a try or with statement",
    "with open('x') as q_idx:\n        pass": "has a try or with statement",
    "global x\n    x = 3": "writes to a global variable",
    "import math": "imports a module",
}


@pytest.mark.parametrize("statement", list(REFUSED))
def test_what_no_kernel_does_is_refused_by_its_line(statement):
    body = f"(b, h, q_idx, kv_idx):\n    {statement}\n    return True\n"
    (fault,) = refusal(lambda: MaskMod(made("def f" + body, x=0)))
    assert f"the mask function f (user.py:1) {REFUSED[statement]}" in fault
    assert fault.endswith("(line 2)") or fault.endswith("(line 3)") or "try" in fault
    calling = "def f(b, h, q_idx, kv_idx):\n    return g(b, h, q_idx, kv_idx)\n"
    (fault,) = refusal(lambda: MaskMod(made(f"def g{body}{calling}", x=0)))
    assert f"the mask function g (user.py:1) {REFUSED[statement]}" in fault


def test_arguments_may_be_given_by_name():
    helper = "def g(i, shift=2):\n    return i + shift\n"
    source = helper + "def f(b, h, q_idx, kv_idx):\n    return kv_idx <= g(q_idx, shift={})\n"
    assert name_of(source.format(3)) == name_of(source.format(3)) != name_of(source.format(4))


def test_two_functions_of_one_name_are_an_error(monkeypatch):
    from numba_fa.problem import functions

    monkeypatch.setattr(functions, "_HASH_DIGITS", 0)
    monkeypatch.setattr(functions, "FUNCTIONS", {})
    MaskMod(made(PLAIN))
    (fault,) = refusal(lambda: MaskMod(made(OTHER["an operator"])))
    assert "one name" in fault


def test_declaring_again_costs_no_second_reading(monkeypatch):
    function = made(CALLING.format(3))
    first = MaskMod(function)
    monkeypatch.setattr(frozen.dis, "get_instructions", None)
    assert MaskMod(function) == first


def test_a_name_is_the_same_in_every_process():
    from tests.api.fresh import run_fresh

    code = f"from numba_fa import MaskMod; exec({PLAIN!r}); print(MaskMod(f).name)"
    assert {run_fresh(code, PYTHONHASHSEED=seed) for seed in "12"} == {name_of(PLAIN)}
