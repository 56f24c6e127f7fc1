"""`numba-fa`: what is here, what a call would run, compile, look inside, time, tune, run the demo."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba_fa.kernels
from numba_fa import env
from numba_fa.dispatch.device import CPU, HOPPER, Device
from numba_fa.dispatch.key import DispatchKey, HeadDims
from numba_fa.dispatch.registry import keys, variant_of, variants
from numba_fa.errors import CompileError, LaunchError, ProblemError, UnsupportedError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    options.rest = rest
    if rest and options.run is not _demo:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return options.run(options) or 0
    except (CompileError, LaunchError, ProblemError, UnsupportedError, KeyError, ValueError) as error:
        print(f"numba-fa: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has gone; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _env(options: Any) -> None:
    """Versions, GPUs and environment variables."""
    from numba_fa.build.driver import describe_device, device_count
    from numba_fa.build.fingerprint import versions

    print(f"numba_fa {numba_fa.__version__}")
    for name, version in versions().items():
        print(f"  {name} {version}")
    count = device_count()
    for ordinal in range(count):
        device = describe_device(ordinal)
        print(f"GPU {ordinal}: {device.name} ({device.arch}), families {', '.join(device.families)}, cpu")
    if not count:
        print("no GPU: kernels run on the CPU, and can be compiled for any GPU")
    for name, meaning in env.VARIABLES.items():
        print(f"{name}={os.environ.get(name, '')}  # {meaning}")


def _list(options: Any) -> None:
    """Variants and, with --keys, every tuned kernel."""
    for variant in (*variants("fwd"), *variants("bwd")):
        dims = variant.head_dims
        print(
            f"{variant.name}: {', '.join(variant.dtypes)}; head_dim {dims[0]} to {dims[-1]} in steps of {dims.step}; "
            f"masks {', '.join(variant.masks)}"
        )
    if options.keys:
        for key in keys():
            print(key.slug)


def _explain(options: Any) -> None:
    """Which kernel a problem would run, from its numbers alone."""
    from numba_fa.dispatch.select import select
    from numba_fa.problem.arrays import ArrayView, dense_strides
    from numba_fa.problem.dtypes import dtype_named
    from numba_fa.problem.problem import Problem
    from numba_fa.testing.shapes import Shape

    device = _device(options.device)
    where = "cpu" if device is CPU else f"cuda:{device.ordinal}"
    dtype = dtype_named(options.dtype)
    views = [
        ArrayView(0, shape, dense_strides(shape), options.dtype, dtype.itemsize if dtype else 4, where)
        for shape in Shape.parse(",".join(options.shape)).arrays
    ]
    print(select(Problem.from_views(*views, mask=options.mask), device, "bwd" if options.backward else "fwd"))


def _device(name: str) -> Device:
    """A device by name: cpu, an architecture, or auto for what is here."""
    from numba_fa.build.driver import describe_device, device_count

    if name == "auto":
        return describe_device(0) if device_count() else CPU
    if name == "cpu":
        return CPU
    return HOPPER if name == "sm_90a" else Device(f"a GPU of {name} (assumed)", 0, name)


def _compile(options: Any) -> int:
    """Compile kernels into the store, several at once."""
    from numba_fa.build.batch import compile_all

    families = ("sm90", "simt") if options.arch == "sm_90a" else ("simt",)
    chosen = map(DispatchKey.parse, options.slugs) if options.slugs else keys(families, tuple(options.tasks))
    return compile_all(chosen, options.arch, options.jobs)


def _inspect(options: Any) -> None:
    """Resources of a kernel; with --ptx or --sass its code."""
    from numba_fa.build.inspect import describe, sass
    from numba_fa.build.loader import artifact_for

    key = DispatchKey.parse(options.slug)
    variant = variant_of(key)
    if options.ptx:
        from numba_fa.build.compiler import ptx_of

        print(ptx_of(key, variant.factory(), options.arch))
        return
    artifact = artifact_for(key, variant, options.arch)
    print(sass(artifact) if options.sass else describe(artifact))


def _cache(options: Any) -> None:
    """Where compiled kernels are, how many, how large; `clear` removes them."""
    from numba_fa.build.store import default_store, skeleton_store

    store = default_store()
    if options.clear:
        skeleton_store().clear()
        print(f"removed {store.clear()} kernels")
        return
    print(f"path {store.path if store.path else 'none: in memory only'}")
    print(f"kernels {len(store.entries())}")
    print(f"bytes {store.size()} of at most {env.cache_bytes()}")
    skeletons = skeleton_store()
    print(f"skeletons {len(skeletons.entries())}, bytes {skeletons.size()} of at most {skeletons.max_bytes}")


def _first_call(options: Any) -> int:
    """Seconds of the first call in a new process, with an empty and a warm store, and with another of users' functions."""
    from numba_fa.testing.first_call import report

    return report(options.dtype, options.head_dim, options.mask, options.repeats)


def _bench(options: Any) -> int:
    """Check, then time, our kernel and every installed peer on a named workload; needs torch."""
    from numba_fa.testing import bench

    if options.list:
        bench.show()
        return 0
    picture = None if options.no_plot else Path(options.plot or f"bench-{options.workload}.png")
    return bench.bench(options.workload, options.dtype, options.repeats, tuple(options.without), picture)


