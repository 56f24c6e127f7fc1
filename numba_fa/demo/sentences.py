"""The sentences the demo encodes when given none: four topics, two wordings each, few words in common."""

from __future__ import annotations

SENTENCES = (
    "The violinist tuned her instrument before the concert.",
    "A musician adjusted the strings of a fiddle ahead of the show.",
    "Heavy rain is expected along the coast tonight.",
    "Forecasters warn that a storm will reach the seaside this evening.",
    "Let the dough rise in a warm place for an hour.",
    "Bread needs time to swell before it goes into the oven.",
    "The graphics card multiplies large matrices very quickly.",
    "GPUs are fast at linear algebra.",
)


def short_label(sentence: str, width: int = 30) -> str:
    """The whole words of `sentence` that fit into `width` characters, then "..." if any were left out."""
    sentence = " ".join(sentence.split())
    if len(sentence) <= width:
        return sentence
    room = width - 3
    head = sentence[: room + 1].rsplit(" ", 1)[0]
    return head[:room] + "..."
