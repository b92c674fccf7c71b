"""What stands in place of ``nn.Linear`` and ``cross_entropy`` where there are very many classes."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from negcache.cache import LiveTable
from negcache.door import admit
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.functional.estimators import corrected, softmax_loss
from negcache.functional.two_stage import cell_log_masses
from negcache.indexes import top_k
from negcache.losses import SoftmaxLoss, mean_of_positives
from negcache.protocols import Request, Sampler
from negcache.samplers import CachedSoftmax, quadratic
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor


class SoftmaxHead(nn.Module):
    """Softmax over N classes from a few sampled ones a step; only touched rows get a gradient.

    In training ``head(hidden, target)`` is a sampled estimate of ``cross_entropy(linear(hidden),
    target)``; in ``eval()`` it is the exact value, without gradient. Samplers that keep sums are
    told of moved rows once the optimizer has stepped, at the next call.

    Args:
        num_classes: N.
        dim: D of ``hidden``.
        sampler: (table, num_samples) -> sampler: ``negcache.quadratic``, ``rf_softmax``,
            ``Uniform``, ``CachedSoftmax``, or a ``functools.partial`` of any. None: what was best
            measured (docs/classifiers.md): ``CachedSoftmax``, the softmax itself, unbiased at any
            number of draws; with ``absolute`` the cheaper ``quadratic``, which is poor without.
        num_samples: draws per query, m.
        bias: a bias for each class, kept as the last column of the table.
        absolute: absolute softmax, p ~ exp(|s|), the companion of even kernels.
        normalize: unit-norm hidden and class vectors (RF-softmax needs it); without bias.
        temperature: divides the logits.
        sparse: sparse gradients of the table: ``torch.optim.SparseAdam``, ``SGD`` or ``Adagrad``.
            False: any optimizer; one that moves all rows makes sums lag behind.
        ignore_index: rows with this target count for nothing, as in ``cross_entropy``.
        seed: of the draws.
        device, dtype: of the table, as in ``nn.Linear``.

    Example:
        >>> head = SoftmaxHead(1000, 16, num_samples=20)
        >>> hidden, target = torch.randn(8, 16), torch.arange(8)
        >>> head(hidden, target).backward()
        >>> head.log_prob(hidden).shape, head.topk(hidden, 3)[1].shape
        (torch.Size([8, 1000]), torch.Size([8, 3]))
    """

    def __init__(
        self,
        num_classes: int,
        dim: int,
        sampler: Callable[[LiveTable, int], Sampler] | None = None,
        num_samples: int = 100,
        *,
        bias: bool = True,
        absolute: bool = False,
        normalize: bool = False,
        temperature: float = 1.0,
        sparse: bool = True,
        ignore_index: int = -100,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if bias and normalize:
            raise InputError(
                "bias=False with normalize=True", "both", "unit-norm classes have no bias"
            )
        self.dim, self.has_bias, self.ignore_index = dim, bias, ignore_index
        score = DotScore(temperature, normalize=normalize, absolute=absolute)
        classes = nn.Embedding(  # DDP knows it as sparse
            num_classes, dim + bias, sparse=sparse, device=device, dtype=dtype
        )
        nn.init.uniform_(classes.weight, -(dim**-0.5), dim**-0.5)
        if bias:
            nn.init.zeros_(classes.weight[:, dim])
        self.table = LiveTable(classes, score.embed if normalize else None)
        self.loss = SoftmaxLoss(
            classes,
            torch.arange(num_classes),
            (sampler or (quadratic if absolute else CachedSoftmax))(self.table, num_samples),
            score,
            estimator=corrected,
            seed=seed,
        )

    @property
    def weight(self) -> Float[Tensor, "N D"]:
        """The class vectors, without the bias."""
        return self.table.weight[:, : self.dim]

    @property
    def bias(self) -> Float[Tensor, "N"] | None:
        return self.table.weight[:, self.dim] if self.has_bias else None

    def forward(
        self, hidden: Float[Tensor, "B D"], target: Int[Tensor, "B *p"]
    ) -> Float[Tensor, ""]:
        """Mean loss (nats): an estimate with gradient in training, the exact value in ``eval()``.

        Args:
            hidden: what the classes are scored against.
            target: the class of each row; or several, [B, p], padded with -1: the loss of a row is
                then the mean over its targets, none competing with another, a repeated one once.

        Rows of ``ignore_index`` are left out before anything is drawn; with no row left the loss is
        NaN, and its gradient 0, as in torch.

        Raises:
            InputError: shapes or targets out of range.
        """
        self.table.settle()
        queries, target = self._counted(self._queries(hidden), target)
        if len(hidden) and not len(queries):
            nothing = self.loss.item_tower(target.flatten()[:0])
            return (queries.sum() + nothing.sum()) / 0.0
        return self.loss(queries, target) if self.training else self._exact(queries, target)

    @torch.no_grad()
    def log_prob(self, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B N"]:
        """Log-probabilities of all classes; holds [B, N]."""
        return F.log_softmax(self._logits(hidden), dim=1)

    @torch.no_grad()
    def topk(
        self, hidden: Float[Tensor, "B D"], k: int
    ) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
        """Logits and numbers of the k best classes of each row, best first; never holds [B, N]."""
        queries = self.loss.score.embed(self._queries(hidden))
        return top_k(queries, self.table.chunks(8192), self.loss.score, k)

    def _logits(self, hidden: Tensor) -> Tensor:
        queries = self.loss.score.embed(self._queries(hidden))
        return torch.cat([self.loss.score(queries, c) for _, c in self.table.chunks(8192)], dim=1)

    def _counted(self, queries: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that have another target than ``ignore_index``."""
        kept = target != self.ignore_index
        kept = kept.any(dim=1) if kept.ndim == 2 else kept
        if kept.shape != queries.shape[:1] or kept.all():  # wrong shapes are refused by the loss
            return queries, target
        return queries[kept], target[kept]

    def _queries(self, hidden: Tensor) -> Tensor:
        """Hidden rows with a 1 for the bias."""
        if hidden.ndim != 2 or hidden.shape[1] != self.dim:
            raise InputError(
                f"hidden of shape [B, {self.dim}]",
                f"{tuple(hidden.shape)}",
                "flatten sequences to rows, and their targets with them",
            )
        return F.pad(hidden, (0, 1), value=1.0) if self.has_bias else hidden

    @torch.no_grad()
    def _exact(self, queries: Tensor, target: Tensor) -> Tensor:
        """The loss over all classes, in cells; never holds [B, N]."""
        target = admit(queries, target, None, None, len(self.table))[0]
        score, queries = self.loss.score, self.loss.score.embed(queries)
        several = target.view(len(target), -1)
        rows, columns = (several >= 0).nonzero(as_tuple=True)
        exclude = Exclusion.from_pairs(rows, several[rows, columns], len(several))
        request = Request(queries, score, target, exclude)
        log_z = torch.logsumexp(cell_log_masses(request, self.table), dim=1)
        table = self.table.rows(several.clamp_min(0).flatten()).view(*several.shape, -1)
        losses = softmax_loss(score.paired(queries, table), log_z[:, None])
        return mean_of_positives(losses, target).mean()
