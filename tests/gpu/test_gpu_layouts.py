"""One tiny kernel an instruction: the hardware gives what the emulator's twin says, layouts and swizzles included.

`tests/emulator/test_emulator_probes.py` holds the same emulations to plain NumPy, and compiles the kernels, with no GPU.
"""

import pytest

from tests.gpu import probes_backward, probes_fragment, probes_memory, probes_sync, probes_wgmma
from tests.gpu.probe import Probe, emulate, run_on_gpu

PROBES = [
    probe
    for module in (probes_fragment, probes_memory, probes_sync, probes_wgmma, probes_backward)
    for probe in module.probes()
]


@pytest.mark.hopper
@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_hardware_agrees_with_the_emulator(probe: Probe):
    probe.check(run_on_gpu(probe), emulate(probe))
