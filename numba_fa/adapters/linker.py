"""The compiler's nvJitLink beside an older one, which an array library built for CUDA 12 has loaded (torch 2.9.0).

cuda.bindings takes the one that is loaded already, the newest first; an older one links nothing that a newer NVVM made
("ERROR 4 in nvvmAddNVVMContainerToProgram").
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from importlib import metadata

_OLDER = "libnvJitLink.so.12"
_OURS = "nvidia-nvjitlink"  # of CUDA 13 on; up to CUDA 12 the package's name ends in -cu12


def load_beside_older() -> None:
    """Load the compiler's own, if it is a Python package, where an older one is loaded. Takes 0.1 ms where none is."""
    if not hasattr(os, "RTLD_NOLOAD"):  # Windows
        return
    try:
        ctypes.CDLL(_OLDER, mode=os.RTLD_NOLOAD)
    except OSError:
        return
    try:
        files = metadata.files(_OURS) or ()
    except metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name.startswith("libnvJitLink.so."):
            with suppress(OSError):  # a package without its files: what links will tell
                ctypes.CDLL(str(file.locate()))
