"""What stands in place of ``nn.Linear`` and ``cross_entropy`` where there are very many classes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from negcache.class_step import Classes, ClassStep, default_sampler
from negcache.class_vectors import (
    check_bias,
    check_table,
    new_vectors,
    padding_row,
    shard_of,
    vectors_of,
)
from negcache.devices import device_after, move
from negcache.distributed import ALONE, Mesh, keep_apart
from negcache.exact import best_classes, log_probs
from negcache.generators import Generators
from negcache.interfaces import Sampler
from negcache.meeting import meeting
from negcache.messages import StepReport
from negcache.metrics import Recorder
from negcache.packing import from_bytes, to_bytes
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor
from negcache.step import reduced
from negcache.stores import LiveTable
from negcache.stores.among_processes import check_dealt_out, check_head
from negcache.targets import check_hidden, counted
from negcache.validation import (
    REDUCTIONS,
    check_items,
    check_no_replica,
    check_own_state,
    check_weighting,
)

RENEW_EVERY = 100
"""Optimizer steps after which sums start anew, where rows move that nobody looked up."""


class SoftmaxHead(nn.Module):
    """Softmax over N classes from a few sampled ones a step.

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
        sparse: sparse gradients of the table, where N is so large that an optimizer must not walk
            all rows: ``torch.optim.SparseAdam``, ``SGD`` or ``Adagrad``; no ``clip_grad_norm_``
            (docs/classifiers.md). False: any optimizer. One of dense gradients moves rows that
            nobody looked up, so the sums of a kernel sampler start anew at every hundredth step
            (``head.table.renew_every``); between, they lag, and weights stay honest.
        padding_idx: a class that is none, such as item 0 of recommenders: as a target it counts for
            nothing, it is never a negative, has no part in any softmax, and its row no gradient.
        ignore_index: rows with this target count for nothing, as in ``cross_entropy``.
        shard_classes: among several processes each keeps a share of the rows, nobody has them all;
            every call is then one that all processes make together (docs/classifiers.md). Build
            the head after ``init_process_group``, with the same torch seed everywhere.
        seed: of the draws.
        embedding: whose ``weight`` the table is, in place of one of its own; see ``tied``.
        device: of the table, as in ``nn.Linear``.
        dtype: likewise.

    Examples:
        >>> head = SoftmaxHead(1000, 16, num_samples=20)
        >>> hidden, target = torch.randn(2, 4, 16), torch.arange(8).view(2, 4)
        >>> head(hidden, target).backward()
        >>> head.log_prob(hidden).shape, head.topk(hidden, 3)[1].shape
        (torch.Size([2, 4, 1000]), torch.Size([2, 4, 3]))
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
        sparse: bool = False,
        padding_idx: int | None = None,
        ignore_index: int = -100,
        shard_classes: bool = False,
        seed: int = 0,
        embedding: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_bias(bias, normalize=normalize, tied=embedding is not None)
        shard = shard_of(num_classes, dealt_out=shard_classes, tied=embedding is not None)
        self.padding_idx = padding_row(padding_idx, num_classes)
        self.dim, self.has_bias, self.ignore_index = dim, bias, ignore_index
        self.shard_classes = shard_classes
        self.score = DotScore(temperature, normalize=normalize, absolute=absolute)
        if embedding is None:
            row = {"bias": bias, "padding_idx": self.padding_idx, "sparse": sparse}
            vectors = new_vectors(shard, dim, device=device, dtype=dtype, **row)
            self.classes = vectors  # DDP knows it as sparse
        else:
            vectors = check_table(embedding, num_classes, dim)
        self.sparse = bool(getattr(vectors, "sparse", False))
        lag = None if self.sparse and embedding is None else RENEW_EVERY  # only looked up rows move
        embed = self.score.embed if normalize else None
        held = shard if shard.mesh.size > 1 else None
        for own in (vectors, self.score) if held else ():
            keep_apart(own)
        self.table = LiveTable(vectors, embed, shard=held, renew_every=lag)
        build = default_sampler(absolute) if sampler is None else sampler
        self.sampler, self.generators = build(self.table, num_samples), Generators(seed)
        store = self.sampler.store
        check_items(num_classes, None if store is None else store.num_items)
        self._recorder = Recorder()
        self.register_load_state_dict_pre_hook(check_own_state)

    @classmethod
    def tied(
        cls,
        embedding: nn.Module,
        sampler: Callable[[LiveTable, int], Sampler] | None = None,
        num_samples: int = 100,
        **settings: Any,
    ) -> "SoftmaxHead":
        """A head without bias whose table is the weight of an embedding: both move the same rows.

        The head reads the embedding and does *not* register it: the model does, so that its state
        dict holds the table once (``save_file`` of safetensors refuses it twice) and optimizers,
        DDP and ``deepcopy`` see one parameter. Keep both in one module, and train, save, copy and
        move *that*; a module put in the embedding's place is not followed.

        Args:
            embedding: ``nn.Embedding``, or any module with a ``weight`` [N, D]; ``padding_idx`` and
                ``sparse`` are its own, where it has them.
            sampler: as above.
            num_samples: as above.
            settings: ``absolute``, ``normalize``, ``temperature``, ``ignore_index``, ``seed``; and
                ``padding_idx``, where the embedding does not say it.

        Raises:
            InputError: no such weight, or a setting that the embedding decides.

        Examples:
            >>> items = nn.Embedding(1000, 16, padding_idx=0)
            >>> head = SoftmaxHead.tied(items, num_samples=20)
            >>> sequences = torch.randint(1, 1000, (2, 5))
            >>> head(items(sequences)[:, :-1], sequences[:, 1:]).backward()
            >>> items.weight.grad.shape
            torch.Size([1000, 16])
        """
        num_classes, dim = vectors_of(embedding, settings).shape
        settings.setdefault("padding_idx", getattr(embedding, "padding_idx", None))
        settings |= {"bias": False, "embedding": embedding}
        return cls(num_classes, dim, sampler, num_samples, **settings)

    @property
    def weight(self) -> Float[Tensor, "S D"]:
        """The class vectors that are here, without the bias: all, unless they are dealt out."""
        return self.table.weight[:, : self.dim]

    @property
    def bias(self) -> Float[Tensor, "S"] | None:
        return self.table.weight[:, self.dim] if self.has_bias else None

    def forward(
        self,
        hidden: Float[Tensor, "... D"],
        target: Int[Tensor, "..."] | None = None,
        *,
        weight: Float[Tensor, "..."] | None = None,
        reduction: str = "mean",
        targets: Int[Tensor, "... p"] | None = None,
    ) -> Float[Tensor, "..."]:
        """The loss (nats): an estimate with gradient in training, the exact value in ``eval()``.

        Args:
            hidden: what the classes are scored against: [B, D], [B, T, D], any leading dimensions.
            target: the class of each row.
            weight: of each row; None: all weigh the same.
            reduction: "mean", ``sum(w l) / sum(w)`` over the rows that count; "sum"; or "none":
                ``w l`` of each row, 0 where none counts.
            targets: in place of ``target``, several classes a row, padded with -1: the loss of a
                row is then the mean over them, none competing with another, a repeated one once.

        Rows of ``ignore_index`` or ``padding_idx`` are left out before anything is drawn; with no
        row left the mean is NaN, and its gradient 0, as in torch.

        Raises:
            InputError: shapes or targets that do not fit.
        """
        step, several = self._step, target is None
        with meeting(self._mesh) as met:
            self._prepare(check_hidden(hidden, self.dim))
            ignored = self.ignore_index, self.padding_idx
            rows = step.admit(counted(hidden, target, targets, weight, ignored))
            mesh = Mesh.now() if step.training else ALONE
            check_weighting(rows.weight, reduction, len(rows.hidden), mesh.size > 1)
            setting = 2 * REDUCTIONS.index(reduction) + several
            met.tell(step.call, setting, len(rows.hidden), self.table.steps_seen)
        self.table.catch_up(met.steps)
        losses = step.losses(self._queries(rows.hidden), rows, met.rows)
        value = reduced(losses, rows.weight, reduction, mesh)
        return rows.spread(value) if reduction == "none" else value

    @torch.no_grad()
    def log_prob(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... N"]:
        """Log-probabilities of all classes, -inf of ``padding_idx``; holds [B, N].

        Of a table that is dealt out all processes ask together, each for rows of its own.
        """
        with meeting(self._mesh) as met:
            check_dealt_out(self.table, self.shard_classes)
            queries = self._queries(check_hidden(hidden, self.dim))
            met.tell("log_prob", rows=len(queries))
        found = log_probs(queries, self.table, self.score, self.padding_idx, met.rows)
        return found.view(*hidden.shape[:-1], len(self.table))

    @torch.no_grad()
    def topk(
        self, hidden: Float[Tensor, "... D"], k: int
    ) -> tuple[Float[Tensor, "... k"], Int[Tensor, "... k"]]:
        """Logits and numbers of the k best classes of each row, best first; never holds [B, N].

        Of a table that is dealt out all processes ask together, each for rows of its own.
        """
        with meeting(self._mesh) as met:
            check_dealt_out(self.table, self.shard_classes)
            queries = self._queries(check_hidden(hidden, self.dim))
            met.tell("topk", k, len(queries))
        scores, ids = best_classes(queries, self.table, self.score, k, self.padding_idx, met.rows)
        return scores.view(*hidden.shape[:-1], k), ids.view(*hidden.shape[:-1], k)

    def report(self) -> StepReport:
        """Metrics of the last training step, as plain numbers; counters start anew."""
        return self._recorder.report()

    def get_extra_state(self) -> Tensor:
        """One uint8 tensor, so that safetensors and every trainer can save it."""
        return to_bytes(self.own_state())

    def set_extra_state(self, state: Tensor) -> None:
        self.load_own_state(from_bytes(state, "generator", "table"))

    def own_state(self) -> dict[str, Any]:
        """What is no weight: noise, sums. Those of several processes add up to one's."""
        return {"generator": self.generators.get_state(), "table": self.table.state_dict()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Restore what ``own_state`` gave: of this process, or of all together."""
        self.generators.set_state(state["generator"])
        self.table.load_state_dict(state["table"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SoftmaxHead":
        """``to(device)`` moves what the sampler holds as well; a tied table may be there before."""
        device = device_after(fn, self.table.weight.device)
        super()._apply(fn, recurse)
        move(self.sampler, device)
        move(self.table, device)
        return self

    @property
    def _mesh(self) -> Mesh:
        """The processes that the classes are dealt out among."""
        return self.table.shard.mesh

    @property
    def _step(self) -> ClassStep:
        classes = Classes(self.table, self.score, self.padding_idx, self.sparse)
        return ClassStep(classes, self.sampler, self.generators, self._recorder, self.training)

    def _prepare(self, hidden: Tensor) -> None:
        """Refuse what can be, and tell the sampler what has moved."""
        check_no_replica(self)
        check_dealt_out(self.table, self.shard_classes)
        check_head(self, self.table, self.sampler.store, hidden)
        self.table.flush()

    def _queries(self, hidden: Tensor) -> Float[Tensor, "B _"]:
        """Hidden states as flat rows of score, with a 1 for the bias."""
        rows = hidden.reshape(-1, self.dim)
        return self.score.embed(F.pad(rows, (0, 1), value=1.0) if self.has_bias else rows)
