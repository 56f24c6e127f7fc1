"""Dispatch keys, the tuning table and the registry: complete, unique, and within what the hardware gives."""

from dataclasses import fields, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.dispatch import registry, tuning
from numba_fa.dispatch.key import DispatchKey
from numba_fa.dispatch.registry import keys, register, variant_of, variants
from numba_fa.dispatch.tuning import AHEAD, TABLE, key_for, tuned_keys
from numba_fa.kernels.sm90.shape import Shape
from numba_fa.tile.pipeline import barrier_bytes
from tests.problem.views import problem

FAMILIES = ("sm90", "simt", "cpu")
TUNED = list(keys(FAMILIES))
SM90 = list(keys(("sm90",), ("fwd",)))
VARIANTS = (*variants("fwd"), *variants("bwd"))
ARRAY_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# What a block may use on sm_90: 227 KiB of shared memory and 64 Ki registers (CUDA C++ Programming Guide, table
# "Technical specifications per compute capability").
SHARED_BYTES = 232448
REGISTERS = 65536

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True), min_size=1, max_size=4).map("+".join)
WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)
COUNTS = st.integers(0, 10**6)


def test_every_tuned_slug_round_trips():
    assert all(DispatchKey.parse(key.slug) == key and str(key) == key.slug for key in TUNED)


def test_tuned_slugs_are_unique():
    assert len({key.slug for key in TUNED}) == len(TUNED) == len(set(TUNED))


OPS = st.sampled_from(["fwd", "block", "bwd", "bwd_pre", "bwd_bias0", "bwd_bias12"])


@given(st.builds(DispatchKey, OPS, WORDS, WORDS, COUNTS, NAMES, COUNTS, COUNTS, COUNTS, NAMES))
def test_any_slug_round_trips(key):
    assert DispatchKey.parse(key.slug) == key


@pytest.mark.parametrize(("mask", "bias", "middle"), [
    ("causal", "none", "causal"), ("all2+causal+padding", "none", "all2+causal+padding"),
    ("causal", "softcap+alibi+sink", "causal-softcap+alibi+sink"),
    ("mod_1a2b3c4d5e", "t5_32_128_b", "mod_1a2b3c4d5e-t5_32_128_b"),
    ("block+any2+window+prefix_int", "dense_bf16", "block+any2+window+prefix_int-dense_bf16"),
])  # fmt: skip
def test_masks_and_biases_in_a_slug(mask, bias, middle):
    key = DispatchKey("fwd", "sm90", "bf16", 128, mask, 128, 128, 2, bias)
    assert key.slug == f"fwd-sm90-bf16-d128-{middle}-m128n128s2"
    assert DispatchKey.parse(key.slug) == key


def test_a_tile_may_be_for_calls_with_a_bias_alone(monkeypatch):
    rows = (tuning.Row("sm90", 256, None, 64, 64, 1, tuning.H200, "alibi"), *TABLE)
    monkeypatch.setattr(tuning, "TABLE", rows)
    assert key_for("fwd", "sm90", "bf16", 128, "causal", "alibi").block_m == 64
    assert key_for("fwd", "sm90", "bf16", 128, "causal").block_m == 128
    assert key_for("fwd", "sm90", "bf16", 128, "causal", "alibi").bias == "alibi"
    assert key_for("fwd", "sm90", "bf16", 128, "causal", "softcap+alibi+sink").block_m == 64
    assert key_for("fwd", "sm90", "bf16", 128, "causal", "softcap").block_m == 128


def test_a_tile_may_be_for_short_calls_alone(monkeypatch):
    rows = (tuning.Row("sm90", 128, "causal", 128, 64, 4, tuning.H200, most=1024), *TABLE)
    monkeypatch.setattr(tuning, "TABLE", rows)
    forward = variants("fwd")[0]
    assert key_for("fwd", "sm90", "bf16", 128, "causal").block_n == 128
    for mask, seqlen_q, seqlen_k, block_n in [
        ("causal", 1024, 1024, 64), ("causal", 1, 1024, 64), ("causal", 1, 1025, 128), ("causal", 1025, 1, 128),
        (None, 9, 9, 128),
    ]:  # fmt: skip
        asked = problem(dtype="float16", head_dim=128, mask=mask, seqlen_q=seqlen_q, seqlen_k=seqlen_k)
        assert forward.configure(asked).block_n == block_n, (mask, seqlen_q, seqlen_k)
    found = {key.slug for key in tuned_keys(forward)}
    assert {"fwd-sm90-fp16-d128-causal-m128n64s4", "fwd-sm90-fp16-d128-causal-m128n128s2"} <= found
    assert "fwd-sm90-fp16-d128-full-m128n64s4" not in found


