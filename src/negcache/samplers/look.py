"""What a look finds: fresh items, some queries that see them, and what choices make of both."""

from typing import NamedTuple

import torch

from negcache.messages import Request
from negcache.ops.gradient_cosine import Looked, Moments, chances, thinned
from negcache.shapes import Float, Float64, Int, Tensor


class Choice(NamedTuple):
    """Negatives of a step beside the batch's positives.

    Args:
        uniform: from all items.
        cached: from the softmax over stored embeddings.
        scored: share of them that a step looks at.
    """

    uniform: int
    cached: int = 0
    scored: float = 1.0

    def rarity(self, batch: Tensor, softmax: Tensor, num_items: int) -> Tensor:
        """1 / how often items are to be expected; its mean, where some are looked at by chance.

        Args:
            batch: how often each is expected among the batch's positives.
            softmax: mean chance of each under the queries' softmax.
        """
        sure = batch + self.uniform / num_items
        drawn = self.cached * softmax / self.scored
        return self.scored / (sure + drawn) + (1 - self.scored) / sure


class Look(NamedTuple):
    """Items to be encoded anew, in the order of their ids.

    Args:
        ids: each with the same chance.
        log_share: log pi of each.
        log_stored: log of their mean chance under the stored softmax, where cached draws are made
            from all of it.
    """

    ids: Int[Tensor, "M"]
    log_share: Float64[Tensor, "M"]
    log_stored: Float64[Tensor, "M"] | None = None


class Seen(NamedTuple):
    """Items that were looked at, as some queries see them.

    Args:
        look: the items.
        rows: their fresh embeddings.
        logits: -inf where an item may not stand.
        positives: embeddings of the queries' positives.
        positive: their logits.
    """

    look: Look
    rows: Float[Tensor, "M D"]
    logits: Float[Tensor, "b M"]
    positives: Float[Tensor, "b D"]
    positive: Float[Tensor, "b"]

    def quarter(self) -> "Seen":
        """Every fourth of the items."""
        ids, log_share, stored = self.look
        look = Look(ids[::4], log_share[::4], None if stored is None else stored[::4])
        return self._replace(look=look, rows=self.rows[::4], logits=self.logits[:, ::4])


def seen_by(
    some: Int[Tensor, "b"],
    request: Request,
    look: Look,
    rows: Float[Tensor, "M D"],
    targets: Float[Tensor, "B p D"],
) -> Seen:
    """Some of a request's queries look at items and at their own first positives."""
    queries = request.queries[some]
    logits = request.score(queries, rows)
    logits[request.exclude.of(some).among(look.ids)] = -torch.inf
    positive = request.score.paired(queries, targets[some, :1]).squeeze(1)
    return Seen(look, rows.to(logits), logits, targets[some, 0].to(logits), positive)


class Foresight:
    """What choices would make of the queries' gradients, if all items were like those seen.

    Cached draws are taken as those of a fresh cache, until there is one that says how it is.

    Args:
        seen: items and queries.
        queries: B, of a batch.
        num_items: N.
        keep: items that it is reckoned over, at most.
    """

    def __init__(self, seen: Seen, queries: int, num_items: int, keep: int) -> None:
        weight = seen.logits.new_full((len(seen.rows),), num_items / len(seen.rows))
        found = chances(seen.positive, seen.logits, weight.log())
        stored = seen.look.log_stored
        softmax = found.among.double().mean(dim=0) if stored is None else stored.exp()
        chosen, weight = thinned(found.softmax, weight, keep)
        self.batch = (queries - 1) * seen.look.log_share[chosen].exp()
        self.softmax, self.num_items = softmax[chosen], num_items
        self.looked = Looked(found.of(chosen), weight, seen.rows[chosen], seen.positives)

    def under(self, choice: Choice) -> Moments:
        """Of its steps."""
        rarity = choice.rarity(self.batch, self.softmax, self.num_items)
        return self.looked.under(rarity.to(self.looked.weight))
