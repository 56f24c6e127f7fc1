"""The peers: each maps (request, q, k, v) to a function that computes it, or raises `NotTaken` with the reason.

Only what is installed is listed: torch's scaled_dot_product_attention by backend, FlexAttention compiled, and the
FlashAttention packages, whose functions share names and arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from numba_fa.testing.workloads import Request, dense_mask

Run = Callable[[], Any]  # gives (batch, seqlen, heads, head_dim)
DENSE_BYTES = 1 << 30  # the largest mask that a peer is given in full
# Packages with FlashAttention's flash_attn_func: 2, 3 and the one in CuTe DSL.
FLASH = {"flash_attn": "flash-attn 2", "flash_attn_interface": "flash-attn 3", "flash_attn.cute": "flash-attn 4"}


class NotTaken(Exception):
    """A peer has no way to compute a request."""


def peers(on_gpu: bool) -> dict[str, Callable[[Request, Any, Any, Any], Run]]:
    """Name -> maker, for what is installed and can run here."""
    if not on_gpu:
        return {"torch CPU": lambda *call: sdpa(None, *call)}
    found: dict[str, Callable[[Request, Any, Any, Any], Run]] = {
        "cuDNN": lambda *call: sdpa("CUDNN_ATTENTION", *call),
        "FA2": lambda *call: sdpa("FLASH_ATTENTION", *call),
        "efficient": lambda *call: sdpa("EFFICIENT_ATTENTION", *call),
        "FlexAttention": flex,
    }
    for module, name in FLASH.items():
        if _installed(module):
            found[name] = lambda *call, module=module: flash(module, *call)  # type: ignore[misc]
    return found


def sdpa(backend: str | None, request: Request, q: Any, k: Any, v: Any) -> Run:
    """torch.nn.functional.scaled_dot_product_attention, with one backend or (None) torch's choice."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    asked = _sdpa_arguments(request, q, k)
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]

    def run() -> Any:
        with torch.no_grad():
            return torch.nn.functional.scaled_dot_product_attention(*heads_first, **asked).transpose(1, 2)

    def run_with_backend() -> Any:
        with sdpa_kernel(getattr(SDPBackend, backend or "")):
            return run()

    return run_with_backend if backend else run


def _sdpa_arguments(request: Request, q: Any, k: Any) -> dict[str, Any]:
    if request.sinks is not None or not request.additive:
        raise NotTaken("no argument for sinks" if request.sinks is not None else "no argument for a score function")
    asked: dict[str, Any] = {} if request.scale is None else {"scale": request.scale}
    if k.shape[2] != q.shape[2]:
        asked["enable_gqa"] = True
    if request.causal and request.score_mod is None:
        return asked | {"is_causal": True}
    by_head = request.score_mod is not None
    size = q.shape[0] * q.shape[1] ** 2 * (2 * q.shape[2] if by_head else 1)
    if size > DENSE_BYTES:
        raise NotTaken(f"a dense mask of {size / (1 << 30):.1f} GiB")
    mask = dense_mask(request, q, by_head)
    return asked if mask is None else asked | {"attn_mask": mask}


def flex(request: Request, q: Any, k: Any, v: Any) -> Run:
    """torch's FlexAttention, compiled; sinks scale its result by the LSE, as models do."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    batch, seqlen = q.shape[:2]
    asked: dict[str, Any] = {"score_mod": request.score_mod, "scale": request.scale, "enable_gqa": k.shape[2] != q.shape[2]}
    if request.mask_mod is not None:
        make = torch.compile(create_block_mask)
        asked["block_mask"] = make(request.mask_mod, batch, None, seqlen, seqlen, device=q.device.type)
    heads_first = [x.transpose(1, 2) for x in (q, k, v)]
    if request.sinks is None:
        compiled = torch.compile(lambda q, k, v: flex_attention(q, k, v, **asked))
    else:
        sinks = request.sinks[None, :, None]

        def with_sinks(q: Any, k: Any, v: Any) -> Any:
            out, lse = flex_attention(q, k, v, **asked, return_lse=True)
            return out * torch.sigmoid(lse - sinks)[..., None].to(out.dtype)

        compiled = torch.compile(with_sinks)

    def run() -> Any:
        with torch.no_grad():
            return compiled(*heads_first).transpose(1, 2)

    return run


def flash(module: str, request: Request, q: Any, k: Any, v: Any) -> Run:
    """flash_attn_func of a FlashAttention package."""
    if request.flash is None:
        raise NotTaken("no argument for this mask or bias")
    function, asked = importlib.import_module(module).flash_attn_func, dict(request.flash)
    if request.scale is not None:
        asked["softmax_scale"] = request.scale

    def run() -> Any:
        out = function(q, k, v, **asked)
        return out[0] if isinstance(out, tuple) else out

    return run


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
