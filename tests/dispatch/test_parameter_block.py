"""The packed kernel parameters against the layout that ctypes gives a C structure of the same members."""

import ctypes
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_fa.build.launch import ParameterBlock
from numba_fa.kernels.simt.variant import signature as simt_signature
from numba_fa.kernels.sm90.variant import SIGNATURE as SM90_SIGNATURE

TYPES = {
    "pointer": ctypes.c_int64,
    "int64": ctypes.c_int64,
    "int32": ctypes.c_int32,
    "float32": ctypes.c_float,
    "float32*": ctypes.c_int64,
    "uint16*": ctypes.c_int64,
    "tensor_map": ctypes.c_char * 128,
}
# CUtensorMap is declared alignas(64); ctypes of Python 3.11 cannot say so, which leaves 1 here.
TENSOR_MAP_ALIGNMENT = 64
VALUES = {"tensor_map": bytes(range(128)), "float32": 0.15625}  # 5/32 is exact in float32


def c_offsets(signature):
    """Offsets of a C structure's members; a tensor map is preceded by the padding that its alignment asks for."""
    members = []
    for i, token in enumerate(signature):
        if token == "tensor_map":
            end = offsets_of(members)[-1] + ctypes.sizeof(members[-1][1]) if members else 0
            members.append((f"pad{i}", ctypes.c_char * (-end % TENSOR_MAP_ALIGNMENT)))
        members.append((f"p{i}", TYPES[token]))
    found = dict(zip((name for name, _ in members), offsets_of(members)))
    return [found[f"p{i}"] for i in range(len(signature))]


def offsets_of(members):
    """Offset of each of a structure's members."""
    structure = type("S", (ctypes.Structure,), {"_fields_": members})
    return [getattr(structure, name).offset for name, _ in members]


def values_for(signature):
    """A value for each parameter, all different where the kind allows."""
    return tuple(VALUES.get(token, 1000 + i) for i, token in enumerate(signature))


def addresses_of(block, count):
    """Where the block's table of pointers says that each parameter is."""
    return list((ctypes.c_void_p * count).from_address(block.address))


def read_back(block, signature):
    """The parameters, read as the driver does: through the table of pointers, each as its C type."""
    places = zip(addresses_of(block, len(signature)), signature)
    return tuple(
        ctypes.string_at(at, 128) if token == "tensor_map" else TYPES[token].from_address(at).value
        for at, token in places
    )


SIGNATURES = [SM90_SIGNATURE, simt_signature("fp32"), simt_signature("bf16"), ("int32", "tensor_map", "int32", "int64")]


@pytest.mark.parametrize("signature", SIGNATURES, ids=["sm90", "simt-fp32", "simt-16-bit", "map-in-the-middle"])
def test_layout_and_contents_of_the_real_signatures(signature):
    block = ParameterBlock(signature)
    block.fill(values_for(signature))
    places = addresses_of(block, len(signature))
    assert [at - places[0] for at in places] == c_offsets(signature)
    assert read_back(block, signature) == values_for(signature)


@given(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=12).map(tuple))
def test_layout_and_contents_of_any_signature(signature):
    block = ParameterBlock(signature)
    block.fill(values_for(signature))
    places = addresses_of(block, len(signature))
    assert [at - places[0] for at in places] == c_offsets(signature)
    assert places[0] % 64 == 0
    assert read_back(block, signature) == values_for(signature)


def test_tensor_maps_lie_on_64_bytes():
    block = ParameterBlock(SM90_SIGNATURE)
    maps = [at for at, token in zip(addresses_of(block, len(SM90_SIGNATURE)), SM90_SIGNATURE) if token == "tensor_map"]
    assert len(maps) == 4
    assert all(at % 64 == 0 for at in maps)


def test_filling_again_replaces_and_moves_nothing():
    signature = ("pointer", "int32", "float32")
    block = ParameterBlock(signature)
    places = addresses_of(block, 3)
    for values in ((1 << 47, -5, 0.5), (0, 7, -2.0)):
        block.fill(values)
        assert read_back(block, signature) == values
    assert addresses_of(block, 3) == places


def test_each_thread_has_a_block_of_its_own():
    signature = ("int64", "int32")
    block = ParameterBlock(signature)
    block.fill((1, 2))
    seen = {}

    def other():
        block.fill((3, 4))
        seen["address"], seen["values"] = block.address, read_back(block, signature)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen["values"] == (3, 4)
    assert read_back(block, signature) == (1, 2)
    assert seen["address"] != block.address


@pytest.mark.parametrize("values", [(1,), (1, 2, 3), ("a", 2)])
def test_values_that_do_not_fit_the_signature_are_an_error(values):
    with pytest.raises(struct.error):
        ParameterBlock(("int64", "int32")).fill(values)
