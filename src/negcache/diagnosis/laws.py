"""How far what a sampler proposes is from the softmax."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from negcache.diagnosis.exact import blocks, log_chances
from negcache.diagnosis.items import FreshItems, ItemSample
from negcache.draws import ItemProposal, propose
from negcache.interfaces import Sampler
from negcache.messages import Request
from negcache.samplers.combinators import SharedDraws
from negcache.shapes import Float64, Int, Tensor

CAP = 4.0
"""Chances of the softmax above so many times that of the proposal are cut for the test of the
weights: no draw then stands for more."""


@dataclass(frozen=True)
class Law:
    """What each query's draws are made from.

    Args:
        proposal: of one step.
        pooled: whether the draws of all queries stand for each.
    """

    proposal: ItemProposal
    pooled: bool

    @staticmethod
    def of(sampler: Sampler, request: Request, generator: torch.Generator) -> "Law | None":
        """None: the sampler knows no law."""
        pooled = isinstance(sampler, SharedDraws)
        each = sampler.sampler if isinstance(sampler, SharedDraws) else sampler
        return Law(propose(each, request, generator), pooled) if each.has_density else None

    @property
    def is_settled(self) -> bool:
        """Whether every step has this very law; else some of the items are drawn anew each time."""
        return self.proposal.proposal.coverage == 1

    def log_q(self, ids: Int[Tensor, "c"]) -> Float64[Tensor, "B c"]:
        """Of each query's own draws."""
        return self.proposal.log_prob(ids).double()

    def log_caps(self, log_q: Float64[Tensor, "B c"]) -> Float64[Tensor, "*b c"]:
        """Where the softmax is cut: by the chance of an item among the draws that stand for a
        query, its own or those of all."""
        if self.pooled:
            log_q = torch.logsumexp(log_q, dim=0, keepdim=True) - math.log(len(log_q))
        return log_q + math.log(CAP)


class Distance(NamedTuple):
    """Of a proposal q from the softmax p over the negatives, for each query.

    Args:
        kl: ``sum p log(p / q)``, nats; infinite where q misses an item.
        tv: ``sum |p - q| / 2``.
        capped: ``sum min(p, CAP q)``, q pooled where draws are.
    """

    kl: Float64[Tensor, "B"]
    tv: Float64[Tensor, "B"]
    capped: Float64[Tensor, "B"]


@torch.no_grad()
def distance(
    law: Law,
    request: Request,
    log_z: Float64[Tensor, "B"],
    items: FreshItems,
    sample: ItemSample,
) -> Distance:
    """Each query's own law, over the items of a sample."""
    kl, tv, capped = (torch.zeros_like(log_z) for _ in range(3))
    for some, ids, masked in blocks(request, sample):
        log_p = log_chances(request, items, ids, masked) - log_z[:, None]
        log_q, weight = law.log_q(ids), sample.weight[some]
        p = log_p.exp()
        tv += (p - log_q.exp()).abs() @ weight / 2
        kl += (p * (log_p - log_q)).masked_fill(p == 0, 0.0) @ weight
        capped += p.minimum(law.log_caps(log_q).exp()) @ weight
    return Distance(kl, tv, capped)
