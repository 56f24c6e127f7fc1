"""The pipeline between a producer and its consumers: which barriers there are, and when each turns.

Two buffers share one block of mbarriers. The held buffer has one slot, filled once a tile. The ring has `stages` slots,
each of a first and a second part (keys and values) that fill and empty by themselves. Every part has a barrier FULL,
which turns when its bytes have landed, and a barrier EMPTY, which turns when every consumer has read it.

With a slot's first part comes a word from the producer, its message; it is read before that part is emptied.

Step i of the ring uses slot i % stages. Consumers wait for FULL with parity (i // stages) & 1, the producer for EMPTY
with the opposite parity: at the first round it passes at once, since nothing was there before. Offsets are in bytes.
"""

HELD_FULL = 0
HELD_EMPTY = 8
RING = 16  # the first slot's first FULL
SLOT = 32  # from slot to slot
SECOND = 8  # from the first part to the second
EMPTY = 16  # from a part's FULL to its EMPTY


def message_offset(stages: int) -> int:
    """Where the messages lie, 4 bytes a slot."""
    return RING + SLOT * stages


def barrier_bytes(stages: int) -> int:
    """Shared memory that the barriers and messages take."""
    return message_offset(stages) + 8 * -(-stages // 2)
