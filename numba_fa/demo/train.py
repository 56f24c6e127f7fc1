"""`python -m numba_fa.demo.train`: a transformer learns Python's own manual, character by character, twice.

Once with numba_fa's attention, once with torch's, from the same weights and on the same batches. The text is what
`help("assert")` and its like print, which every Python carries. On a GPU the model has 137 million weights and computes in
bfloat16; without one it is small and computes in float32.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from numba_fa.demo.language_model import Attention, LanguageModel, Sizes, numba_attention, torch_attention

SMALL = Sizes(layers=2, heads=4, heads_kv=2, head_dim=32, seqlen=128, batch=8)
LARGE = Sizes(layers=12, heads=16, heads_kv=4, head_dim=64, seqlen=4096, batch=4)
WARM_UP = 3  # first steps, in which kernels are compiled and memory is found
CONTENDERS = {"numba_fa": numba_attention, "torch": torch_attention}


@dataclass
class Run:
    """One training: the loss at each step, and how fast it went once it was warm."""

    model: LanguageModel
    losses: list[float] = field(default_factory=list)
    tokens_per_second: float = float("nan")


def manual() -> str:
    """Python's manual of the language, 79 topics."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def encoded(text: str) -> tuple[Tensor, str]:
    """(the characters' numbers, uint8; the characters by their numbers)."""
    alphabet = "".join(sorted(set(text)))
    numbers = {character: number for number, character in enumerate(alphabet)}
    return torch.tensor([numbers[character] for character in text], dtype=torch.uint8), alphabet


def batches(text: Tensor, sizes: Sizes, device: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random pieces of a text and, of each position, the next character; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - sizes.seqlen, (sizes.batch, 1), generator=generator)
        pieces = text[starts + torch.arange(sizes.seqlen + 1)].long().to(device)
        yield pieces[:, :-1], pieces[:, 1:]


def train(
    attention: Attention, sizes: Sizes, steps: int, device: str = "cpu", *, seed: int = 0, compiled: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Run:  # fmt: skip
    """Train a new model with this attention; all else is decided by the seed."""
    torch.manual_seed(seed)
    text, alphabet = encoded(manual())
    run = Run(LanguageModel(len(alphabet), sizes, attention).to(device))
    model = torch.compile(run.model) if compiled else run.model
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=1e-3 if device == "cpu" else 3e-4, betas=(0.9, 0.95))
    losses, feed, started = [], batches(text, sizes, device, seed), 0.0
    for step in range(steps):
        if step == min(WARM_UP, steps - 1):
            started = _now(device)
        inputs, targets = next(feed)
        with precision(device):
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if step % max(1, steps // 10) == 0 or step == steps - 1:
            report(f"  step {step:4}  loss {float(losses[-1]):.4f}")
    timed = steps - min(WARM_UP, steps - 1)
    run.tokens_per_second = timed * sizes.batch * sizes.seqlen / (_now(device) - started)
    run.losses = torch.stack(losses).tolist()
    return run


def precision(device: str) -> AbstractContextManager:
    """bfloat16 for products on a GPU; weights stay float32."""
    return nullcontext() if device == "cpu" else torch.autocast(device, dtype=torch.bfloat16)


def _now(device: str) -> float:
    """Seconds, when all that was asked of a device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def sample(model: LanguageModel, device: str, length: int = 200, begin: str = "The ") -> str:
    """What a model writes after `begin`."""
    alphabet = encoded(manual())[1]
    with precision(device):
        text = model.continued(torch.tensor([[alphabet.index(character) for character in begin]], device=device), length)
    return "".join(alphabet[number] for number in text[0].tolist())


def write_picture(path: Path, runs: dict[str, Run], title: str) -> None:
    """The losses over the steps as a PNG; ModuleNotFoundError when matplotlib is missing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for (name, run), style in zip(runs.items(), ("-", "--")):
        axes.plot(run.losses, style, label=f"{name}: {run.tokens_per_second:,.0f} tokens/s")
    axes.set(title=title, xlabel="step", ylabel="loss, nats a character")
    axes.legend()
    figure.savefig(path, format="png", dpi=120)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains twice, and prints and draws what came of it. Returns 1 when the losses part, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m numba_fa.demo.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="default: 100, on a GPU 300")
    parser.add_argument("--seqlen", type=int, help="default: 128, on a GPU 4096")
    parser.add_argument("--batch", type=int, help="default: 8, on a GPU 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--picture", type=Path, default=Path("numba_fa_train.png"), help="where the PNG goes")
    options = parser.parse_args(argv)
    on_gpu = options.device != "cpu"
    given = {name: getattr(options, name) for name in ("seqlen", "batch") if getattr(options, name) is not None}
    sizes, steps = replace(LARGE if on_gpu else SMALL, **given), options.steps or (300 if on_gpu else 100)
    runs = {}
    for name, attention in CONTENDERS.items():
        print(f"{name}: {sizes}", flush=True)
        run = runs[name] = train(
            attention, sizes, steps, options.device, seed=options.seed, compiled=options.compile, report=print
        )
        print(f"  {run.tokens_per_second:,.0f} tokens a second", flush=True)
    return _concluded(runs, options.device, options.picture)


def _concluded(runs: dict[str, Run], device: str, picture: Path) -> int:
    """The text that the first model writes, the picture, and how far the losses are apart."""
    ours, theirs = runs.values()
    weights = sum(parameter.numel() for parameter in ours.model.parameters())
    print(f"what the first of them writes now:\n{sample(ours.model, device)}")
    try:
        write_picture(picture, runs, f"{weights / 1e6:.1f} million weights learn Python's manual")
        print(f"picture: {picture}")
    except ModuleNotFoundError as error:
        print(f"no picture without {error.name}")
    apart = max(abs(one - other) for one, other in zip(ours.losses, theirs.losses))
    allowed = 0.02 if device == "cpu" else 0.2
    last = ", ".join(f"{run.losses[-1]:.4f}" for run in runs.values())
    print(f"losses are at most {apart:.1e} apart, allowed {allowed}; the last are {last}")
    return 0 if apart <= allowed else 1


if __name__ == "__main__":
    sys.exit(main())
