"""Runs on the CPU what the scalars lower to: Numba types and lowers a function for the GPU, and the LLVM code that
comes out is compiled for this machine instead, with libm in place of the special-function units."""

import ctypes
import ctypes.util
import re
from types import SimpleNamespace

import llvmlite.binding as llvm
import numba.cuda.dispatcher
import numpy as np
from numba import cuda
from numba.cuda import types

import numba_fa.scalar.register  # noqa: F401
from numba_fa.scalar.term import HARDWARE, SIMPLE
from numba_fa.scalar.types import DualType, IndexType, RealType, StoredType, scalar_of

LIBM = {
    "ex2": "exp2f", "lg2": "log2f", "sqrt": "sqrtf", "sin": "sinf", "cos": "cosf", "tanh": "tanhf", "fabs": "fabsf",
    "fma": "fmaf", "floor": "floorf", "ceil": "ceilf", "trunc": "truncf", "rint": "rintf", "minimum": "fminf",
    "maximum": "fmaxf",
}  # fmt: skip
LIBDEVICE = [
    "expm1", "cbrt", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "erf", "erfc", "atan2",
    "fmod",
]  # fmt: skip
# Of constants, which Numba types as float64, user functions may use any.
DOUBLE = ["tanh", "sin", "cos", "exp", "sqrt", "log", "log1p", "atan", "erf", "pow", "atan2", "hypot", "fabs"]
POSITION = IndexType(natural=True)
DEFINED = """
define linkonce_odr float @host_rcp(float %x) {
  %y = fdiv float 1.0, %x
  ret float %y
}
define linkonce_odr i64 @host_multiply_add(i32 %a, i32 %b, i64 %c) {
  %x = sext i32 %a to i64
  %y = sext i32 %b to i64
  %z = mul i64 %x, %y
  %r = add i64 %z, %c
  ret i64 %r
}
"""
_libm = ctypes.CDLL(ctypes.util.find_library("m"))


def address(name):
    return ctypes.cast(getattr(_libm, name), ctypes.c_void_p).value


def setup():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name, function in LIBM.items():
        llvm.add_symbol(f"host_{name}", address(function))
    for name in LIBDEVICE:
        llvm.add_symbol(f"__nv_{name}f", address(f"{name}f"))
    for name in DOUBLE:
        llvm.add_symbol(f"__nv_{name}", address(name))


def opaque_pointers(text):
    """LLVM's new pointer syntax: every `<type>*` becomes `ptr`."""
    while (star := text.find("*")) >= 0:
        start = star
        if text[start - 1] in "}]":
            depth = 0
            while True:
                start -= 1
                depth += (text[start] in "}]") - (text[start] in "{[")
                if not depth:
                    break
        else:
            while text[start - 1].isalnum() or text[start - 1] in "_.":
                start -= 1
        text = text[:start] + "ptr" + text[star + 1 :]
    return text


def for_host(text):
    """GPU code as this machine's: other names for what only the GPU has."""
    names = {assembly: name for name, assembly in HARDWARE.items()}

    def call(match):
        return f"call float @host_{names[match[1]]}({match[2]})"

    text = re.sub(r'call float asm +"([^"]*)", "[^"]*"\s*\(([^)]*)\)[^\n]*', call, text)
    text = re.sub(r'call i64 asm +"mad[^"]*", "[^"]*"\s*(\([^)]*\))[^\n]*', r"call i64 @host_multiply_add\1", text)
    for name, intrinsic in SIMPLE.items():
        text = text.replace(f'@"{intrinsic}"', f"@host_{name}")
    text = re.sub(r"^target .*$", "", text, flags=re.M)
    text = re.sub(r" ?addrspace\(\d\)", "", text).replace("addrspacecast", "bitcast")
    text = re.sub(r"^!nvvm.*$|^(?=declare.*\bbyval\b)", "", text, flags=re.M)
    declared = "".join(f"declare float @host_{name}(float)\n" for name in HARDWARE if name != "rcp")
    return opaque_pointers(text) + declared + DEFINED


