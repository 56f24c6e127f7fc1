"""The packed kernel parameters against the layout that ctypes gives a C structure of the same members."""

import ctypes
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_fa.build import driver, launch, tensor_map
from numba_fa.build.launch import ParameterBlock, Template
from numba_fa.build.loader import LoadedKernel
from numba_fa.dispatch.addresses import Address
from numba_fa.dispatch.device import HOPPER
from numba_fa.dispatch.variant import TensorMap
from numba_fa.errors import LaunchError
from numba_fa.kernels.simt.variant import signature as simt_signature
from numba_fa.kernels.sm90.variant import SIGNATURE as SM90_SIGNATURE
from numba_fa.problem.arrays import ArrayView

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


ARRAY = ArrayView(1 << 40, (3, 5), (0, 7), "float32", 4, "cuda:0")


def test_an_array_is_laid_out_as_numba_does():
    """0, 0, elements, bytes of one, address, shape, strides in bytes: 8 bytes each, each a parameter of its own."""
    block = ParameterBlock(("int32", "array:float32:2", "float32"))
    block.fill((7, ARRAY, 0.5))
    places = addresses_of(block, 11)
    assert [at - places[0] for at in places] == [0, *range(8, 80, 8), 80]
    assert [ctypes.c_int64.from_address(at).value for at in places[1:10]] == [0, 0, 15, 4, 1 << 40, 3, 5, 0, 28]
    assert ctypes.c_float.from_address(places[10]).value == 0.5


def test_an_array_without_axes():
    block = ParameterBlock(("array:int32:0",))
    block.fill((ArrayView(640, (), (), "int32", 4, "cuda:0"),))
    assert [ctypes.c_int64.from_address(at).value for at in addresses_of(block, 5)] == [0, 0, 1, 4, 640]


SIGNATURE = ("tensor_map", "pointer", "int32", "array:float32:2", "tensor_map", "float32")


@pytest.fixture
def template(monkeypatch):
    """Of a kernel whose tensor maps hold their address eight times over, as often as asked for by `encoded`."""
    encoded = []

    def encoder(tensor_map):
        def encode(address):
            encoded.append((tensor_map.rows, address))
            return address.to_bytes(8, "little") * 16

        return encode

    monkeypatch.setattr(launch, "encoder", encoder)
    view = replace(ARRAY, shape=(1, 2, 3, 8), strides=(48, 24, 8, 1), pointer=Address(0))
    array = replace(ARRAY, pointer=Address(5))
    arguments = (TensorMap(view, 64, 64), Address(4), -9, array, TensorMap(replace(view, pointer=Address(1)), 32, 64), 1.5)
    made = Template(SIGNATURE, arguments)
    made.encoded = encoded
    return made


def test_a_template_writes_addresses_and_keeps_the_rest(template):
    block = template.block()
    for addresses in ((1 << 40, 2 << 40, 0, 0, 77, 5 << 32), (3, 4, 0, 0, 0, 6)):
        template.write(block, addresses)
        places = addresses_of(block, 14)
        words = [ctypes.c_int64.from_address(at).value for at in places]
        assert words[0] == addresses[0] and words[1] == addresses[4] and words[12] == addresses[1]
        assert words[3:12] == [0, 0, 15, 4, addresses[5], 3, 5, 0, 28]
        assert ctypes.c_int32.from_address(places[2]).value == -9
        assert ctypes.c_float.from_address(places[13]).value == 1.5
        assert ctypes.string_at(places[12], 128) == addresses[1].to_bytes(8, "little") * 16
        assert block.addresses == addresses


def test_a_tensor_map_is_encoded_once_an_address(template):
    block = template.block()
    for first in (1, 2, 1, 2, 1):
        template.write(block, (first, 9, 0, 0, 0, 0))
    assert template.encoded == [(64, 1), (32, 9), (64, 2)]


