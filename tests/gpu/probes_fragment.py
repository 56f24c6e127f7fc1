"""Probes of straight-line operations on fragments, by one warp; of scalar arithmetic and conversions."""

import ml_dtypes
import numpy as np

from numba_fa.flash.convert import CONVERSIONS
from numba_fa.jit import KernelSource, cuda, device, float32, int32, uint16
from numba_fa.ptx.elementwise import (
    index,
    make_chain,
    make_keep,
    make_map,
    make_map_both,
    make_map_gradient,
    make_value_and_slope,
    real,
    scalars,
    to_float32,
    to_int32,
)
from numba_fa.ptx.fragment import (
    make_exponential,
    make_pack,
    make_pack_nothing,
    make_row_max,
    make_row_sum,
    make_scale_and_lift,
    make_scale_rows,
    make_slope_columns,
    make_zeros,
)
from numba_fa.ptx.math import ex2_approx, fmax, fmax_nan, lg2_approx, rcp_approx
from numba_fa.ptx.memory import bits_to_float, float_to_bits, float_to_half, half_to_float, st_global_f32
from tests.gpu.probe import Probe
from tests.gpu.probe_tools import make_gather, make_scatter, make_scatter_words

COUNT = 24  # registers: 48 columns
HALVES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
APPROXIMATE = 2.0**-21  # PTX ISA: 2 ** -22 and a little for ex2 and lg2, 1 ulp for rcp


def fragments(seed=0, special=True):
    """A warp's fragments (32, COUNT), with values that order and rounding must treat well."""
    values = np.random.default_rng(seed).standard_normal((32, COUNT)).astype(np.float32)
    if special:
        values[3, :] = -np.inf
        values[5, 7] = np.nan
        values[6, 2] = np.inf
        values[7, 1] = -0.0
        values[8, :4] = [1e-40, -1e-40, 65520, 3e38]
    return values


def rows():
    """Of each register: whether it is of the second row; its column, less the thread's."""
    register = np.arange(COUNT)
    return register // 2 % 2 == 1, register // 4 * 8 + register % 2


def on_fragments(name, operation, width, truth, *, values, **tolerance):
    """A kernel out[thread] = operation(fragment, thread) of `width` values a thread, numbers or pairs alike."""
    gather, scatter = make_gather(COUNT), make_scatter(width)

    def kernel(source, out):
        thread = int32(cuda.threadIdx.x)
        scatter(out, thread * width, operation(gather(source, thread * COUNT), thread))

    source = KernelSource(kernel, ("float32*",) * 2, 32, 0)
    out = np.full((32, width), 777, np.float32)
    return Probe(name, source, [values, out], {1: truth.astype(np.float32)}, **tolerance)


def fragment_probes():
    thread = np.arange(32)[:, None]
    second, column = rows()
    values = fragments()
    zeros, scale_rows = make_zeros(COUNT), make_scale_rows(COUNT)
    row_max, row_sum = make_row_max(COUNT), make_row_sum(COUNT)
    exponential = make_exponential(COUNT)

    @device
    def nothing(fragment, thread):
        return zeros()

    yield on_fragments("zeros", nothing, COUNT, np.zeros((32, COUNT)), values=values)

    @device
    def scaled(fragment, thread):
        return scale_rows(fragment, np.float32(thread), np.float32(0.3))

    factors = np.where(second, np.float32(0.3), thread.astype(np.float32))
    with np.errstate(all="ignore"):
        yield on_fragments("scale_rows", scaled, COUNT, values * factors, values=values)

    scale_and_lift = make_scale_and_lift(COUNT)

    @device
    def lifted(fragment, thread):
        return scale_and_lift(fragment, np.float32(0.3), np.float32(thread))

    with np.errstate(all="ignore"):
        truth = values.astype(np.float64) * np.float32(0.3) + thread
        yield on_fragments("scale_and_lift", lifted, COUNT, truth, values=values)

    slope_columns = make_slope_columns(COUNT)

    @device
    def sloped(fragment, thread):
        return slope_columns(fragment, np.float32(thread) * np.float32(0.3))

    steps = thread.astype(np.float32) * np.float32(0.3)
    with np.errstate(all="ignore"):
        yield on_fragments("slope_columns", sloped, COUNT, values.astype(np.float64) + steps * column, values=values)

    @device
    def largest(fragment, thread):
        return row_max(fragment, np.float32(-np.inf), np.float32(thread - 16))

    row_max_nan = make_row_max(COUNT, nan=True)

    @device
    def largest_or_nan(fragment, thread):
        return row_max_nan(fragment, np.float32(-np.inf), np.float32(thread - 16))

    starts = np.float32(thread[:, 0] - 16)
    for name, operation, larger in (("row_max", largest, np.fmax), ("row_max_nan", largest_or_nan, np.maximum)):
        tops = [larger.reduce(values[:, ~second], axis=1), larger(larger.reduce(values[:, second], axis=1), starts)]
        yield on_fragments(name, operation, 2, np.stack(tops, axis=1), values=values)

    @device
    def total(fragment, thread):
        return row_sum(fragment)

    finite = fragments(1, special=False)
    sums = np.stack([_two_chains(finite[:, ~second]), _two_chains(finite[:, second])], axis=1)
    yield on_fragments("row_sum", total, 2, sums, values=finite)

    @device
    def powers(fragment, thread):
        return exponential(fragment, np.float32(1.7), np.float32(0), np.float32(thread) * np.float32(0.5))

    with np.errstate(all="ignore"):
        power = np.exp2(values.astype(np.float64) * np.float32(1.7) - np.where(second, thread * 0.5, 0)).astype(np.float32)
    power[power < np.finfo(np.float32).tiny] = 0
    yield on_fragments("exponential", powers, COUNT, power, values=values, rtol=2 * APPROXIMATE)


