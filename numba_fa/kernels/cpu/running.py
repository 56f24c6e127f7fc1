"""Runs a kernel's tasks on all threads, and tells of what a user's function raised there.

Numba passes an exception on to the thread that it is raised in: to the caller as a SystemError about the kernel, to nobody
in a worker thread, whose share is then left as it was.
"""

import threading
from contextlib import contextmanager

import numpy as np
from numba import get_num_threads, set_num_threads

from numba_fa.errors import FunctionError
from numba_fa.problem.functions import functions_of

# Numba's workqueue layer, all there is without OpenMP and TBB, ends the process when two threads enter parallel code.
_ONE_AT_A_TIME = threading.Lock()


def run_tasks(run, arguments, tasks, texts):
    """run(*arguments, tasks, a zero to count them with) to its end; FunctionError where a user's function raised something.

    run: ends, on each thread, when it has taken a number past the last task. texts: a key's mask and bias.
    """
    arguments = *arguments, tasks
    with _ONE_AT_A_TIME, users_exceptions(*texts, SystemError):
        taken = np.zeros(1, np.int64)
        run(*arguments, taken)
        if taken[0] != tasks + get_num_threads():
            _run_alone(run, arguments)


def _run_alone(run, arguments):
    """What went wrong in a thread that nobody hears, once more in this one; the results are lost anyhow."""
    threads = get_num_threads()
    set_num_threads(1)
    try:
        run(*arguments, np.zeros(1, np.int64))
    finally:
        set_num_threads(threads)
    raise SystemError("a thread did not come to its end")


@contextmanager
def users_exceptions(mask, bias, *kinds):
    """Exceptions of these kinds as a FunctionError that names the functions of a key's texts; others stay as they are."""
    try:
        yield
    except kinds as error:
        functions = functions_of(mask, bias)
        if not functions:
            raise
        cause = error.__cause__ or error
        told = " or ".join(f"the {user.role} function {user.frozen.label}" for user in functions)
        raise FunctionError(f"{told} raised {type(cause).__name__}: {cause}") from cause
