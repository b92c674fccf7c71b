"""What a loss has to be, before it is looked at."""

import sys

from negcache.diagnosis.settings import Beside
from negcache.errors import InputError
from negcache.losses import SoftmaxLoss


def check_loss(loss_fn: SoftmaxLoss, beside: Beside) -> None:
    """Raises InputError: its items or its rows are not at hand."""
    store = loss_fn.store
    if len(loss_fn.corpus) == sys.maxsize and beside.items is None:
        raise InputError(
            "a corpus of all items, to be encoded afresh",
            f"a {type(loss_fn.corpus).__name__}, which holds what came last",
            "name all items: Beside(items=ItemsInMemory(ids, features))",
        )
    if store is not None and store.shard.mesh.size > 1:
        raise InputError(
            "a store of one process",
            f"one that {store.shard.mesh.size} share",
            "load the checkpoint in one process: negcache diagnose RUN",
        )
    if store is not None and not bool(store.valid.any()):
        raise InputError(
            "a store with rows", "an empty one", "call loss_fn.fill_cache(), or train a step"
        )