def change(score, b, h, q_idx, kv_idx, aux):
    """A score modification whose arithmetic is exact in float32."""
    return score + aux[1] * (q_idx - kv_idx) + b * aux[0] - h


def sees(b, h, q_idx, kv_idx, aux):
    """A mask of all its arguments."""
    return (q_idx * b + kv_idx * h) % aux[0] < 3


def elementwise_probes():
    """Functions of one score, at keys of which the last lie past a limit."""
    thread = np.arange(32)[:, None]
    second, column = rows()
    values = np.round(fragments(4, special=False) * 64) / 64
    query, key, limit = np.where(second, thread + 40, thread), 100 + 2 * (thread % 4) + column, 130
    inside = np.minimum(key, limit)
    mapped, mapped_all = (make_map(COUNT, device(change), clamp=clamp) for clamp in (True, False))
    kept, kept_all = (make_keep(COUNT, device(sees), clamp=clamp, bounded=clamp) for clamp in (True, False))

    for name, operation, keys, masks in (
        ("map_clamped", mapped, inside, False),
        ("map", mapped_all, key, False),
        ("keep_bounded", kept, inside, True),
        ("keep", kept_all, key, True),
    ):
        if masks:
            seen = sees(2, 3, query, keys, (7,)) & ((key <= limit) | (name == "keep"))
            truth = np.where(seen, values, -np.inf)
        else:
            truth = change(values, 2, 3, query, keys, (7, 0.25))
        yield on_fragments(name, _at_places(operation), COUNT, truth, values=values)


def _at_places(operation):
    @device
    def at_places(fragment, thread):
        start = int32(100 + 2 * (thread & 3))
        aux = (int32(7), float32(0.25))
        return operation(fragment, int32(2), int32(3), thread, int32(thread + 40), start, int32(130), aux)

    return at_places


def square(score, b, h, q_idx, kv_idx, aux):
    """A score modification whose derivative depends on the score."""
    return score * score * aux[1] + (q_idx - kv_idx)


def gradient_probes():
    """A function's derivative by dual numbers: alone, and with its value."""
    thread = np.arange(32)[:, None]
    second, column = rows()
    values = np.round(fragments(4, special=False) * 64) / 64
    query, key = np.where(second, thread + 40, thread), 100 + 2 * (thread % 4) + column
    gradient, both = make_map_gradient(COUNT, device(square)), make_map_both(COUNT, device(square))
    chain = make_chain(COUNT)

    @device
    def slope(fragment, b, h, q0, q1, kv0, limit, aux):
        return gradient(fragment, fragment, b, h, q0, q1, kv0, limit, aux)

    @device
    def value_times_slope(fragment, b, h, q0, q1, kv0, limit, aux):
        changed, derivatives = both(fragment, b, h, q0, q1, kv0, limit, aux)
        return chain(changed, derivatives)

    derivative = values * np.float32(0.5)
    yield on_fragments("map_gradient", _at_places(slope), COUNT, values * derivative, values=values)
    changed = square(values, 2, 3, query, key, (7, 0.25))
    yield on_fragments("map_both", _at_places(value_times_slope), COUNT, changed * derivative, values=values)


