"""What the hardware's tanh (tanh.approx.f32, relative error up to 2**-11) costs in accuracy, beside the tolerance.

`python -m tests.softcap_error` prints, for bfloat16 causal attention with a softcap, the largest error of the
naive computation, the bound of the tests (twice that, `testing/tolerance.py`), and the error of the same computation whose
tanh is off by 2**-11 everywhere, up or down at random. On a GPU also the kernel's own error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import reference
from numba_fa.testing.inputs import random_qkv
from numba_fa.testing.tolerance import error_bound

SIZES = (1, 512, 512, 2, 2, 128)  # batch, seqlen_q, seqlen_k, heads, heads_kv, head_dim
CAPS, SCALES = (15.0, 30.0, 50.0), (1.0, 4.0, 16.0)
TANH_ERROR = 2.0**-11  # PTX ISA, tanh.approx.f32


def main() -> None:
    """Print the table."""
    kernel = _kernel()
    print(f"| cap | scores' deviation | naive | bound | tanh off by 2**-11 |{' kernel |' if kernel else ''} of the bound |")
    for cap in CAPS:
        for scale in SCALES:
            print(_row(kernel, cap, scale), flush=True)


def _row(kernel: Callable[..., Any] | None, cap: float, scale: float) -> str:
    q, k, v = random_qkv(*SIZES, "bfloat16")
    factor = scale * SIZES[-1] ** -0.5
    signs = np.random.default_rng(0).choice([-1.0, 1.0], SIZES[1:3])

    def softcap(score: Any, *_: Any) -> Any:
        return cap * np.tanh(score / cap)

    def softcap_off(score: Any, *_: Any) -> Any:
        return softcap(score) * (1 + TANH_ERROR * signs).astype(score.dtype)

    def naive(bias: Any) -> Any:
        return reference.attention_rounded(q, k, v, mask="causal", bias=[bias], scale=factor, dtype="bfloat16")[0]

    truth, _ = reference.attention(q, k, v, mask="causal", bias=[softcap], scale=factor)
    rounded = naive(softcap)
    bound = error_bound(truth, rounded, ml_dtypes.bfloat16)
    errors = [_error(rounded, truth), bound, _error(naive(softcap_off), truth)]
    if kernel:
        errors.append(_error(kernel(q, k, v, cap, factor), truth))
    return f"| {cap:g} | {scale:g} | {' | '.join(f'{e:.2e}' for e in errors)} | {errors[-1] / bound:.2f} |"


def _error(result: Any, truth: Any) -> float:
    return float(np.max(np.abs(np.asarray(result).astype(np.float64) - truth)))


def _kernel() -> Callable[..., Any] | None:
    """The GPU's softcap attention on NumPy arrays, or None without a GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    import numba_fa

    def run(q: Any, k: Any, v: Any, cap: float, scale: float) -> Any:
        moved = [torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).cuda() for x in (q, k, v)]
        out = numba_fa.attention(*moved, mask="causal", bias=numba_fa.Softcap(cap), scale=scale)
        return out.float().cpu().numpy()

    return run


if __name__ == "__main__":
    main()
