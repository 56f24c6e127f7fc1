"""Times of functions on a CUDA device, made to be compared with each other."""
import statistics
import time

# Larger than the L2 cache of any GPU so far (126 MB on B200): writing it leaves none of the inputs in cache.
FLUSH_BYTES = 256 * 1024 * 1024


def median_time(functions, *, warmup=3, repeats=20):
    """The median time in milliseconds of each callable in `functions`, a dict of name to callable: a dict of
    floats.

    The functions take turns, so that clock and temperature drift touches all alike. Before each call a 256 MB
    buffer is written, which empties L2, and keeps the device busy (tens of microseconds) while the host
    enqueues the call: a host slower than that is counted in. Calls run on torch's current stream, timed by a
    pair of CUDA events. `warmup` rounds go untimed. ValueError if repeats < 1; ImportError without torch.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    import torch

    buffer = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    events = {name: [] for name in functions}
    for _ in range(warmup + repeats):
        for name, function in functions.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            buffer.zero_()
            start.record()
            function()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {
        name: statistics.median(start.elapsed_time(end) for start, end in pairs[warmup:])
        for name, pairs in events.items()
    }


def median_wall_time(functions, *, warmup=2, repeats=20):
    """As `median_time` for functions that run on the CPU and return when done: the clock is the wall's, and
    nothing is flushed. ValueError if repeats < 1."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    times = {name: [] for name in functions}
    for _ in range(warmup + repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(kept[warmup:]) for name, kept in times.items()}
