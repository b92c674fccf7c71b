"""One training step: the one place where towers, loss, optimizer and store meet."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from negcache.distributed import Mesh
from negcache.encoder import to_device
from negcache.errors import InputError
from negcache.messages import Batch, StepReport
from negcache.run.training.parts import Loss, Parts
from negcache.validation import check_finite

PER_QUERY = ("loss", "effective_sample_size", "masked_hits")
"""Metrics that are means over queries."""


class Forward(nn.Module):
    """Both towers and the loss as one module, which a wrapper of several processes takes.

    Args:
        query_tower: features -> (B, D).
        loss_fn: owns the item tower and the score.
    """

    def __init__(self, query_tower: nn.Module, loss_fn: Loss) -> None:
        super().__init__()
        self.query_tower, self.loss_fn = query_tower, loss_fn

    def forward(self, batch: Batch, seconds: dict[str, float]) -> Tensor:
        """The loss of a batch; the time of the query tower is added to ``seconds``."""
        with timed(seconds, "query"):
            rows = self.query_tower(batch.queries)
            check_finite(rows, batch.query_ids, "embeddings of queries")
        loss = self.loss_fn(rows, batch.positives, batch.query_ids, batch.negatives)
        check_finite(loss[None, None], batch.positives, "loss of items")
        return loss


@dataclass(frozen=True)
class Stepped:
    """What one optimizer step tells.

    Args:
        reports: of each batch.
        lr: its learning rate.
        grad_norm: of all gradients before they were clipped; None: they are not clipped, or the
            step was skipped because they were not finite in half precision.
    """

    reports: list[StepReport]
    lr: float
    grad_norm: float | None = None


def train_step(
    parts: Parts,
    model: nn.Module,
    batches: Iterable[Batch],
    accelerator: Accelerator,
    step: int,
    clip_norm: float = 0.0,
) -> Stepped:
    """One optimizer step over one or more batches.

    Args:
        parts: what is trained; ``parts.optimizer`` as ``accelerator.prepare`` returned it.
        model: ``Forward`` of these parts, wrapped where several processes train.
        batches: as many as ``accelerator.gradient_accumulation_steps``, on the host.
        accelerator: device, mixed precision, accumulation.
        step: number of this step, counted from 1; named in errors.
        clip_norm: most that the norm of all gradients may be; 0: anything.
    """
    reports, norm, lr = [], None, float(parts.scheduler.get_last_lr()[0])
    for batch in batches:
        seconds: dict[str, float] = {}
        with accelerator.accumulate(model):
            with named(step), accelerator.autocast():
                for ids, features in batch.arriving:
                    parts.loss_fn.corpus.receive(ids, features)
                loss = model(_on(batch, accelerator.device), seconds)
            with timed(seconds, "backward"):
                accelerator.backward(loss)
            if accelerator.sync_gradients:
                with timed(seconds, "optimizer"), named(step):
                    norm = _clip(parts, accelerator, clip_norm) if clip_norm else None
                    was_made = _optimize(parts, accelerator)
                if was_made:
                    with named(step):
                        parts.loss_fn.step()
        report = of_all(parts.loss_fn.report(), len(batch.positives), parts.mesh)
        reports.append(replace(report, seconds=report.seconds | seconds))
    return Stepped(reports, lr, norm)


def of_all(report: StepReport, queries: int, mesh: Mesh) -> StepReport:
    """The report of all processes: means over all queries, counts added up."""
    if mesh.size == 1:
        return report
    stale = 0.0 if math.isnan(report.staleness) else report.staleness
    means = [queries * getattr(report, name) for name in PER_QUERY]
    counts = [report.encoded_grad, report.encoded_nograd, queries, stale]
    found = mesh.total(torch.tensor([*means, *counts], dtype=torch.float64, device=mesh.device))
    *means, with_gradient, without, total, stale = found.tolist()
    return replace(
        report,
        **{name: value / total for name, value in zip(PER_QUERY, means, strict=True)},
        encoded_grad=int(with_gradient),
        encoded_nograd=int(without),
        staleness=math.nan if math.isnan(report.staleness) else stale / mesh.size,
    )


def _on(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device, but for what arrives with it."""
    parts = batch.queries, batch.positives, batch.query_ids, batch.negatives
    return Batch(*(to_device(part, device) for part in parts))


def _clip(parts: Parts, accelerator: Accelerator, clip_norm: float) -> float | None:
    """Scale the gradients of all parameters to this norm at most; their norm before."""
    groups = parts.optimizer.param_groups
    learned = [parameter for group in groups for parameter in group["params"]]
    norm = accelerator.clip_grad_norm_(learned, clip_norm)
    value = math.nan if norm is None else float(norm)
    if math.isfinite(value):
        return value
    if accelerator.scaler is None:
        raise InputError("gradients of finite norm", f"{value}", "lower optimizer.lr")
    return None  # the scaler skips this step


def _optimize(parts: Parts, accelerator: Accelerator) -> bool:
    """Move the parameters, then the learning rate; whether they were moved.

    A fused optimizer is called by the scaler also when it skips, which hides the skip from
    ``accelerator.optimizer_step_was_skipped``; that the scale falls tells it of every optimizer.
    """
    scaler = accelerator.scaler
    before = scaler.get_scale() if scaler is not None else 0.0
    parts.optimizer.step()
    parts.optimizer.zero_grad()
    if scaler is not None and scaler.get_scale() < before:
        return False
    parts.scheduler.step()
    return True


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the wall time of the block, in seconds, to its stage."""
    start = perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + perf_counter() - start


@contextmanager
def named(step: int) -> Iterator[None]:
    """Errors of the block also tell the step."""
    try:
        yield
    except InputError as error:
        raise InputError(error.expected, f"{error.got} at step {step}", error.remedy) from error
