"""What people use for what comes next, through its own public interface, unmodified.

RePlay's requirements are older than ours, so it is installed without them:
``pip install --no-deps replay-rec==0.22.0 lightning polars polars-runtime-32 "pandas<3"``.
"""

from importlib import import_module
from typing import Any

import torch
from torch import nn

from benchmarks.equal_footing.regime import Contender
from benchmarks.equal_footing.sequences.objectives import Peer, Setup
from benchmarks.equal_footing.sequences.problem import DIM
from negcache.shapes import Float, Tensor

CHUNKS = nn.LinearCrossEntropyOptions(batch_chunk_size=256, chunking_method=None)
"""As in ``language_model_head``: faster on a CPU than all rows at once."""


class Exact(Peer):
    """torch's cross-entropy over all classes.

    Args:
        setup: of the run.
        smoothing: of its labels.
    """

    def __init__(self, setup: Setup, smoothing: object) -> None:
        super().__init__(setup)
        self.smoothing = float(str(smoothing))

    def __call__(self, rows: Tensor) -> Tensor:
        self.encoded += self.setup.problem.classes
        hidden, wanted = self.setup.tower(rows[:, :-1]), rows[:, 1:]
        return nn.functional.linear_cross_entropy(
            hidden[wanted > 0], self.vectors, wanted[wanted > 0], linear_bias=self.bias,
            label_smoothing=self.smoothing, options=None if self.smoothing else CHUNKS,
        )  # fmt: skip


class Adaptive(Peer):
    """torch's ``AdaptiveLogSoftmaxWithLoss``: frequent classes first, the others in two clusters.

    It has class vectors of its own.

    Args:
        setup: of the run.
        narrower: how many times less wide the vectors of each cluster are.
    """

    def __init__(self, setup: Setup, narrower: object) -> None:
        super().__init__(setup)
        classes = setup.problem.classes
        self.loss = nn.AdaptiveLogSoftmaxWithLoss(
            DIM, classes, [classes // 20, classes // 4], div_value=float(str(narrower))
        )
        setup.tower.add_module("adaptive", self.loss)  # so that it is trained

    def __call__(self, rows: Tensor) -> Tensor:
        hidden, wanted = self.setup.tower(rows[:, :-1]), rows[:, 1:]
        self.encoded += self._scored(wanted)
        return self.loss(hidden[wanted > 0], wanted[wanted > 0]).loss

    def scores(self, hidden: Float[Tensor, "Q D"]) -> Float[Tensor, "Q N"]:
        return self.loss.log_prob(hidden)

    def _scored(self, wanted: Tensor) -> int:
        """The first classes, and each cluster that something is wanted of."""
        bounds = torch.tensor([0, *self.loss.cutoffs])
        there = [
            bool(((wanted >= low) & (wanted < high)).any()) for low, high in bounds.unfold(0, 2, 1)
        ]
        there[0] = True
        return int(bounds.diff()[torch.tensor(there)].sum())


class RePlay(Peer):
    """A loss of RePlay, with uniform negatives that the batch shares.

    Args:
        setup: of the run.
        loss: by its name in ``replay.nn.loss``.
        negatives: of a step; 1: one for each place, not shared.
    """

    def __init__(self, setup: Setup, loss: str, negatives: int) -> None:
        super().__init__(setup)
        self.negatives = min(negatives, setup.problem.classes - 1)
        self.loss = getattr(import_module("replay.nn.loss"), loss)()
        self.head = import_module("replay.nn.head").EmbeddingTyingHead()
        self.loss.logits_callback = self._logits

    def __call__(self, rows: Tensor) -> Tensor:
        wanted = rows[:, 1:].contiguous()
        alone = self.negatives == 1
        negatives = self.drawn(*wanted.shape, 1) if alone else self.drawn(self.negatives)
        there = wanted > 0
        self.encoded += int(there.sum()) + (int(there.sum()) if alone else self.negatives)
        return self.loss(
            model_embeddings=self.setup.tower(rows[:, :-1]), feature_tensors={},
            positive_labels=wanted[..., None], negative_labels=negatives,
            padding_mask=rows[:, :-1] > 0, target_padding_mask=there[..., None],
        )  # fmt: skip

    def _logits(self, hidden: Tensor, classes: Tensor | None = None) -> Tensor:
        chosen = slice(None) if classes is None else classes
        logits = self.head(hidden, self.vectors[chosen])
        return logits if self.bias is None else logits + self.bias[chosen]


class Scalable(Peer):
    """RePlay's ``ScalableCrossEntropyLoss``: places and classes meet in random buckets.

    Args:
        setup: of the run.
        classes: of each bucket.
    """

    def __init__(self, setup: Setup, classes: object) -> None:
        super().__init__(setup)
        self.module: Any = import_module("replay.models.nn.loss.sce")
        self.size = min(int(str(classes)), setup.problem.classes)

    def __call__(self, rows: Tensor) -> Tensor:
        wanted = rows[:, 1:].contiguous()
        buckets = int(2 * wanted.numel() ** 0.5)  # alpha = 2, as published
        self.encoded += int((wanted > 0).sum()) + buckets * self.size
        loss = self.module.ScalableCrossEntropyLoss(
            self.module.SCEParams(buckets, bucket_size_x=buckets, bucket_size_y=self.size)
        )
        hidden, vectors = self.setup.tower(rows[:, :-1]), self.vectors
        if self.bias is not None:  # one more coordinate
            hidden = torch.cat([hidden, torch.ones_like(hidden[..., :1])], dim=-1)
            vectors = torch.cat([vectors, self.bias[:, None]], dim=1)
        return loss(hidden, wanted, vectors, wanted > 0)


def _of_replay(loss: str, settings: tuple[int, int]) -> Contender:
    return Contender(lambda setup, size: RePlay(setup, loss, int(str(size))), settings)


METHODS = {
    "exact": Contender(Exact, (0.0, 0.1), encodes_all=True),
    "adaptive": Contender(Adaptive, (2.0, 4.0)),
    "replay_ce": _of_replay("CESampled", (256, 1024)),
    "replay_bce": _of_replay("BCESampled", (1, 256)),
    "replay_sce": Contender(Scalable, (64, 256)),
}
