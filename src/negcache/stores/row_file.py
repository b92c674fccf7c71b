"""Rows in a file: read in order with little memory, written in place.

A header of ``PAGE`` bytes, then one column after the other: all rows' numbers of one kind, each
column from a whole page on. Space is taken when the file is made. Nothing is mapped to be scanned:
a map adds the file to resident memory.
"""

import fcntl
import json
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from negcache.errors import InputError
from negcache.ops.shards import Shard
from negcache.shapes import Int, Tensor

PAGE, FORMAT = 4096, "negcache rows 1"

WINDOW = 1 << 21
"""Bytes that are read at a time where rows are read in order, at least a block of them."""

COMING = 2
"""Windows that the system is asked for before they are read: a disk has no pause."""


class Column(NamedTuple):
    """Numbers of each row.

    Args:
        dtype: theirs.
        width: how many a row has.
    """

    dtype: torch.dtype
    width: int

    @property
    def stride(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * self.width


class RowFile:
    """A file of rows, made if it is not there.

    One process at a time has it open; or several, which only read it.

    Args:
        path: of the file.
        rows: how many.
        columns: what each has.
        anew: what a file of these rows that is there holds is lost: its place is taken by zeros.
            Who has that open keeps it.
        reads_only: it is not made, and not written to.

    Raises:
        InputError: a file of other rows or another size is there, another process has it open, or
            the disk has no room; none is there that could be read.
    """

    def __init__(
        self,
        path: Path,
        rows: int,
        columns: dict[str, Column],
        *,
        anew: bool = False,
        reads_only: bool = False,
    ) -> None:
        self.path, self.rows, self.columns = path, rows, columns
        self.starts, end = layout(rows, columns)
        kept = {name: [str(each.dtype), each.width] for name, each in columns.items()}
        header = json.dumps({"format": FORMAT, "rows": rows, "columns": kept, "bytes": end})
        if anew and path.exists():
            os.close(_opened(path, header, end))
            path.unlink()
        if reads_only and not path.exists():
            raise InputError(
                f"a file of {rows} rows at {path}",
                "none",
                "restore it, with the files beside it: a state that refers to rows in files needs "
                "those of all processes that saved it",
            )
        if not path.exists():
            _reserve(path, header, end)
        self.lock = _locked(path, fcntl.LOCK_SH if reads_only else fcntl.LOCK_EX)
        self.handle = _opened(path, header, end)
        weakref.finalize(self, os.close, self.handle)

    def read(self, slots: Int[Tensor, "M"], *names: str) -> dict[str, Tensor]:
        """These columns of some rows, [M, width] each; no name: all. Repeats are read once."""
        distinct, place = torch.unique(slots, return_inverse=True)
        found = {}
        for name in names or self.columns:
            column = self.columns[name]
            rows = torch.empty(len(distinct), column.width, dtype=column.dtype)
            view, stride = _bytes(rows), column.stride
            for start, stop, first in _runs(distinct):
                self._fill(name, first, view[start * stride : stop * stride])
            found[name] = rows[place]
        return found

    def write(self, slots: Int[Tensor, "M"], columns: dict[str, Tensor]) -> None:
        """Put these in the place of what the rows had."""
        ordered, order = slots.sort()
        for name, values in columns.items():
            rows = values.to(self.columns[name].dtype)[order].contiguous()
            view, stride = _bytes(rows), self.columns[name].stride
            for start, stop, first in _runs(ordered):
                self._put(name, first, view[start * stride : stop * stride])

    def chunks(self, size: int, *names: str) -> Iterator[tuple[int, list[Tensor]]]:
        """Consecutive blocks of rows with the number of their first.

        While one window of them is worked on, a thread reads the next. The memory of a block is
        used again once the one after the next is asked for.
        """
        widest = sum(self.columns[name].stride for name in names)
        window = size * max(1, WINDOW // (size * widest))
        starts = range(0, self.rows, window)
        memory = [self._empty(names, min(window, self.rows)) for _ in range(min(2, len(starts)))]
        with ThreadPoolExecutor(1) as ahead, _reading(self.path, names) as handles:
            coming = ahead.submit(self._window, handles, 0, memory[0]) if starts else None
            for turn, start in enumerate(starts):
                assert coming is not None
                blocks = coming.result()
                if start + window < self.rows:
                    rest = memory[(turn + 1) % 2]
                    coming = ahead.submit(self._window, handles, start + window, rest)
                for first in range(0, len(blocks[0]), size):
                    yield start + first, [each[first : first + size] for each in blocks]

    def mapped(self, name: str) -> Tensor:
        """A column as one tensor, to look at single rows."""
        column, start = self.columns[name], self.starts[name]
        flat = torch.from_file(
            str(self.path), shared=True, size=(start + self.rows * column.stride), dtype=torch.uint8
        )
        return flat[start:].view(column.dtype).view(self.rows, column.width)

    def sync(self) -> None:
        """What has been written is on the disk."""
        os.fsync(self.handle)

    def _empty(self, names: tuple[str, ...], rows: int) -> list[Tensor]:
        columns = (self.columns[name] for name in names)
        return [torch.empty(rows, each.width, dtype=each.dtype) for each in columns]

    def _window(self, handles: dict[str, int], first: int, memory: list[Tensor]) -> list[Tensor]:
        blocks = [each[: self.rows - first] for each in memory]
        for (name, handle), block in zip(handles.items(), blocks, strict=True):
            self._ask_for(name, first + len(block), COMING * len(block), handle)
            self._fill(name, first, _bytes(block), handle)
        return blocks

    def _ask_for(self, name: str, first: int, count: int, handle: int) -> None:
        """The system reads these rows while others are worked on."""
        place, stride = self.starts[name], self.columns[name].stride
        os.posix_fadvise(handle, place + first * stride, count * stride, os.POSIX_FADV_WILLNEED)

    def _fill(self, name: str, first: int, view: memoryview, handle: int | None = None) -> None:
        """Read consecutive rows into memory."""
        place = self.starts[name] + first * self.columns[name].stride
        while len(view):
            count = os.preadv(self.handle if handle is None else handle, [view], place)
            if not count:
                raise InputError(
                    f"{len(view)} more bytes in {self.path}",
                    "its end",
                    "another program has cut the file: restore it, or delete it and fill it anew",
                )
            view, place = view[count:], place + count

    def _put(self, name: str, first: int, view: memoryview) -> None:
        place = self.starts[name] + first * self.columns[name].stride
        while len(view):
            count = os.pwritev(self.handle, [view], place)
            view, place = view[count:], place + count


def layout(rows: int, columns: dict[str, Column]) -> tuple[dict[str, int], int]:
    """Where each column begins, and the bytes of the whole file."""
    starts, end = {}, PAGE
    for name, column in columns.items():
        starts[name] = end
        end += -(-rows * column.stride // PAGE) * PAGE
    return starts, end


@contextmanager
def _reading(path: Path, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """A handle for each column: the system reads ahead where one goes on as it began."""
    with ExitStack() as stack:
        handles = {}
        for name in names:
            handles[name] = os.open(path, os.O_RDONLY)
            stack.callback(os.close, handles[name])
            os.posix_fadvise(handles[name], 0, 0, os.POSIX_FADV_SEQUENTIAL)
        yield handles


def _bytes(rows: Tensor) -> memoryview:
    """The memory of contiguous rows."""
    return memoryview(rows.flatten().view(torch.uint8).numpy().data)


def file_of(path: Path, shard: Shard) -> Path:
    """Of the rows of this process."""
    alone = shard.size == shard.total
    return path if alone else path.with_name(f"{path.name}, {shard.name}")


def _runs(ordered: Int[Tensor, "M"]) -> Iterator[tuple[int, int, int]]:
    """Consecutive rows among ascending ones: from where to where, and the first row."""
    breaks = (ordered.diff() != 1).nonzero().squeeze(1) + 1
    ends = [0, *breaks.tolist(), len(ordered)] if len(ordered) else [0]
    firsts = ordered[torch.tensor(ends[:-1], dtype=torch.long)].tolist()
    return (
        (start, stop, first) for (start, stop), first in zip(pairwise(ends), firsts, strict=True)
    )


def _reserve(path: Path, header: str, size: int) -> None:
    """A new file of zeros behind its header; whole, or not there."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(handle, 0, size)
            os.pwrite(handle, header.encode().ljust(PAGE), 0)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(
            f"a folder with room for {size} bytes at {path}",
            f"{error}",
            "make the folder, choose another disk, or take fewer or narrower rows",
        ) from error


def _opened(path: Path, header: str, size: int) -> int:
    """A file that is there, if it is of this header and size."""
    handle = os.open(path, os.O_RDWR)
    try:
        found, length = os.pread(handle, PAGE, 0).rstrip(), os.fstat(handle).st_size
        if (found, length) != (header.encode(), size):
            told = found[:200].decode(errors="replace") if found.startswith(b'{"format"') else ""
            raise InputError(
                f"a file of {size} bytes that begins {header}",
                f"{length} bytes at {path} {told}".rstrip(),
                "give another path, or delete the file: a fill writes it anew",
            )
    except BaseException:
        os.close(handle)
        raise
    return handle


class _Lock:
    """Kept for as long as this process has the file open, however often."""

    def __init__(self, path: Path, kind: int) -> None:
        handle = os.open(path, os.O_RDWR)
        self.release = weakref.finalize(self, os.close, handle)
        fcntl.flock(handle, kind | fcntl.LOCK_NB)


_LOCKS: weakref.WeakValueDictionary[tuple[int, int], _Lock] = weakref.WeakValueDictionary()


def _locked(path: Path, kind: int) -> _Lock:
    """Raises InputError where another process has the file.

    Args:
        kind: ``LOCK_EX``: nobody else may have it; ``LOCK_SH``: others that only read may, too.
    """
    found = path.stat()
    key = found.st_dev, found.st_ino
    lock = _LOCKS.get(key)
    if lock is None:
        try:
            lock = _LOCKS[key] = _Lock(path, kind)
        except BlockingIOError as error:
            raise InputError(
                "a file of rows that no other process has open",
                f"{path}, which one has",
                "end that process, or give another path",
            ) from error
    return lock
