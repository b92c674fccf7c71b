"""Who took which item, when: a log of interactions, split and ready to train a recommender."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.known_positives import KnownPositives
from negcache.messages import Batch
from negcache.run.data.entities import Entities
from negcache.run.data.epoch import shuffled_batches
from negcache.run.data.judgements import Judgements
from negcache.run.data.padded import padded_rows
from negcache.shapes import Int, Tensor

EARLIER = {"train": (), "dev": ("train",), "test": ("train", "dev")}
"""What has happened before each split."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """An interaction log by rows of its users and items, split by time.

    Args:
        users: ids and categories of the users.
        items: ids and categories of the items; every one is a candidate.
        splits: (user, item) pairs of ``train``, ``dev`` and ``test``, each of grade 1.
        impressions: items that were shown to each user and not taken; None: not known.
    """

    users: Entities
    items: Entities
    splits: dict[str, Judgements]
    impressions: KnownPositives | None = None

    @cached_property
    def corpus(self) -> Int[Tensor, "N _"]:
        """Input of an item tower: row number, then codes of the item's categories."""
        return self.items.inputs

    @cached_property
    def queries(self) -> Int[Tensor, "Q _"]:
        """Input of a user tower: row number, then codes of the user's categories."""
        return self.users.inputs

    @property
    def item_counts(self) -> Int[Tensor, "N"]:
        """Popularity: training interactions of each item; 0 for one that train never shows."""
        return torch.bincount(self.judgements("train").items, minlength=len(self.items))

    def judgements(self, split: str) -> Judgements:
        """The pairs of a split."""
        if split not in self.splits:
            raise InputError(f"a split: {', '.join(self.splits)}", repr(split), "name one of them")
        return self.splits[split]

    def known_positives(self, split: str = "train") -> KnownPositives:
        """The items each user took in a split."""
        pairs = self.judgements(split)
        return KnownPositives.from_pairs(pairs.queries, pairs.items, len(self.users))

    def seen_before(self, split: str) -> Exclusion:
        """What each user took before a split began: never to be recommended in it.

        Train for dev; train and dev for test. One row for each user.
        """
        self.judgements(split)
        before = [self.splits[name] for name in EARLIER[split]]
        empty = torch.zeros(0, dtype=torch.int64)
        users = torch.cat([empty, *(pairs.queries for pairs in before)])
        items = torch.cat([empty, *(pairs.items for pairs in before)])
        return Exclusion.from_pairs(users, items, len(self.users))

    def batches(
        self, split: str, batch_size: int, generator: torch.Generator, *, most_negatives: int = 8
    ) -> Iterator[Batch]:
        """One epoch of (user, item) pairs in random order; a last short batch is dropped.

        Args:
            split: whose pairs to take.
            batch_size: pairs in a batch.
            generator: decides the order, and which impressions are taken.
            most_negatives: impressions of a user in a batch; one who has more gives others each
                time.

        Yields:
            ``queries`` are rows of ``self.queries``, ``query_ids`` rows of the users, ``negatives``
            impressions [B, h], h at most ``most_negatives``, padded with -1.
        """
        pairs = self.judgements(split)
        what = f"pairs of split {split}"
        return (
            Batch(
                queries=self.queries[users],
                positives=pairs.items[chosen],
                query_ids=users,
                negatives=self._shown(users, most_negatives, generator),
            )
            for chosen in shuffled_batches(len(pairs), batch_size, generator, what)
            for users in (pairs.queries[chosen],)
        )

    def _shown(
        self, users: Int[Tensor, "B"], most: int, generator: torch.Generator
    ) -> Int[Tensor, "B h"] | None:
        if self.impressions is None:
            return None
        table = self.impressions
        return padded_rows(table.offsets, table.items, users, most=most, generator=generator)
