"""Medians and peaks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

from torch.profiler import ProfilerActivity, profile

__all__ = ["Run", "Timing", "median_times", "paired_times", "peak_allocated", "peak_extra"]


class Run(NamedTuple):
    """What is timed, and what it is timed within: entered and left outside of the time."""

    call: Callable[[], object]
    within: Callable[[], AbstractContextManager] = nullcontext


class Timing(NamedTuple):
    """Medians over ``turns``: of the seconds, and of each turn's ratio to its base."""

    seconds: float
    of_base: float
    turns: int


def median_times(runs: dict[str, Callable[[], object]], repeats: int = 15) -> dict[str, float]:
    """Median seconds of each run. Runs alternate, so that other load on the machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seen) for name, seen in times.items()}


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _start(event) -> float:
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()  # torch before 2.4


def peak_extra(run: Callable[[], object]) -> int:
    """The rise of the process' resident memory at its peak, in bytes. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def peak_allocated(run: Callable[[], object]) -> int:
    """The peak of CPU tensors allocated while ``run`` runs, in bytes, beyond those from before.

    Counted at torch's allocator: unlike resident memory it does not depend on what the process had to spare.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=_start):
        now += event.nbytes()
        most = max(most, now)
    return most


def paired_times(
    runs: dict[str, Run], seconds: float, *, most: int = 15, warm: bool = True, wait: Callable[[], object] = int
) -> dict[str, Timing]:
    """The timing of each run; turns go round all runs, so that other load on the machine affects all alike.

    runs: the first is the base that each turn's others are compared with
    seconds: no turn begins that is not expected to end by then; one is measured in any case
    most: turns; warm: whether the first turn is not counted
    wait: returns when the device is done, such as ``torch.cuda.synchronize``; ``int`` does nothing
    """
    start, turns = time.perf_counter(), []
    while True:
        before = time.perf_counter()
        turns.append({name: _timed(run, wait) for name, run in runs.items()})
        counted, now = len(turns) - warm, time.perf_counter()
        if counted >= most or (counted >= 1 and now + (now - before) > start + seconds):
            break
    turns, base = turns[warm:], next(iter(runs))
    found = {}
    for name in runs:
        ratio = statistics.median(turn[name] / turn[base] for turn in turns)
        found[name] = Timing(statistics.median(turn[name] for turn in turns), ratio, len(turns))
    return found


def _timed(run: Run, wait: Callable[[], object]) -> float:
    with run.within():
        wait()
        start = time.perf_counter()
        run.call()
        wait()
        return time.perf_counter() - start
