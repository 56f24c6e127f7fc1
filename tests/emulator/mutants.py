"""The Hopper forward's own source with one line left out."""

import ast
import importlib.util
from pathlib import Path

from numba_fa.kernels.sm90 import consumer, epilogue, forward, producer

MODULES = {module.__name__.rpartition(".")[2]: module for module in (producer, consumer, epilogue, forward)}
# What orders threads, copies and products.
SYNCHRONISES = (
    "mbarrier_wait", "mbarrier_arrive", "mbarrier_expect_tx", "fence_mbarrier_init", "syncthreads", "bar_sync",
    "fence_proxy_async", "bulk_commit_group", "bulk_wait_group_read", "wait_first", "wait_scores", "wait_output",
    "wait_last",
)  # fmt: skip


def sites(modules=MODULES, words=SYNCHRONISES):
    """(module's name, line, what stands there) of every call that synchronises."""
    found = []
    for name, module in modules.items():
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            word = getattr(called, "attr", getattr(called, "id", None))
            if word in words:
                found.append((name, node.lineno, word))
    return sorted(found)


def make_mutant(name, line, word):
    """make_forward whose `word` at this line of this module does nothing."""
    return _rebuilt(name, changed_factories(MODULES[name], line, word))


def changed_factories(module, line, word):
    """A module's factories by name, whose `word` at this line does nothing: waits of products pass theirs on."""

    class Remove(ast.NodeTransformer):
        def visit_Call(self, node):
            self.generic_visit(node)
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if (node.lineno, called) != (line, word):
                return node
            return node.args[0] if word.startswith("wait") else ast.copy_location(ast.Constant(None), node)

    tree = ast.fix_missing_locations(Remove().visit(ast.parse(Path(module.__file__).read_text())))
    spec = importlib.util.spec_from_loader(f"mutant_{module.__name__}", None)
    mutant = importlib.util.module_from_spec(spec)
    exec(compile(tree, module.__file__, "exec"), mutant.__dict__)
    own = {name: value for name, value in vars(mutant).items() if getattr(value, "__module__", "") == mutant.__name__}
    return {name: value for name, value in own.items() if name.startswith("make_")}


def _rebuilt(name, changed):
    """make_forward over the changed factories, whichever module calls them."""
    if name == "forward":
        return changed["make_forward"]
    scopes = {}
    if name == "epilogue":
        scopes["consumer"] = {"make_epilogue": changed["make_epilogue"]}
    wanted = {"producer": "make_producer", "consumer": "make_consumer", "epilogue": "make_consumer"}[name]
    factory = changed.get(wanted) or _with_scope(consumer.make_consumer, scopes["consumer"])
    return _with_scope(forward.make_forward, {wanted: factory})


def _with_scope(function, names):
    """The function with other globals under some names."""
    return type(function)(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__, function.__closure__
    )