def compiled(function, kinds):
    """(LLVM text, entry's name, result type) of a device function."""
    device = SimpleNamespace(compute_capability=(9, 0, "a"))
    saved, numba.cuda.dispatcher.get_current_device = numba.cuda.dispatcher.get_current_device, lambda: device
    try:
        result = cuda.jit(function, device=True).compile_device(tuple(kinds))
    finally:
        numba.cuda.dispatcher.get_current_device = saved
    return result.library.llvm_strs, result.fndesc.llvm_func_name, result.signature.return_type


def array_words(array):
    """An array's fields as Numba's array value has them, each 8 bytes."""
    return [0, 0, array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides]


NUMBA = {"bfloat16": types.bfloat16, "bool": types.boolean}


def numba_type(value):
    if isinstance(value, np.ndarray):
        dtype = NUMBA.get(value.dtype.name) or getattr(types, value.dtype.name)
        return types.Array(dtype, value.ndim, "A")
    return types.float32 if isinstance(value, float) else types.int32


def flat(kind, value):
    """[(ctypes type, value)] of an argument."""
    if isinstance(kind, IndexType):
        return [(ctypes.c_int32, int(value)), (ctypes.c_float, float(value)), (ctypes.c_float, 0.0)]
    if isinstance(kind, DualType):  # the derivative by itself is 1
        return [(ctypes.c_float, float(value)), (ctypes.c_float, 1.0)]
    if isinstance(kind, types.Array):
        return [(ctypes.c_int64, word) for word in array_words(value)]
    return [(ctypes.c_float, float(value))]


def run(function, kinds, arguments_of_calls):
    """function's results for each tuple of arguments, and its Numba result type."""
    texts, entry, result = compiled(function, kinds)
    module = llvm.parse_assembly(for_host(texts[0]))
    for text in texts[1:]:
        module.link_in(llvm.parse_assembly(for_host(text)))
    module.verify()
    engine = llvm.create_mcjit_compiler(module, llvm.Target.from_default_triple().create_target_machine(opt=1))
    engine.finalize_object()
    out, results = (ctypes.c_int32 * 8)(), []
    for arguments in arguments_of_calls:
        items = [item for kind, value in zip(kinds, arguments, strict=True) for item in flat(kind, value)]
        call = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, *(kind for kind, _ in items))
        call(engine.get_function_address(entry))(ctypes.addressof(out), *(value for _, value in items))
        results.append(value_of(result, bytes(out)))
    return results, result


def value_of(kind, raw):
    if isinstance(kind, StoredType):
        kind = kind.storage
    if kind in (types.float32,) or isinstance(kind, RealType):
        return np.frombuffer(raw, np.float32)[0]
    if isinstance(kind, DualType):
        return np.frombuffer(raw, np.float32)[:2]
    if kind == types.boolean:
        return bool(raw[0] & 1)
    if isinstance(kind, IndexType):
        whole, (base, rest) = np.frombuffer(raw, np.int32)[0], np.frombuffer(raw, np.float32)[1:3]
        return int(whole), float(base + rest)
    kind = types.unliteral(kind)
    return np.frombuffer(raw, {types.float64: np.float64, types.int64: np.int64, types.int32: np.int32}[kind])[0]


def score_kinds(aux, fast=False):
    """Argument types of function(score, b, h, q, kv, *aux)."""
    return [RealType(fast), *[POSITION] * 4, *(scalar_of(numba_type(each), fast) for each in aux)]


def scores(function, places, aux=(), fast=False):
    """function(score, b, h, q, kv, *aux) at each place (score, b, h, q, kv)."""
    return run(function, score_kinds(aux, fast), [(*place, *aux) for place in places])


def duals(function, places, aux=(), fast=False):
    """(value, derivative by the score) at each place; the derivative is 0 where the function's type has none."""
    kinds = [DualType(fast), *score_kinds(aux, fast)[1:]]
    results, kind = run(function, kinds, [(*place, *aux) for place in places])
    return [tuple(each) if isinstance(kind, DualType) else (each, 0.0) for each in results]


setup()
