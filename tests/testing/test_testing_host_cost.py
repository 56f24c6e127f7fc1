"""The host's cost on a machine with no GPU: everything runs, and the launch is the last thing that happens."""

import sys

import pytest

from numba_fa.testing import host_cost
from numba_fa.testing.pretended_gpu import grid_of, pretended_gpu

torch = pytest.importorskip("torch")


def test_the_table_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["host_cost", "--repeats", "2"])
    late = host_cost.main()
    text = capsys.readouterr().out
    assert all(name in text for name in ("attention, padding", "Plan.run, lse", "of which the launch", "microseconds"))
    assert late == 0 or torch.cuda.is_available()


def test_the_pretended_gpu_is_gone_afterwards():
    import numba_fa

    q = torch.ones(1, 8, 1, 16)
    with pretended_gpu() as launches:
        numba_fa.attention(q.bfloat16(), q.bfloat16(), q.bfloat16())
        assert numba_fa.explain(q.bfloat16(), q.bfloat16(), q.bfloat16()).family == "sm90"
        assert grid_of(launches[-1]) == (1, 1, 1)
    assert numba_fa.explain(q, q, q).family == "cpu"
    assert torch.allclose(numba_fa.attention(q, q, q), q)
