"""sentence-transformers' recipe with hard negatives: in-batch first, then mined, then with them."""

import time
from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import mine_hard_negatives

from benchmarks.equal_footing.texts.objectives import TEMPERATURE, Peer, Setup
from benchmarks.equal_footing.texts.sentences import model, names, rows
from negcache.run.data import Judgements
from negcache.shapes import Int, Tensor

AT_MOST, QUERIES, ENCODED = 0.25, 4096, 256
"""Share of the time for mining; queries mined for at once; texts encoded, or scored, at once."""


class MinedMnrl(Peer):
    """The ranking loss over pairs; then over triplets, each query with a mined negative.

    ``mine_hard_negatives`` looks through all items: the best that is no positive of the query is
    its negative. Where that takes more than a quarter of the time, it is done for as many random
    queries as that suffices for, and their pairs are what is trained on from then on.

    Args:
        setup: of the run.
        begins: share of the time after which it is mined.
    """

    def __init__(self, setup: Setup, begins: object) -> None:
        super().__init__(setup)
        self.begins = float(str(begins))
        self.negatives: Tensor | None = None
        self.loss = MultipleNegativesRankingLoss(
            None,  # type: ignore[arg-type] # only its forward asks for a model
            scale=1 / TEMPERATURE,
        )

    def __call__(self, rows: Tensor, positives: Tensor) -> Tensor:
        columns = [positives] if self.negatives is None else [positives, self.negatives[rows]]
        embeddings = self.items(torch.cat(columns)).chunk(len(columns))
        return self.loss.compute_loss_from_embeddings(
            [self.queries(rows), *embeddings], torch.empty(0)
        )

    def step(self, spent: float) -> None:
        if self.negatives is None and spent >= self.begins:
            self.negatives = self._mined()
            self.encoded += len(self.setup.problem.items)
            self.pairs = self.pairs.only(self.negatives[self.pairs.queries] >= 0)

    def _mined(self) -> Int[Tensor, "Q"]:
        """A negative of every query; -1 where none was mined."""
        until = time.process_time() + AT_MOST * self.setup.seconds
        found = torch.full((len(self.setup.problem.queries),), -1)
        asked = self.pairs.queries.unique()
        order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(self.setup.seed))
        with TemporaryDirectory(prefix="negcache-mined-") as folder:
            for some in asked[order].split(QUERIES):
                pairs = self.pairs.only(torch.isin(self.pairs.queries, some))
                self._mine(pairs, found, folder)
                if time.process_time() >= until:
                    break
        return found

    def _mine(self, pairs: Judgements, found: Int[Tensor, "Q"], folder: str) -> None:
        """For the queries of these pairs; the folder keeps the items' embeddings."""
        wrapped = model(self.setup)
        asked = {
            "query": names("query", pairs.queries),
            "positive": names("item", pairs.items),
        }
        mined = mine_hard_negatives(
            Dataset.from_dict(asked), wrapped,
            corpus=names("item", torch.arange(len(self.setup.problem.items))),
            num_negatives=1, output_format="triplet", batch_size=ENCODED,
            faiss_batch_size=ENCODED, verbose=False, cache_folder=folder,
        )  # fmt: skip
        wrapped.train()
        found[torch.tensor(rows(mined["query"]))] = torch.tensor(rows(mined["negative"]))
