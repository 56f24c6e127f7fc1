"""The tracked series, without asv and without a GPU: they import, skip what is not here, and read what is."""

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from asv_bench import results
from numba_fa.dispatch.key import DispatchKey

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(p.stem for p in (ROOT / "asv_bench" / "benchmarks").glob("[!_]*.py") if p.stem != "common")


def classes(module):
    """The series of a module."""
    found = import_module(f"asv_bench.benchmarks.{module}")
    return [c for c in vars(found).values() if isinstance(c, type) and c.__module__ == found.__name__]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_light_until_it_measures(module):
    code = f"import sys, asv_bench.benchmarks.{module}; assert not {{'torch', 'numba', 'matplotlib'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("module", MODULES)
def test_series_skip_what_was_not_measured(module):
    for series in classes(module):
        assert len(series.params) == len(series.param_names) and series.__doc__
        with pytest.raises(NotImplementedError):
            series().setup({}, *[values[0] for values in series.params])
        tracks = [getattr(series, name) for name in dir(series) if name.startswith("track_")]
        assert tracks and all(track.unit and track.__doc__ for track in tracks)


@pytest.mark.parametrize("module", [*MODULES, "common"])
def test_what_asv_takes_for_series_has_parameters(module):
    """asv looks at every class that a module names, those from elsewhere too, and passes over abstract ones."""
    found = vars(import_module(f"asv_bench.benchmarks.{module}")).values()
    series = [c for c in found if isinstance(c, type) and any(name.startswith("track_") for name in dir(c))]
    assert all(inspect.isabstract(c) or isinstance(c.params, list) for c in series)


@pytest.mark.parametrize("module", ["forward", "backward", "masks", "workloads"])
def test_series_of_a_gpu_measure_nothing_without_one(module, monkeypatch):
    monkeypatch.setattr(f"asv_bench.benchmarks.{module}.has_gpu", lambda: False)
    assert import_module(f"asv_bench.benchmarks.{module}").setup_cache() == {}


def test_a_point_is_read_as_it_was_measured():
    forward = import_module("asv_bench.benchmarks.forward")
    slug = forward.SLUGS[0]
    points = {(slug, 512): (2.0, 4e12), ("cudnn", "d64 full", 512): (4.0, 4e12)}
    series = forward.Forward()
    series.setup(points, slug, 512)
    assert (series.track_us(points, slug, 512), series.track_tflops(points, slug, 512)) == (2000.0, 2000.0)
    assert forward.Peers().track_tflops(points, "cudnn", "d64 full", 512) == 1000.0


def test_names_are_known_to_what_measures_them():
    from numba_fa.testing.programs import PROGRAMS
    from numba_fa.testing.workloads import WORKLOADS

    assert set(import_module("asv_bench.benchmarks.masks").NAMES) <= set(PROGRAMS)
    assert set(import_module("asv_bench.benchmarks.workloads").WORKLOADS) <= set(WORKLOADS)
    made_ahead = import_module("asv_bench.benchmarks.masks").slugs()
    assert len(made_ahead) > 10
    for slug in [*import_module("asv_bench.benchmarks.artifacts").KERNELS, *made_ahead]:
        assert DispatchKey.parse(slug).slug == slug


def test_masks_and_biases_are_called_both_ways():
    pytest.importorskip("torch")
    masks = import_module("asv_bench.benchmarks.masks")
    made = masks.calls("cpu", 48, 2, 32)
    assert set(made) == {(task, name) for task in ("fwd", "bwd") for name in masks.NAMES}
    for (task, name), call in made.items():
        gradients = call()
        if task == "bwd":
            assert all(x.isfinite().all() and x.any() for x in gradients[:3]), name
            assert any(x is not None for x in gradients.dbias) == (name in ("alibi", "dense", "t5", "everything")), name
            assert (gradients.dsink is not None) == (name in ("sink", "everything")), name


def test_the_hosts_calls_are_those_that_are_timed():
    torch = pytest.importorskip("torch")
    from numba_fa.testing import host_cost
    from numba_fa.testing.pretended_gpu import pretended_gpu

    with pretended_gpu():
        assert set(import_module("asv_bench.benchmarks.host").CALLS) <= set(host_cost.cases("cpu", 16, torch.bfloat16))


def test_configuration_for_another_machine(tmp_path):
    results.configure(ROOT / "asv_bench", tmp_path)
    config = json.loads((tmp_path / "asv.conf.json").read_text())
    assert config["project"] == "numba_fa" and config["results_dir"] == str(tmp_path / "results")
    name = (tmp_path / "machine").read_text()
    assert json.loads((tmp_path / ".asv-machine.json").read_text())[name]["machine"] == name


def test_results_get_their_commit_and_lose_paths(tmp_path):
    made, kept, commit = tmp_path / "made", tmp_path / "kept", "0123456789" * 4
    (made / "gpu").mkdir(parents=True)
    (made / "benchmarks.json").write_text("{}")
    (made / "gpu" / "machine.json").write_text("{}")
    result = {"commit_hash": "f" * 40, "env_name": "existing-py_home", "python": "/home", "params": {"python": "/home"}}
    (made / "gpu" / "ffffffff-existing-py_home.json").write_text(json.dumps(result | {"results": {"a": 1}}))
    results.collect(made, kept, commit, "1700000000")
    (file,) = (kept / "gpu").glob("01234567-*.json")
    found = json.loads(file.read_text())
    assert (found["commit_hash"], found["date"], found["results"]) == (commit, 1700000000000, {"a": 1})
    assert "home" not in file.read_text() and (kept / "benchmarks.json").exists() and (kept / "gpu/machine.json").exists()
    with pytest.raises(SystemExit, match="no commit"):
        results.collect(made, kept, "HEAD", "0")
