"""Masks as declarations: names, launch arguments, composition, and every fault."""

from dataclasses import replace

import numpy as np
import pytest

from numba_fa.errors import ProblemError
from numba_fa.problem.masks import (
    KINDS,
    UNBOUNDED,
    All,
    Any,
    BlockMask,
    Causal,
    Document,
    Full,
    KeyPadding,
    MaskMod,
    PrefixLM,
    SlidingWindow,
    mask_named,
)  # fmt: skip
from numba_fa.problem.problem import CallSizes, Problem
from numba_fa.problem.tokens import tokens_of
from tests.problem.views import ADDRESS, request, view

SIZES = CallSizes(2, 5, 7, 6, "cpu")
OFF = 2


def ids(*shape, **changes):
    return view(shape, "int32", **changes)


def odd(b, h, q_idx, kv_idx, table, n):
    return (table[b] + n + kv_idx) % 2 == 1


MOD = MaskMod(odd, ids(2), 3)
TABLE = ids(1, 6, 1, 1)
# name in a slug, launch arguments
DECLARED = [
    (Full(), "full", ()),
    (Causal(), "causal", (OFF,)),
    (SlidingWindow(), "window", (-UNBOUNDED, UNBOUNDED, 0)),
    (SlidingWindow(3, 1, 2), "window", (OFF - 3, OFF + 1, 2)),
    (SlidingWindow(None, 0), "window", (-UNBOUNDED, OFF, 0)),
    (SlidingWindow(0, 0), "window", (OFF, OFF, 0)),
    (SlidingWindow(2**40, 2**40), "window", (-UNBOUNDED, UNBOUNDED, 0)),
    (KeyPadding(ids(2)), "padding", (ids(2),)),
    (KeyPadding(ids(1)), "padding", (ids(2, strides=(0,)),)),
    (Document(ids(2, 5), ids(1, 7)), "document", (ids(2, 5), ids(2, 7, strides=(0, 1)))),
    (PrefixLM(4), "prefix_int", (OFF, 4)),
    (PrefixLM(np.int64(4)), "prefix_int", (OFF, 4)),
    (PrefixLM(2**40), "prefix_int", (OFF, UNBOUNDED)),
    (PrefixLM(ids(1)), "prefix", (OFF, ids(2, strides=(0,)))),
    (MOD, MOD.name, (ids(2), 3)),
    (Causal() & KeyPadding(ids(2)), "all2+causal+padding", (OFF, ids(2))),
    (SlidingWindow(1) | PrefixLM(4), "any2+window+prefix_int", (OFF - 1, UNBOUNDED, 0, OFF, 4)),
    (BlockMask(TABLE, Causal(), (128, 64), (5, 7)), "block+causal",
     (ids(6, 1), 0, 1, 7, 6, OFF)),
]  # fmt: skip


@pytest.mark.parametrize(("mask", "name", "arguments"), DECLARED, ids=lambda value: value if isinstance(value, str) else "")
def test_names_arguments_and_tokens(mask, name, arguments):
    assert mask.name == name
    assert mask.faults(SIZES) == []
    assert mask.arguments(SIZES) == arguments
    assert mask.tokens == tokens_of(name, "none")
    kinds = {"int32": int, "float32": float}
    assert [
        isinstance(value, kinds[token]) if token in kinds else token == f"array:{value.dtype}:{len(value.shape)}"
        for token, value in zip(mask.tokens, arguments, strict=True)
    ] == [True] * len(arguments)


@pytest.mark.parametrize(("mask", "name", "arguments"), DECLARED, ids=lambda value: value if isinstance(value, str) else "")
def test_array_tokens_are_the_arrays_in_order(mask, name, arguments):
    """What a launch rewrites at every call are the arrays' addresses, one to one."""
    pointers = [value.pointer for value in arguments if hasattr(value, "pointer")]
    assert [view.pointer for _, view in mask.arrays] == pointers
    moved = mask.viewed(lambda array: replace(array, pointer=array.pointer + ADDRESS))
    assert [view.pointer for _, view in moved.arrays] == [pointer + ADDRESS for pointer in pointers]
    assert moved.without_arrays == mask.without_arrays and hash(moved.without_arrays) == hash(mask.without_arrays)
    assert (moved == mask) == (not pointers)


