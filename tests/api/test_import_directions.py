"""Which module may import which, read from the source: also what is imported late, inside functions."""

import ast
from pathlib import Path

import pytest

import numba_fa

ROOT = Path(numba_fa.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}

# Lower may not import higher, nor its equal: build and kernels know nothing of each other.
LAYERS = {
    "problem": 0, "dispatch": 1, "adapters": 1, "build": 2, "kernels": 2, "prepared": 3, "api": 4, "compat": 5, "cli": 6,
}  # fmt: skip
# Late imports that close a circle on purpose: the driver describes a device; JAX results wait for the stream; worker
# processes of the batch compiler register the variants.
LATE = {("dispatch/device.py", "build"), ("adapters/arrays.py", "build"), ("build/batch.py", "kernels")}
COMPILERS = {"numba", "llvmlite"}
FRAMEWORKS = {"torch", "cupy", "jax"}
# The only modules that may import Numba's CUDA compiler or IR builder.
SEAMS = ("jit.py", "ptx/", "scalar/", "kernels/cpu/", "build/", "adapters/arrays.py", "emulator/")


def imported(node):
    """Full names of the modules, or of what is taken from them, that an import statement names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0 or node.module, "a bare relative import"
    return [f"{node.module}.{alias.name}" for alias in node.names]


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(path, late):
    """Imports of a file as dotted names; with `late`, also those inside functions. Never TYPE_CHECKING ones."""
    found, open_nodes = [], [ast.parse(path.read_text(encoding="utf-8"))]
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found += imported(node)
        elif late or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            open_nodes += [] if is_type_checking(node) else ast.iter_child_nodes(node)
    return found


def layer_of(name):
    """The layer that a dotted name within numba_fa belongs to, or None."""
    parts = name.split(".")
    return parts[1] if parts[0] == "numba_fa" and len(parts) > 1 and parts[1] in LAYERS else None


@pytest.mark.parametrize("file", list(FILES))
def test_imports_run_one_way(file):
    own = file.removesuffix(".py").partition("/")[0]
    if own not in LAYERS:
        return
    for name in imports_of(FILES[file], late=True):
        other = layer_of(name)
        if other is None or other == own or (file, other) in LATE:
            continue
        assert LAYERS[other] < LAYERS[own], f"{file} imports {name}"


def test_the_late_exceptions_are_late_and_there():
    for file, other in LATE:
        assert other not in {layer_of(name) for name in imports_of(FILES[file], late=False)}, file
        assert other in {layer_of(name) for name in imports_of(FILES[file], late=True)}, f"{file}: needless exception"


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith(("dispatch/", "problem/"))])
def test_problem_and_dispatch_need_no_gpu_package(file):
    roots = {name.partition(".")[0] for name in imports_of(FILES[file], late=True)}
    assert not roots & (COMPILERS | FRAMEWORKS | {"cuda", "scipy"}), file


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(("demo/", "testing/"))])
def test_compilers_and_frameworks_are_met_at_their_seams_only(file):
    early = {name.partition(".")[0] for name in imports_of(FILES[file], late=False)}
    late = {name.partition(".")[0] for name in imports_of(FILES[file], late=True)}
    assert not late & FRAMEWORKS, "adapters take frameworks from sys.modules"
    if not file.startswith(SEAMS):
        assert not late & COMPILERS, file
    if file.endswith("variant.py"):
        assert not early & (COMPILERS | {"cuda"}), file


@pytest.mark.parametrize("file", list(FILES))
def test_the_library_never_imports_the_reference(file):
    roots = {name.partition(".")[0] for name in imports_of(FILES[file], late=True)}
    assert not roots & {"reference", "tests"}


def test_there_are_files_to_read():
    """A wrong root would make every test above pass."""
    assert {"api.py", "dispatch/select.py", "build/launch.py", "kernels/sm90/forward.py"} <= set(FILES)
    assert "numba_fa.dispatch.select.select" in imports_of(FILES["api.py"], late=False)
    assert "numba_fa.build.loader" in imports_of(FILES["prepared.py"], late=True)
    assert "numba_fa.build.loader" not in imports_of(FILES["prepared.py"], late=False)
