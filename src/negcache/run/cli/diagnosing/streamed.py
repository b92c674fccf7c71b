"""A run on a stream as it would have gone on: what comes next, what came last, and all items."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch

from negcache.diagnosis import ItemsInMemory
from negcache.diagnosis.coverage import TIMES
from negcache.encoder import ItemEncoder, Progress, to_device, without_dropout
from negcache.run.cli.diagnosing.opening import loss_of
from negcache.run.cli.runs import Run
from negcache.run.cli.sources import StreamSource
from negcache.run.data.streams import Stream, StreamPairs, WithTokens
from negcache.shapes import Float, Int, Tensor
from negcache.stores import StreamingCache

PARTNERS = 4096
"""Pairs after those that are asked, whose items stand in other batches."""


class ShardItems:
    """Every item that comes in the streams of a run; `diagnosis.StreamItems`.

    Args:
        streams: of items, where there are any, then of pairs.
        prepare: tokenizes; rows that nothing is learnt from give no item.
        progress: of the passes over the files.
    """

    def __init__(self, streams: Sequence[Stream], prepare: WithTokens, progress: Progress) -> None:
        self.streams, self.prepare = streams, prepare
        parts = chain.from_iterable(stream.ids() for stream in streams)
        self.ids = torch.from_numpy(np.unique(np.concatenate(list(progress(parts)))))

    def read(self, ids: Int[Tensor, "M"], /) -> Iterator[tuple[Int[Tensor, "c"], Any]]:
        """These items and their features, a row group at a time, in the order of the files."""
        left = np.unique(ids.cpu().numpy())
        for stream in self.streams:
            for batch in stream.first(len(stream.table)):
                told = batch.item_ids.numpy()
                wanted = np.zeros(len(told), dtype=bool)
                wanted[np.unique(told, return_index=True)[1]] = True
                wanted &= np.isin(told, left)
                if not wanted.any():
                    continue
                made = self.prepare(batch.only(torch.from_numpy(wanted)))
                if len(made.item_ids):
                    left = np.setdiff1d(left, made.item_ids.numpy(), assume_unique=True)
                    yield made.item_ids, made.items
                if not len(left):
                    return


@dataclass(frozen=True)
class Coming:
    """What a run would have been given next.

    Args:
        queries: embedded by the query tower as it is.
        positives: their items.
        query_ids: of the queries.
        partners: items of the pairs after those.
        encoder: of items, over some that come.
        some: ids of these.
    """

    queries: Float[Tensor, "Q D"]
    positives: Int[Tensor, "Q"]
    query_ids: Int[Tensor, "Q"]
    partners: Int[Tensor, "P"]
    encoder: ItemEncoder
    some: Int[Tensor, "c"]


def coming(run: Run, source: StreamSource, count: int) -> Coming:
    """The pairs after the batches that the checkpoint has seen, in the order of the run.

    Args:
        count: of the pairs that are asked, at most as many as there are.
    """
    loss_fn, tower, start = loss_of(run), run.towers.query_tower, run.trainer.position
    data = replace(_pairs(run, source), items=None)
    asked = min(count, len(source.pairs.table))
    total = asked + min(PARTNERS, len(source.pairs.table))
    rows, ids, asking, first, have = [], [], [], None, 0
    stop = start + -(-total // run.config.batch_size)
    with data.begin(start, stop) as batches, torch.no_grad(), without_dropout(tower):
        for batch in batches:
            first = first or batch.arriving[0]
            if have < asked:
                queries = to_device(batch.queries, loss_fn.device)
                rows.append(loss_fn.score.embed(tower(queries)))
                asking.append(batch.query_ids)
            ids.append(batch.positives)
            have += len(batch.positives)
    assert first is not None
    embedded, items = torch.cat(rows)[:asked], torch.cat(ids).to(loss_fn.device)
    asked = len(embedded)
    corpus = ItemsInMemory(*first)
    encoder = replace(loss_fn.encoder, corpus=corpus)
    partners = items[asked:] if len(items) > asked else items
    whose = torch.cat(asking)[:asked].to(loss_fn.device)
    return Coming(embedded, items[:asked], whose, partners, encoder, corpus.ids)


def items_of(run: Run, source: StreamSource, progress: Progress) -> ShardItems:
    """All items that come in the streams of a run."""
    streams = [each for each in (source.items, source.pairs) if each is not None]
    return ShardItems(streams, WithTokens(run.towers.tokenize), progress)


def recent_items(run: Run, source: StreamSource) -> Int[Tensor, "R"] | None:
    """Distinct items by when they came last, the newest first: as many as a larger cache would
    have, or all that came. None: there is no cache that keeps what came last."""
    store = loss_of(run).store
    if not isinstance(store, StreamingCache) or store.eviction != "fifo":
        return None
    wanted, stop = TIMES * store.num_rows, run.trainer.position
    found, data = torch.empty(0, dtype=torch.int64), _pairs(run, source)
    size = -(-wanted // run.config.batch_size)
    while stop > 0 and len(found) < wanted:
        start = max(0, stop - size)
        with data.begin(start, stop) as batches:
            came = [ids for batch in batches for ids, _ in batch.arriving]
        found = _first_of_each(torch.cat([found, torch.cat(came).flip(0)]))
        stop = start
    return found[:wanted]


def _pairs(run: Run, source: StreamSource) -> StreamPairs:
    return replace(source.training(run.towers), workers=0)


def _first_of_each(ids: Int[Tensor, "M"]) -> Int[Tensor, "u"]:
    return ids[np.sort(np.unique(ids.numpy(), return_index=True)[1])]
