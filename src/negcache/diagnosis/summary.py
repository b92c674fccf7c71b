"""From what was found of each batch to what is said of a sampler."""

import math
from collections.abc import Sequence

import torch

from negcache.diagnosis.laws import Distance
from negcache.diagnosis.moments import Moments
from negcache.diagnosis.repeats import Repeated
from negcache.diagnosis.report import Outlook, SamplerReport, TowerError
from negcache.diagnosis.weights import p_value_of_one
from negcache.interfaces import Store


def report_of(
    name: str,
    found: Sequence[Repeated],
    distances: Sequence[Distance],
    store: Store | None,
    *,
    query_error: float,
    outlook: Outlook | None = None,
) -> SamplerReport:
    """A sampler over all batches.

    Args:
        found, distances: of each batch; no distance where no law is known.
        store: whose rows decide the draws.
        query_error: squared standard error of the exact gradient to the queries.
        outlook: what ``auto`` reckons of it.
    """
    partitions = torch.tensor(_rounds([each.partitions for each in found]), dtype=torch.float64)
    honest = _rounds([each.honest for each in found]) or partitions.tolist()
    suspects = found[0].suspected
    return SamplerReport(
        name=name,
        repeats=min(each.repeats for each in found),
        query=TowerError.of(sum((each.queries for each in found), Moments()), query_error),
        item=TowerError.of(sum((each.items for each in found), Moments())),
        loss=_mean([each.loss for each in found]),
        encoded=_mean([each.encoded for each in found]),
        refreshed=0.0 if store is None else float(len(store.plan())),
        effective_sample_size=_mean([each.effective for each in found]),
        kl=float(torch.cat([each.kl for each in distances]).mean()) if distances else None,
        tv=float(torch.cat([each.tv for each in distances]).mean()) if distances else None,
        partition=float(partitions.mean()),
        partition_error=float(partitions.std()) / len(partitions) ** 0.5,
        p_value=p_value_of_one(honest) if all(each.tells for each in found) else math.nan,
        false_negatives={
            known: _mean([each.suspected[known] for each in found]) for known in suspects
        },
        draw_seconds=_mean([each.seconds for each in found]),
        outlook=outlook,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rounds(batches: Sequence[Sequence[float]]) -> list[float]:
    """The mean over the batches, repeat by repeat: one observation each."""
    return [_mean(each) for each in zip(*batches, strict=False)]