def test_composition_is_flattened_and_keeps_its_order():
    a, b, c = Causal(), SlidingWindow(3), PrefixLM(2)
    assert (a & b & c).masks == (a & (b & c)).masks == (a, b, c) == All([a, b, c]).masks
    assert (a | b | c).masks == (a, b, c)
    assert ((a & b) | c).name == "any2+all2+causal+window+prefix_int"
    assert (a & (b | c)).name == "all2+causal+any2+window+prefix_int"
    assert (b & a).name == "all2+window+causal"
    assert set((a & (b | c)).kinds) == {"all", "any", "causal", "window", "prefix"}


@pytest.mark.parametrize("other", ["causal", None, 3, lambda b, h, i, j: True])
def test_masks_combine_with_masks_alone(other):
    for combine in (lambda: Causal() & other, lambda: Causal() | other):
        with pytest.raises(TypeError):
            combine()
    with pytest.raises(ProblemError, match="combines masks"):
        All([Causal(), other])


@pytest.mark.parametrize("kind", [All, Any])
def test_nothing_combined_is_a_fault(kind):
    with pytest.raises(ProblemError, match="no masks"):
        kind(())


def test_equality_is_of_values_and_of_arrays_themselves():
    first, second = np.zeros(2, np.int32), np.zeros(2, np.int32)
    assert KeyPadding(first) == KeyPadding(first) != KeyPadding(second)
    assert hash(KeyPadding(first)) == hash(KeyPadding(first))
    assert KeyPadding(ids(2)) == KeyPadding(ids(2)) != KeyPadding(ids(2, pointer=8))
    assert SlidingWindow(3) == SlidingWindow(3, -1, 0) == SlidingWindow(3, None) != SlidingWindow(3, 0)
    assert Causal() != Full() and Causal() == Causal()
    assert len({Causal(), Causal(), Full(), SlidingWindow(1), SlidingWindow(1)}) == 3
    assert MaskMod(odd, first, 1) == MaskMod(odd, first, 1) != MaskMod(odd, first, 2)


def test_declarations_keep_the_users_arrays():
    lengths = np.zeros(2, np.int32)
    mask = Causal() & KeyPadding(lengths)
    assert mask.arrays[0][1] is lengths
    assert mask.viewed(lambda array: ids(2)).arrays[0][1] == ids(2) and mask.arrays[0][1] is lengths


def test_every_kind_is_listed():
    assert " ".join(sorted(KINDS)) == "all any block causal document full mod padding prefix window"
    assert all(name == kind.kind for name, kind in KINDS.items())


def test_names_and_objects_that_are_meant():
    assert mask_named(None) == mask_named("full") == Full()
    assert mask_named("causal") == Causal()
    assert mask_named(SlidingWindow(3)) == SlidingWindow(3)
    assert mask_named("window") is None


