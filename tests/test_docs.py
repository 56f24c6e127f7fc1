"""The guides in docs/learn and docs/howto: every Python block runs, in order, and prints what the text behind it says."""

import contextlib
import io
import linecache
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [
    page for name in ("learn", "howto") for page in sorted(DOCS.glob(f"{name}/*.md")) if "```python" in page.read_text()
]
_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:```text\n(?P<text>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
NAME = "example.py"  # what error messages call a block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_runs_and_prints_what_is_said(page):
    text, scope = page.read_text(), {"__name__": "example"}
    if "import torch\n" in text:
        pytest.importorskip("torch")
    blocks = list(_BLOCK.finditer(text))
    assert len(blocks) == text.count("```python")
    for block in blocks:
        code, wanted = block["code"], block["text"]
        line = text.count("\n", 0, block.start()) + 1
        linecache.cache[NAME] = len(code), None, code.splitlines(keepends=True), NAME
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                exec(compile(code, NAME, "exec"), scope)
            except Exception as error:
                raise AssertionError(f"{page.name}:{line} raises {error!r}") from error
        assert printed.getvalue() == (wanted or ""), f"{page.name}:{line}"
