"""Exact draws over the dynamic index: multi-level rejection, down an SG tree."""

import math
from typing import Protocol, runtime_checkable

import torch

from negcache.errors import InputError
from negcache.functional.metropolis import log_partition
from negcache.functional.rejection import log_shares
from negcache.functional.softmax_draws import pinned_draw, with_figures
from negcache.functional.tree_draw import Frontier, TreeArrays, draw_from_tree
from negcache.indexes.cells import CellIndex
from negcache.indexes.proposal import Asked, ClusterProposal
from negcache.protocols import Cache, Draw, Request
from negcache.shapes import Float, Int, Tensor


@runtime_checkable
class TreeIndex(CellIndex, Protocol):
    """Cells that are cut from a tree, such as ``TreeCells``."""

    def subtrees(self) -> tuple[TreeArrays, Frontier]:
        """The tree as it is since ``follow``, and the nodes that draws begin at."""
        ...


class DynamicIndexTree:
    """Draws from the softmax of cached scores itself, down a tree whose balls bound the scores.

    A draw that ends at a known positive begins again; one that comes to no end within ``rounds`` is
    made by the cells instead, and its share of the partition is its own importance, as in
    ``DynamicIndexRejection``. The flat one accepts as often, or more often where positives score
    high, and costs less: this one is for small scales and comparison. Take ``pinned``.
    Source: Monath et al., AISTATS 2023, algorithm 1, corrected.

    Args:
        cache: of coordinates (``LowRankCache``), or of whole embeddings.
        num_negatives: draws per query, m.
        index: ``TreeCells()`` of ``negcache.indexes.sg_tree``.
        rounds: moves of every draw, one level down or to the beginning again.
    """

    has_density = False

    def __init__(
        self, cache: Cache, num_negatives: int, index: TreeIndex, *, rounds: int = 200
    ) -> None:
        if min(num_negatives, rounds) < 1:
            raise InputError(
                "num_negatives and rounds of 1 or more",
                f"{num_negatives} and {rounds}",
                "200 rounds suit small scales",
            )
        self.cache, self.num_negatives, self.rounds = cache, num_negatives, rounds
        self.index, self.proposal = index, ClusterProposal(cache, index)

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        """As ``Sampler.draw``.

        Raises:
            InputError: the cache does not score coordinates as they are, so radii say nothing.
        """
        asked = self.proposal.ask(request)
        asked.check_radius()
        proposed = asked.propose(request.uniforms(generator, self.num_negatives, 1, 2))
        slots, scores, ratios = (each.squeeze(2) for each in proposed)
        found, places = self._search(asked, generator)
        kept, norm = places >= 0, asked.law.log_norm
        log_z = log_partition(ratios, norm)
        shares = log_shares(kept, ratios.masked_fill(kept, 0.0), norm, log_z)
        scores = found.where(kept, scores)
        ids, dtype = self.cache.ids(places.where(kept, slots)), request.queries.dtype
        draw = pinned_draw(ids, scores, log_z - math.log(self.cache.coverage), shares, dtype)
        return with_figures(draw, {"not_found": ~kept & ~asked.law.barren[:, None]})

    def _search(
        self, asked: Asked, generator: torch.Generator
    ) -> tuple[Float[Tensor, "B m"], Int[Tensor, "B m"]]:
        """Cached scores and slots of draws down the tree; -1 where one came to no end."""
        tree, frontier = self.index.subtrees()

        def logits(queries: Int[Tensor, "n"], items: Int[Tensor, "n"]) -> Float[Tensor, "n"]:
            rows = asked.source.see_items(asked.source.coordinates(items))[:, None]
            pairs = asked.queries[queries], rows.to(asked.queries.dtype)
            return asked.score.paired(*pairs).detach().squeeze(1)

        # One number from the generator, however many rounds this process makes.
        noise = torch.Generator().manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
        places = draw_from_tree(
            tree,
            frontier,
            logits,
            asked.reach,
            self.num_negatives,
            noise,
            exclude=asked.excluded,
            rounds=self.rounds,
        ).items
        queries = torch.arange(len(places), device=places.device)[:, None]
        queries = queries.expand_as(places).flatten()
        scores = logits(queries, places.clamp_min(0).flatten()).double()
        return scores.view(places.shape), places
