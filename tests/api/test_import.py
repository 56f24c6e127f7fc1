"""What importing and explaining cost: no compiler, no framework, no driver, and little time."""

import json
from statistics import median

import pytest

import numba_fa
from tests.api.fresh import run_fresh

HEAVY = ["numba", "llvmlite", "torch", "cupy", "jax", "scipy", "cuda.bindings"]
LOADED = f"import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
PUBLIC = sorted(set(numba_fa.__all__))


def loaded_after(code):
    """Which of HEAVY a fresh interpreter has loaded after `code`."""
    return json.loads(run_fresh(f"{code}\n{LOADED}").splitlines()[-1])


def test_the_probe_sees_what_is_loaded():
    assert loaded_after("import llvmlite") == ["llvmlite"]


def test_import_loads_nothing_heavy():
    assert loaded_after("import numba_fa") == []


def test_the_public_names_load_nothing_heavy():
    """But for `emulate`, which is the compiler's code run by other means."""
    assert loaded_after(f"from numba_fa import {', '.join(name for name in PUBLIC if name != 'emulate')}") == []


def test_explain_compiles_and_launches_nothing():
    code = """
import numpy as np, numba_fa
q = np.zeros((1, 4, 2, 8), np.float32)
out = np.full_like(q, 7)
found = numba_fa.explain(q, q, q, mask="causal", out=out)
assert found.key.slug.startswith("fwd-cpu-fp32-d8-causal"), found.key
assert (out == 7).all()
"""
    assert loaded_after(code) == []


def test_a_refused_call_loads_no_compiler():
    code = """
import numpy as np, numba_fa
q = np.zeros((1, 4, 2, 100), np.float32)
try:
    numba_fa.attention(q, q, q)
except numba_fa.ProblemError as error:
    assert "104" in str(error)
else:
    raise SystemExit("no error")
"""
    assert loaded_after(code) == []


def test_import_costs_little_time():
    """At most 150 ms beyond NumPy; both are medians of five fresh interpreters, run in turns."""
    clock = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    times = {"numpy": [], "numpy, numba_fa": []}
    for _ in range(5):
        for modules, measured in times.items():
            measured.append(float(run_fresh(clock.format(modules))))
    alone, both = map(median, times.values())
    assert both - alone < 0.150, times


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_there_and_documented(name):
    value = getattr(numba_fa, name)
    assert value.__doc__
    assert name in dir(numba_fa)


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="attention_please"):
        _ = numba_fa.attention_please


def test_the_version_is_a_version():
    assert len(numba_fa.__version__.split(".")) >= 3
    assert "__version__" in dir(numba_fa)