def test_blocks_of_a_template_are_apart(template):
    first, second = template.block(), template.block()
    template.write(first, (1, 2, 0, 0, 3, 4))
    template.write(second, (5, 6, 0, 0, 7, 8))
    assert ctypes.c_int64.from_address(addresses_of(first, 2)[1]).value == 3
    assert ctypes.c_int64.from_address(addresses_of(second, 2)[1]).value == 7


def launcher(monkeypatch, signature, arguments, launch_kernel, early=False):
    """A launch of a kernel by a driver whose function is this."""
    monkeypatch.setattr(launch, "entry_point", lambda name, since, waits: launch_kernel)
    kernel = LoadedKernel(SimpleNamespace(threads=32, shared_bytes=9), None, 1 << 40)
    return launch.make_prepare(kernel, signature, (7, 8, 9), HOPPER, early)(arguments)


def test_threads_that_launch_at_once_disturb_no_other(monkeypatch):
    """A driver that looks at the parameters late sees those of its own call."""
    seen = []

    def slow_launch(config, function, table, extra):
        time.sleep(0.002)
        seen.append((config._obj.stream, ctypes.c_int64.from_address(table._obj[0]).value))
        return 0

    enqueue = launcher(monkeypatch, ("pointer", "int32"), (Address(0), 3), slow_launch)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: enqueue((n,), n), range(40)))
    assert sorted(seen) == [(n, n) for n in range(40)]


def test_what_the_driver_refuses_is_an_error(monkeypatch):
    enqueue = launcher(monkeypatch, ("pointer",), (Address(0),), lambda *arguments: 1)
    with pytest.raises(LaunchError, match="CUDA_ERROR_INVALID_VALUE"):
        enqueue((1,), 0)


def test_the_drivers_function_is_called_as_c_calls_it(monkeypatch):
    """A function of C's types stands in: it gets CUlaunchConfig as cuda.h lays it out, and pointers of 64 bits."""
    seen = []
    kinds = (ctypes.POINTER(ctypes.c_uint32), ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)

    @ctypes.CFUNCTYPE(ctypes.c_int, *kinds)
    def launch_kernel(config, function, table, extra):
        seen.append((config[:7], config[8:14], function, ctypes.c_int64.from_address(table[0]).value, extra))
        return 0

    plain = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.cast(launch_kernel, ctypes.c_void_p).value)
    enqueue = launcher(monkeypatch, ("pointer",), (Address(0),), plain)
    for at in (1 << 41, 1 << 42):
        enqueue((at,), 5 << 32)
    shape, rest = [7, 8, 9, 32, 1, 1, 9], [0, 5, 0, 0, 0, 0]
    assert seen == [(shape, rest, 1 << 40, at, None) for at in (1 << 41, 1 << 42)]
    assert ctypes.sizeof(launch.LaunchConfig) == 56


@pytest.mark.parametrize("answer", [201, 400], ids=["no-context", "another-context"])
def test_a_kernel_is_launched_in_its_devices_context_and_no_other_is_left_current(monkeypatch, answer):
    """A driver refuses while another context is current, as CUDA's does: tests/gpu/test_gpu_devices.py."""
    done, current = [], ["mine"]

    @contextmanager
    def made_current(ordinal):
        current.append(ordinal)
        yield
        current.pop()

    def launch_kernel(config, function, table, extra):
        if current[-1] != HOPPER.ordinal:
            return answer
        done.append(ctypes.c_int64.from_address(table._obj[0]).value)
        return 0

    monkeypatch.setattr(driver, "made_current", made_current)
    enqueue = launcher(monkeypatch, ("pointer",), (Address(0),), launch_kernel)
    for at in (3, 5):
        enqueue((at,), 0)
    assert done == [3, 5] and current == ["mine"]


def test_what_is_refused_in_the_right_context_too_is_an_error(monkeypatch):
    asked = []
    monkeypatch.setattr(driver, "made_current", lambda ordinal: nullcontext())
    enqueue = launcher(monkeypatch, ("pointer",), (Address(0),), lambda *arguments: asked.append(arguments) or 400)
    with pytest.raises(LaunchError, match="CUDA_ERROR_INVALID_HANDLE"):
        enqueue((1,), 0)
    assert len(asked) == 2


