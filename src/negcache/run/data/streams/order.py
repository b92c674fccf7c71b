"""The order of the rows of a stream: a function of seed and position, nothing to replay."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from negcache.errors import InputError


@dataclass(frozen=True)
class Window:
    """Row groups whose rows are shuffled together.

    Args:
        epoch: counted from 0.
        index: within the epoch, from 0.
        groups: numbers of the row groups, in their shuffled order.
    """

    epoch: int
    index: int
    groups: tuple[int, ...]


class Piece(NamedTuple):
    """What a batch takes from one window.

    Args:
        window: the row groups to have at hand.
        groups: int64 [n]; the row group of each row.
        rows: int64 [n]; its number there.
    """

    window: Window
    groups: np.ndarray
    rows: np.ndarray


@dataclass(eq=False)
class WindowOrder:
    """Shuffled batches of the rows of a table in row groups, reshuffled every epoch.

    Row groups are shuffled, taken ``window`` at a time (or fewer: windows differ by one row group
    at most), and the rows of a window are shuffled together. In an epoch no row comes twice; the
    short last batch is dropped, as that of a table in memory is, so fewer than ``batch_size`` rows
    do not come, others in every epoch.

    Args:
        rows: int64 [G]; rows of each row group.
        batch_size: rows of the global batch.
        seed: of the shuffles, 0 or more.
        window: row groups whose rows are shuffled together.
    """

    rows: np.ndarray
    batch_size: int
    seed: int
    window: int = 8
    _epochs: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)
    _shuffled: tuple[Window | None, np.ndarray] = field(default=(None, np.empty(0)), repr=False)

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.num_rows:
            raise InputError(
                f"a batch of 1 to {self.num_rows:,} rows",
                f"one of {self.batch_size}",
                "take fewer rows at a time: batch_size, data.items_per_step"
                if self.batch_size > 0
                else "take more",
            )
        if self.window < 1 or self.seed < 0:
            raise InputError(
                "a window of at least 1 row group and a seed of at least 0",
                f"window = {self.window}, seed = {self.seed}",
                "raise them",
            )

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return int(self.rows.sum())

    @property
    def batches_per_epoch(self) -> int:
        """Full batches."""
        return self.num_rows // self.batch_size

    def place(self, number: int) -> tuple[int, int]:
        """(epoch, batch within the epoch) of the batch ``number``, counted from 0."""
        return divmod(number, self.batches_per_epoch)

    def batch(self, number: int, part: slice = slice(None)) -> Iterator[Piece]:
        """The rows of the global batch ``number``, or a part of them, window by window.

        Args:
            number: counted from 0 over all epochs.
            part: of the batch, start before stop.
        """
        if number < 0:
            raise InputError("a batch from 0 on", str(number), "count batches from 0")
        epoch, index = self.place(number)
        start, stop, _ = part.indices(self.batch_size)
        start, stop = (index * self.batch_size + place for place in (start, stop))
        _, ends = self._plan(epoch)
        first = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            begin = int(ends[first - 1]) if first else 0
            end = min(stop, int(ends[first]))
            window = self.window_of(epoch, first)
            yield Piece(window, *self._rows_of(window, slice(start - begin, end - begin)))
            start, first = end, first + 1

    def window_of(self, epoch: int, index: int) -> Window:
        """The window ``index`` of an epoch."""
        groups, _ = self._plan(epoch)
        bounds = _bounds(len(groups), self.window)
        return Window(epoch, index, tuple(groups[bounds[index] : bounds[index + 1]].tolist()))

    def following(self, window: Window) -> Window:
        """The window that comes next; after the last that an epoch needs, the next epoch's."""
        _, ends = self._plan(window.epoch)
        if ends[window.index] >= self.batches_per_epoch * self.batch_size:
            return self.window_of(window.epoch + 1, 0)
        return self.window_of(window.epoch, window.index + 1)

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Row groups in the order of an epoch, and rows there are to the end of each window."""
        if epoch not in self._epochs:
            groups = _generator(self.seed, epoch).permutation(len(self.rows))
            ends = np.cumsum(self.rows[groups])[_bounds(len(groups), self.window)[1:] - 1]
            kept = {near: self._epochs[near] for near in self._epochs if abs(near - epoch) == 1}
            self._epochs = {epoch: (groups, ends), **kept}
        return self._epochs[epoch]

    def _rows_of(self, window: Window, taken: slice) -> tuple[np.ndarray, np.ndarray]:
        """(row group, row) of some places of a window, in the order of the epoch."""
        if self._shuffled[0] != window:
            total = int(self.rows[list(window.groups)].sum())
            noise = _generator(self.seed, window.epoch, window.index)
            self._shuffled = window, noise.permutation(total)
        groups = np.array(window.groups)
        ends, flat = np.cumsum(self.rows[groups]), self._shuffled[1][taken]
        which = np.searchsorted(ends, flat, side="right")
        return groups[which], flat - (ends - self.rows[groups])[which]


def _generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=place)))


def _bounds(groups: int, window: int) -> np.ndarray:
    """Where windows begin and end; their sizes differ by one at most."""
    windows = -(-groups // window)
    return np.arange(windows + 1) * groups // windows