def _tune(options: Any) -> int:
    """Measure tiles on this GPU and keep the fastest in the user's own table, which calls then prefer; needs torch."""
    from numba_fa.testing import tune

    asked = tune.points(options.head_dims, options.masks, options.biases)
    if options.list:
        tune.show(asked)
        return 0
    command = (
        f"numba-fa tune --head-dims {_joined(options.head_dims)} --masks {_joined(options.masks)} "
        f"--biases {_joined(options.biases)} --seqlens {_joined(options.seqlens)} --repeats {options.repeats}"
    )
    return tune.tune(asked, options.seqlens, options.repeats, options.jobs, command)


def _joined(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def _demo(options: Any) -> int:
    """Sentence similarity with every layer's attention computed here."""
    from numba_fa.demo.__main__ import main as demo

    return demo(options.rest)


def _architecture(name: str) -> str:
    """An architecture that the compiler knows: sm_75 and newer."""
    found = re.fullmatch(r"sm_(\d+)[af]?", name)
    if not found or int(found[1]) < 75:
        raise argparse.ArgumentTypeError(f"{name!r} is no architecture to compile for; sm_75 and newer are, such as sm_90a")
    return name


def _size(text: str) -> str:
    """A whole number, or two joined by a colon."""
    if not re.fullmatch(r"\d+(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no size")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="numba-fa", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Any, **settings: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=run.__doc__, description=run.__doc__, **settings)
        added.set_defaults(run=run)
        return added

    command("env", _env)
    command("list", _list).add_argument("--keys", action="store_true", help="every tuned kernel's slug as well")
    explain = command("explain", _explain)
    shape = ("BATCH", "SEQLEN_Q", "SEQLEN_K", "HEADS", "HEADS_KV", "HEAD_DIM")
    explain.add_argument("shape", type=_size, nargs=6, metavar=shape, help="HEAD_DIM: 128, or 192:128 of q, k and of v")
    explain.add_argument("--dtype", default="bfloat16")
    explain.add_argument("--mask", default="full")
    explain.add_argument("--backward", action="store_true", help="of the gradients")
    explain.add_argument("--device", default="auto", help="auto, cpu, or an architecture such as sm_90a or sm_80")
    compiling = command("compile", _compile)
    compiling.add_argument("slugs", nargs="*", help="kernels; all tuned ones by default")
    compiling.add_argument(
        "--arch", default="sm_90a", type=_architecture, help="sm_75, sm_80, sm_86, sm_89, sm_90a (default), sm_120a ..."
    )
    compiling.add_argument("--tasks", nargs="*", default=["fwd", "bwd"], choices=["fwd", "bwd"], help="without slugs")
    compiling.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    inspect = command("inspect", _inspect)
    inspect.add_argument("slug")
    inspect.add_argument("--arch", default="sm_90a", type=_architecture)
    inspect.add_argument("--ptx", action="store_true", help="print the kernel as PTX")
    inspect.add_argument("--sass", action="store_true", help="print machine code (needs cuobjdump or nvdisasm)")
    command("cache", _cache).add_argument("--clear", action="store_true", help="remove every compiled kernel")
    first = command("first-call", _first_call)
    first.add_argument("--dtype", default="bfloat16")
    first.add_argument("--head-dim", type=int, default=128)
    first.add_argument("--mask", default="causal", help="or a program of testing/programs.py, such as score_mod-alibi")
    first.add_argument("--repeats", type=int, default=1, help="stores to fill, of which the median is printed")
    _add_bench(command("bench", _bench))
    _add_tune(command("tune", _tune))
    command("demo", _demo, add_help=False)  # the demo parses its own arguments, --help among them
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("workload", nargs="?", default="llama-8b-prefill", help="one that --list names")
    bench.add_argument("--list", action="store_true", help="print the workloads")
    bench.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16"])
    bench.add_argument("--repeats", type=int, default=20)
    bench.add_argument("--without", nargs="*", default=[], metavar="PEER", help="peers to leave out, such as FlexAttention")
    bench.add_argument("--plot", metavar="FILE", help="where to draw (default: bench-WORKLOAD.png; needs matplotlib)")
    bench.add_argument("--no-plot", action="store_true", help="draw nothing")


def _add_tune(tune: argparse.ArgumentParser) -> None:
    masks = ["full", "causal", "window", "padding", "document", "prefix"]
    biases = ["none", "alibi", "dense", "softcap", "t5", "sink"]
    tune.add_argument("--list", action="store_true", help="print the tiles that would be measured, and measure nothing")
    tune.add_argument("--head-dims", type=HeadDims.parse, nargs="+", default=[HeadDims(n, n) for n in (64, 128, 256)],
                      help="such as 64 192:128")  # fmt: skip
    tune.add_argument("--masks", nargs="+", default=["full", "causal"], choices=masks)
    tune.add_argument("--biases", nargs="+", default=["none"], choices=biases)
    tune.add_argument("--seqlens", type=int, nargs="+", default=[1024, 8192])
    tune.add_argument("--repeats", type=int, default=20)
    tune.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that compile")


if __name__ == "__main__":
    sys.exit(main())
