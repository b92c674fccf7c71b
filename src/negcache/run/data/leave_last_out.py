"""Split interactions by time: the last of each user is for testing, the one before for dev."""

import numpy as np
import torch

from negcache.run.data.judgements import Judgements

FEWEST = 3
"""Users with fewer interactions stay in train whole."""


def leave_last_out(
    users: np.ndarray, items: np.ndarray, times: np.ndarray
) -> dict[str, Judgements]:
    """Last interaction -> test, second to last -> dev, the rest -> train.

    Of interactions at the same time the one that stands further down in the log is the later.

    Args:
        users: row of the user of each interaction, int64 [P]; no (user, item) pair twice.
        items: row of the item, int64 [P].
        times: numbers that sort as time does, [P].

    Returns:
        Judgements of grade 1; those of a split lie in the order of user and time.
    """
    order = np.lexsort((times, users))  # stable: ties keep the order of the log
    users, items = users[order], items[order]
    counts = np.bincount(users)
    last = np.cumsum(counts)[users] - 1
    from_end = np.where(counts[users] < FEWEST, FEWEST, last - np.arange(len(users)))
    places = {"train": from_end >= 2, "dev": from_end == 1, "test": from_end == 0}
    return {
        split: Judgements(*(torch.from_numpy(part[here]) for part in (users, items, _ones(users))))
        for split, here in places.items()
    }


def first_of_each_pair(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Places of the earliest interaction of every (user, item) pair, in the order of the log."""
    order = np.lexsort((times, items, users))
    same = (users[order][1:] == users[order][:-1]) & (items[order][1:] == items[order][:-1])
    return np.sort(order[np.concatenate([np.ones(min(len(order), 1), bool), ~same])])


def _ones(like: np.ndarray) -> np.ndarray:
    return np.ones(len(like), np.int64)
