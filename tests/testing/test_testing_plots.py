"""The pictures of measured speed: from the committed text, and from nothing else."""

from pathlib import Path

import pytest

from numba_fa.dispatch.key import HeadDims
from numba_fa.testing import plots
from numba_fa.testing.plots import Problem, intensity, parse

ROOT = Path(__file__).resolve().parents[2]
TEXT = """NVIDIA H200, torch 2, bfloat16, TFLOP/s
| kernel | seqlen | numba_fa | cudnn | over the best peer |
|---|---|---|---|---|
| fwd-sm90-bf16-d64-full-m128n128s4 | 512 | 351 | 385 | 0.9 |
| fwd-sm90-bf16-d64-full-m192n128s2 | 1024 | 409 | 433 | 0.9 |
| fwd-sm90-bf16-d192v128-causal-m128n112s2 | 512 | 320 | - | |
| fwd-sm90-bf16-d128-causal-m128n128s2 | 1,32768,32768,2,2,128 | 620 | 560 | 1.1 |
"""
PROBLEM = Problem(HeadDims.parse("64"), "full")


def test_the_text_is_understood():
    speeds = parse(TEXT)
    assert (speeds.device, speeds.versions) == ("NVIDIA H200", "torch 2, bfloat16, TFLOP/s")
    assert speeds.series(PROBLEM) == {"numba_fa": {512: 351.0, 1024: 409.0}, "cudnn": {512: 385.0, 1024: 433.0}}
    assert speeds.problems == [PROBLEM, Problem(HeadDims.parse("192:128"), "causal")]


def test_the_committed_text_is_understood():
    speeds = parse((ROOT / "docs/findings/speed-h200.txt").read_text())
    assert speeds.ceiling == plots.CEILINGS["H200"]
    assert all(set(rates) >= {"numba_fa", "cudnn"} and rates["numba_fa"] > 50 for rates in speeds.rates.values())


@pytest.mark.parametrize("text", ["H200", "H200, torch\n| a | b |\n|---|---|\n", "| kernel | seqlen | numba_fa |"])
def test_another_text_is_refused(text):
    with pytest.raises(ValueError, match="no table"):
        parse(text)


def test_operations_a_byte():
    flops, size = intensity(PROBLEM, 512)
    assert flops == 4 * 16384 * 512 * 2048 and size == 4 * 16384 * 2048 * 2
    flops, size = intensity(Problem(HeadDims(192, 128), "causal"), 1024)
    assert flops == 16384 * 1024 * 10 * 320 and size == 16384 * 10 * 2 * (192 + 192 + 128 + 128)


def test_pictures_are_drawn_the_same_twice(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    source = tmp_path / "speed-x.txt"
    source.write_text(TEXT)
    for folder in ("a", "b"):
        monkeypatch.setattr("sys.argv", ["plots", str(source), "--to", str(tmp_path / folder)])
        plots.main()
    assert len(capsys.readouterr().out.split()) == 4
    for name in ("speed-x.svg", "roofline-x.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_unknown_chip_has_no_roofline(tmp_path):
    with pytest.raises(ValueError, match="no ceilings known of NVIDIA X"):
        plots.draw_roofline(parse(TEXT.replace("H200", "X")), tmp_path / "x.svg")
