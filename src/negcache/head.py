"""What stands in place of ``nn.Linear`` and ``cross_entropy`` where there are very many classes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from negcache import validation
from negcache.class_vectors import check_bias, check_table, new_vectors, padding_row, vectors_of
from negcache.devices import device_after, move
from negcache.distributed import ALONE, Mesh
from negcache.estimators import log_q_corrected
from negcache.exact import best_classes, exact_losses, log_probs
from negcache.generators import Generators
from negcache.interfaces import Sampler
from negcache.messages import Request, StepReport
from negcache.metrics import Recorder
from negcache.packing import from_bytes, to_bytes
from negcache.samplers import CachedSoftmax, quadratic
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor
from negcache.step import draw_negatives, encode_once, exclusion_of, reduced, sampled_loss
from negcache.stores import LiveTable
from negcache.stores.live import check_processes, check_shared_table
from negcache.targets import Counted, check_hidden, counted
from negcache.validation import admit, check_finite, check_items, check_own_state, check_weighting

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
        seed: of the draws.
        embedding: whose ``weight`` the table is, in place of one of its own; see ``tied``.
        device, dtype: of the table, as in ``nn.Linear``.

    Example:
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
        seed: int = 0,
        embedding: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_bias(bias, normalize=normalize, tied=embedding is not None)
        self.padding_idx = padding_row(padding_idx, num_classes)
        self.dim, self.has_bias, self.ignore_index = dim, bias, ignore_index
        self.score = DotScore(temperature, normalize=normalize, absolute=absolute)
        if embedding is None:
            row = {"bias": bias, "padding_idx": self.padding_idx, "sparse": sparse}
            vectors = new_vectors(num_classes, dim, device=device, dtype=dtype, **row)
            self.classes = vectors  # DDP knows it as sparse
        else:
            vectors = check_table(embedding, num_classes, dim)
        self.sparse = bool(getattr(vectors, "sparse", False))
        lag = None if self.sparse and embedding is None else RENEW_EVERY  # only looked up rows move
        self.table = LiveTable(vectors, self.score.embed if normalize else None, renew_every=lag)
        build = _default_sampler(absolute) if sampler is None else sampler
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
            sampler, num_samples: as above.
            settings: ``absolute``, ``normalize``, ``temperature``, ``ignore_index``, ``seed``; and
                ``padding_idx``, where the embedding does not say it.

        Raises:
            InputError: no such weight, or a setting that the embedding decides.

        Example:
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
    def weight(self) -> Float[Tensor, "N D"]:
        """The class vectors, without the bias."""
        return self.table.weight[:, : self.dim]

    @property
    def bias(self) -> Float[Tensor, "N"] | None:
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
        validation.check_no_replica(self)
        check_hidden(hidden, self.dim)
        self.table.flush()
        rows = counted(hidden, target, targets, weight, (self.ignore_index, self.padding_idx))
        mesh = Mesh.now() if self.training and torch.is_grad_enabled() else ALONE
        check_weighting(rows.weight, reduction, len(rows.hidden), mesh.size > 1)
        losses = self._losses(rows)
        value = reduced(losses, rows.weight, reduction, mesh)
        return rows.spread(value) if reduction == "none" else value

    @torch.no_grad()
    def log_prob(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... N"]:
        """Log-probabilities of all classes, -inf of ``padding_idx``; holds [B, N]."""
        queries = self._queries(check_hidden(hidden, self.dim))
        found = log_probs(queries, self.table, self.score, self.padding_idx)
        return found.view(*hidden.shape[:-1], len(self.table))

    @torch.no_grad()
    def topk(
        self, hidden: Float[Tensor, "... D"], k: int
    ) -> tuple[Float[Tensor, "... k"], Int[Tensor, "... k"]]:
        """Logits and numbers of the k best classes of each row, best first; never holds [B, N]."""
        queries = self._queries(check_hidden(hidden, self.dim))
        scores, ids = best_classes(queries, self.table, self.score, k, self.padding_idx)
        return scores.view(*hidden.shape[:-1], k), ids.view(*hidden.shape[:-1], k)

    def report(self) -> StepReport:
        """Metrics of the last training step, as plain numbers; counters start anew."""
        return self._recorder.report()

    def get_extra_state(self) -> Tensor:
        """One uint8 tensor, so that safetensors and every trainer can save it."""
        state = {"generator": self.generators.get_state(), "table": self.table.state_dict()}
        return to_bytes(state)

    def set_extra_state(self, state: Tensor) -> None:
        found = from_bytes(state, "generator", "table")
        self.generators.set_state(found["generator"])
        self.table.load_state_dict(found["table"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SoftmaxHead":
        """``to(device)`` moves what the sampler holds as well; a tied table may be there before."""
        device = device_after(fn, self.table.weight.device)
        super()._apply(fn, recurse)
        move(self.sampler, device)
        move(self.table, device)
        return self

    def _losses(self, rows: Counted) -> Float[Tensor, "R"]:
        """-log p+ of each row that counts."""
        queries, place = self._queries(rows.hidden), self._place(rows)
        if len(rows.kept) and not len(queries):  # nothing but a graph
            self._pass_over(queries.detach(), place[1])
            return queries.sum(dim=1) + self._look_up(rows.target.flatten().long()).sum()
        target = admit(queries, rows.target, None, None, len(self.table))[0]
        asked = self._request(queries.detach(), target, place)
        return self._sampled(queries, asked) if self.training else exact_losses(asked, self.table)

    def _sampled(self, queries: Tensor, request: Request) -> Tensor:
        """The step of ``SoftmaxLoss``, its items looked up in the table."""
        target, generator = request.positives, self.generators.of(torch.is_grad_enabled())
        with self._recorder.stage("draw"):
            draws = draw_negatives(self.sampler, log_q_corrected, request, generator)
        with self._recorder.stage("encode"):
            items = encode_once(target, draws, self._look_up)
        if torch.is_grad_enabled():
            self.table.write(items.ids, items.rows)
        with self._recorder.stage("loss"):
            found = sampled_loss(queries, target, items, draws, self.score)
        if torch.is_grad_enabled():
            self._recorder.record_step(*found, draws[0][0], len(items.ids))
        return found.losses

    def _look_up(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """Classes as they are scored, with gradient; none for the padding."""
        rows = F.embedding(ids, self.table.weight, self.padding_idx, sparse=self.sparse)
        return check_finite(self.score.embed(rows), ids)

    def _place(self, rows: Counted) -> tuple[int, int]:
        """Where the rows that count stand among those of all processes; all say it in training."""
        mesh, together = Mesh.now(), self.training and torch.is_grad_enabled()
        alike = mesh.size > 1 and not together  # no word of others: as if all rows counted
        return mesh.place(len(rows.kept) if alike else len(rows.hidden), together)

    def _pass_over(self, queries: Tensor, total_rows: int) -> None:
        """No row counts here: the noise that other processes draw by is spent all the same."""
        if total_rows and self.training and torch.is_grad_enabled():
            nobody, target = queries.new_zeros(1, queries.shape[1]), queries.new_zeros(1).long()
            request = self._request(nobody, target, (0, total_rows))
            draw_negatives(self.sampler, log_q_corrected, request, self.generators.training)

    def _request(self, queries: Tensor, target: Tensor, place: tuple[int, int]) -> Request:
        """What the sampler is asked; the padding is excluded like a target."""
        num_processes, store = Mesh.now().size, self.sampler.store
        if self.training and torch.is_grad_enabled():
            check_shared_table(self.table, num_processes)
        if store is not None:
            check_processes(store, [self.table.weight], num_processes)
        barred = target.view(len(target), -1)
        if self.padding_idx is not None:
            barred = F.pad(barred, (0, 1), value=self.padding_idx)
        exclude = exclusion_of(barred, len(self.table))
        return Request(queries, self.score, target, exclude, *place, len(self.table))

    def _queries(self, hidden: Tensor) -> Float[Tensor, "B _"]:
        """Hidden states as flat rows of score, with a 1 for the bias."""
        rows = hidden.reshape(-1, self.dim)
        return self.score.embed(F.pad(rows, (0, 1), value=1.0) if self.has_bias else rows)


def _default_sampler(absolute: bool) -> Callable[[LiveTable, int], Sampler]:
    """What was best measured; more draws of the softmax itself than there are classes are none."""
    if absolute:
        return quadratic
    return lambda table, num_samples: CachedSoftmax(table, min(num_samples, len(table)))