@pytest.mark.parametrize("variant", variants("bwd"), ids=lambda variant: variant.name)
def test_tiles_for_short_calls_are_a_forwards_alone(variant):
    """A backward's kernels take other tiles: with a forward's they do not fit a multiprocessor."""
    for head_dim, seqlen in product((64, 128, 256), (1, 512, 4096)):
        asked = problem(dtype="float32" if variant.family == "cpu" else "float16", head_dim=head_dim, seqlen_q=seqlen,
                        seqlen_k=seqlen)  # fmt: skip
        own = variant.key_for("fp32" if variant.family == "cpu" else "fp16", head_dim, "full", "none")
        assert variant.configure(asked) == own


@pytest.mark.parametrize("field", [field.name for field in fields(DispatchKey) if field.name != "op"])
def test_a_slug_tells_every_field(field):
    key = TUNED[0]
    value = getattr(key, field)
    other = replace(key, **{field: value + 1 if isinstance(value, int) else value + "x"})
    assert other.slug != key.slug


@pytest.mark.parametrize("text", ["", "fwd", "fwd-sm90-bf16-d128-causal", "bwd_-sm90-bf16-d128-causal-m128n128s2",
                                  "fwd-sm90-bf16-d128-causal-m128n128s2.cubin", " fwd-sm90-bf16-d8-full-m1n1s1",
                                  "fwd-sm90-bf16-d-8-full-m1n1s1", "fwd-sm90-bf16-dx-full-m1n1s1",
                                  "fwd-sm90-bf16-d8-full-m1n1s1\n"])  # fmt: skip
def test_what_is_no_slug(text):
    with pytest.raises(ValueError, match="is no slug"):
        DispatchKey.parse(text)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_declared_cell_has_a_tile_that_keys_lists(variant):
    """The key that a call gets is one of those that are compiled and tested ahead, and the other way round."""
    reached = {
        key
        for dtype, head_dim, mask, bias in variant.cells()
        if mask in AHEAD and bias == "none"
        for longest in (*tuning.lengths()[:-1], 1 << 20)
        for key in variant.stages(
            variant.configure(problem(dtype=ARRAY_NAMES[dtype], head_dim=head_dim, mask=mask, seqlen_q=longest)),
            frozenset("qkv"),
        )
    }
    assert reached == set(tuned_keys(variant)) <= set(keys((variant.family,), (variant.task,)))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_key_says_what_the_problem_asks(variant):
    for dtype, head_dim, mask, bias in variant.cells():
        if mask not in AHEAD or bias != "none":
            continue
        key = variant.configure(problem(dtype=ARRAY_NAMES[dtype], head_dim=head_dim, mask=mask))
        assert (key.op, key.family, key.dtype, key.mask) == (variant.op, variant.family, dtype, mask)
        assert key.head_dim >= head_dim
        assert min(key.block_m, key.block_n, key.stages) >= 1


def test_cells_are_each_mask_alone_and_each_bias_once():
    for variant in variants():
        variant = replace(variant, masks=("full", "causal", "window"), biases=("alibi", "softcap"), sink=True)
        cells = list(variant.cells())
        assert len(cells) == len(set(cells)) == len(variant.dtypes) * len(variant.head_dims) * (3 + 3)
        assert {(mask, bias) for _, _, mask, bias in cells} == {
            ("full", "none"), ("causal", "none"), ("window", "none"), ("causal", "alibi"), ("causal", "softcap"),
            ("causal", "sink"),
        }  # fmt: skip


def test_keys_defaults_to_the_gpu_families():
    assert set(keys()) == set(keys(("sm90", "simt")))
    assert {key.family for key in keys()} == {"sm90", "simt"}
    assert list(keys(())) == []


def test_the_table_ends_where_the_variants_do():
    for variant in variants():
        rows = [row for row in TABLE if row.family == variant.family]
        assert max(row.head_dim for row in rows) >= variant.head_dims[-1]
        assert [row.head_dim for row in rows] == sorted(row.head_dim for row in rows), "a row before would hide it"


@pytest.mark.parametrize(("family", "head_dim"), [("sm90", 264), ("simt", 1024), ("cpu", 257), ("sm91", 64)])
def test_no_tile_is_a_lookup_error(family, head_dim):
    with pytest.raises(LookupError, match=f"no tile for {family} head_dim {head_dim}"):
        key_for("fwd", family, "bf16", head_dim, "full")


