"""The pipeline between a producer and its consumers: which barriers there are, and when each turns.

Two buffers share one block of mbarriers. The held buffer is filled once a tile; each consumer has one or two slots of it
to itself. The ring has `stages` slots, each of a first and a second part (keys and values) that fill and empty by
themselves. Every part has a barrier FULL, which turns when its bytes have landed, and a barrier EMPTY, which turns when
its consumers have read it. With a ring slot's first part come four words from the producer, its message; it is read before
that part is emptied.

Step i of the ring uses slot i % stages. Consumers wait for FULL with parity (i // stages) & 1, the producer for EMPTY
with the opposite parity: at the first round it passes at once, since nothing was there before. So do the held slots,
with the tile's number for i. Offsets are in bytes.
"""

HELD = 0  # the first held slot's FULL; slot s of consumer c is number s * consumers + c
HELD_SLOT = 16  # from held slot to held slot
SLOT = 32  # from ring slot to ring slot
SECOND = 8  # from the first part to the second
EMPTY = 16  # from a part's FULL to its EMPTY
HELD_EMPTY = 8  # from a held slot's FULL to its EMPTY
MESSAGE = 16  # from message to message


def ring_offset(held: int) -> int:
    """Where the ring's first FULL lies, behind `held` held slots."""
    return HELD + HELD_SLOT * held


def message_offset(held: int, stages: int) -> int:
    """Where the messages lie."""
    return ring_offset(held) + SLOT * stages


def barrier_bytes(held: int, stages: int) -> int:
    """Shared memory that the barriers and messages take."""
    return message_offset(held, stages) + MESSAGE * stages
