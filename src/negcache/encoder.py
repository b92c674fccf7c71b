"""The one door to items: ids in, embeddings out, as they are scored and stored."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from warnings import catch_warnings

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from negcache.distributed import Mesh
from negcache.interfaces import Corpus
from negcache.score import Score
from negcache.shapes import Float, Int, Tensor
from negcache.validation import check_finite

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps an iterable to show how far it is, as ``tqdm`` does; ``iter`` shows nothing."""


@dataclass(frozen=True)
class ItemEncoder:
    """``score.embed(tower(corpus[ids]))``.

    Args:
        tower: maps features to (B, D).
        corpus: features by id.
        score: brings the tower's output to the form that is scored.
        mini_batch_size: encode at most so many at a time, and once more in the backward pass; None:
            all at once.
    """

    tower: nn.Module
    corpus: Corpus
    score: Score
    mini_batch_size: int | None = None

    def encode(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """With gradient where it is enabled.

        Raises:
            InputError: an embedding is not finite.
        """
        parts = []
        for chunk in ids.split(self.mini_batch_size or max(len(ids), 1)):
            features = to_device(self.corpus[chunk.cpu()], ids.device)
            if len(chunk) < len(ids) and torch.is_grad_enabled():
                rows = checkpoint(self.tower, features, use_reentrant=False)
            else:
                rows = self.tower(features)
            parts.append(check_finite(self.score.embed(rows), chunk))
        return torch.cat(parts)

    def encode_together(self, ids: Int[Tensor, "M"], mesh: Mesh) -> Float[Tensor, "M D"]:
        """The same ids on every process: each encodes its share, and all have the rows.

        The backward pass brings each row's gradient, added up over the processes, to the one that
        encoded it. Who has one item less encodes another for nothing: a tower is called as often
        on all, in parts or at once, since wrappers wait for all.
        """
        if mesh.size == 1:
            return self.encode(ids)
        mine, shares = ids[mesh.part(len(ids))], mesh.parts(len(ids))
        rows = self.encode(torch.cat([mine, ids[:1]])[: max(shares)])
        return mesh.gather(rows[: len(mine)], shares)

    @torch.no_grad()
    def flops(self, ids: Int[Tensor, "M"]) -> int:
        """Multiplications and additions of one item through the tower, counted over these."""
        counter = FlopCounterMode(display=False)
        with without_dropout(self.tower), _without_fused_layers(), counter:
            self.encode(ids)
        return counter.get_total_flops() // max(len(ids), 1)

    def encode_all(
        self,
        ids: Int[Tensor, "M"],
        batch_size: int,
        progress: Progress = iter,
        most: int | None = None,
    ) -> Iterator[tuple[Int[Tensor, "c"], Float[Tensor, "c D"]]]:
        """Some at a time, as search will see the items: no gradient, no dropout.

        Args:
            most: ids that a process has at most, of those that encode at the same time; who has
                fewer encodes another item in their place, since wrappers wait for all, and in the
                end yields none, as often as the others yield some; None: this one is alone.
        """
        most = len(ids) if most is None else most
        spare = getattr(self.corpus, "some_id", 0)
        for first in progress(range(0, most, batch_size)):
            some = ids[first : first + batch_size]
            with torch.no_grad(), without_dropout(self.tower):
                short = min(batch_size, most - first) - len(some)
                rows = self.encode(torch.cat([some, some.new_full((short,), spare)]))
            yield some, rows[: len(some)]


class Numbers:
    """A corpus whose features are the ids themselves, such as an embedding takes.

    Args:
        num_items: N.
    """

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, ids: Int[Tensor, "M"], /) -> Int[Tensor, "M"]:
        return ids


@contextmanager
def without_dropout(tower: nn.Module) -> Iterator[None]:
    """Evaluation mode for the length of a block; every submodule gets its own mode back."""
    modes = [(module, module.training) for module in tower.modules()]
    tower.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _without_fused_layers() -> Iterator[None]:
    """Transformer and recurrent layers as the products that they are, which can be counted."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # the flags also set what other devices have, and warn of it
        with catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def to_device(features: Any, device: torch.device) -> Any:
    """Features as they are, on the device: a tensor, anything with ``to``, or a dict of these."""
    if isinstance(features, dict):
        return {name: to_device(value, device) for name, value in features.items()}
    return features.to(device) if hasattr(features, "to") else features
