"""The probes of single instructions that GPUs are held to: emulated here against plain NumPy, and compiled."""

import pytest

from numba_fa.emulator import translate
from tests.emulator.test_emulator_twins import ALL
from tests.gpu.probe import compile_source, emulate
from tests.gpu.test_gpu_layouts import PROBES


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_emulator_gives_the_truth(probe):
    probe.check(emulate(probe), probe.truth)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_compiles_without_a_gpu(probe):
    artifact = compile_source(probe.source, probe.name)
    assert artifact.threads == probe.source.threads
    assert (artifact.spill_stores, artifact.spill_loads) == (0, 0)


def test_every_instruction_is_probed(monkeypatch):
    used = set()
    twin_of = translate.twin_of

    def noting(intrinsic):
        used.add(intrinsic.__name__)
        return twin_of(intrinsic)

    monkeypatch.setattr(translate, "twin_of", noting)
    for probe in PROBES:
        emulate(probe)
    assert {intrinsic.__name__ for intrinsic in ALL.values()} - used == set()
