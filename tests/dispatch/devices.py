"""Devices that dispatch is asked about, none of which need be here."""

from numba_fa.dispatch.device import CPU, HOPPER, Device

AMPERE = Device("A100 (assumed)", 0, "sm_80", 108, 166912)
ADA = Device("L40S (assumed)", 0, "sm_89", 142, 101376)
BLACKWELL = Device("B200 (assumed)", 0, "sm_100a", 148, 232448)

DEVICES = {device.arch: device for device in (CPU, AMPERE, ADA, HOPPER, BLACKWELL)}
