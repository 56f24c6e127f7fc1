"""What the emulator raises about a kernel."""


class EmulationError(RuntimeError):
    """The kernel does what the hardware does not allow: a bad address, a misused barrier, a divergent warp."""


class HazardError(EmulationError):
    """The kernel reads or overwrites what is not ready: unwritten, in flight, unfenced, or raced for."""


class Deadlock(EmulationError):
    """No thread can go on; the message says which threads wait for what."""
