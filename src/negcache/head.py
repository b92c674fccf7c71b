"""What stands in place of ``nn.Linear`` and ``cross_entropy`` where there are very many classes."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from negcache.devices import device_after, move
from negcache.distributed import Mesh
from negcache.encoder import ItemEncoder, Numbers
from negcache.errors import InputError
from negcache.estimators import log_q_corrected, softmax_loss
from negcache.generators import Generators
from negcache.indexes import top_k
from negcache.interfaces import Sampler
from negcache.messages import Request, StepReport
from negcache.metrics import Recorder
from negcache.ops.two_stage import scan
from negcache.packing import from_bytes, to_bytes
from negcache.samplers import CachedSoftmax, quadratic
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor
from negcache.step import (
    draw_negatives,
    encode_once,
    exclusion_of,
    mean_of_positives,
    sampled_loss,
)
from negcache.stores import LiveTable
from negcache.stores.reading import scored_rows
from negcache.validation import admit, check_alone, check_items

ROWS = 8192
"""Classes that are scored at a time in evaluation."""


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
        self.score = DotScore(temperature, normalize=normalize, absolute=absolute)
        self.classes = nn.Embedding(  # DDP knows it as sparse
            num_classes, dim + bias, sparse=sparse, device=device, dtype=dtype
        )
        nn.init.uniform_(self.classes.weight, -(dim**-0.5), dim**-0.5)
        if bias:
            nn.init.zeros_(self.classes.weight[:, dim])
        self.table = LiveTable(self.classes, self.score.embed if normalize else None)
        build = _default_sampler(absolute) if sampler is None else sampler
        self.sampler, self.generators = build(self.table, num_samples), Generators(seed)
        check_items(
            num_classes, None if self.sampler.store is None else self.sampler.store.num_items
        )
        self._recorder = Recorder()

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
        self.table.flush()
        queries, target = self._counted(self._queries(hidden), target)
        if len(hidden) and not len(queries):
            nothing = self.classes(target.flatten()[:0])
            return (queries.sum() + nothing.sum()) / 0.0
        target = admit(queries, target, None, None, len(self.table))[0]
        queries = self.score.embed(queries)
        return self._sampled(queries, target) if self.training else self._exact(queries, target)

    @torch.no_grad()
    def log_prob(self, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B N"]:
        """Log-probabilities of all classes; holds [B, N]."""
        queries = self.score.embed(self._queries(hidden))
        logits = [self.score(queries, chunk) for _, chunk in self.table.chunks(ROWS)]
        return F.log_softmax(torch.cat(logits, dim=1), dim=1)

    @torch.no_grad()
    def topk(
        self, hidden: Float[Tensor, "B D"], k: int
    ) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
        """Logits and numbers of the k best classes of each row, best first; never holds [B, N]."""
        queries = self.score.embed(self._queries(hidden))
        return top_k(queries, self.table.chunks(ROWS), self.score, k)

    def report(self) -> StepReport:
        """Metrics of the last training step, as plain numbers; counters start anew."""
        return self._recorder.report()

    def get_extra_state(self) -> Tensor:
        """One uint8 tensor, so that safetensors and every trainer can save it."""
        state = {"generator": self.generators.get_state(), "table": self.table.state_dict()}
        return to_bytes(state)

    def set_extra_state(self, state: Tensor) -> None:
        found = from_bytes(state)
        self.generators.set_state(found["generator"])
        self.table.load_state_dict(found["table"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SoftmaxHead":
        """``to(device)`` moves what the sampler holds as well."""
        there = self.table.weight.device
        super()._apply(fn, recurse)
        if (device := device_after(fn, there)) != there:
            move(self.sampler, device)
            move(self.table, device)
        return self

    def _sampled(self, queries: Tensor, target: Tensor) -> Tensor:
        """The step of ``SoftmaxLoss``, its items looked up in the table."""
        with self._recorder.stage("draw"):
            request = self._request(queries.detach(), target)
            generator = self.generators.of(torch.is_grad_enabled())
            draws = draw_negatives(self.sampler, log_q_corrected, request, generator)
        with self._recorder.stage("encode"):
            encoder = ItemEncoder(self.classes, Numbers(len(self.table)), self.score)
            items = encode_once(target, draws, encoder.encode)
        if torch.is_grad_enabled():
            self.table.write(items.ids, items.rows)
        with self._recorder.stage("loss"):
            found = sampled_loss(queries, target, items, draws, self.score)
        if torch.is_grad_enabled():
            self._recorder.record_step(*found, draws[0][0], len(items.ids))
        return found.losses.mean()

    @torch.no_grad()
    def _exact(self, queries: Tensor, target: Tensor) -> Tensor:
        """The loss over all classes, in blocks; never holds [B, N]."""
        request, several = self._request(queries, target), target.view(len(target), -1)
        log_z = scan(scored_rows(request, self.table)).log_mass
        rows = self.table.rows(several.clamp_min(0).flatten()).view(*several.shape, -1)
        losses = softmax_loss(self.score.paired(queries, rows), log_z[:, None])
        return mean_of_positives(losses, target).mean()

    def _request(self, queries: Tensor, target: Tensor) -> Request:
        """What the sampler is asked; rows stand at their place in the global batch."""
        mesh, num_classes = Mesh.now(), len(self.table)
        if self.sampler.store is not None:
            check_alone(mesh.size)
        exclude, place = exclusion_of(target, num_classes), mesh.place(len(target))
        return Request(queries, self.score, target, exclude, *place, num_classes)

    def _counted(self, queries: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that have another target than ``ignore_index``."""
        kept = target != self.ignore_index
        kept = kept.any(dim=1) if kept.ndim == 2 else kept
        if kept.shape != queries.shape[:1] or kept.all():  # wrong shapes are refused later
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


def _default_sampler(absolute: bool) -> Callable[[LiveTable, int], Sampler]:
    """What was best measured; more draws of the softmax itself than there are classes are none."""
    if absolute:
        return quadratic
    return lambda table, num_samples: CachedSoftmax(table, min(num_samples, len(table)))
