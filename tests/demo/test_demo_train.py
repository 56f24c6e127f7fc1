"""The training demo: the same losses with both attentions, and what the command prints and draws."""

import math

import pytest

torch = pytest.importorskip("torch")
from numba_fa.demo import train as demo  # noqa: E402

TINY = demo.Sizes(layers=2, heads=4, heads_kv=2, head_dim=16, seqlen=48, batch=2)


def test_losses_are_the_same_and_fall():
    runs = [demo.train(attention, TINY, 12) for attention in demo.CONTENDERS.values()]
    assert max(abs(ours - theirs) for ours, theirs in zip(*(run.losses for run in runs))) < 1e-5
    for run in runs:
        assert run.losses[0] == pytest.approx(math.log(103), rel=0.05)  # nothing is known of 103 characters yet
        assert run.losses[-1] < run.losses[0] - 0.5 and run.tokens_per_second > 0


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "SMALL", TINY)
    picture = tmp_path / "train.png"
    assert demo.main(["--device", "cpu", "--steps", "2", "--picture", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "numba_fa: Sizes" in printed and "tokens a second" in printed and "losses are at most" in printed
    if picture.exists():
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    else:
        assert "no picture without matplotlib" in printed


def test_losses_that_part_are_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "SMALL", TINY)
    monkeypatch.setitem(demo.CONTENDERS, "torch", lambda q, k, v: torch.zeros_like(q) + q.mean())
    assert demo.main(["--device", "cpu", "--steps", "8", "--picture", str(tmp_path / "train.png")]) == 1


def test_the_text_is_pythons_manual():
    text, alphabet = demo.encoded(demo.manual())
    assert len(text) > 300_000 and "".join(alphabet[n] for n in text[:2000].tolist()) == demo.manual()[:2000]
