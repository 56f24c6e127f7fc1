"""What the compiler makes of the kernels; needs no GPU."""

from __future__ import annotations

from .common import BACKWARD_SLUGS, SLUGS, Measured

BIASED = ["document", "window", "causal-alibi", "causal-softcap", "causal-sink"]
KERNELS = {slug: "sm_90a" for slug in (*SLUGS, *BACKWARD_SLUGS)}
KERNELS |= {SLUGS[3].replace("-causal-", f"-{program}-"): "sm_90a" for program in BIASED}
KERNELS["fwd-simt-fp32-d64-causal-m64n64s1"] = "sm_80"


def setup_cache():
    """{(slug,): Artifact without its code, and the code's length}."""
    import numba_fa.kernels  # noqa: F401  (registers the variants)
    from numba_fa.build.loader import artifact_for
    from numba_fa.dispatch.key import DispatchKey
    from numba_fa.dispatch.registry import variant_of

    points = {}
    for slug, arch in KERNELS.items():
        key = DispatchKey.parse(slug)
        made = artifact_for(key, variant_of(key), arch)
        points[slug,] = {
            "registers": made.registers, "spilled": made.spill_stores + made.spill_loads + made.stack,
            "bytes": len(made.cubin), "shared": made.shared_bytes,
        }  # fmt: skip
    return points


setup_cache.timeout = 600


class Artifacts(Measured):
    """Per kernel."""

    params = [list(KERNELS)]
    param_names = ["kernel"]

    def track_registers(self, points, *at):
        """Registers a thread."""
        return points[at]["registers"]

    track_registers.unit = "registers"

    def track_spilled(self, points, *at):
        """Bytes a thread spills, reloads and keeps on its stack."""
        return points[at]["spilled"]

    track_spilled.unit = "bytes"

    def track_bytes(self, points, *at):
        """Bytes of machine code."""
        return points[at]["bytes"]

    track_bytes.unit = "bytes"

    def track_shared(self, points, *at):
        """Shared memory a block, in bytes."""
        return points[at]["shared"]

    track_shared.unit = "bytes"
