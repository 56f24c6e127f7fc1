"""What a call costs the host: microseconds from attention()'s entry to the kernel enqueued, beside torch's SDPA.

`python -m numba_fa.testing.host_cost` measures on a GPU. Without one, tensors on the CPU stand in for a GPU's and the
launch does nothing: what is left is this library's own Python.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from numba_fa.testing.pretended_gpu import pretended_gpu

LIMITS = {"attention": 12.0, "Plan.run": 6.0}  # microseconds, on a GPU's host
_BATCH = 50  # calls between synchronisations, so that the queue of launches never fills


def main() -> int:
    """Print a table; the number of times above the limits, which hold on a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="batches of 50 calls")
    parser.add_argument("--seqlen", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    options = parser.parse_args()
    import torch

    on_gpu = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if on_gpu else "no GPU: tensors on the CPU, a launch that does nothing"
    print(f"{name}; torch {torch.__version__}; microseconds a call, median and least of the batches")
    late = 0
    with nullcontext() if on_gpu else pretended_gpu():
        calls = cases("cuda" if on_gpu else "cpu", options.seqlen, getattr(torch, options.dtype))
        for name, taken in measure(calls, options.repeats, torch.cuda.synchronize if on_gpu else lambda: None).items():
            limit, median = LIMITS.get(name), statistics.median(taken)
            late += on_gpu and limit is not None and median > limit
            print(f"  {name:40}{median:7.2f}{min(taken):8.2f}" + (f"   limit {limit}" if limit else ""), flush=True)
    return late


def cases(device: str, seqlen: int, dtype: Any) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    import torch

    import numba_fa

    shape, options = (1, seqlen, 8, 64), {"device": device, "dtype": dtype}
    q, k, v = (torch.randn(shape, **options) for _ in range(3))
    out, lse = torch.empty_like(q), torch.empty(1, 8, seqlen, device=device)
    lengths = torch.full((1,), seqlen, device=device, dtype=torch.int32)
    # More of them than tensor maps are kept for: each is encoded anew.
    outs = itertools.cycle([torch.empty_like(q) for _ in range(300)])
    padding, alibi = numba_fa.KeyPadding(lengths), numba_fa.ALiBi(torch.ones(8, device=device))
    attention = numba_fa.attention
    plan, padded = numba_fa.plan(q, k, v, mask="causal"), numba_fa.plan(q, k, v, mask=padding)
    transposed = [x.transpose(1, 2) for x in (q, k, v)]
    sdpa = torch.nn.functional.scaled_dot_product_attention
    found = {
        "attention": lambda: attention(q, k, v, mask="causal"),
        "attention, lse": lambda: attention(q, k, v, mask="causal", return_lse=True),
        "attention, out given": lambda: attention(q, k, v, mask="causal", out=out),
        "attention, out at a new address": lambda: attention(q, k, v, mask="causal", out=next(outs)),
        "attention, padding": lambda: attention(q, k, v, mask=padding),
        "attention, new declarations, alibi": lambda: attention(
            q, k, v, mask=numba_fa.KeyPadding(lengths), bias=[numba_fa.Softcap(30.0), alibi]
        ),
        "Plan.run": lambda: plan.run(q, k, v, out),
        "Plan.run, lse": lambda: plan.run(q, k, v, out, lse),
        "Plan.run, padding": lambda: padded.run(q, k, v, out),
    }
    plan.run(q, k, v, out)
    (ready,) = plan._ready.values()
    launch, addresses = ready.launch, (*[x.data_ptr() for x in (q, k, v, out)], 0)
    found["  of which the launch"] = lambda: launch(addresses, 0)
    found["  of which q's stream"] = lambda: ready.stream(q)
    learnt, dout = [torch.randn(shape, **options).requires_grad_() for _ in range(3)], torch.randn(shape, **options)
    found["attention, recorded"] = lambda: attention(*learnt, mask="causal")
    gradients = torch.autograd.grad
    found["attention and its gradients"] = lambda: gradients(attention(*learnt, mask="causal"), learnt, dout)
    found["attention, padding, recorded"] = lambda: attention(*learnt, mask=padding)
    found["attention, padding, and its gradients"] = lambda: gradients(attention(*learnt, mask=padding), learnt, dout)
    if device != "cpu":  # there it would compute
        found["an empty kernel's launch"] = _empty_launch()
        theirs, dout_theirs = [x.detach().transpose(1, 2).requires_grad_() for x in learnt], dout.transpose(1, 2)
        found["torch SDPA"] = lambda: sdpa(*transposed, is_causal=True)
        found["torch SDPA and its gradients"] = lambda: gradients(
            sdpa(*theirs, is_causal=True), theirs, dout_theirs
        )
    return found


def _empty_launch() -> Callable[[], int]:
    """The driver's launch of a kernel that does nothing, with everything made beforehand: the least that any call takes."""
    from cuda.bindings import driver

    from numba_fa.build.driver import check, entry_point
    from numba_fa.build.launch import LaunchConfig

    module = check(driver.cuModuleLoadData(b".version 8.0\n.target sm_75\n.address_size 64\n.entry empty() { ret; }\n\0"))
    kernel = ctypes.c_void_p.from_param(int(check(driver.cuModuleGetFunction(module, b"empty"))))
    launch, config = entry_point("cuLaunchKernelEx", 12000, True), ctypes.byref(LaunchConfig(1, 1, 1, 32, 1, 1))
    return lambda: launch(config, kernel, None, None)


def measure(calls: dict[str, Callable[[], Any]], repeats: int, synchronize: Callable[[], None]) -> dict[str, list[float]]:
    """By name the microseconds a call takes the host, of each batch.

    Batches of each take turns, so that what else the host does meanwhile meets all: one after another `Plan.run` and
    `attention(out=)` differed by 4 us, in turns by 1.5.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(3):
            call()
    for _ in range(repeats):
        for name, call in calls.items():
            synchronize()
            call()
            start = time.perf_counter()
            for _ in range(_BATCH):
                call()
            times[name].append((time.perf_counter() - start) / _BATCH * 1e6)
    synchronize()
    return times


if __name__ == "__main__":
    raise SystemExit(main())
