"""The support matrix is what the variants declare."""

import sys
from dataclasses import replace

import pytest

from numba_fa.dispatch.registry import variants
from numba_fa.testing import support_matrix


def run(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["support_matrix", *options])
    return support_matrix.main()


def test_the_page_is_what_the_variants_declare(monkeypatch, capsys):
    assert run(monkeypatch, "--check") == 0, capsys.readouterr().err
    assert run(monkeypatch) == 0
    assert capsys.readouterr().out == support_matrix.PAGE.read_text()


@pytest.mark.parametrize(("field", "less", "row"), [
    ("dtypes", ("bf16",), "| float16 | no |"), ("masks", ("full",), "| `Causal`, `\"causal\"` | no |"),
    ("biases", ("alibi",), "| `Softcap` | no |"), ("sink", False, "| `sink_logits` | no |"),
    ("head_dims", range(64, 129, 64), "| 64 to 128 in steps of 64 | yes |"),
    ("alignment", 1, "| rows that start at any element | yes |"),
])  # fmt: skip
def test_a_declaration_that_changes_makes_it_stale(field, less, row, monkeypatch, capsys):
    """The row of the first family, sm90, is another then."""
    changed = [replace(variant, **{field: less}) if variant.family == "sm90" else variant for variant in variants()]
    monkeypatch.setattr(support_matrix, "variants", lambda op="fwd": tuple(changed) if op == "fwd" else ())
    assert row not in support_matrix.PAGE.read_text() and row in support_matrix.matrix()
    assert run(monkeypatch, "--check") == 1
    assert "--write" in capsys.readouterr().err


def test_a_page_that_is_not_there_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(support_matrix, "PAGE", tmp_path / "reference" / "page.md")
    assert run(monkeypatch, "--check") == 1
    assert run(monkeypatch, "--write") == 0
    assert run(monkeypatch, "--check") == 0
