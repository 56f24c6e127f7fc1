"""The run: what it reports, what it draws, and that it notices a wrong attention."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from numba_fa.demo.naive import naive_attention
from numba_fa.demo.run import Stopwatch, run
from numba_fa.demo.sentences import SENTENCES

TWO = ("The cat sleeps.", "A kitten naps.")


def silent(line: str) -> None:
    """Reports nothing."""


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_right_attention_has_no_fault(plain_attention, dtype):
    result = run(plain_attention, naive_attention, TWO, report=silent, dtype=dtype)
    assert result.faults == ()
    # The float64 reference differs from any float32 computation, so an error of exactly 0 would mean that the
    # reference had been compared with itself.
    assert 0 < result.output_error <= result.output_limit
    assert 0 < result.lse_error < 1e-4
    assert 0 < result.row_sum_error < 1e-3
    assert result.embedding_error < 8 * float(ml_dtypes.finfo(dtype).eps)


def lse_off(q, k, v):
    """Right output, LSE too large by 0.01."""
    out, lse = naive_attention(q, k, v)
    return out, lse + 0.01


def scale_off(q, k, v):
    """A scale that is 5 % too large."""
    return naive_attention(1.05 * q, k, v)


def heads_swapped(q, k, v):
    """The output of two heads exchanged, the LSE right."""
    out, lse = naive_attention(q, k, v)
    return out[:, :, [1, 0, *range(2, out.shape[2])]], lse


def one_nan(q, k, v):
    """A single NaN in the last row."""
    out, lse = naive_attention(q, k, v)
    out[-1, -1, -1, -1] = np.nan
    return out, lse


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize(
    ("attention", "named"),
    [
        (lse_off, ["LSE", "sum of a row"]),
        (scale_off, ["attention output", "LSE", "sum of a row"]),
        (heads_swapped, ["attention output"]),
        (one_nan, ["attention output"]),
    ],
)
def test_wrong_attention_is_noticed(attention, named):
    lines: list[str] = []
    result = run(attention, naive_attention, TWO, report=lines.append)
    missed = [name for name in named if not any(fault.startswith(name) for fault in result.faults)]
    assert not missed
    assert [line for line in lines if line.startswith("WRONG")] == [
        f"WRONG: {fault}" for fault in result.faults
    ]


@pytest.mark.usefixtures("checkpoint")
def test_default_sentences_pair_up_and_progress_is_reported(plain_attention):
    lines: list[str] = []
    result = run(plain_attention, naive_attention, report=lines.append, backend="stand-in")
    others = result.similarity - 2 * np.eye(len(SENTENCES))
    partner = [s ^ 1 for s in range(len(SENTENCES))]
    assert others.argmax(axis=1).tolist() == partner
    text = "\n".join(lines)
    assert "backend stand-in" in text
    assert f"encoded {len(SENTENCES)} of {len(SENTENCES)} sentences" in text
    assert lines[0].startswith("loading")
    assert 0 < result.first_call_seconds < result.attention_seconds < result.total_seconds < 60


@pytest.mark.usefixtures("checkpoint")
@pytest.mark.parametrize("sentences", [TWO, ("Only one, for $5 or $6.",)])
def test_picture_is_a_png_with_something_in_it(plain_attention, tmp_path, sentences):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "demo.png"
    result = run(plain_attention, naive_attention, sentences, path, report=silent)
    assert result.picture == path
    with image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (780, 1800, 3)
    halves = pixels[:, :900], pixels[:, 900:]
    assert all(len(np.unique(half.reshape(-1, 3), axis=0)) > 100 for half in halves)


def test_no_sentence_is_an_error():
    with pytest.raises(ValueError, match="at least one sentence"):
        run(naive_attention, naive_attention, [], report=silent)


def test_stopwatch_passes_through_and_counts():
    watch = Stopwatch(lambda q, k, v: (q + k, v))
    assert watch(1, 2, 3) == (3, 3)
    assert watch(4, 5, 6) == (9, 6)
    assert len(watch.seconds) == 2 and min(watch.seconds) >= 0