@pytest.mark.parametrize("key", SM90, ids=str)
def test_sm90_tiles_fit_the_multiprocessor(key):
    shape = Shape(key)
    assert shape.shared_bytes <= SHARED_BYTES
    producer, consumer = shape.registers
    assert shape.threads == 128 * (1 + key.block_m // 64) <= 1024
    assert 128 * producer + 128 * shape.warpgroups * consumer <= REGISTERS
    # setmaxnreg takes multiples of 8 from 24 to 256 (PTX ISA).
    assert all(count % 8 == 0 and 24 <= count <= 256 for count in shape.registers)


@pytest.mark.parametrize("key", SM90, ids=str)
def test_sm90_tiles_suit_the_instructions(key):
    """wgmma: 64 queries a warpgroup, N a multiple of 8 to 256, K of 16; TMA: at most 256 rows a box (PTX ISA)."""
    assert key.block_m % 64 == 0
    assert key.block_n % 16 == 0, "P is the second product's K-major operand"
    assert key.block_n <= 256
    assert key.block_m <= 256
    assert key.head_dim % 16 == 0 == key.head_dim_v % 16


@pytest.mark.parametrize("key", SM90, ids=str)
def test_sm90_shared_memory_is_laid_out_without_overlap(key):
    shape = Shape(key)
    regions = [
        (0, shape.q_slots * shape.q_bytes),
        (shape.k_offset, shape.k_offset + key.stages * shape.k_bytes),
        (shape.v_offset, shape.v_offset + key.stages * shape.v_bytes),
        (shape.barrier_offset, shape.barrier_offset + barrier_bytes(shape.held, key.stages)),
    ]
    if shape.o_in_q:
        assert shape.o_offset == 0
    else:
        regions.append((shape.o_offset, shape.o_offset + key.block_m * shape.o_atoms * 128))
    regions.sort()
    assert all(end <= start for (_, end), (start, _) in zip(regions, regions[1:]))
    assert shape.shared_bytes >= max(end for _, end in regions) + 1024 - 1, "its start is rounded up to 1024"
    # A swizzle atom repeats every 1024 bytes: what TMA writes must start on one.
    assert all(at % 1024 == 0 for at in (shape.k_offset, shape.v_offset, shape.o_offset, shape.kv_atom, shape.q_atom))
    assert shape.barrier_offset % 8 == 0
    assert shape.q_bytes >= 2 * key.block_m * key.head_dim
    assert shape.k_bytes >= 2 * key.block_n * key.head_dim
    assert shape.v_bytes >= 2 * key.block_n * key.head_dim_v


def test_variant_of_finds_each_keys_variant():
    for variant in VARIANTS:
        own = [key for key in tuned_keys(variant) if key.op == variant.op]
        assert own and all(variant_of(key) is variant for key in own)


@pytest.mark.parametrize("variant", variants("bwd"), ids=lambda variant: variant.name)
def test_every_kernel_of_a_backward_has_a_variant(variant):
    for key in tuned_keys(variant):
        assert variant_of(key).family in (variant.family, "simt", "common")


def test_variant_of_a_foreign_key():
    with pytest.raises(KeyError, match="no variant makes fwd-sm91.*sm90, simt, cpu"):
        variant_of(replace(SM90[0], family="sm91"))
    with pytest.raises(KeyError):
        variant_of(replace(SM90[0], op="bwd_none"))


def test_the_registry_refuses_a_second_variant_of_a_name():
    before = variants()
    with pytest.raises(ValueError, match="'forward-simt' is registered already"):
        register(replace(variant_of(key_for("fwd", "simt", "fp32", 64, "full")), alignment=4))
    assert variants() == before


def test_the_registry_takes_the_same_variant_twice():
    before = variants()
    register(before[0])
    assert variants() == before


def test_a_new_name_comes_last(monkeypatch):
    monkeypatch.setattr(registry, "_VARIANTS", dict(registry._VARIANTS))
    other = replace(variants()[0], name="forward-other")
    register(other)
    assert variants()[-1] is other
    assert other not in variants("bwd")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_source_names_a_module_and_a_factory(variant):
    """The module itself is not imported here: it loads the compiler."""
    module, colon, factory = variant.source.partition(":")
    assert colon
    assert f"def {factory}(" in Path(find_spec(module).origin).read_text(encoding="utf-8")
