"""Calls made before: how one is done again is kept, for arrays that lie as its did."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

_MOST = 1024


class Calls:
    """Calls by all that decides how they are made (key), and the last of them by all but how arrays lie (how): `recent`.

    A call has a `check` of arrays (`Library.guard`), or None. To ask the last one takes 0.4 us, to look into all 3.
    """

    def __init__(self) -> None:
        self.recent: dict[Any, Any] = {}
        self._made: dict[Any, Any] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: Any) -> Any:
        """The call, or None."""
        return self._made.get(key)

    def keep(self, key: Any, call: Any) -> None:
        """Remember a call that was checked; the oldest go first."""
        with self._lock:
            if len(self._made) >= _MOST:
                del self._made[next(iter(self._made))]
            self._made[key] = call

    def met_again(self, how: Any, call: Any, guard: Callable[[], Any]) -> None:
        """It is the last of its kind now. guard() makes a check of the arrays that it was met with."""
        if call.check is None or self.recent.get(how) is call:  # these did not pass, though they lie so: another kind
            call.check = guard() or call.check
        if call.check is not None:
            if len(self.recent) >= _MOST:
                self.recent.clear()
            self.recent[how] = call

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._made.clear()
            self.recent.clear()
