"""Where the skeleton of a kernel is kept: by all that must be the same for a kernel to be made of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numba_fa.build.skeleton import Hole, Noted, Skeleton, fill, walk
from numba_fa.build.store import Store

_MOST = 3  # skeletons in a place


@dataclass(frozen=True)
class Place:
    """The place of a kernel's skeleton in `store`. noted: the functions that depend on the user's. entry: its name.

    tokens: kinds of the launch arguments that mask and biases take.
    """

    store: Store
    slug: str
    arch: str
    entry: str
    noted: Noted
    tokens: tuple[str, ...]

    def modules(self) -> list[str] | None:
        """The kernel's modules as LLVM text, of a skeleton that is there; None where none is that fits."""
        try:
            filled = (fill(skeleton, self.noted, self._kinds(), self.entry) for skeleton in self._there())
            return next(filter(None, filled), None)
        except Exception:  # whatever it is, compiling the whole kernel shows it again, or does not
            return None

    def keep(self, library: Any, texts: Mapping[Any, str]) -> None:
        """Store the skeleton of a kernel that Numba compiled; nothing where its functions' types have no names.

        texts: LLVM text by module.
        """
        found, taken = self._holes(), len(list(self._there()))
        if found is None or taken == _MOST:
            return
        met = list(walk(library, found, set()))
        holes = [each for each in met if isinstance(each, Hole)]
        modules = [holes.index(each) if isinstance(each, Hole) else texts[each] for each in met]
        self.store.put(Skeleton.of(self._slug, self.arch, self.entry, holes, modules), self._extra(taken))

    def _there(self) -> Iterator[Skeleton]:
        """The skeletons that are kept: of functions that take the same, but may return another type each."""
        for number in range(_MOST):
            skeleton = self.store.get(self._slug, self.arch, self._extra(number))
            if skeleton is None:
                return
            yield skeleton

    @property
    def _slug(self) -> str:
        """The kernel's, but for which functions they are."""
        return re.sub(r"mod_[0-9a-f]{10}", "mod", self.slug)

    def _extra(self, number: int) -> bytes:
        """What the functions are for, with their launch arguments, and whether the biases are a line."""
        return json.dumps([number, *[word for word, _ in self.noted]]).encode()

    def _kinds(self) -> dict[str, Any]:
        from numba_fa.jit import TOKENS
        from numba_fa.scalar.types import kinds_by_name

        return kinds_by_name([TOKENS[token] for token in self.tokens])

    def _holes(self) -> dict[Any, Hole] | None:
        """Holes by Numba's code library; None where an argument's type would not be found by its name."""
        holes, kinds = {}, self._kinds()
        for number, (_, function) in enumerate(self.noted):
            for arguments, compiled in getattr(function, "overloads", {}).items():  # a line is looked for with plain ones
                if any(kinds.get(str(kind)) != kind for kind in arguments):
                    return None
                words, result = [str(kind) for kind in arguments], str(compiled.signature.return_type)
                holes[compiled.library] = Hole(number, words, result, compiled.fndesc.mangled_name)
        return holes
