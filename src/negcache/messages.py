"""The plain data that travels between rooms: what is asked, drawn, told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from negcache.distributed import Mesh
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.score import Score
from negcache.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Request:
    """What a sampler is asked: negatives for these queries, under this score.

    Args:
        queries: embedded queries, detached.
        score: the one score shared by sampler, estimator, search and evaluation.
        positives: the target item of each query; several in a row padded with -1, [B, p].
        exclude: what may not stand for each query; always holds its targets.
        first_row: the place of row 0 in the batch of all processes.
        total_rows: rows of the batch of all processes; None: this is the whole batch.
        num_items: of the corpus; None: not said.
    """

    queries: Float[Tensor, "B D"]
    score: Score
    positives: Int[Tensor, "B *p"]
    exclude: Exclusion
    first_row: int = 0
    total_rows: int | None = None
    num_items: int | None = None

    def over(self, num_items: int) -> None:
        """Refuse a sampler that was built over another number of items than the corpus has."""
        if self.num_items not in (None, num_items):
            raise InputError(
                f"a sampler over the corpus' {self.num_items} items",
                f"one over {num_items}",
                "build it from this corpus, or from counts of all its items",
            )

    def gathered(self, mesh: Mesh) -> tuple["Request", slice]:
        """What the queries of all processes ask, in order of rank; and which of them are here."""
        if mesh.size == 1:
            return self, slice(0, len(self.queries))
        several = in_rows(self.positives)
        rows, entries, widths = mesh.each(len(several), len(self.exclude.ids), several.shape[1])
        positives = mesh.gather(pad_columns(several, max(widths)), rows)
        whole = replace(
            self,
            queries=mesh.gather(self.queries, rows),
            positives=positives.squeeze(1) if self.positives.ndim == 1 else positives,
            exclude=self.exclude.gathered(mesh, entries, rows),
            first_row=0,
            total_rows=None,
        )
        first = sum(rows[: mesh.rank])
        return whole, slice(first, first + len(several))

    @property
    def targets(self) -> Int[Tensor, "P"]:
        """The target items of all queries, one after the other, without padding."""
        return self.positives[self.positives >= 0]

    @property
    def others(self) -> Int[Tensor, "B 1"]:
        """How many targets the other queries of the batch have, for each query."""
        own = (in_rows(self.positives) >= 0).sum(dim=1, keepdim=True)
        return own.sum() - own

    def excluding(self, ids: Int[Tensor, "B h"]) -> "Request":
        """The same with more that may not stand for each query, padded with -1."""
        rows, columns = (ids >= 0).nonzero(as_tuple=True)
        return replace(self, exclude=self.exclude.and_also(rows, ids[rows, columns]))

    def slice(self, start: int, stop: int) -> "Request":
        """What queries ``start`` to ``stop`` ask."""
        return replace(
            self,
            queries=self.queries[start:stop],
            positives=self.positives[start:stop],
            exclude=self.exclude.slice(start, stop),
            first_row=self.first_row + start,
            total_rows=self.total_rows or self.first_row + len(self.queries),
        )

    def uniforms(self, generator: torch.Generator, *shape: int) -> Float[Tensor, "B *shape"]:
        """Float64 uniforms in [0, 1) for each query of this process.

        The noise of a query depends on the generator and on the query's place in the *global*
        batch alone, so 1, 2 and 4 processes with equal generators draw the same items.
        """
        mine = len(self.queries)
        total = self.first_row + mine if self.total_rows is None else self.total_rows
        noise = torch.rand((total, *shape), generator=generator, dtype=torch.float64)
        return noise[self.first_row : self.first_row + mine].to(self.queries.device)

    def noise(self, generator: torch.Generator) -> Callable[..., Tensor]:
        """``noise(*shape)``: uniforms of this generator, new ones at each call."""
        return partial(self.uniforms, generator)


def in_rows(positives: Int[Tensor, "B *p"]) -> Int[Tensor, "B p"]:
    """The targets of each query as a row, also where there is one of each, or no query."""
    return positives if positives.ndim == 2 else positives[:, None]


def gather_columns(ids: Int[Tensor, "B h"] | None, mesh: Mesh) -> Int[Tensor, "B w"] | None:
    """The ids of all processes, padded with -1 to the widest; None: no process has any."""
    if mesh.size == 1:
        return ids
    widths = mesh.each(-1 if ids is None else ids.shape[1])[0]
    if max(widths) < 0:
        return None
    if ids is None or min(widths) < 0:
        raise InputError(
            "negatives on every process, or on none",
            f"none on process {widths.index(-1)}",
            "pad with -1: torch.full((B, 1), -1)",
        )
    (rows,) = mesh.each(len(ids))
    return mesh.gather(pad_columns(ids, max(widths)), rows)


def pad_columns(ids: Int[Tensor, "B p"], width: int) -> Int[Tensor, "B w"]:
    """With columns of -1 up to a width."""
    return F.pad(ids, (0, width - ids.shape[1]), value=-1)


@dataclass(frozen=True)
class Rest:
    """The items that were scored from the store but not encoded (rest form).

    Args:
        log_mass: log sum of exp(s~ + a) over them, for each query.
        mean: their mean cached embedding under that softmax: the gradient of ``log_mass`` with
            respect to the scaled query.
        inclusion: chance that each item of ``ids`` is encoded at all; the gradient of its role as
            a negative is divided by it.
    """

    log_mass: Float[Tensor, "B"]
    mean: Float[Tensor, "B D"]
    inclusion: Float[Tensor, "M"]

    def of(self, rows: slice) -> "Rest":
        """What stands for some of the queries."""
        return Rest(self.log_mass[rows], self.mean[rows], self.inclusion)


@dataclass(frozen=True)
class Draw:
    """A weighted subset of the items whose weighted exponentials estimate the partition function.

    ``Z_b ~ exp(s_b+) + sum_j exp(s_bj + weight_j)`` over what may stand for the query. Plain
    detached data: it can be saved, injected in a test, or sent to another process.

    Args:
        ids: distinct items; each is encoded once for the whole batch.
        columns: positions in ``ids`` that stand for each query; None: every id stands for every
            query, and the other fields have ``M`` columns instead of ``m``.
        weight: log of how many items each stands for; -inf: for none. [k] where that is the same
            for all queries.
        log_z: the sampler's own estimate of log sum exp over the query's negatives.
        log_share: log of each draw's share of ``log_z``; shares of a row sum to 1.
        rest: what stands for the items that were scored but not drawn; None: nothing does.
        masked: the columns that do not stand for each query beside; None: ``weight`` says all.
        metrics: what else the sampler says of the draw, means over the queries, for the report.
    """

    ids: Int[Tensor, "M"]
    columns: Int[Tensor, "B m"] | None
    weight: Float[Tensor, "*B k"]
    log_z: Float[Tensor, "B"] | None = None
    log_share: Float[Tensor, "B k"] | None = None
    rest: Rest | None = None
    masked: Exclusion | None = None
    metrics: Mapping = field(default_factory=dict)  # a look at its numbers works them out

    def __post_init__(self) -> None:
        columns = self.ids.numel() if self.columns is None else self.columns.shape[1]
        if self.weight.shape[-1] != columns:
            raise InputError(
                f"a log-weight for each of the {columns} columns of the draw",
                f"weights of shape {tuple(self.weight.shape)}",
                "give one column per id, or one per entry of `columns`",
            )

    @property
    def log_weight(self) -> Float[Tensor, "B k"]:
        """The weights as a table, -inf where an item may not stand: to look at, it is large."""
        rows = len(self.weight) if self.masked is None else self.masked.num_rows
        return self.weighted(self.weight.new_zeros(rows, self.weight.shape[-1]))

    def weighted(self, logits: Float[Tensor, "B k"]) -> Float[Tensor, "B k"]:
        """Scores with what each item stands for; -inf where it may not stand."""
        found = logits + self.weight
        if self.masked is not None and len(self.masked.ids):
            found = found.index_put(
                (self.masked.rows, self.masked.ids), found.new_tensor(-torch.inf)
            )
        return found

    def of(self, rows: slice) -> "Draw":
        """What stands for some of the queries; all items are still listed."""
        masked = self.masked
        if masked is not None:
            masked = masked.slice(*rows.indices(masked.num_rows)[:2])
        return replace(
            self,
            columns=None if self.columns is None else self.columns[rows],
            weight=self.weight if self.weight.ndim == 1 else self.weight[rows],
            log_z=None if self.log_z is None else self.log_z[rows],
            log_share=None if self.log_share is None else self.log_share[rows],
            rest=None if self.rest is None else self.rest.of(rows),
            masked=masked,
        )


@dataclass(frozen=True)
class Batch:
    """One batch of (query, positive) pairs.

    Args:
        queries: features of the queries, as the query tower takes them.
        positives: item id of each query's target; several in a row padded with -1, [B, p].
        query_ids: who the queries are to the table of known positives; None where there is none.
        negatives: the user's own negatives of each query, padded with -1; None: there are none.
        arriving: ids and features of the items that come with it, for a corpus that is told of
            them before the step.
    """

    queries: Any
    positives: Int[Tensor, "B *p"]
    query_ids: Int[Tensor, "B"] | None = None
    negatives: Int[Tensor, "B h"] | None = None
    arriving: tuple[tuple[Tensor, Any], ...] = ()


@dataclass(frozen=True)
class RowChange:
    """Rows of a store that have been written, or let go.

    Args:
        slots: distinct.
        old: the rows before.
        was_valid: whether they were valid then.
        new: the rows now.
        is_valid: whether they are.
    """

    slots: Int[Tensor, "M"]
    old: Float[Tensor, "M D"]
    was_valid: Bool[Tensor, "M"]
    new: Float[Tensor, "M D"]
    is_valid: Bool[Tensor, "M"]


@dataclass(frozen=True)
class StepReport:
    """Metrics of one training step, plain numbers ready to log.

    Args:
        loss: mean of the reported loss, -log p+ under the draw's estimate (nats).
        effective_sample_size: mean of (sum v)^2 / sum v^2, v = exp(s + w); between 1 and k.
        staleness: mean ||cached - fresh||^2 / ||fresh||^2 of the rows encoded with gradient,
            positives and drawn; NaN without a store.
        masked_hits: share of the sampler's (query, item) pairs that may not stand for the query.
        encoded_grad: items encoded with gradient in this step.
        encoded_nograd: items encoded without gradient (refresh, fill) since the last report.
        seconds: wall time per stage of the step (draw, encode, loss, write; then refresh).
        sampler: what the sampler says of its draw, by name (``Draw.metrics``).
    """

    loss: float
    effective_sample_size: float
    staleness: float
    masked_hits: float
    encoded_grad: int
    encoded_nograd: int
    seconds: dict[str, float]
    sampler: dict[str, float] = field(default_factory=dict)
