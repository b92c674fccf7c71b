"""Whether an item id stands for one text, as far as bounded memory can tell."""

from typing import Any

import numpy as np

from negcache.errors import InputError
from negcache.run.data.streams.batch import Identities
from negcache.run.data.streams.sharded_table import ShardedTable

_SLOT = np.dtype(
    [
        ("id", np.int64),
        ("check", np.uint32),
        ("text", np.uint64),
        ("source", np.int16),
        ("group", np.int32),
        ("row", np.int32),
    ]
)


class TextsById:
    """Remembers, of the ids that came last, a hash of the text and where it stood.

    One slot for each ``id mod capacity``, so a later id may take the slot of an earlier one. Two
    texts of an id are found if both came while no other id took its slot: for certain among fewer
    than ``capacity`` ids numbered from 0, else with a chance of about ``exp(-d / capacity)``, d
    being the distinct ids that came between them. What it cannot see: texts further apart, rows
    that other processes have, rows from before a run was resumed, and two texts whose 64-bit
    hashes are equal. It needs 30 bytes a slot and is no part of a run's state.

    Args:
        capacity: slots.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        self._seen = np.zeros(capacity, _SLOT)
        self._seen["id"] = -1
        self._tables: list[ShardedTable] = []

    def check(self, found: Identities, table: ShardedTable) -> None:
        """Compare a batch with itself and with what is remembered, then remember it.

        Args:
            found: items of a batch.
            table: which it comes from; several streams may share what is remembered.

        Raises:
            InputError: an id with two texts, or two strings with one hash; both places are named.
        """
        rows = self._as_slots(found, table)
        _, first, same = np.unique(rows["id"], return_index=True, return_inverse=True)
        slots = rows["id"] % len(self._seen)
        for earlier in (rows[first[same]], self._seen[slots]):
            self._compare(rows, earlier, found)
        self._seen[slots] = rows

    def _as_slots(self, found: Identities, table: ShardedTable) -> np.ndarray:
        if table not in self._tables:
            self._tables.append(table)
        rows = np.empty(len(found.places), _SLOT)
        rows["id"], rows["check"], rows["text"] = found.ids.ids, found.ids.checks, found.texts
        rows["source"] = self._tables.index(table)
        rows["group"], rows["row"] = found.places.T
        return rows

    def _compare(self, rows: np.ndarray, earlier: np.ndarray, found: Identities) -> None:
        known = rows["id"] == earlier["id"]
        collide = np.flatnonzero(known & (rows["check"] != earlier["check"]))
        for row in collide[:1].tolist():
            raise InputError(
                "item ids whose 63-bit hashes differ",
                f"{found.ids.shown(row)} in {self._where(rows[row])}, and another string with its "
                f"hash in {self._where(earlier[row])}",
                "rename one of the two, or number the items",
            )
        told = (rows["text"] != 0) & (earlier["text"] != 0)  # 0: there is no text
        differ = np.flatnonzero(known & told & (rows["text"] != earlier["text"]))
        for row in differ[:1].tolist():
            raise InputError(
                "one text for each item id",
                f"two for {found.ids.shown(row)}: {self._where(earlier[row])}, and "
                f"{self._where(rows[row])}",
                "correct one of them, or give the items ids of their own",
            )

    def _where(self, slot: Any) -> str:
        return self._tables[slot["source"]].where(int(slot["group"]), int(slot["row"]))
