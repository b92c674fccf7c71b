"""Very many labels: points as weighted bags of features, their labels as positives."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from negcache.known_positives import KnownPositives
from negcache.messages import Batch
from negcache.ragged import take_rows
from negcache.run.data.epoch import shuffled_batches
from negcache.run.data.padded import padded_rows
from negcache.shapes import Int, Tensor
from negcache.towers import WeightedBags


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Rows of features and their values, compressed; an `interfaces.Corpus` of `WeightedBags`.

    Args:
        offsets: int64 [N + 1].
        tokens: feature ids.
        values: float32, as many.
    """

    offsets: np.ndarray
    tokens: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> WeightedBags:
        """The features of these rows, in their order."""
        rows = ids.cpu().numpy()
        tokens, counts = take_rows(self.offsets, self.tokens, rows)
        values, _ = take_rows(self.offsets, self.values, rows)
        starts = np.cumsum(counts) - counts
        parts = (torch.from_numpy(part) for part in (tokens.astype(np.int64), starts, values))
        return WeightedBags(*parts).to(ids.device)


@dataclass(frozen=True, eq=False)
class LabelledPoints:
    """The points of one file: features, and labels as positives.

    Args:
        features: of each point, as `negcache.towers.WeightedBagTower` takes them.
        labels: of each point; never negatives for it.
        num_features: feature ids run from 0 to ``num_features - 1``.
        num_labels: labels run from 0 to ``num_labels - 1``; those without a point included.
    """

    features: SparseRows
    labels: KnownPositives
    num_features: int
    num_labels: int

    def __len__(self) -> int:
        return len(self.features)

    @property
    def label_counts(self) -> Int[Tensor, "L"]:
        """Points of each label."""
        return torch.bincount(torch.tensor(self.labels.items), minlength=self.num_labels)

    def learnable(self) -> Int[Tensor, "P"]:
        """Points with a feature and a label."""
        whole = (np.diff(self.features.offsets) > 0) & (np.diff(self.labels.offsets) > 0)
        return torch.from_numpy(whole.nonzero()[0])

    def batches(
        self, batch_size: int, generator: torch.Generator, *, most_labels: int | None = None
    ) -> Iterator[Batch]:
        """One epoch of the learnable points in random order; a last short batch is dropped.

        Args:
            batch_size: points in a batch.
            generator: decides the order, and which labels are taken.
            most_labels: of a point with more, so many are taken at random each time; None: all.

        Yields:
            ``positives`` [B, p] are the labels of each point, padded with -1.
        """
        points = self.learnable()
        what = "points with features and labels"
        return (
            Batch(
                queries=self.features[rows],
                positives=padded_rows(
                    self.labels.offsets, self.labels.items, rows,
                    most=most_labels, generator=generator,
                ),
                query_ids=rows,
            )
            for chosen in shuffled_batches(len(points), batch_size, generator, what)
            for rows in (points[chosen],)
        )  # fmt: skip
