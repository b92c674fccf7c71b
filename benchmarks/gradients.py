"""How far a draw's gradient is from the exact one, over given embeddings: `negcache.diagnosis`."""

import torch
from torch import nn

from negcache.diagnosis.asked import Asked
from negcache.diagnosis.exact import exact
from negcache.diagnosis.items import FreshItems, ItemSample
from negcache.diagnosis.repeats import repeat
from negcache.diagnosis.report import TowerError
from negcache.encoder import ItemEncoder
from negcache.interfaces import Estimator, Sampler
from negcache.messages import Request
from negcache.shapes import Float, Tensor


def errors(
    sampler: Sampler,
    estimator: Estimator,
    request: Request,
    items: Float[Tensor, "N D"],
    repeats: int,
    seed: int = 0,
) -> dict[str, float]:
    """Bias and standard deviation relative to the norm of the exact gradient, for both towers.

    Args:
        sampler: over a store as stale as it may be.
        estimator: of its draws.
        request: queries, float64.
        items: fresh embeddings of all items, float64.
        repeats: draws.
        seed: of them.
    """
    fresh = FreshItems(ItemEncoder(nn.Identity(), items, request.score), len(items))
    sample = ItemSample.of_all(len(items))
    truth = exact(request, fresh, sample)
    asked = Asked(request, fresh, sample, truth, None, {})
    found = repeat(sampler, estimator, asked, repeats, torch.Generator().manual_seed(seed))
    query, item = TowerError.of(found.queries), TowerError.of(found.items)
    return {
        "value_bias": found.loss - float(truth.losses.mean()),
        "encoded": found.encoded,
        "query_bias": query.bias,
        "query_sd": query.sd,
        "item_bias": item.bias,
        "item_sd": item.sd,
    }
