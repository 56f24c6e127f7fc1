"""A program's arguments as the compiler takes them and as the host packs them: the same parameters, in PTX."""

import re

import pytest

from numba_fa.build.compiler import compile_kernel, ptx_of
from numba_fa.build.launch import ParameterBlock
from numba_fa.dispatch.key import DispatchKey
from numba_fa.jit import TOKENS, KernelSource, float32

KEY = DispatchKey("fwd", "simt", "fp32", 8, "all2+causal+padding", 16, 16, 1, "softcap+alibi+sink")
BYTES = {"u64": 8, "s64": 8, "b64": 8, "u32": 4, "s32": 4, "f32": 4, "b32": 4}
OWN = ("float32*", "int32")


def kernel(out, n, aux):
    out[n] = 1


def ptx_parameters(source):
    """(offset, bytes) of each parameter, each aligned by its size, as the driver reads them."""
    text = ptx_of(KEY, lambda key: source, "sm_80")
    head = re.search(r"\.entry [^(]*\((.*?)\n\)", text, re.S)[1]
    offset, found = 0, []
    for kind in re.findall(r"\.param (?:\.align \d+ )?\.(\w+)", head):
        size = BYTES[kind]
        offset += -offset % size
        found.append((offset, size))
        offset += size
    return found


@pytest.mark.parametrize("program", [
    (), ("int32",), ("float32", "int32", "int32"), ("array:int32:1",),
    ("int32", "array:float32:2", "int32", "array:int32:4"),
    ("array:bfloat16:4", "float32", "array:float16:3", "array:float32:0"), ("array:bool:1", "array:uint8:2", "int32"),
])  # fmt: skip
def test_what_is_packed_is_what_the_kernel_takes(program):
    source = KernelSource(kernel, OWN, 32, 0, program)
    taken = ptx_parameters(source)
    assert [at for at, _ in taken] == ParameterBlock(OWN + program).offsets


def test_a_kernel_may_take_no_program():
    def plain(out, n):
        out[n] = 1

    assert len(ptx_parameters(KernelSource(plain, OWN, 32, 0))) == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8", "uint16", "int64", "float64", "bool"])
def test_elements_of_every_dtype_are_read(dtype):
    def read(out, n, aux):
        out[n] = float32(aux[0][n, 0])

    artifact = compile_kernel(KEY, lambda key: KernelSource(read, OWN, 32, 0, (f"array:{dtype}:2",)), "sm_80")
    assert (artifact.stack, artifact.spill_stores) == (0, 0)


def test_an_entrys_name_has_no_plus():
    artifact = compile_kernel(KEY, lambda key: KernelSource(kernel, OWN, 32, 0), "sm_80")
    assert artifact.entry == "numba_fa_fwd_simt_fp32_d8_all2_causal_padding_softcap_alibi_sink_m16n16s1"


@pytest.mark.parametrize("token", ["array", "array:int32", "array:int32:x", "array:text:1", "array:cuda:1", "grid:int32:1"])
def test_what_is_no_token(token):
    with pytest.raises(KeyError, match="no kind of kernel parameter"):
        TOKENS[token]
