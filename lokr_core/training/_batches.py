"""Which examples a step takes, and their random numbers: functions of the seed and the step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ._settings import TrainSettings


@dataclass(frozen=True)
class Batch:
    """This process' share of one step's examples, or a part of it.

    indices: the examples' numbers; places: their positions in the whole batch

    Random numbers depend only on the seed, the step and the place, so any number of processes and any interruption
    give the same ones.

    >>> whole, second = Batch(3, [4, 1], [0, 1], seed=5), Batch(3, [1], [1], seed=5)
    >>> torch.equal(whole.randn(8, 8)[1:], second.randn(8, 8))
    True
    """

    step: int
    indices: list[int]
    places: list[int]
    seed: int

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(_mixed(self.seed, self.step, place)) for place in self.places]

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers (examples, *shape)."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self._generators])

    def randint(self, high: int) -> Tensor:
        """An integer in 0 … high - 1 per example: (examples,)."""
        return torch.cat([torch.randint(high, (1,), generator=generator) for generator in self._generators])

    def rand(self) -> Tensor:
        """A uniform number in [0, 1) per example: (examples,)."""
        return torch.cat([torch.rand(1, generator=generator) for generator in self._generators])


@dataclass(frozen=True)
class Plan:
    """The order of a training's examples.

    buckets: each example's shape, anything that can be compared; a part's examples have the same. None: all have
    rank: this process' number; count: of processes
    """

    settings: TrainSettings
    examples: int
    buckets: Sequence[object] | None = None
    rank: int = 0
    count: int = 1

    def steps(self, done: int) -> Iterator[list[Batch]]:
        """For each step from ``done`` on, the parts of this process' share; all processes have equally many."""
        size, seed = self.settings.batch_size, self.settings.seed
        for step in range(done, self.settings.steps):
            indices = [self._example(place) for place in range(step * size, (step + 1) * size)]
            share = size // self.count
            mine = range(self.rank * share, (self.rank + 1) * share)
            # A mixed batch is computed one example at a time, so that all processes call the model equally often.
            mixed = bool(self._several) and len({self._several[i] for i in indices}) > 1
            length = 1 if mixed else -(-share // self.settings.accumulate)
            parts = [mine[start : start + length] for start in range(0, share, length)]
            yield [Batch(step, [indices[p] for p in places], list(places), seed) for places in parts]

    def _example(self, place: int) -> int:
        """The example at a place in the sequence of all visits."""
        epoch, at = divmod(place, self.examples)
        order = _order(self.settings.seed, epoch, self.examples)
        if self._several:
            order = _by_bucket(order, self._several, self.settings.batch_size, -epoch * self.examples)
        return order[at]

    @cached_property
    def _several(self) -> tuple:
        """The buckets if there are several, else ()."""
        buckets = tuple(self.buckets or ())
        return buckets if len(set(buckets)) > 1 else ()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, examples: int) -> tuple[int, ...]:
    """The order in which an epoch visits the examples."""
    return tuple(torch.randperm(examples, generator=torch.Generator().manual_seed(_mixed(seed, epoch))).tolist())


@lru_cache(maxsize=2)
def _by_bucket(order: tuple[int, ...], buckets: tuple, size: int, start: int) -> tuple[int, ...]:
    """``order`` rearranged: batches of ``size`` have one bucket each, except for the examples that are left over.

    start: minus the place of the epoch's first example; the batch that the epoch before began is completed first
    """
    groups: dict[object, list[int]] = {}
    for example in order:
        groups.setdefault(buckets[example], []).append(example)
    whole, loose = [], []
    for group in groups.values():
        cut = len(group) - len(group) % size
        whole += [group[at : at + size] for at in range(0, cut, size)]
        loose += group[cut:]
    position = {example: at for at, example in enumerate(order)}
    whole.sort(key=lambda batch: position[batch[0]])  # in random order, as ``order`` is
    head = start % size
    while len(loose) < head and whole:
        loose += whole.pop()
    return tuple(loose[:head] + [example for batch in whole for example in batch] + loose[head:])


def _mixed(*numbers: int) -> int:
    """One seed from several numbers, by splitmix64: nearby numbers give unrelated streams."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


_MASK = (1 << 64) - 1
