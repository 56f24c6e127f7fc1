"""The reference stands alone: NumPy and the standard library, nothing else."""
import ast
import sys
from pathlib import Path

import pytest

import reference

FILES = sorted(Path(reference.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports_numpy_alone(path):
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
    foreign = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names} - {"numpy"}
    assert not foreign


def test_public_names_exist():
    assert len(FILES) > 1
    assert sorted(reference.__all__) == reference.__all__
    assert all(hasattr(reference, name) for name in reference.__all__)
