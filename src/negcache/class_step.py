"""One step of a head: classes looked up in a table that is here, or dealt out among processes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from negcache.admission import admit
from negcache.class_vectors import row_here
from negcache.distributed import Mesh
from negcache.estimators import log_q_corrected
from negcache.exact import exact_losses
from negcache.generators import Generators
from negcache.interfaces import Sampler
from negcache.messages import Request, in_rows
from negcache.metrics import Recorder
from negcache.samplers import CachedSoftmax, quadratic
from negcache.score import DotScore
from negcache.shapes import Float, Int, Tensor
from negcache.step import draw_negatives, encode_once, exclusion_of, sampled_loss
from negcache.stores import LiveTable
from negcache.targets import Counted
from negcache.validation import check_finite


def default_sampler(absolute: bool) -> Callable[[LiveTable, int], Sampler]:
    """What was best measured; more draws of the softmax itself than there are classes are none."""
    if absolute:
        return quadratic
    return lambda table, num_samples: CachedSoftmax(table, min(num_samples, len(table)))


@dataclass(frozen=True)
class Classes:
    """The classes of a head, as they are scored.

    Args:
        table: their vectors: those here.
        score: what they become, and how they are scored.
        padding_idx: the class that is none; None: there is no such.
        sparse: whether their gradients are.
    """

    table: LiveTable
    score: DotScore
    padding_idx: int | None
    sparse: bool

    def look_up(self, ids: Int[Tensor, "M"]) -> Float[Tensor, "M D"]:
        """With gradient; none for the padding.

        Among processes that share the table: the same ids on each, ascending. Every row comes from
        its owner, and the backward pass brings it home what all processes found, divided by their
        number, as DDP divides the gradients of all else.
        """
        shard = self.table.shard
        counts = shard.counts(ids)
        mine = ids.split(counts)[shard.mesh.rank] - shard.first
        padding = row_here(shard, self.padding_idx)
        rows = F.embedding(mine, self.table.weight, padding, sparse=self.sparse)
        rows = self.score.embed(rows)
        if shard.mesh.size > 1 and rows.requires_grad:
            rows.register_hook(partial(torch.mul, 1 / shard.mesh.size))
        return check_finite(shard.mesh.gather(rows, counts), ids)

    def ask(self, queries: Tensor, target: Int[Tensor, "B *p"], place: tuple[int, int]) -> Request:
        """What a sampler is asked; the padding is excluded like a target.

        Args:
            queries: detached.
            place: of row 0 in the batch of all processes, and the rows of that.
        """
        barred = in_rows(target)
        if self.padding_idx is not None:
            barred = F.pad(barred, (0, 1), value=self.padding_idx)
        exclude = exclusion_of(barred, len(self.table))
        return Request(queries, self.score, target, exclude, *place, len(self.table))


@dataclass(frozen=True)
class ClassStep:
    """One pass of a head over rows that count: the losses of each.

    Args:
        classes: what is looked up.
        sampler: of negatives.
        generators: of the noise behind draws.
        recorder: of what happens.
        sampled: an estimate with gradient, from a few classes; False: exact, over all.
    """

    classes: Classes
    sampler: Sampler
    generators: Generators
    recorder: Recorder
    sampled: bool

    @property
    def training(self) -> bool:
        """Whether the noise moves on, and all processes train."""
        return self.sampled and torch.is_grad_enabled()

    @property
    def call(self) -> str:
        """What the processes tell each other that they do."""
        if not self.sampled:
            return "evaluation"
        return "training" if self.training else "a pass without gradient"

    def admit(self, rows: Counted) -> Counted:
        """With targets that are classes, each once; of a whole table's batch there must be some."""
        table = self.classes.table
        if not len(rows.hidden) and (len(rows.kept) or table.shard.mesh.size > 1):
            return rows._replace(target=rows.target.long())
        target = admit(rows.hidden, rows.target, None, None, len(table))[0]
        return rows._replace(target=target)

    def losses(self, queries: Tensor, rows: Counted, counts: list[int]) -> Float[Tensor, "R"]:
        """-log p+ of each row that counts.

        Args:
            queries: the rows as they are scored.
            rows: those that count.
            counts: such rows of every process that holds a share of the classes.
        """
        table, place = self.classes.table, self._place(rows)
        if not sum(counts):  # nothing but a graph
            self._pass_over(queries.detach(), place[1])
            return queries.sum(dim=1) + self.classes.look_up(rows.target.flatten()).sum()
        asked = self.classes.ask(queries.detach(), rows.target, place)
        asked, mine = asked.gathered(table.shard.mesh)
        if self.sampled:
            return self._sampled(queries, asked, mine)
        return exact_losses(asked, table)[mine]

    def _sampled(self, queries: Tensor, asked: Request, mine: slice) -> Tensor:
        """The step of ``SoftmaxLoss``, its items looked up in the table."""
        table, generator = self.classes.table, self.generators.of(torch.is_grad_enabled())
        with self.recorder.stage("draw"):
            draws = draw_negatives(self.sampler, log_q_corrected, asked, generator)
        with self.recorder.stage("encode"):
            items = encode_once(asked.positives, draws, self.classes.look_up)
        if self.training:
            table.write(items.ids, items.rows)
        with self.recorder.stage("loss"):
            draws = [(drawn.of(mine), estimator) for drawn, estimator in draws]
            target, score = asked.positives[mine], self.classes.score
            found = sampled_loss(queries, target, items.of(mine), draws, score)
        if self.training:
            here = table.shard.counts(items.ids)[table.shard.mesh.rank]
            self.recorder.record_step(*found, draws[0][0], here)
        return found.losses

    def _place(self, rows: Counted) -> tuple[int, int]:
        """Where the rows that count stand among those of all processes; all say it in training.

        Of a table that is dealt out all rows are asked for at once.
        """
        mesh = Mesh.now()
        if self.classes.table.shard.mesh.size > 1:
            return 0, len(rows.hidden)
        alike = mesh.size > 1 and not self.training  # no word of others: as if all rows counted
        return mesh.place(len(rows.kept) if alike else len(rows.hidden), self.training)

    def _pass_over(self, queries: Tensor, total_rows: int) -> None:
        """No row counts here: the noise that other processes draw by is spent all the same."""
        if total_rows and self.training:
            nobody, target = queries.new_zeros(1, queries.shape[1]), queries.new_zeros(1).long()
            request = self.classes.ask(nobody, target, (0, total_rows))
            draw_negatives(self.sampler, log_q_corrected, request, self.generators.training)
