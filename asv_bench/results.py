"""The two ends of run_gpu.sh: asv's configuration and the kernels before a run, the commit its results are of after it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any


def configure(bench: Path, work: Path) -> None:
    """Write into `work` a configuration that reads `bench` and writes `work`, and what asv is to know of the machine."""
    config = json.loads((bench / "asv.conf.json").read_text())
    config |= {"repo": str(work / "repo"), "benchmark_dir": str(bench / "benchmarks"), "results_dir": str(work / "results")}
    (work / "asv.conf.json").write_text(json.dumps(config))
    machine = describe_machine()
    (work / "machine").write_text(machine["machine"])
    (work / ".asv-machine.json").write_text(json.dumps({"version": 1, machine["machine"]: machine}))


def describe_machine() -> dict[str, str]:
    """A machine is named after its GPU, which is what the series depend on."""
    name = _gpu() or f"cpu-{platform.machine()}"
    return {
        "machine": re.sub(r"[^a-z0-9]+", "-", name.lower()), "os": platform.system(), "arch": platform.machine(),
        "cpu": name, "num_cpu": str(os.cpu_count()), "ram": "",
    }  # fmt: skip


def _gpu() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def collect(made: Path, kept: Path, commit: str, date: str) -> None:
    """Copy results to `kept`, under this commit and its date (seconds), and Python's version in place of its path."""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        raise SystemExit(f"{commit!r} is no commit: 40 hexadecimal digits are wanted")
    for file in sorted(made.rglob("*.json")):
        target = kept / file.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.parent == made or file.name == "machine.json":
            shutil.copy(file, target)
            continue
        result = relabelled(json.loads(file.read_text()), commit, int(date))
        target = target.with_name(f"{commit[:8]}-{result['env_name']}.json")
        target.write_text(json.dumps(result, indent=1) + "\n")
        print(target)


def relabelled(result: dict[str, Any], commit: str, date: int) -> dict[str, Any]:
    """One file of results, of another commit, from an environment named by Python's version."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    result |= {"commit_hash": commit, "date": date * 1000, "env_name": f"py{version}", "python": version}
    return result | {"params": result["params"] | {"python": version}}


def slugs() -> None:
    """Print the Hopper kernels that the series need, to be compiled several at once beforehand."""
    from asv_bench.benchmarks import artifacts, masks

    watched = [slug for slug, arch in artifacts.KERNELS.items() if arch == "sm_90a"]
    print(*dict.fromkeys(watched + masks.slugs()), sep="\n")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "slugs":
        slugs()
    elif command == "configure":
        configure(*map(Path, arguments))
    else:
        collect(Path(arguments[0]), Path(arguments[1]), *arguments[2:])
