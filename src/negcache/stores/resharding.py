"""Rows in files of other processes than those that hold them now: copied to where they belong.

The files that a state refers to are read alone, and what was written since it was saved is undone
in the copy. So a copy may be broken off at any moment: the state is as it was, for any number of
processes.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from negcache.distributed import ALONE
from negcache.errors import InputError
from negcache.ops.shards import Shard
from negcache.stores.row_file import Column, RowFile, file_of
from negcache.stores.undo_journal import NOTHING, UndoJournal

COPIED = 1 << 22
"""Bytes that are copied at a time, at least a row."""

Former = dict[str, str]
"""Files of other processes that states may still refer to: the run of each, by its rows."""


class Source:
    """The rows here that are in one file of the processes that saved a state.

    Args:
        path: of the file where one process has all rows.
        name: of the rows in the file, as the state has it.
        reference: of the state.
        shard: the rows here.
        columns: of a row.

    Raises:
        InputError: the file is not there, is open in another process, or does not lead back to the
            state.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        reference: dict[str, Any],
        shard: Shard,
        columns: dict[str, Column],
    ) -> None:
        here = shard.rows_of(name)
        self.slots = range(here.start - shard.first, here.stop - shard.first)
        self.file, first = _file_of_others(path, name, shard, columns)
        self.ahead = shard.first - first  # of the slots here are those in the file
        self.journal = UndoJournal(self.file)
        self.undone = self.journal.leading_to(reference)

    def copy(self, target: RowFile) -> None:
        """Write the rows as they were when the state was saved."""
        step = max(1, COPIED // sum(each.stride for each in target.columns.values()))
        for first in range(self.slots.start, self.slots.stop, step):
            slots = torch.arange(first, min(first + step, self.slots.stop))
            target.write(slots, self.file.read(slots + self.ahead))
        for number in self.undone:
            for there, columns in self.journal.records(number):
                slots = there - self.ahead
                here = (slots >= self.slots.start) & (slots < self.slots.stop)
                target.write(slots[here], {name: each[here] for name, each in columns.items()})


def references_of(saved: Mapping[str, Any], shard: Shard, path: Path) -> dict[str, dict[str, Any]]:
    """Where a state of any number of processes has the rows here, by the name of the rows.

    Raises:
        InputError: it does not say so of all of them.
    """
    found = {name: told for name, told in saved.items() if shard.rows_of(name)}
    told = sum(len(shard.rows_of(name)) for name in found)
    if told < shard.size or not all("generation" in each for each in found.values()):
        raise InputError(
            f"a state that refers to {shard.name} in files at {path}",
            f"one of {', '.join(sorted(found)) or 'other rows'}",
            "load what stores in files saved, the states of all their processes together",
        )
    return found


def former_of(references: dict[str, dict[str, Any]]) -> Former:
    """The files of a state, and those that states before it refer to."""
    found: Former = {}
    for name, told in references.items():
        found |= told.get("former", {})
        if told["generation"] != NOTHING:
            found[name] = told["run"]
    return found


def remove_files(path: Path, former: Former, shard: Shard, columns: dict[str, Column]) -> None:
    """Of other processes, with what could be undone there; not those of another run by now."""
    for name, run in former.items():
        with suppress(InputError):  # it is gone, or a process has it
            file, _ = _file_of_others(path, name, shard, columns)
            UndoJournal(file).remove(run)


def _file_of_others(
    path: Path, name: str, shard: Shard, columns: dict[str, Column]
) -> tuple[RowFile, int]:
    """Opened to be read, and the first of its rows in the table."""
    rows = Shard.whole(shard.total).rows_of(name)
    theirs = file_of(path, Shard(ALONE, rows.start, len(rows), shard.total))
    return RowFile(theirs, len(rows), columns, reads_only=True), rows.start