def scalar_call_probe():
    """A score's function called element by element, as the portable kernel does."""
    function, limit = device(change), 5

    def kernel(source, out):
        thread = int32(cuda.threadIdx.x)
        for i in range(COUNT):
            at = thread * COUNT + i
            aux = scalars((int32(7), float32(0.25)))
            score = function(real(source[at]), index(2), index(3), index(thread), index(i), aux)
            out[at] = to_float32(score) + to_int32(index(min(i, limit)))

    values = np.round(fragments(6, special=False) * 64) / 64
    keys = np.arange(COUNT)
    truth = change(values, 2, 3, np.arange(32)[:, None], keys, (7, 0.25)) + np.minimum(keys, limit)
    source = KernelSource(kernel, ("float32*", "float32*"), 32, 0)
    yield Probe("scalar_call", source, [values, np.full_like(values, 7)], {1: truth.astype(np.float32)})


def value_and_slope_probe():
    """A score's function with its derivative, element by element."""
    both = make_value_and_slope(device(square))

    def kernel(source, changed, slopes):
        thread = int32(cuda.threadIdx.x)
        for i in range(COUNT):
            at = thread * COUNT + i
            changed[at], slopes[at] = both(source[at], 2, 3, thread, i, (int32(7), float32(0.25)))

    values = np.round(fragments(6, special=False) * 64) / 64
    changed = square(values, 2, 3, np.arange(32)[:, None], np.arange(COUNT), (7, 0.25))
    source, outs = KernelSource(kernel, ("float32*",) * 3, 32, 0), [np.full_like(values, 7) for _ in range(2)]
    truth = {1: changed.astype(np.float32), 2: values * np.float32(0.5)}
    yield Probe("value_and_slope", source, [values, *outs], truth)


def _two_chains(values):
    """Sums along the last axis as the fragment's operations form them: every other term in a chain of its own."""
    chains = [np.add.accumulate(values[:, start::2], axis=1)[:, -1] for start in (0, 1)]
    return chains[0] + chains[1]


