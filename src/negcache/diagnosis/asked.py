"""A batch whose gradient is looked at, and what is known of its items."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from negcache.diagnosis.exact import Exact, log_chances
from negcache.diagnosis.items import FreshItems, ItemSample
from negcache.errors import InputError
from negcache.exclusion import Exclusion
from negcache.interfaces import Known
from negcache.losses import SoftmaxLoss
from negcache.messages import Request, in_rows
from negcache.shapes import Float, Float64, Int, Tensor
from negcache.step import exclusion_of


@dataclass(frozen=True)
class Asked:
    """A batch whose gradient is looked at.

    Args:
        request: its queries, and what may not stand for each.
        items: fresh embeddings.
        sample: items that stand for all.
        truth: the exact softmax.
        partners: target items of other training pairs; new ones stand beside each query at every
            repeat, as other batches would bring them. None: the batch's own targets do.
        suspects: items that are no true negatives, by how that is known.
    """

    request: Request
    items: FreshItems
    sample: ItemSample
    truth: Exact
    partners: Int[Tensor, "P"] | None
    suspects: Mapping[str, Exclusion]

    def among(self, targets: Int[Tensor, "B"]) -> Request:
        """The queries among others with these targets: the one of its own row is masked, as the
        target of a query always is, so each meets B - 1 others."""
        rows = torch.arange(len(targets), device=targets.device)
        exclude = self.request.exclude.and_also(rows, targets)
        return replace(self.request, positives=targets, exclude=exclude)

    def new_partners(self, generator: torch.Generator) -> Request:
        """As the next batch may bring them."""
        if self.partners is None:
            return self.request
        chosen = torch.randint(
            len(self.partners), (len(self.request.queries),), generator=generator
        )
        return self.among(self.partners[chosen.to(self.partners.device)])


def request_of(
    loss_fn: SoftmaxLoss,
    queries: Float[Tensor, "B D"],
    positives: Int[Tensor, "B *p"],
    query_ids: Int[Tensor, "B"] | None,
) -> Request:
    """What a training step would ask for these queries."""
    count = len(loss_fn.corpus)
    known = exclusion_of(positives, count, loss_fn.known_positives, query_ids)
    return Request(queries, loss_fn.score, positives, known, num_items=count)


def suspects_of(
    tables: Mapping[str, Known], request: Request, query_ids: Int[Tensor, "B"] | None
) -> dict[str, Exclusion]:
    """What of each table may stand for the queries. Raises InputError: nobody says whose it is."""
    if tables and query_ids is None:
        raise InputError("query_ids with suspects, whose rows they are", "none", "pass query_ids")
    found = {}
    for name, table in tables.items():
        assert query_ids is not None
        every = table.exclusion(query_ids, in_rows(request.positives).amax(dim=1))
        kept = ~request.exclude.contains(every.rows, every.ids)
        found[name] = Exclusion.from_pairs(every.rows[kept], every.ids[kept], len(query_ids))
    return found


@torch.no_grad()
def mass_of(
    table: Exclusion, request: Request, log_z: Float64[Tensor, "B"], items: FreshItems
) -> Float64[Tensor, "B"]:
    """Share of the softmax over the negatives that is on these items, for each query."""
    ids, found = torch.unique(table.ids), torch.zeros_like(log_z)
    if len(ids):
        logits = log_chances(request, items, ids, request.exclude.among(ids))
        rows, columns = table.among(ids)
        found.index_add_(0, rows, (logits - log_z[:, None]).exp()[rows, columns])
    return found
