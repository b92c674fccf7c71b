"""A tower whose memory does not grow with what it encodes at once."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from negcache.shapes import Float, Tensor
from negcache.towers.static import Bags


class InPieces(nn.Module):
    """More texts than ``most`` are encoded piece by piece, and once more for their gradient.

    Args:
        tower: that encodes them.
        most: texts whose activations are kept.
    """

    def __init__(self, tower: nn.Module, most: int = 2048) -> None:
        super().__init__()
        self.tower, self.most = tower, most

    def forward(self, texts: Bags) -> Float[Tensor, "B D"]:
        if not torch.is_grad_enabled() or len(texts.starts) <= self.most:
            return self.tower(texts)
        return torch.cat(
            [checkpoint(self.tower, piece, use_reentrant=False) for piece in self._pieces(texts)]
        )

    def _pieces(self, texts: Bags) -> Iterator[Bags]:
        ends = torch.cat([texts.starts[1:], texts.starts.new_tensor([len(texts.tokens)])])
        for starts, stops in zip(texts.starts.split(self.most), ends.split(self.most), strict=True):
            yield Bags(texts.tokens[starts[0] : stops[-1]], starts - starts[0])
