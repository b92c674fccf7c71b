"""A prepared task: items, queries, judgements and the tokenizer between text and tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from negcache.errors import InputError
from negcache.known_positives import KnownPositives
from negcache.messages import Batch
from negcache.run.data.epoch import shuffled_batches
from negcache.run.data.judgements import Judgements
from negcache.run.data.texts import TextTable
from negcache.run.data.tokens import TokenFile


@dataclass(frozen=True, eq=False)
class Task:
    """Everything a run needs of its data; texts and tokens stay on disk.

    Args:
        name: of the built-in task or the folder.
        corpus: tokens of the items; an `interfaces.Corpus`.
        queries: tokens of the queries.
        corpus_text: ids and texts of the items.
        query_text: ids and texts of the queries.
        splits: judgements of ``train``, and of ``dev`` and ``test`` where present.
        tokenizer: cuts and encodes as the corpus was.
        fingerprint: of the data and the settings; a resumed run compares it.
        known: the positives of each split, by query.
    """

    name: str
    corpus: TokenFile
    queries: TokenFile
    corpus_text: TextTable
    query_text: TextTable
    splits: dict[str, Judgements]
    tokenizer: Tokenizer
    fingerprint: str
    known: dict[str, KnownPositives]

    @property
    def vocab_size(self) -> int:
        """Tokens the tokenizer can give, from 0 up."""
        return self.tokenizer.get_vocab_size()

    def judgements(self, split: str) -> Judgements:
        """The judgements of a split, or an error that names the splits there are."""
        if split not in self.splits:
            raise InputError(
                f"a split of {self.name}: {', '.join(self.splits)}", repr(split), "name one of them"
            )
        return self.splits[split]

    def known_positives(self, split: str = "train") -> KnownPositives:
        """The positives of every query in a split, over the rows of ``queries``."""
        self.judgements(split)
        return self.known[split]

    def batches(self, split: str, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch of (query, positive) pairs in random order; a last short batch is dropped.

        Pairs whose query or item has no token are left out: there is nothing to learn from.

        Args:
            split: whose positives to take.
            batch_size: pairs in a batch.
            generator: decides the order; one permutation is drawn from it.
        """
        pairs = self.learnable(split)
        what = f"positive pairs of split {split}"
        return (
            Batch(self.queries[pairs.queries[chosen]], pairs.items[chosen], pairs.queries[chosen])
            for chosen in shuffled_batches(len(pairs), batch_size, generator, what)
        )

    def learnable(self, split: str) -> Judgements:
        """The positive pairs of a split whose two texts both have a token."""
        pairs = self.judgements(split).positives()
        has_tokens = (self.queries.lengths(pairs.queries) > 0) & (
            self.corpus.lengths(pairs.items) > 0
        )
        return pairs.only(has_tokens)
