"""Training pairs that come by in a stream, with items that have no query."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from negcache.errors import InputError
from negcache.messages import Batch
from negcache.run.data.streams.prepared import PreparedBatches
from negcache.run.data.streams.stream import Stream
from negcache.run.data.streams.texts_by_id import TextsById
from negcache.run.data.streams.tokenizing import TokenizedBatch, WithTokens


@dataclass(frozen=True, eq=False)
class StreamPairs:
    """Batches of one or two streams by number; what is read arrives with its batch.

    Args:
        pairs: queries, with items that answer them.
        items: items without queries; None: none come.
        prepare: tokenizes both.
        every: batches of pairs in an optimizer step; a batch of items comes with the first.
        fingerprints: of the data, by config key.
        workers: processes that tokenize each stream ahead; 0: none.
    """

    pairs: Stream
    items: Stream | None
    prepare: WithTokens
    every: int
    fingerprints: dict[str, str]
    workers: int = 0

    def place(self, number: int) -> tuple[int, int]:
        """(epoch, batch within the epoch) of the batch ``number``, counted from 0."""
        return self.pairs.order.place(number)

    @contextmanager
    def begin(self, number: int, stop: int) -> Iterator[Iterator[Batch]]:
        """This process' part of the batches from ``number`` to before ``stop``."""
        texts = TextsById()
        with ExitStack() as stack:

            def prepared(stream: Stream, first: int, end: int) -> Iterator[TokenizedBatch]:
                stack.callback(stream.close)
                return stack.enter_context(
                    PreparedBatches(
                        stream, self.prepare, first, end, num_workers=self.workers, texts=texts
                    )
                )

            pairs, items = prepared(self.pairs, number, stop), None
            if self.items is not None:
                first, end = (-(-place // self.every) for place in (number, stop))
                items = prepared(self.items, first, end)
            yield self._joined(pairs, items)

    def _joined(
        self, pairs: Iterator[TokenizedBatch], items: Iterator[TokenizedBatch] | None
    ) -> Iterator[Batch]:
        told = False
        for pair in pairs:
            arriving = [pair]
            if items is not None and pair.number % self.every == 0:
                arriving.append(next(items))
            left_out = sum(each.left_out for each in arriving)
            if left_out and not told:
                told = True
                warnings.warn(
                    f"Rows whose query or item has no token are left out: {left_out} of batch "
                    f"{pair.number}, the first with one.",
                    stacklevel=2,
                )
            yield _batch(pair, arriving)


def _batch(pair: TokenizedBatch, arriving: list[TokenizedBatch]) -> Batch:
    if not len(pair.item_ids):
        raise InputError(
            f"a pair whose two texts have a token in batch {pair.number}",
            f"none among the {pair.left_out} of this process",
            "clean the files of the pairs, or enlarge batch_size",
        )
    came: list[tuple[Any, Any]] = [(each.item_ids, each.items) for each in arriving]
    return Batch(pair.queries, pair.item_ids, pair.query_ids, arriving=tuple(came))
