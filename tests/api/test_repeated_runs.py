"""A plan's runs made before are cheap, and nothing that makes one wrong or different goes unseen because of that."""

import gc
import weakref

import numpy as np
import pytest

import numba_fa
from numba_fa import ProblemError, UnsupportedError, api
from tests.api.test_repeated_calls import QKV, close, nothing_remembered, padded, truth  # noqa: F401

torch = pytest.importorskip("torch")


def test_a_plan_keeps_its_masks_arrays_alive():
    lengths = torch.tensor([20, 7], dtype=torch.int32)
    gone = weakref.ref(lengths)
    expected = truth(*QKV, mask=padded(lengths))
    plan = numba_fa.plan(*QKV, mask=numba_fa.KeyPadding(lengths))
    del lengths
    gc.collect()
    out = torch.empty_like(QKV[0])
    for _ in range(3):
        plan.run(*QKV, out)
    assert gone() is not None and close(out, expected)
    del plan
    gc.collect()
    assert gone() is None


def test_a_plans_faults_are_told_after_good_runs():
    plan, out = numba_fa.plan(*QKV), torch.empty_like(QKV[0])
    lse = torch.empty(2, 4, 19)
    for _ in range(3):
        plan.run(*QKV, out, lse)
        plan.run(*QKV, out)
    q, k, v = QKV
    room = torch.randn(q.numel() + 16)
    wrong = {
        "this plan is for": (q[:, :5], k, v, torch.empty(2, 5, 4, 16)), "dtypes differ": (q, k.half(), v, out),
        "overlaps q": (room[:-16].view(q.shape), k, v, room[16:].view(q.shape)), "lse is": (q, k, v, out, lse.double()),
    }  # fmt: skip
    for word, arrays in wrong.items():
        with pytest.raises(ProblemError, match=word):
            plan.run(*arrays)
    with pytest.raises(UnsupportedError, match="grad"):
        plan.run(q.clone().requires_grad_(), k, v, out)
    with pytest.raises(UnsupportedError, match="grad"):
        plan.run(q, k, v, out.clone().requires_grad_())
    plan.run(q, k, v, out)
    assert close(out, truth(*QKV))


def test_a_plan_that_refused_refuses_again():
    plan, room = numba_fa.plan(*QKV), torch.randn(QKV[0].numel() + 16)
    q, out = room[:-16].view(QKV[0].shape), room[16:].view(QKV[0].shape)
    for _ in range(3):
        plan.run(*QKV, torch.empty_like(q))
        for _ in range(2):
            with pytest.raises(ProblemError, match="overlaps q"):
                plan.run(q, *QKV[1:], out)


def test_a_plan_counts_its_writes():
    plan, out = numba_fa.plan(*QKV), torch.empty_like(QKV[0])
    lse = torch.empty(2, 4, 19)
    for times in range(1, 4):
        plan.run(*QKV, out, lse)
        assert out._version == lse._version == times


def test_a_plan_runs_on_arrays_of_all_kinds_in_turn():
    plan = numba_fa.plan(*QKV)
    for _ in range(2):
        out, host = torch.empty_like(QKV[0]), np.empty(QKV[0].shape, np.float32)
        plan.run(*QKV, out)
        plan.run(*(x.numpy() for x in QKV), host)
        with torch.inference_mode():
            plan.run(*QKV, torch.empty_like(QKV[0]))
        with torch.no_grad():
            plan.run(*(torch.nn.Parameter(x) for x in QKV), out)
        assert np.array_equal(out.numpy(), host)


def test_without_torchs_guards_plans_run_as_well(monkeypatch):
    library = api.LIBRARIES[torch.Tensor]
    monkeypatch.setitem(api.LIBRARIES, torch.Tensor, type(library)(**vars(library) | {"guard": None}))
    plan, out = numba_fa.plan(*QKV), torch.empty_like(QKV[0])
    for _ in range(3):
        plan.run(*QKV, out)
    assert close(out, truth(*QKV))
    with pytest.raises(UnsupportedError, match="grad"):
        plan.run(QKV[0].clone().requires_grad_(), *QKV[1:], out)


def test_a_plan_made_without_its_arrays_uses_the_problems():
    """`plan_for` takes a problem alone; benchmarks name kernels so."""
    lengths = torch.tensor([20, 7], dtype=torch.int32)
    found = numba_fa.explain(*QKV, mask=numba_fa.KeyPadding(lengths))
    plan, out = api.plan_for(found.problem, found.variant, found.key), torch.empty_like(QKV[0])
    for _ in range(3):
        plan.run(*QKV, out)
    assert close(out, truth(*QKV, mask=padded(lengths)))
