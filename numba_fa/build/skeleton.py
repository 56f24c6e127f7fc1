"""A kernel without its user's functions, as LLVM text: another function of the same kind is put in their place.

Typing and lowering a kernel takes 0.6 s, of which the user's function is a twentieth; all else is the same for every
function with the same aux arguments. In the kernel's LLVM a user's function is a module of its own, called by name from
one place. So the other modules are kept, and of the next function its own are compiled alone. What was found out of a
function before (the types it is called with, what it returns, whether its biases are a line) must be the same again;
else, and where anything is in doubt, the kernel is compiled as a whole.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numba_fa.build.artifact import CorruptArtifact, opened, sealed

_MAGIC = b"NUMBAFS\0"
_METADATA = {"slug": str, "arch": str, "key": str}
_DEFINED = re.compile(r'^define [^@]*@"([^"]+)"', re.MULTILINE)
_NAMED = re.compile(r'@"([^"]+)"')
_NEW = "_new"  # ends names in modules that are put into a skeleton; no name of Numba's, made of lengths and words, does

Noted = Sequence[tuple[str, Any]]  # as of `problem.dependent.dependents`


class Hole(NamedTuple):
    """Where a function was. number: its place among those noted. arguments, result: Numba types as text."""

    number: int
    arguments: list[str]
    result: str
    symbol: str


@dataclass(frozen=True)
class Skeleton:
    """One kernel's LLVM text with holes. text: what `content` takes apart, compressed."""

    slug: str
    arch: str
    text: bytes

    @classmethod
    def of(cls, slug: str, arch: str, entry: str, holes: Sequence[Hole], modules: Sequence[str | int]) -> Skeleton:
        """modules: in the order in which NVVM gets them, of a hole its number. entry: the kernel's name in them."""
        text = json.dumps([entry, holes, modules]).encode()
        return cls(slug, arch, zlib.compress(text, 1))  # of 1.4 MB 0.17 in 13 ms

    @property
    def size(self) -> int:
        """Bytes of the text."""
        return len(self.text)

    @property
    def content(self) -> tuple[str, list[Hole], list[str | int]]:
        """Entry, holes and modules."""
        entry, holes, modules = json.loads(zlib.decompress(self.text))
        return entry, [Hole(*hole) for hole in holes], modules

    def to_bytes(self, key: str = "") -> bytes:
        """As an `Artifact`'s."""
        return sealed(_MAGIC, {"slug": self.slug, "arch": self.arch, "key": key}, self.text)

    @classmethod
    def from_bytes(cls, blob: bytes, key: str = "") -> Skeleton:
        """As an `Artifact`'s; raises `CorruptArtifact` like it."""
        metadata, text = opened(_MAGIC, _METADATA, blob)
        if metadata["key"] != key:
            raise CorruptArtifact(f"written for key {metadata['key']!r}, read for {key!r}")
        return cls(metadata["slug"], metadata["arch"], text)


def walk(library: Any, holes: Mapping[Any, Hole], seen: set[int]) -> Iterator[Any]:
    """Modules of Numba's code library and of those it calls, once each, and in place of a hole's the hole.

    A caller comes before what it calls: of a function that no module so far calls NVVM's linker takes nothing.
    """
    if id(library) in seen:
        return
    seen.add(id(library))
    if library in holes:
        yield holes[library]
        return
    yield library._module
    for inner in library._linking_libraries:
        yield from walk(inner, holes, seen)


def fill(skeleton: Skeleton, noted: Noted, kinds: Mapping[str, Any], entry: str) -> list[str] | None:
    """The kernel's modules with these functions in the holes, named `entry`; None where one does not fit."""
    old_entry, holes, modules = skeleton.content
    names, fillings, seen = {}, [], set[int]()
    for hole in holes:
        compiled = noted[hole.number][1].compile_device(tuple(kinds[text] for text in hole.arguments))
        if str(compiled.signature.return_type) != hole.result:
            return None
        names[hole.symbol] = compiled.fndesc.mangled_name + _NEW
        fillings.append(_texts(walk(compiled.library, {}, seen)))
    defined = {name for texts in fillings for text in texts for name in _DEFINED.findall(text)}
    new = {name: name + _NEW for name in defined}
    filled = []
    for module in modules:
        if isinstance(module, str):
            filled.append(_replaced(module.replace(old_entry, entry), names))
        else:
            filled += [_renamed(text, new) for text in fillings[module]]
    return filled


def _texts(modules: Iterator[Any]) -> list[str]:
    """Modules of device functions as they are when a kernel has been put together of them."""
    texts = []
    for module in modules:
        for function in module.functions:
            if not function.is_declaration:
                function.linkage = "linkonce_odr"
        texts.append(str(module))
    return texts


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """Numba's numbers in names start anew in each process, so that a name may be that of another function."""
    return _NAMED.sub(lambda found: f'@"{names.get(found[1], found[1])}"', text)


def _replaced(text: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        text = text.replace(f'@"{old}"', f'@"{new}"')
    return text
