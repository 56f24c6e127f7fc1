"""Tiles in shared memory and scalar arithmetic on them, for blocks of 16 x 16 threads.

A room holds rows of a matrix as float32, all as wide as the widest; narrower ones have zeros there. Thread (x, y)
computes, of a product, the rows y, y + 16, ... and the columns x, x + 16, ...
"""

from typing import Any

from numba_fa.flash.convert import CONVERSIONS
from numba_fa.flash.online_softmax import ZERO
from numba_fa.jit import device, uint64

SIDE = 16  # threads along either axis of a block
THREADS = SIDE * SIDE


def columns_of(head_dim: int) -> int:
    """Columns of a row that are a thread's."""
    return -(-head_dim // SIDE)


def width_of(head_dim: int) -> int:
    """Places of a row in a room; odd, so that 16 rows lie in 16 different banks."""
    return columns_of(head_dim) * SIDE + 1


def make_load_tile(dtype: str, head_dim: int) -> Any:
    """load_tile(room, source, start, stride, rows, columns, thread, count): count rows, zeros past `rows` and `columns`."""
    WIDTH, (_, load, _) = width_of(head_dim), CONVERSIONS[dtype]

    @device
    def load_tile(room, source, start, stride, rows, columns, thread, count):
        for i in range(thread, count * (WIDTH - 1), THREADS):
            row, column = i // (WIDTH - 1), i % (WIDTH - 1)
            value = ZERO
            if row < rows and column < columns:
                value = load(source[start + row * stride + column])
            room[uint64(row * WIDTH + column)] = value

    return load_tile


def make_multiply(rows: int, columns: int, head_dim: int) -> Any:
    """multiply(product, shared, a_at, b_at, x, y): product = A B^T, of rows x 16 rows of A and columns x 16 of B."""
    WIDTH = width_of(head_dim)

    @device
    def multiply(product, shared, a_at, b_at, x, y):
        for r in range(rows):
            for n in range(columns):
                product[r, n] = ZERO
        for column in range(head_dim):
            for r in range(rows):
                a_value = shared[uint64(a_at + (y + SIDE * r) * WIDTH + column)]
                for n in range(columns):
                    product[r, n] += a_value * shared[uint64(b_at + (x + SIDE * n) * WIDTH + column)]

    return multiply


def make_store_weights(rows: int, columns: int) -> Any:
    """store_weights(weights, room, x, y): a thread's weights to where `accumulate` reads everyone's."""
    P_WIDTH = columns * SIDE + 1

    @device
    def store_weights(weights, room, x, y):
        for r in range(rows):
            for n in range(columns):
                room[uint64((y + SIDE * r) * P_WIDTH + x + SIDE * n)] = weights[r, n]

    return store_weights


def make_accumulate(rows: int, columns: int, head_dim: int) -> Any:
    """accumulate(output, shared, weights_at, b_at, x, y): output += P B, of weights P, rows x 16 by columns x 16.

    A weight of 0 adds nothing, whatever B holds there: what a mask hides may be NaN.
    """
    WIDTH, P_WIDTH, COLUMNS = width_of(head_dim), columns * SIDE + 1, columns_of(head_dim)

    @device
    def accumulate(output, shared, weights_at, b_at, x, y):
        for n in range(columns * SIDE):
            for c in range(COLUMNS):
                b_value = shared[uint64(b_at + n * WIDTH + x + SIDE * c)]
                for r in range(rows):
                    weight = shared[uint64(weights_at + (y + SIDE * r) * P_WIDTH + n)]
                    if weight != ZERO:
                        output[r, c] += weight * b_value

    return accumulate