def pack_probes():
    gather, values = make_gather(COUNT), fragments(2)
    # Halfway cases, which go to even; overflow to infinity.
    values[0, :6] = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 65519.996, 3.4e38]
    for dtype, half in HALVES.items():
        pack, scatter = make_pack(COUNT, dtype), make_scatter_words(COUNT // 2)
        source = KernelSource(_pack_kernel(gather, pack, scatter), ("float32*", "uint16*"), 32, 0)
        out = np.full((32, COUNT), 7, np.uint16)
        with np.errstate(over="ignore"):
            truth = canonical(values.astype(half).view(np.uint16), half)
        yield Probe(f"pack_{dtype}", source, [values, out], {1: truth})
    nothing, scatter = make_pack_nothing(COUNT), make_scatter_words(COUNT // 2)

    @device
    def no_words(fragment):
        return nothing(fragment, int32(cuda.threadIdx.x >> 5))

    source = KernelSource(_pack_kernel(gather, no_words, scatter), ("float32*", "uint16*"), 32, 0)
    yield Probe("pack_nothing", source, [values, out], {1: np.zeros((32, COUNT), np.uint16)})


def _pack_kernel(gather, pack, scatter):
    def kernel(source, out):
        thread = int32(cuda.threadIdx.x)
        scatter(out, thread * COUNT, pack(gather(source, thread * COUNT)))

    return kernel


def canonical(words, half):
    """Patterns with the one NaN that conversions make."""
    return np.where(np.isnan(words.view(half).astype(np.float32)), np.uint16(0x7FFF), words)


def numbers():
    """float32 values of all kinds."""
    rng = np.random.default_rng(3)
    spread = rng.standard_normal(400) * 2.0 ** rng.integers(-135, 128, 400)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 1e-40, -1e-40, 2.0**-126, 3.4e38, 126, -126, -126.5, 128, -150]
    return np.concatenate([special, spread, rng.uniform(-140, 140, 200), rng.uniform(0.5, 2, 200)]).astype(np.float32)


def scalar_probes():
    x = numbers()
    n, tiny = x.size, np.finfo(np.float32).tiny

    def flush(values):
        return np.where(np.abs(values) < tiny, np.copysign(np.float32(0), values), values)

    def mathematics(x, y, z, out, count):
        for i in range(cuda.threadIdx.x, count, cuda.blockDim.x):
            out[i] = ex2_approx(x[i])
            y[i] = lg2_approx(x[i])
            z[i] = rcp_approx(x[i])

    with np.errstate(all="ignore"):
        wide = flush(x).astype(np.float64)
        truth = {1: np.log2(wide), 2: flush((1 / wide).astype(np.float32)), 3: flush(np.exp2(wide).astype(np.float32))}
    outs = [np.full(n, 7, np.float32) for _ in range(3)]
    source = KernelSource(mathematics, (*["float32*"] * 4, "int32"), 64, 0)
    truth = {at: value.astype(np.float32) for at, value in truth.items()}
    yield Probe("mathematics", source, [x, *outs, n], truth, rtol=APPROXIMATE, atol=APPROXIMATE / 2)

    for name, larger, truth in (("fmax", fmax, np.fmax), ("fmax_nan", fmax_nan, np.maximum)):
        source = KernelSource(_maxima(larger), ("float32*", "pointer", "int32"), 64, 0)
        yield Probe(name, source, [x, np.full(n, 7, np.float32), n], {1: truth(x, x[::-1])})


def _maxima(larger):
    def maxima(x, out, count):
        for i in range(cuda.threadIdx.x, count, cuda.blockDim.x):
            st_global_f32(out + 4 * i, larger(x[i], x[count - 1 - i]))

    return maxima


def conversion_probes():
    words = np.arange(1 << 16, dtype=np.uint16)
    load_bf16, store_bf16 = CONVERSIONS["bf16"][1:]

    def widen(words, halves, brains, bits):
        for i in range(cuda.threadIdx.x, 65536, cuda.blockDim.x):
            halves[i] = half_to_float(int32(words[i]))
            brains[i] = load_bf16(words[i])
            bits[i] = bits_to_float(int32(words[i]) << 13)

    outs = [np.full(1 << 16, 7, np.float32) for _ in range(3)]
    truth = {
        1: words.view(np.float16).astype(np.float32),
        2: (words.astype(np.uint32) << 16).view(np.float32),
        3: (words.astype(np.uint32) << 13).view(np.float32),
    }
    yield Probe("widen", KernelSource(widen, ("uint16*", *["float32*"] * 3), 256, 0), [words, *outs], truth)

    x = np.concatenate([numbers(), halfway(np.float16), halfway(ml_dtypes.bfloat16)])
    n = x.size

    def narrow(x, halves, brains, low, count):
        for i in range(cuda.threadIdx.x, count, cuda.blockDim.x):
            halves[i] = uint16(float_to_half(x[i]))
            brains[i] = store_bf16(x[i])
            low[i] = uint16(float_to_bits(x[i]) & 0xFFFF)

    with np.errstate(all="ignore"):
        truth = {
            1: canonical(x.astype(np.float16).view(np.uint16), np.float16),
            2: canonical(x.astype(ml_dtypes.bfloat16).view(np.uint16), ml_dtypes.bfloat16),
            3: (x.view(np.uint32) & 0xFFFF).astype(np.uint16),
        }
    outs = [np.full(n, 7, np.uint16) for _ in range(3)]
    source = KernelSource(narrow, ("float32*", *["uint16*"] * 3, "int32"), 64, 0)
    yield Probe("narrow", source, [x, *outs, n], truth)


def halfway(half):
    """float32 values halfway between neighbours of a 16-bit type, and just beside."""
    words = np.arange(0x0100, 0x7000, 61, dtype=np.uint16)
    low, high = (w.view(half).astype(np.float32) for w in (words, words + np.uint16(1)))
    middle = ((low.astype(np.float64) + high) / 2).astype(np.float32)
    return np.concatenate([middle, np.nextafter(middle, low), np.nextafter(middle, high), -middle])


def probes():
    yield from fragment_probes()
    yield from elementwise_probes()
    yield from gradient_probes()
    yield from scalar_call_probe()
    yield from value_and_slope_probe()
    yield from pack_probes()
    yield from scalar_probes()
    yield from conversion_probes()
