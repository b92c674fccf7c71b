"""Items that a query may draw though they answer it: known from other splits, or by their text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from negcache.encoder import Progress
from negcache.exclusion import Exclusion
from negcache.known_positives import KnownPositives
from negcache.run.data import Task
from negcache.run.data.text_hashes import hash_texts
from negcache.shapes import Int, Tensor

SPLITS, TWINS = "positives of another split", "items with the text of a positive"


@dataclass(frozen=True)
class OtherSplits:
    """Positives of each query in any of several splits; `interfaces.Known`.

    Args:
        tables: of the splits.
    """

    tables: Sequence[KnownPositives]

    def exclusion(self, query_ids: Int[Tensor, "B"], positives: Int[Tensor, "B"]) -> Exclusion:
        rows = torch.arange(len(query_ids), device=positives.device)
        found = Exclusion.from_pairs(rows, positives, len(query_ids))
        for table in self.tables:
            more = table.exclusion(query_ids, positives)
            found = found.and_also(more.rows, more.ids)
        return found


@dataclass(frozen=True)
class TextTwins:
    """Items whose text is that of a positive but for case and white space; `interfaces.Known`.

    Args:
        known: positives, by query.
        hashes: of the text of each item, uint64 [N].
        order: items by their hash.
    """

    known: OtherSplits
    hashes: np.ndarray
    order: np.ndarray

    @staticmethod
    def of(task: Task, progress: Progress) -> "TextTwins":
        """Read the texts of a corpus once."""
        blocks = progress(task.corpus_text.batches())
        hashes = np.concatenate([hash_texts([_plain(text) for text in block]) for block in blocks])
        known = OtherSplits(list(task.known.values()))
        return TextTwins(known, hashes, hashes.argsort(kind="stable"))

    def exclusion(self, query_ids: Int[Tensor, "B"], positives: Int[Tensor, "B"]) -> Exclusion:
        own = self.known.exclusion(query_ids, positives)
        wanted, ordered = self.hashes[own.ids.cpu().numpy()], self.hashes[self.order]
        first, last = (np.searchsorted(ordered, wanted, side=side) for side in ("left", "right"))
        counts = torch.from_numpy(last - first)
        starts = torch.from_numpy(first) - (counts.cumsum(0) - counts)
        places = torch.arange(int(counts.sum())) + torch.repeat_interleave(starts, counts)
        twins = torch.from_numpy(self.order)[places].to(own.ids.device)
        rows = torch.repeat_interleave(own.rows, counts.to(own.rows.device))
        return own.and_also(rows, twins)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
