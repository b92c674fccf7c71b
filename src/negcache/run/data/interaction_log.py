"""Reads an interaction log, and the tables that may lie beside it, from Parquet files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from negcache.errors import InputError
from negcache.known_positives import KnownPositives
from negcache.run.data.columns import (
    Columns,
    id_column,
    read_columns,
    time_column,
    weight_column,
)
from negcache.run.data.data_report import report_faults
from negcache.run.data.entities import Entities, entities_of
from negcache.run.data.interactions import Interactions
from negcache.run.data.leave_last_out import first_of_each_pair, leave_last_out


def open_interactions(
    log: Path | str,
    *,
    items: Path | str | None = None,
    item_features: Sequence[str] = (),
    users: Path | str | None = None,
    user_features: Sequence[str] = (),
    impressions: Path | str | None = None,
    columns: Columns = Columns(),  # noqa: B008 (frozen)
    least_weight: float | None = None,
    strict: bool = False,
) -> Interactions:
    """Read Parquet files of interactions and split them by time (`leave_last_out`).

    Args:
        log: one row an interaction: user, item, and where they are known time and weight.
        items: one row an item; its items are candidates even if the log never names them.
        item_features: columns of ``items`` that hold categories.
        users: one row a user.
        user_features: columns of ``users`` that hold categories.
        impressions: (user, item) rows of what was shown and not taken.
        columns: how the columns are called, in all four files.
        least_weight: interactions of a smaller weight are left out; None: those of 0 or less are,
            and counted as faults.
        strict: refuse faulty files, where otherwise a warning counts their faults.

    Raises:
        InputError: a file or column is missing, ids are null, repeated in a table or of a wrong
            type, times or weights are not finite, or nothing is left to train on.
    """
    faults = Counter[str]()
    told = _read_log(Path(log), columns, least_weight, faults)
    everyone, without_user = entities_of(told.users, _path(users), columns.user, user_features)
    everything, without_item = entities_of(told.items, _path(items), columns.item, item_features)
    faults["users of the log that the user table lacks (kept, features unknown)"] = without_user
    faults["items of the log that the item table lacks (kept, features unknown)"] = without_item
    user, item, times = told.by_row(everyone, everything, faults)
    _check_sizes(Path(log), len(user), len(everything))
    faults["users without an interaction (kept)"] = _absent(user, len(everyone))
    faults["items without an interaction (kept as candidates)"] = _absent(item, len(everything))
    found = Interactions(everyone, everything, leave_last_out(user, item, times))
    if impressions is not None:
        shown = _impressions(Path(impressions), columns, found, faults)
        found = replace(found, impressions=shown)
    report_faults(Path(log).stem, +faults, strict=strict)
    return found


class _Log(NamedTuple):
    """The columns of a log; ``keep`` says which interactions have the weight to count."""

    users: pa.ChunkedArray
    items: pa.ChunkedArray
    times: np.ndarray
    keep: np.ndarray

    def by_row(
        self, users: Entities, items: Entities, faults: Counter[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """User row, item row and time of each interaction that counts, in the order of the log."""
        user, item = users.find(self.users)[self.keep], items.find(self.items)[self.keep]
        times = self.times[self.keep]
        first = first_of_each_pair(user, item, times)
        faults["interactions of a pair that came before (left out)"] = len(user) - len(first)
        return user[first], item[first], times[first]


def _read_log(path: Path, names: Columns, least_weight: float | None, faults: Counter[str]) -> _Log:
    table = read_columns(path, names.needed, (names.time, names.weight))
    weights = weight_column(path, table, names.weight)
    if least_weight is None:
        keep = weights > 0
        faults["interactions with a weight of 0 or less (left out)"] = int((~keep).sum())
    else:
        keep = weights >= least_weight
    users, items = (id_column(path, table, name) for name in (names.user, names.item))
    return _Log(users, items, time_column(path, table, names.time), keep)


def _impressions(
    path: Path, names: Columns, log: Interactions, faults: Counter[str]
) -> KnownPositives:
    """What was shown to each user and not taken, without what the user took in training."""
    table = read_columns(path, [names.user, names.item])
    user = log.users.find(id_column(path, table, names.user))
    item = log.items.find(id_column(path, table, names.item))
    faults["impressions of an unknown user (left out)"] = int((user < 0).sum())
    faults["impressions of an unknown item (left out)"] = int(((item < 0) & (user >= 0)).sum())
    known = (user >= 0) & (item >= 0)
    users, items = torch.from_numpy(user[known]), torch.from_numpy(item[known])
    taken = log.seen_before("dev").contains(users, items)
    faults["impressions of an item that the user took in train (left out)"] = int(taken.sum())
    return KnownPositives.from_pairs(users[~taken], items[~taken], len(log.users))


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _absent(rows: np.ndarray, size: int) -> int:
    return size - len(np.unique(rows))


def _check_sizes(log: Path, interactions: int, items: int) -> None:
    if not interactions or items < 2:
        raise InputError(
            f"interactions with at least 2 items in {log}",
            f"{interactions:,} interactions left, {items:,} items",
            "add rows, or lower least_weight",
        )
