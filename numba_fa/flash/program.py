"""Program: the mask and the biases of a dispatch key as functions that a kernel calls, composed from their names.

A key's mask is a text in prefix order: "causal", "all2+causal+padding", "block+document". `all2` and `any3` take that
many masks, `block` one. Launch arguments of all parts come to a kernel as one tuple `aux`: the mask's, depth first,
then the biases', then sink_logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numba_fa.flash.bias_gradients import parameter_rule
from numba_fa.flash.biases import bias_named
from numba_fa.flash.masks import DEVICE_MASKS, block_reach, block_whole, unknown_reach, unknown_whole
from numba_fa.problem.dependent import dependent
from numba_fa.problem.functions import FUNCTIONS, UserFunction

_VISIBLE, _REACH, _WHOLE = "b, h, q_idx, kv_idx", "b, h, q_first, q_last, kv_idx", "b, h, q_first, q_last, kv_first, kv_last"


@dataclass(frozen=True)
class Program:
    """What a key asks of scores. Functions end in `aux`, the tuple of launch arguments.

    visible(b, h, q_idx, kv_idx, aux) -> bool. reach(b, h, q_first, q_last, kv_idx, aux) -> int and whole(b, h, q_first,
    q_last, kv_first, kv_last, aux) -> bool: as of `DeviceMask`. modify(score, b, h, q_idx, kv_idx, aux) -> score, or
    None when there is no bias. sink: the place of sink_logits in aux, or None. users: the user's functions by name, as
    `jit` made them. full: whether the mask hides nothing.
    """

    visible: Any
    reach: Any
    whole: Any
    modify: Any
    sink: int | None
    users: dict[str, Any]
    full: bool


def make_program(mask: str, bias: str, jit: Callable[[Callable[..., Any]], Any]) -> Program:
    """The program of a key's `mask` and `bias` texts; `jit` makes a function callable from the kernel."""
    scope: dict[str, Any] = {}
    users: dict[str, Any] = {}
    writer = _Writer(scope, users, jit)
    visible, reach, whole = writer.mask(iter(mask.split("+")))
    names = [] if bias == "none" else bias.split("+")
    lines = [f"    score = {writer.bias(name)}" for name in names if name != "sink"]
    sink = writer.place if "sink" in names else None

    return Program(
        visible=writer.function("visible", _VISIBLE, f"    return {visible}"),
        reach=writer.function("reach", _REACH, reach + "    return kv_idx"),
        whole=writer.function("whole", _WHOLE, f"    return {whole}"),
        modify=writer.changes("modify", lines),
        sink=sink,
        users=users,
        full=mask == "full",
    )


@dataclass(frozen=True)
class BiasSlice:
    """Bias n of a key among the others, for the gradient of its parameter. Functions end in `aux`, as a Program's.

    With g the gradient of what all biases make of the score, and s = until(scaled score, ...), that of the parameter's
    element place(...) is the sum of g * d after / d s * factor(...) over all positions.

    until(score, b, h, q_idx, kv_idx, aux) -> score: the biases up to n, n too. after(score, b, h, q_idx, kv_idx, aux) ->
    score: those after n; None when there is none. factor(b, h, q_idx, kv_idx, aux) and place(b, h, q_idx, kv_idx, aux):
    as of `ParameterRule`, and so is axes. argument: the place of the parameter in aux. users: as a Program's.
    """

    until: Any
    after: Any
    factor: Any
    place: Any
    argument: int
    axes: str
    users: dict[str, Any]


def make_bias_slice(mask: str, bias: str, n: int, jit: Callable[[Callable[..., Any]], Any]) -> BiasSlice | None:
    """Bias number n of a key's `bias` text; None when it has no parameter to learn. `jit`: as of `make_program`."""
    users: dict[str, Any] = {}
    writer = _Writer({}, users, jit)
    writer.mask(iter(mask.split("+")))
    names = [name for name in bias.split("+") if name != "sink"]
    rule = parameter_rule(names[n])
    if rule is None:
        return None
    lines, starts = [], []
    for name in names:
        starts.append(writer.place)
        lines.append(f"    score = {writer.bias(name)}")
    writer.place = starts[n]
    aux = writer.take(rule.factor.__code__.co_argcount - 4)
    return BiasSlice(
        until=writer.changes("until", lines[: n + 1]),
        after=writer.changes("after", lines[n + 1 :]),
        factor=writer.function("factor", _VISIBLE, f"    return {writer.call(rule.factor, _VISIBLE, aux)}"),
        place=writer.function("place", _VISIBLE, f"    return {writer.call(rule.place, _VISIBLE, aux)}"),
        argument=starts[n] + rule.argument,
        axes=rule.axes,
        users=users,
    )


