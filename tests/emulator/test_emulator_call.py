"""numba_fa.emulate: real kernels with every mask and bias, against the reference; refusals; traces."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import numba_fa
import reference
from numba_fa import ALiBi, Causal, KeyPadding, MaskMod, ScoreMod, Softcap
from numba_fa.testing.inputs import random_qkv

BATCH, SEQLEN_Q, SEQLEN_K, HEADS = 2, 18, 35, 2
TILES = {"sm90": (128, 16, 2), "simt": (16, 16, 1)}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.5e-2}


def checkered(b, h, q_idx, kv_idx, n):
    return (q_idx + kv_idx + h) % n != 0


def slanted(score, b, h, q_idx, kv_idx, x):
    return score * 1.5 + x * (q_idx - kv_idx) / 8


def bound(kinds, kind, **parameters):
    return reference.bind(kinds[kind], SEQLEN_Q, SEQLEN_K, **parameters)


# A declaration and the reference's.
LENGTHS, SLOPES = np.array([0, 21], np.int32), np.array([0.5, 0.0625], np.float32)
CAUSAL = (Causal(), bound(reference.MASK_KINDS, "causal"))
PADDING = (KeyPadding(LENGTHS), bound(reference.MASK_KINDS, "padding", lengths=LENGTHS))
BOTH = (CAUSAL[0] & PADDING[0], reference.intersection(CAUSAL[1], PADDING[1]))
MOD = (MaskMod(checkered, 3), lambda b, h, i, j: (i + j + h) % 3 != 0)
SLANT = (ScoreMod(slanted, 0.25), lambda s, b, h, i, j: s * 1.5 + 0.25 * (i - j) / 8)
ALIBI = (ALiBi(SLOPES), bound(reference.BIASES, "alibi", slopes=SLOPES))
CAP = (Softcap(1.5), bound(reference.BIASES, "softcap", cap=1.5))


def compare(family, dtype, *, mask=(None, "full"), bias=(), sink_logits=None):
    q, k, v = random_qkv(BATCH, SEQLEN_Q, SEQLEN_K, HEADS, 1, 8, dtype)
    found = numba_fa.emulate(
        q, k, v, mask=mask[0], bias=[b[0] for b in bias] or None, sink_logits=sink_logits, family=family,
        tile=TILES[family],
    )  # fmt: skip
    out, lse = reference.attention(q, k, v, mask=mask[1], bias=[b[1] for b in bias], sink_logits=sink_logits)
    assert found.out.dtype == q.dtype and found.lse.dtype == np.float32
    np.testing.assert_allclose(found.out.astype(np.float64), out, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(found.lse, lse, atol=max(TOLERANCE[dtype] / 10, 1e-4))
    return found


@pytest.mark.parametrize("family", TILES)
@pytest.mark.parametrize(("mask", "bias"), [(BOTH, [SLANT]), (MOD, [])], ids=["both-slanted", "mod"])
def test_masks_and_biases(family, mask, bias):
    compare(family, "float16", mask=mask, bias=bias)


@pytest.mark.parametrize(("family", "dtype"), [("sm90", "bfloat16"), ("simt", "float32"), ("simt", "bfloat16")])
def test_biases_in_order_with_a_sink(family, dtype):
    compare(family, dtype, mask=PADDING, bias=[CAP, ALIBI], sink_logits=np.array([0.5, -1], np.float32))


def test_the_family_is_the_one_a_hopper_gpu_would_get():
    q, k, v = random_qkv(1, 20, 20, 1, 1, 16, "float32")
    assert "simt" in numba_fa.emulate(q, k, v, tile=(16, 16, 1)).trace.title
    q, k, v = (x.astype(ml_dtypes.bfloat16) for x in (q, k, v))
    assert "sm90" in numba_fa.emulate(q, k, v).trace.title


def test_arrays_that_share_memory_or_run_backwards():
    room = random_qkv(1, 40, 40, 2, 2, 16, "float32")[0]
    q, k = room[:, :17], room
    out, _, _ = numba_fa.emulate(q, k, k[:, ::-1], tile=(16, 16, 1))
    np.testing.assert_allclose(out, reference.attention(q, k, k[:, ::-1])[0], atol=1e-5)


def test_a_summary_and_a_picture(tmp_path):
    q, k, v = random_qkv(1, 256, 256, 1, 1, 64, "float16")
    trace = numba_fa.emulate(q, k, v, tile=(128, 128, 2), multiprocessors=1).trace
    summary = trace.summary()
    assert summary.blocks == 1 and summary.bytes_stored == 2 * 256 * 64
    assert summary.bytes_loaded == 2 * 64 * (256 + 2 * 2 * 256) and set(summary.tensor_operations) == {1, 2}
    assert str(summary.bytes_loaded) in str(summary) and "warpgroup 2" in str(summary)
    loads = [event for event in trace.events if event.kind == "tma_load"]
    assert all(event.end > event.step and event.note and event.address for event in loads)
    assert "m64n128k64 f16, A and B in shared memory" in {event.note for event in trace.events}
    steps = [event.step for event in trace.events]
    assert steps == sorted(steps)
    figure = trace.draw(tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").stat().st_size > 10_000 and figure.axes
    with pytest.raises(KeyError, match="did not run"):
        trace.draw(block=(9, 0, 0))


def test_drawing_without_matplotlib_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from numba_fa.emulator import Trace\n"
        "try: Trace().draw()\n"
        "except ImportError as error: assert 'numba_fa[demo]' in str(error)\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"family": "sm80"}, ValueError, "allowed: sm90, simt"),
        ({"family": "sm90"}, NotImplementedError, "dtype float32"),
        ({"tile": (100, 16, 1)}, ValueError, "multiple of 16"),
        ({"tile": (16, 16)}, ValueError, "queries, keys, stages"),
        ({"tile": (512, 512, 1)}, ValueError, "shared memory"),
        ({"limit_s": 1e-3}, ValueError, "about 0 s|about 1 s"),
        ({"mask": "diagonal"}, ValueError, "diagonal"),
    ],
)
def test_refusals(change, error, words):
    q, k, v = random_qkv(1, 20, 20, 1, 1, 16, "float32")
    with pytest.raises(error, match=words):
        numba_fa.emulate(q, k, v, **change)


def test_a_long_emulation_is_refused_with_an_estimate():
    q, k, v = random_qkv(2, 4096, 4096, 8, 8, 8, "float16")
    with pytest.raises(numba_fa.ProblemError, match=r"takes about \d{3,} s, limit_s is 120"):
        numba_fa.emulate(q, k, v)


@pytest.mark.parametrize("tile", [(64, 128, 2), (128, 24, 2), (128, 272, 2)])
def test_tiles_that_hopper_kernels_cannot_have(tile):
    q, k, v = random_qkv(1, 20, 20, 1, 1, 16, "float16")
    with pytest.raises(numba_fa.ProblemError, match="are wanted|is wanted"):
        numba_fa.emulate(q, k, v, tile=tile)
