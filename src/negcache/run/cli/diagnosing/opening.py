"""A run as one of its checkpoints has it, whole: towers, cache, what its sampler has learnt."""

from pathlib import Path
from typing import cast

import torch

from negcache.encoder import to_device
from negcache.errors import InputError
from negcache.losses import SoftmaxLoss
from negcache.run.cli.runs import Run, read_config, trained
from negcache.run.cli.sources import TaskSource
from negcache.run.data.judgements import Judgements
from negcache.run.evaluation import encode_all
from negcache.shapes import Float, Tensor

FLOPS = 4e12
"""Multiplications and additions that encoding the items may take, where nobody says how many: a
minute or two of one core."""

BYTES = 1 << 31
"""Of their embeddings."""

COUNTED = 8
"""Items that the work of the tower is counted over."""


def open_whole(folder: Path, checkpoint: str | None, *, reads_only: bool) -> Run:
    """Nothing of the run is changed.

    Raises:
        InputError: it learns from a stream.
    """
    config = read_config(folder)
    if config.data.pairs is not None:
        raise InputError(
            "a run on a task, data.source, all of whose items can be encoded",
            f"data.pairs, a stream, in {folder}",
            "diagnose a run on a sample of it, written as a task",
        )
    return trained(folder, checkpoint, reads_only=reads_only, whole=True)


def loss_of(run: Run) -> SoftmaxLoss:
    """The loss of a run."""
    return cast(SoftmaxLoss, run.trainer.parts.loss_fn)


def items_for(run: Run, wanted: int | None) -> int | None:
    """How many items are to stand for all; None: all of them.

    Args:
        wanted: by the user; None: as many as can be encoded in a minute or two.
    """
    loss_fn = loss_of(run)
    total = len(loss_fn.corpus)
    if wanted is None:
        some = torch.arange(min(COUNTED, total), device=loss_fn.device)
        work = max(1, loss_fn.encoder.flops(some))
        wanted = min(int(FLOPS // work), BYTES // (4 * run.towers.dim))
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
