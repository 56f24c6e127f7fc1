"""Gradients of every cell that the GPU variants declare, on a GPU, against the reference."""

import pytest

import numba_fa.kernels  # noqa: F401  (registers the variants)
from numba_fa.dispatch.registry import variants
from numba_fa.testing.cells import declared_cells, program_cells, value_cells
from tests.gpu.arrays import gradients_to_numpy, to_torch
from tests.oracle import check_gradients, inputs_of
from tests.running import run_backward

BACKWARDS = {variant.family: variant for variant in variants("bwd") if variant.deterministic}
PLAIN_DIMS = {"sm90": (8, 64, 80, 128, 192, 256), "simt": (8, 64, 128, 256)}


def check(cell, monkeypatch, **options):
    monkeypatch.setenv("NUMBA_FA_BACKEND", cell.family)
    found = run_backward(cell, *map(to_torch, inputs_of(cell)), to_torch, **options)
    check_gradients(cell, gradients_to_numpy(found))


def cells(family):
    variant = BACKWARDS.get(family)
    return list(declared_cells(variant, PLAIN_DIMS[family])) if variant else []


def programs(family, head_dims, **facts):
    variant = BACKWARDS.get(family)
    return list(program_cells(variant, head_dims, **facts)) if variant else []


def values(family, *of_which):
    variant = BACKWARDS.get(family)
    return list(value_cells(variant, *of_which)) if variant else []


@pytest.mark.hopper
@pytest.mark.parametrize("cell", cells("sm90"), ids=lambda cell: cell.id)
def test_sm90(cell, monkeypatch):
    check(cell, monkeypatch)


@pytest.mark.hopper
@pytest.mark.parametrize("cell", programs("sm90", (64, 128, 256), dtypes=("bf16",)), ids=lambda cell: cell.id)
def test_sm90_every_mask_and_bias(cell, monkeypatch):
    check(cell, monkeypatch)


@pytest.mark.hopper
@pytest.mark.parametrize(
    "cell", programs("sm90", (64, 128), dtypes=("fp16",), shapes=("ragged",)), ids=lambda cell: cell.id
)
def test_sm90_deterministic(cell, monkeypatch):
    check(cell, monkeypatch, deterministic=True)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", cells("simt"), ids=lambda cell: cell.id)
def test_simt(cell, monkeypatch):
    check(cell, monkeypatch)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", programs("simt", (64,)), ids=lambda cell: cell.id)
def test_simt_every_mask_and_bias(cell, monkeypatch):
    check(cell, monkeypatch)


@pytest.mark.hopper
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    "cell", [*values("sm90"), *values("sm90", ("alibi", "dense", "sink"), ("ragged",))], ids=lambda cell: cell.id
)
def test_sm90_values_of_their_own_head_dim(cell, deterministic, monkeypatch):
    check(cell, monkeypatch, deterministic=deterministic)


@pytest.mark.gpu
@pytest.mark.parametrize("cell", values("simt", ("causal", "dense"), ("ragged",)), ids=lambda cell: cell.id)
def test_simt_values_of_their_own_head_dim(cell, monkeypatch):
    check(cell, monkeypatch)