def test_an_early_kernel_is_launched_so(monkeypatch):
    """One CUlaunchAttribute of 72 bytes: programmatic stream serialization, 6 in cuda.h, allowed."""
    seen = []

    def launch_kernel(config, *rest):
        seen.append((config._obj.attribute_count, config._obj.attributes))
        return 0

    for early in (True, False):
        launcher(monkeypatch, ("pointer",), (Address(0),), launch_kernel, early=early)((1,), 0)
    (count, at), none = seen
    assert (ctypes.sizeof(launch._Attribute), count, none) == (72, 1, (0, None))
    assert list((ctypes.c_int * 3).from_address(at)) == [6, 0, 1]


def test_a_tensor_map_is_asked_for_as_c_asks(monkeypatch):
    """A function of cuda.h's types stands in for cuTensorMapEncodeTiled, and writes what it gets where the map belongs."""
    pointer, words, sizes = ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint32)
    kinds = (words, ctypes.c_int, ctypes.c_uint32, pointer, words, words, sizes, sizes, *[ctypes.c_int] * 4)

    @ctypes.CFUNCTYPE(ctypes.c_int, *kinds)
    def encode_tiled(room, kind, rank, address, shape, strides, box, steps, *rest):
        found = [kind, rank, address, *shape[:4], *strides[:3], *box[:2], *box[2:4], *rest]
        for i, value in enumerate(found[:16]):
            room[i] = value
        assert steps[:4] == [1] * 4 and ctypes.cast(room, pointer).value % 64 == 0
        return 1 if address == 9 else 0

    plain = ctypes.PYFUNCTYPE(ctypes.c_int)(ctypes.cast(encode_tiled, pointer).value)
    monkeypatch.setattr(tensor_map, "entry_point", lambda name, since, waits: plain)
    view = ArrayView(0, (2, 300, 1, 64), (1 << 33, 128, 64, 1), "bfloat16", 2, "cuda:0")
    encode = tensor_map.encoder(TensorMap(view, 176, 64))
    for address in (1 << 45, 3):
        # bfloat16 is 9; no interleave, swizzle of 128 bytes, ...; the axis of length 1 has a stride of 16 bytes
        expected = [9, 4, address, 64, 300, 1, 2, 256, 16, 1 << 34, 64, 176, 1, 1, 0, 3]
        assert struct.unpack("<16Q", encode(address)) == tuple(expected)
    with pytest.raises(LaunchError, match="CUDA_ERROR_INVALID_VALUE"):
        encode(9)


def test_a_tensor_map_is_asked_for_again_where_no_context_is_current(monkeypatch):
    current = []

    @contextmanager
    def made_current(ordinal):
        current.append(ordinal)
        yield
        current.pop()

    def encode_tiled(room, *rest):
        if current != [3]:
            return 201
        ctypes.memset(room, 7, 128)
        return 0

    monkeypatch.setattr(driver, "made_current", made_current)
    monkeypatch.setattr(tensor_map, "entry_point", lambda name, since, waits: encode_tiled)
    view = ArrayView(0, (2, 300, 1, 64), (1 << 33, 128, 64, 1), "bfloat16", 2, "cuda:3")
    assert tensor_map.encoder(TensorMap(view, 176, 64))(1 << 45) == bytes([7]) * 128 and not current


@pytest.mark.parametrize("change", [lambda a: a + 16, lambda a: 16 + a, lambda a: a * 2, lambda a: a // 4, lambda a: a | 1])
def test_addresses_that_are_not_known_yet_are_not_counted_with(change):
    with pytest.raises(TypeError, match="not known yet"):
        change(Address(2))


@pytest.mark.parametrize("values", [(1,), (1, 2, 3), ("a", 2)])
def test_values_that_do_not_fit_the_signature_are_an_error(values):
    with pytest.raises(struct.error):
        ParameterBlock(("int64", "int32")).fill(values)