FAULTS = {
    "left": (SlidingWindow(-2, 0), ["left is -2", "-1 or None", "at least 0"]),
    "right": (SlidingWindow(3, -5), ["right is -5"]),
    "left float": (SlidingWindow(1.5), ["left is 1.5"]),
    "left bool": (SlidingWindow(True), ["left is True"]),
    "sinks negative": (SlidingWindow(3, sinks=-1), ["sinks is -1"]),
    "sinks without a bound": (SlidingWindow(sinks=4), ["4 sinks", "no bound", "causal"]),
    "sinks beside padding": (SlidingWindow(sinks=4) & KeyPadding(ids(2)), ["4 sinks", "no bound"]),
    "sinks or causal": (SlidingWindow(sinks=4) | Causal(), ["4 sinks", "no bound"]),
    "lengths dtype": (KeyPadding(view((2,), "int64")), ["lengths is int64", "int32"]),
    "lengths shape": (KeyPadding(ids(3)), ["lengths has shape (3,)", "(batch,)", "(2,)"]),
    "lengths axes": (KeyPadding(ids(2, 1)), ["lengths has shape (2, 1)"]),
    "lengths device": (KeyPadding(ids(2, device="cuda:0")), ["lengths is on cuda:0", "cpu"]),
    "lengths freed": (KeyPadding(ids(2, pointer=0)), ["lengths has no memory"]),
    "lengths misaligned": (KeyPadding(ids(2, pointer=ADDRESS + 2)), ["lengths", "4 bytes"]),
    "q_ids dtype": (Document(view((2, 5), "float32"), ids(2, 7)), ["q_ids is float32"]),
    "q_ids shape": (Document(ids(2, 6), ids(2, 7)), ["q_ids has shape (2, 6)", "(2, 5)", "(1, 5)"]),
    "k_ids shape": (Document(ids(2, 5), ids(3, 7)), ["k_ids has shape (3, 7)", "(2, 7)"]),
    "k_ids missing": (Document(ids(2, 5)), ["k_ids defaults to q_ids", "seqlen_q is 5", "seqlen_k is 7"]),
    "prefix negative": (PrefixLM(-1), ["prefix is -1"]),
    "prefix shape": (PrefixLM(ids(5)), ["(5,)", "(2,)"]),
    "aux device": (MaskMod(odd, ids(2, device="cuda:1"), 3), ["aux 0 is on cuda:1"]),
    "aux number": (MaskMod(odd, ids(2), 2**31), ["aux 1 is 2147483648", "int32"]),
    "aux float": (MaskMod(odd, ids(2), 1e39), ["aux 1 is 1e+39", "float32"]),
    "aux dtype": (MaskMod(odd, view((2,), "float8_e4m3fn"), 1), ["aux 0 is float8_e4m3fn", "int32"]),
    "block lengths": (BlockMask(TABLE, Causal(), (128, 128), (6, 7)), ["(6, 7)", "(5, 7)"]),
    "block heads": (BlockMask(ids(1, 4, 1, 1), Causal(), (128, 128), (5, 7)), ["heads 4", "6", "1 is wanted"]),
    "block batch": (BlockMask(ids(3, 1, 1, 1), Causal(), (128, 128), (5, 7)), ["batch 3", "2"]),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_fault_alone(name):
    mask, words = FAULTS[name]
    with pytest.raises(ProblemError) as caught:
        Problem.from_views(**request(), mask=mask)
    (fault,) = caught.value.faults
    assert all(word in fault for word in words), fault


def test_faults_of_all_members_are_told_with_those_of_the_arrays():
    mask = SlidingWindow(-2) & KeyPadding(ids(3)) & PrefixLM(-1)
    with pytest.raises(ProblemError) as caught:
        Problem.from_views(**request(heads=7), mask=mask, scale=-1.0)
    text = str(caught.value)
    assert all(word in text for word in ("left is -2", "(3,)", "prefix is -1", "7 heads over 3", "scale"))
    assert len(caught.value.faults) == 5


@pytest.mark.parametrize("mask", [
    SlidingWindow(3, sinks=4), SlidingWindow(-1, 3, 4), SlidingWindow(sinks=4) & Causal(),
    Causal() & (KeyPadding(ids(2)) & SlidingWindow(sinks=4)), SlidingWindow(sinks=4) & SlidingWindow(9),
])  # fmt: skip
def test_sinks_are_fine_beside_a_bound(mask):
    Problem.from_views(**request(), mask=mask)


def test_out_over_a_masks_array_is_a_fault():
    asked = request()
    lengths = ids(2, pointer=asked["out"].pointer + 64)
    with pytest.raises(ProblemError, match="out overlaps padding's lengths"):
        Problem.from_views(**asked, mask=KeyPadding(lengths))
