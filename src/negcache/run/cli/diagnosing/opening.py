"""What a diagnosis asks of a run that is open: its loss, some of its pairs, some of its items."""

from typing import cast

import torch

from negcache.encoder import ItemEncoder, to_device
from negcache.errors import InputError
from negcache.losses import SoftmaxLoss
from negcache.run.cli.runs import Run
from negcache.run.cli.sources import TaskSource
from negcache.run.data.judgements import Judgements
from negcache.run.evaluation import encode_all
from negcache.shapes import Float, Int, Tensor

FLOPS = 4e12
"""Multiplications and additions that encoding the items may take, where nobody says how many: a
minute or two of one core."""

BYTES = 1 << 31
"""Of their embeddings."""

COUNTED = 8
"""Items that the work of the tower is counted over."""


def loss_of(run: Run) -> SoftmaxLoss:
    """The loss of a run."""
    return cast(SoftmaxLoss, run.trainer.parts.loss_fn)


def items_for(
    wanted: int | None, total: int, encoder: ItemEncoder, some: Int[Tensor, "c"], dim: int
) -> int | None:
    """How many items are to stand for all; None: all of them.

    Args:
        wanted: by the user; None: as many as can be encoded in a minute or two.
        total: of all items.
        encoder: of some of them at least.
        some: these; the work of the tower is counted over a few.
        dim: of an embedding.
    """
    if wanted is None:
        work = max(1, encoder.flops(some[:COUNTED]))
        wanted = min(int(FLOPS // work), BYTES // (4 * dim))
    return None if wanted >= total else max(1, wanted)


def some_pairs(run: Run, split: str, count: int, seed: int) -> Judgements:
    """Random positive pairs of a split, as many as there are at most. Raises InputError: none."""
    source = run.source
    assert isinstance(source, TaskSource)
    pairs = source.task.learnable(split)
    if not len(pairs):
        raise InputError(f"positive pairs in split {split}", "none", "name another --split")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pairs), generator=generator)[:count]
    keep = torch.zeros(len(pairs), dtype=torch.bool)
    keep[chosen] = True
    found = pairs.only(keep)
    order = torch.randperm(len(found), generator=generator)
    return Judgements(found.queries[order], found.items[order], found.grades[order])


def embedded(run: Run, pairs: Judgements) -> Float[Tensor, "Q D"]:
    """The queries of pairs, as the query tower is now."""
    queries = run.towers.over(run.retriever.task)[0]
    tower, score = run.towers.query_tower, loss_of(run).score
    rows = encode_all(tower, queries, score, ids=pairs.queries)
    return to_device(rows, loss_of(run).device)
