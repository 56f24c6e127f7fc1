"""The command line, in this process; the store is the test run's own."""

import subprocess
import sys

import pytest

from numba_fa.build.inspect import find_disassembler
from numba_fa.cli import main
from numba_fa.problem.masks import MaskMod

SLUG = "fwd-simt-fp32-d8-full-m64n64s1"


def output(capsys, *arguments, status=0):
    assert main(arguments) == status
    captured = capsys.readouterr()
    return captured.out if status == 0 else captured.err


def test_env_names_versions_and_variables(capsys):
    text = output(capsys, "env")
    assert "numba-cuda 0.30" in text and "NUMBA_FA_CACHE_DIR" in text


def test_list_and_keys(capsys):
    text = output(capsys, "list", "--keys")
    assert "forward-cpu: fp32, fp16, bf16" in text
    assert "fwd-sm90-bf16-d128-causal-m128n128s2" in text.splitlines()


def test_explain_without_arrays(capsys):
    text = output(capsys, "explain", "2", "100", "200", "12", "4", "64", "--mask", "causal", "--device", "sm_90a")
    assert "fwd-sm90-bf16-d64-causal" in text and "12 over 4" in text
    text = output(capsys, "explain", "2", "100", "200", "12", "4", "64", "--device", "sm_90a", "--backward")
    assert "bwd-sm90-bf16-d64-full-" in text
    text = output(capsys, "explain", "2", "100", "200", "12", "4", "192:128", "--device", "sm_90a")
    assert "fwd-sm90-bf16-d192v128-full-m128n128s2" in text and "head_dim 192 (v's 128)" in text
    text = output(capsys, "explain", "2", "100", "200", "12", "4", "64", "--device", "sm_80")
    assert "fwd-simt-bf16-d64-full" in text and "not forward-sm90" in text


def test_explain_lists_faults(capsys):
    text = output(capsys, "explain", "2", "8", "8", "12", "5", "100", "--device", "sm_90a", status=1)
    assert "12 heads over 5" in text and "104" in text


def test_compile_inspect_and_cache(capsys):
    text = output(capsys, "compile", SLUG, "--arch", "sm_80", "--jobs", "1")
    assert f"[1/1] {SLUG}" in text and "1 of 1 kernels" in text
    text = output(capsys, "inspect", SLUG, "--arch", "sm_80")
    assert "registers a thread" in text and "sm_80" in text and "numba-cuda" in text
    assert ".entry numba_fa_fwd_simt_fp32_d8" in output(capsys, "inspect", SLUG, "--arch", "sm_80", "--ptx")
    assert "path" in output(capsys, "cache")


@pytest.mark.skipif(find_disassembler() is None, reason="no disassembler here")
def test_inspect_sass(capsys):
    assert "FFMA" in output(capsys, "inspect", SLUG, "--arch", "sm_80", "--sass")


def test_clear_empties_the_store_it_is_pointed_at(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_FA_CACHE_DIR", str(tmp_path))
    output(capsys, "inspect", SLUG.replace("full", MaskMod(lambda b, h, i, j: i > j).name), "--arch", "sm_80")
    found = output(capsys, "cache")
    assert "kernels 1" in found and "skeletons 1" in found
    assert "removed 1" in output(capsys, "cache", "--clear")
    found = output(capsys, "cache")
    assert "kernels 0" in found and "skeletons 0" in found


@pytest.mark.parametrize("slug", ["nonsense", "fwd-sm91-bf16-d128-causal-m128n128s2"])
def test_a_slug_that_names_nothing_is_one_clear_error(capsys, slug):
    text = output(capsys, "inspect", slug, status=1)
    assert text.startswith("numba-fa: ") and slug in text and "Traceback" not in text


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "numba_fa", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "first-call" in done.stdout


def test_first_call_reports_both_states(capsys):
    main(["first-call", "--head-dim", "64", "--mask", "full"])  # its status says whether this machine met the limits
    text = capsys.readouterr().out
    assert "cold store:" in text and "warm store:" in text
    assert "Numba is not loaded" in text.splitlines()[-2] and "nvJitLink" in text


def test_first_call_with_a_users_function_reports_another_one_too(capsys):
    main(["first-call", "--head-dim", "64", "--mask", "mod"])
    cold, new, warm = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert "typing and lowering" in cold and "typing and lowering" not in new
    assert "skeleton filled" in new and "nvJitLink" in new and "nvJitLink" not in warm


def test_the_demo_gets_its_own_arguments_and_others_get_none(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["demo", "--help"])
    assert "--picture" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["env", "--picture", "x"])


@pytest.mark.parametrize("arch", ["sm_12", "sm_70", "ninety"])
def test_what_is_no_architecture_is_refused(capsys, arch):
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", SLUG, "--arch", arch])
    assert "sm_75 and newer" in capsys.readouterr().err
