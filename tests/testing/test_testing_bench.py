"""`numba-fa bench` on the CPU, small: every workload is told alike to ours, to the peers and to truth."""

import sys
from dataclasses import replace

import pytest

import numba_fa
from numba_fa import compat
from numba_fa.cli import main
from numba_fa.testing import bench, peers
from numba_fa.testing.bench import Result
from numba_fa.testing.workloads import WORKLOADS, truth, visible_pairs

torch = pytest.importorskip("torch")
if torch.cuda.is_available():
    pytest.skip("these are of the CPU's branch", allow_module_level=True)

SEQLEN = 96


def arrays(workload):
    """float32 q, k, v of a much smaller workload: two batch items, four heads, head_dim 16."""
    torch.manual_seed(1)
    shapes = [(2, SEQLEN, heads, 16) for heads in (4, 4 if workload.heads == workload.heads_kv else 2)]
    columns = 8 if workload.head_dim_v else 16
    return torch.randn(shapes[0]), torch.randn(shapes[1]), torch.randn(*shapes[1][:3], columns)


@pytest.mark.parametrize("name", WORKLOADS)
def test_ours_computes_what_truth_says(name):
    q, k, v = arrays(WORKLOADS[name])
    request = WORKLOADS[name].ask(q)
    out = numba_fa.attention(q, k, v, **request.ours)
    for b, h in ((0, 0), (1, 3)):
        assert torch.allclose(out[b, :, h], truth(request, q, k, v, b, h), atol=1e-5)


@pytest.mark.parametrize("name", WORKLOADS)
def test_torch_computes_it_or_has_no_way(name):
    q, k, v = arrays(WORKLOADS[name])
    request = WORKLOADS[name].ask(q)
    try:
        out = peers.sdpa(None, request, q, k, v)()
    except peers.NotTaken:
        assert name in ("gpt-oss-sinks", "gemma2-softcap")
        return
    assert torch.allclose(out[1, :, 2], truth(request, q, k, v, 1, 2), atol=1e-5)


@pytest.mark.parametrize("name", WORKLOADS)
def test_flash_attention_packages_are_asked_alike(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", compat)  # it has their function's name and arguments
    q, k, v = arrays(WORKLOADS[name])
    request = WORKLOADS[name].ask(q)
    if request.flash is None:
        with pytest.raises(peers.NotTaken):
            peers.flash("flash_attn", request, q, k, v)
        return
    out = peers.flash("flash_attn", request, q, k, v)()
    assert torch.allclose(out[0, :, 1], truth(request, q, k, v, 0, 1), atol=1e-5)


@pytest.mark.parametrize(("name", "pairs"), [
    ("vit-large", 2 * SEQLEN * SEQLEN), ("llama-8b-prefill", SEQLEN * (SEQLEN + 1)),
    ("bert-base", SEQLEN * (SEQLEN + SEQLEN // 4)),
])  # fmt: skip
def test_visible_pairs_are_counted(name, pairs):
    request = WORKLOADS[name].ask(arrays(WORKLOADS[name])[0])
    assert visible_pairs(request, 2, SEQLEN, "cpu") == pairs


def test_peers_on_a_gpu_are_what_is_installed(monkeypatch):
    monkeypatch.setattr(peers, "_installed", lambda module: module == "flash_attn_interface")
    assert list(peers.peers(True)) == ["cuDNN", "FA2", "efficient", "FlexAttention", "flash-attn 3"]


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench.WORKLOADS, "tiny", replace(WORKLOADS["bert-base"], heads=2, heads_kv=2, small=(2, 64)))


def test_the_command_checks_times_and_draws(tiny, capsys, tmp_path):
    picture = tmp_path / "a.png"
    assert main(["bench", "tiny", "--dtype", "float32", "--repeats", "2", "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "| numba_fa |" in text and "fwd-cpu-fp32-d64-padding" in text and "| torch CPU |" in text
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_wrong_results_and_refusals_are_told_and_not_timed(tiny, capsys, monkeypatch):
    def wrong(request, q, k, v):
        return lambda: torch.zeros_like(q)

    def refuses(request, q, k, v):
        raise RuntimeError("no such shape\nat all")

    monkeypatch.setattr(bench, "peers", lambda on_gpu: {"wrong": wrong, "refuses": refuses})
    assert main(["bench", "tiny", "--dtype", "float32", "--repeats", "1", "--no-plot"]) == 1
    text = capsys.readouterr().out
    assert "wrong: relative error 1.0e+00" in text and "refused: no such shape |" in text
    assert main(["bench", "tiny", "--dtype", "float32", "--repeats", "1", "--no-plot", "--without", "wrong", "refuses"]) == 0


def test_the_list_and_an_unknown_name(capsys):
    assert main(["bench", "--list"]) == 0
    assert "gpt-oss-sinks" in capsys.readouterr().out
    assert main(["bench", "nothing"]) == 1
    assert "llama-8b-prefill" in capsys.readouterr().err


def test_no_matplotlib_is_no_fault(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "not installed" in bench.draw([Result("numba_fa", 1.0, 1.0)], "", tmp_path / "a.png")
