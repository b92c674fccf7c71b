"""One training step: the one place where towers, loss, optimizer and store meet."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter

from accelerate import Accelerator

from negcache.errors import InputError
from negcache.messages import Batch, StepReport
from negcache.run.training.parts import Parts
from negcache.validation import check_finite


def train_step(
    parts: Parts, batches: Iterable[Batch], accelerator: Accelerator, step: int
) -> list[StepReport]:
    """One optimizer step over one or more batches; a report for each batch.

    Args:
        parts: what is trained; ``parts.optimizer`` as ``accelerator.prepare`` returned it.
        batches: as many as ``accelerator.gradient_accumulation_steps``.
        accelerator: device, mixed precision, accumulation.
        step: number of this step, counted from 1; named in errors.
    """
    reports = []
    for batch in batches:
        seconds: dict[str, float] = {}
        with accelerator.accumulate():
            with timed(seconds, "query"), accelerator.autocast():
                rows = parts.query_tower(batch.queries)
                with named(step):
                    check_finite(rows, batch.query_ids, "embeddings of queries")
            with named(step), accelerator.autocast():
                loss = parts.loss_fn(rows, batch.positives, batch.query_ids, batch.negatives)
                check_finite(loss[None, None], batch.positives, "loss of items")
            with timed(seconds, "backward"):
                accelerator.backward(loss)
            with timed(seconds, "optimizer"):
                parts.optimizer.step()
                parts.optimizer.zero_grad()
            if accelerator.sync_gradients:
                with named(step):
                    parts.loss_fn.step()
        report = parts.loss_fn.report()
        reports.append(replace(report, seconds=report.seconds | seconds))
    return reports


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
