"""The window of row groups at hand, and the next, read ahead in a thread."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from negcache.errors import InputError
from negcache.run.data.streams.order import Piece, Window
from negcache.run.data.streams.sharded_table import ShardedTable

Tell: TypeAlias = Callable[[str], None]


class _Held(NamedTuple):
    """Row groups by number, and why others are broken."""

    tables: dict[int, pa.Table]
    broken: dict[int, str]

    @property
    def bytes(self) -> int:
        return sum(table.nbytes for table in self.tables.values())


@dataclass
class Reads:
    """What was read: row groups, and their bytes in memory; those held now, and most at once.

    A window that is read ahead counts when it is at hand.
    """

    groups: int = 0
    bytes: int = 0
    held: int = 0
    most: int = 0

    def add(self, groups: int, size: int) -> None:
        self.groups += groups
        self.bytes += size
        self.held += size
        self.most = max(self.most, self.held)


class WindowReader:
    """Rows of a table by window: one window in memory, and with ``ahead`` the next.

    Args:
        table: to read.
        ahead: begin to read the next window as soon as a window is at hand.
        skip_broken: a row group that cannot be read is told of, once, and its rows are left out.
        tell: is told of it.

    Attributes:
        reads: what was read so far.
        broken: why each broken row group met so far cannot be read, by its number.
    """

    def __init__(self, table: ShardedTable, *, ahead: bool, skip_broken: bool, tell: Tell) -> None:
        self.table, self.ahead, self.skip_broken, self.tell = table, ahead, skip_broken, tell
        self.reads, self.broken = Reads(), dict[int, str]()
        self._window: Window | None = None
        self._held = _Held({}, {})
        self._thread: ThreadPoolExecutor | None = None
        self._next: tuple[Window, Future[_Held]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What another process begins with: nothing read, no thread."""
        fresh = WindowReader(
            self.table, ahead=self.ahead, skip_broken=self.skip_broken, tell=self.tell
        )
        return fresh.__dict__

    def take(self, piece: Piece, following: Callable[[Window], Window]) -> tuple[pa.Table, Any]:
        """The rows of a piece in its order, and which of them there are.

        Args:
            piece: of one window.
            following: the window after a window.

        Returns:
            The rows [k] of the row groups that could be read, and bool [n]: which they are.
        """
        held = self._at_hand(piece.window, following)
        there = np.isin(piece.groups, list(held))
        groups, rows = piece.groups[there], piece.rows[there]
        order = np.argsort(groups, kind="stable")
        parts = [held[group].take(rows[groups == group]) for group in np.unique(groups).tolist()]
        found = pa.concat_tables(parts) if parts else self.table.schema.empty_table()
        return found.take(np.argsort(order, kind="stable")), there

    def close(self) -> None:
        """Let go of what is held; a window that is being read is waited for."""
        self._drop_next()
        self._let_go()
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _at_hand(
        self, window: Window, following: Callable[[Window], Window]
    ) -> dict[int, pa.Table]:
        if self._window != window:
            coming = self._coming(window)
            if coming is None:
                self._let_go()  # before another takes its place
            arrived = self._read(window) if coming is None else coming.result()
            self.reads.add(len(arrived.tables), arrived.bytes)
            self._let_go()
            self._window, self._held = window, arrived
            self._tell_of(arrived.broken)
            if self.ahead:
                self._read_ahead(following(window))
        return self._held.tables

    def _coming(self, window: Window) -> Future[_Held] | None:
        """This window, if it is the one that is read ahead."""
        if self._next is None or self._next[0] != window:
            self._drop_next()
            return None
        (_, coming), self._next = self._next, None
        return coming

    def _read_ahead(self, window: Window) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._next = window, self._thread.submit(self._read, window)

    def _read(self, window: Window) -> _Held:
        found = _Held({}, {})
        for group in window.groups:
            if group in self.broken:
                continue
            try:
                found.tables[group] = self.table.read(group)
            except InputError as failure:
                if not self.skip_broken:
                    raise
                found.broken[group] = failure.got
        return found

    def _tell_of(self, broken: dict[int, str]) -> None:
        for group, why in broken.items():
            self.broken[group] = why
            self.tell(f"Skipped {self.table.rows[group]:,} rows: {why}")

    def _let_go(self) -> None:
        self.reads.held -= self._held.bytes
        self._held, self._window = _Held({}, {}), None

    def _drop_next(self) -> None:
        """A window that was read ahead and is not wanted."""
        if self._next is not None:
            (_, coming), self._next = self._next, None
            if not coming.cancel():
                with suppress(InputError):  # what is wrong there matters when it is wanted
                    dropped = coming.result()
                    self.reads.add(len(dropped.tables), dropped.bytes)
                    self.reads.held -= dropped.bytes
