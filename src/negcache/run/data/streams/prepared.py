"""Batches of a stream tokenized ahead of the step, in worker processes."""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from negcache.errors import InputError
from negcache.run.data.streams.batch import Identities, StreamBatch
from negcache.run.data.streams.stream import Stream
from negcache.run.data.streams.texts_by_id import TextsById

T = TypeVar("T")

_PARALLEL = "TOKENIZERS_PARALLELISM"


class PreparedBatches(Generic[T]):
    """Batches in the order of their numbers, each as ``prepare`` makes it.

    Batch ``number`` is the same whatever the number of workers and wherever the iteration began.
    Workers are handed numbers, and each reads the windows that it needs itself, one at a time: with
    W workers, W windows are in memory and every window is read W times. What a worker refuses is
    raised here, as if it had been found here. Workers end when the iteration is closed, at the
    latest with this process; Ctrl-C and SIGTERM are left to this process to act upon.

    Args:
        stream: to read.
        prepare: tokenizes a batch; with workers that are spawned it is pickled.
        start: number of the first batch.
        stop: number to stop before; None: never.
        num_workers: processes; 0: batches are made when they are asked for, in this process.
        prefetch: batches that each worker has ready.
        texts: told of the items of every batch.
        context: how workers start: "fork", "spawn" or "forkserver"; None: as Python does.

    Examples:
        with PreparedBatches(stream, tokenize, start, stop, num_workers=2) as batches:
            for batch in batches:
                ...
    """

    def __init__(
        self,
        stream: Stream,
        prepare: Callable[[StreamBatch], T],
        start: int,
        stop: int | None = None,
        *,
        num_workers: int = 0,
        prefetch: int = 2,
        texts: TextsById | None = None,
        context: str | None = None,
    ) -> None:
        self._stream, self._texts, self._told = stream, texts, set[str]()
        loader = DataLoader(
            _Batches(stream, prepare),
            batch_size=None,
            sampler=_Numbers(start, stop),
            collate_fn=_as_it_is,
            num_workers=num_workers,
            prefetch_factor=prefetch if num_workers else None,
            worker_init_fn=_begin_worker,
            multiprocessing_context=context if num_workers else None,
            generator=torch.Generator(),  # else it would move the noise of the run on
        )
        with _tokenizers_alone(num_workers > 0):
            self._iterator: Any = iter(loader)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._iterator is None:
            raise StopIteration
        try:
            made = next(self._iterator)
            self._warn(made.told)
            if isinstance(made, _Refusal):
                raise InputError(*made.clauses)
            if self._texts is not None:
                self._texts.check(made.identities, self._stream.table)
        except BaseException:
            self.close()
            raise
        return made.value

    def __enter__(self) -> "PreparedBatches[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers and wait for them."""
        iterator, self._iterator = self._iterator, None
        if hasattr(iterator, "_shutdown_workers"):  # a traceback may keep the iterator alive
            iterator._shutdown_workers()

    def _warn(self, told: list[str]) -> None:
        for what in told:
            if what not in self._told:
                self._told.add(what)
                warnings.warn(f"{what}.", stacklevel=3)


class _Made(NamedTuple):
    value: Any
    identities: Identities
    told: list[str]


class _Refusal(NamedTuple):
    clauses: tuple[str, str, str]
    told: list[str]


class _Batches(Dataset[Any]):
    """A map from numbers to batches; what goes wrong is returned, for torch would reword it."""

    def __init__(self, stream: Stream, prepare: Callable[[StreamBatch], Any]) -> None:
        self.stream, self.prepare, self.told = stream, prepare, list[str]()

    def __getitem__(self, number: int) -> _Made | _Refusal:
        try:
            batch = self.stream.batch(number)
            value = self.prepare(batch)
        except InputError as refused:
            clauses = refused.expected, refused.got, refused.remedy
            return _Refusal(clauses, self._news())
        return _Made(value, batch.identities, self._news())

    def _news(self) -> list[str]:
        told = list(self.told)
        self.told.clear()
        return told


class _Numbers(NamedTuple):
    """A sampler: numbers in their order."""

    start: int
    stop: int | None

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return count(self.start) if self.stop is None else iter(range(self.start, self.stop))


def _as_it_is(made: Any) -> Any:
    return made


def _begin_worker(_number: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a run may have handlers of its own
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    info = get_worker_info()
    assert info is not None
    batches = info.dataset
    assert isinstance(batches, _Batches)
    batches.stream.begin_worker(batches.told)


@contextmanager
def _tokenizers_alone(workers: bool) -> Iterator[None]:
    """Threads of ``tokenizers`` do not survive a fork; without this it says so at each of them."""
    before = os.environ.get(_PARALLEL)
    if workers and before is None:
        os.environ[_PARALLEL] = "false"
    try:
        yield
    finally:
        if workers and before is None:
            del os.environ[_PARALLEL]
