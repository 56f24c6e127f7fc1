"""Run the GPU tests and write tests/gpu_record.json; with --check say whether the record is of these sources."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from numba_fa.build.fingerprint import hash_sources

RECORD = Path(__file__).resolve().parents[1] / "gpu_record.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--jobs", default="8", help="pytest processes sharing the GPU")
    options = parser.parse_args()
    return check() if options.check else run(options.jobs)


def check() -> int:
    """Print whether the record is current. Never fails: not every change can be tested on a GPU at once."""
    if not RECORD.exists():
        print("GPU record: none")
        return 0
    record = json.loads(RECORD.read_text())
    state = "current" if record["sources"] == hash_sources() else "STALE, the kernels' sources have changed since"
    print(f"GPU record: {state}; {record['device']}, {record['date']}, {record['passed']} passed, "
          f"{record['failed']} failed, {record['skipped']} skipped")  # fmt: skip
    return 0


def run(jobs: str) -> int:
    """Compile every forward kernel, run tests/gpu, write the record; pytest's exit status."""
    import torch

    # Each of several processes checks with NumPy: one thread apiece keeps them out of each other's way.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    ahead = [sys.executable, "-m", "numba_fa", "compile", "--tasks", "fwd", "--jobs", "12"]
    compiled = subprocess.run(ahead, stdout=subprocess.PIPE)
    print(compiled.stdout.decode().splitlines()[-1], flush=True)
    with tempfile.NamedTemporaryFile(suffix=".xml") as file:
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-n", jobs, "--dist", "worksteal", "--tb=line"]
        status = subprocess.run([*command, f"--junitxml={file.name}"]).returncode
        suite = ElementTree.parse(file.name).getroot().find("testsuite")
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    total, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    record = {
        "sources": hash_sources(),
        "device": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "passed": total - skipped - len(failed),
        "failed": len(failed),
        "skipped": skipped,
        "failures": failed[:50],
        "versions": {name: version(name) for name in ("numba", "numba-cuda", "cuda-core", "torch", "numpy")},
        "python": sys.version.split()[0],
    }
    RECORD.write_text(json.dumps(record, indent=2) + "\n")
    print(RECORD.read_text())
    return status


if __name__ == "__main__":
    sys.exit(main())