class _Writer:
    """Writes expressions over functions that it puts into `scope`; `place` is the next launch argument in aux."""

    def __init__(self, scope: dict[str, Any], users: dict[str, Any], jit: Callable[..., Any]) -> None:
        self.scope, self.users, self.jit, self.place = scope, users, jit, 0

    def mask(self, names: Iterator[str]) -> tuple[str, str, str]:
        """(visible, statements that lower kv_idx to the reach, whole) of the mask that `names` goes on with."""
        name = next(names)
        if name.startswith(("all", "any")):
            parts = [self.mask(names) for _ in range(int(name[3:]))]
            return self._together(name[:3], parts)
        if name == "block":
            table = self.take(block_reach.__code__.co_argcount - 5)
            visible, _, _ = self.mask(names)
            return (
                visible,
                f"    kv_idx = {self.call(block_reach, _REACH, table)}\n",
                self.call(block_whole, _WHOLE, table),
            )
        if name in FUNCTIONS:
            user = FUNCTIONS[name]
            seen = self._call_user(user, _VISIBLE, self.take(len(user.tokens)))
            reach, whole = unknown_reach, unknown_whole
            aux = ""
        else:
            mask = DEVICE_MASKS[name]
            aux = self.take(mask.arity)
            seen, reach, whole = self.call(mask.visible, _VISIBLE, aux), mask.reach, mask.whole
        return seen, f"    kv_idx = {self.call(reach, _REACH, aux)}\n", self.call(whole, _WHOLE, aux)

    def function(self, name: str, arguments: str, body: str) -> Any:
        """A function of `arguments` and aux over those in `scope`."""
        exec(f"def {name}({arguments}, aux):\n{body}", self.scope)
        return self.jit(self.scope[name])

    def changes(self, name: str, lines: list[str]) -> Any:
        """A function of what statements make of `score`; None when there are none."""
        return self.function(name, f"score, {_VISIBLE}", "\n".join([*lines, "    return score"])) if lines else None

    def bias(self, name: str) -> str:
        """The call of one bias on `score`."""
        if name in FUNCTIONS:
            user = FUNCTIONS[name]
            return self._call_user(user, f"score, {_VISIBLE}", self.take(len(user.tokens)))
        function = bias_named(name)
        return self.call(function, f"score, {_VISIBLE}", self.take(function.__code__.co_argcount - 5))

    def _together(self, how: str, parts: list[tuple[str, str, str]]) -> tuple[str, str, str]:
        visible, reaches, whole = zip(*parts)
        if how == "all":  # each lowers what the one before left
            return f"({' & '.join(visible)})", "".join(reaches), f"({' and '.join(whole)})"
        number = len(self.scope)
        self.scope[f"_any{number}"] = None  # reserves the number
        lines = [f"    start{number} = kv_idx\n"]
        for i, reach in enumerate(reaches):
            lines += [f"    kv_idx = start{number}\n", reach, f"    end{number}_{i} = kv_idx\n"]
        ends = ", ".join(f"end{number}_{i}" for i in range(len(parts)))
        lines.append(f"    kv_idx = max({ends})\n")
        return f"({' | '.join(visible)})", "".join(lines), f"({' or '.join(whole)})"

    def take(self, count: int) -> str:
        """The next `count` launch arguments as call arguments."""
        start, self.place = self.place, self.place + count
        return "".join(f", aux[{i}]" for i in range(start, self.place))

    def call(self, function: Callable[..., Any], arguments: str, aux: str) -> str:
        name = f"_f{len(self.scope)}"
        self.scope[name] = self.jit(function)
        return f"{name}({arguments}{aux})"

    def _call_user(self, user: UserFunction, arguments: str, aux: str) -> str:
        name = f"_f{len(self.scope)}"
        built = dependent(f"{user.role} {' '.join(user.tokens)}", user.built(self.jit))
        self.scope[name] = self.users[user.name] = built
        return f"{name}({arguments}{aux})"
