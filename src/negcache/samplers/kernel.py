"""Draws by a kernel of the query and the item, through sums of its features: O(D log N) a draw."""

from dataclasses import dataclass
from functools import partial

import torch

from negcache.errors import InputError
from negcache.indexes.sums import KernelSums
from negcache.interfaces import Noise, Proposal, Store
from negcache.messages import Request
from negcache.ops.descent import Descent
from negcache.ops.kernel_draw import draw_down
from negcache.ops.kernel_law import log_prob_down
from negcache.ops.kernels import Kernel, Quadratic, fourier
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.shards import Masses
from negcache.ops.uniform import draw_allowed
from negcache.shapes import Bool, Float64, Int, Tensor
from negcache.stores.reading import scored_rows

PAIRS = 1 << 15
"""(query, draw) pairs on their way down at a time, about 4 kB each: a bound on memory."""


class KernelSoftmax:
    """Independent draws for each query, ``q_b(y) ~ K(h_b, e_y)``, without a score for every item.

    The sums follow the store: the first draw builds them, every write moves them. ``quadratic`` and
    ``rf_softmax`` are the published choices. Source: Blanc & Rendle, ICML 2018.

    Args:
        store: the rows drawn from: a ``LiveTable`` of class vectors, or cached embeddings.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
        kernel: what is drawn by.
        floor: chance of a uniform draw instead: no weight is above log(N / (floor m)).
        update_every: bring the sums up to date at every so many writes. 1 follows each row; where a
            step moves rows of most blocks, 10 costs less, and the weights are as honest.
    """

    has_density = True

    def __init__(
        self,
        store: Store,
        num_negatives: int,
        kernel: Kernel,
        *,
        floor: float = 0.0,
        update_every: int = 1,
    ) -> None:
        if num_negatives < 1:
            raise InputError("num_negatives of 1 or more", f"{num_negatives}", "draw at least one")
        if not 0 <= floor <= 1:
            raise InputError("a floor between 0 and 1", f"{floor}", "0.1 suits random features")
        self.store, self.num_negatives = store, num_negatives
        self.kernel, self.floor = kernel, floor
        self.sums = KernelSums(store, kernel, every=update_every)
        store.observe(self.sums, f"KernelSums of {type(kernel).__name__}")

    def propose(self, request: Request, generator: torch.Generator) -> Proposal:
        """The sums are built if they are not; their uppermost level is scored once."""
        self.kernel.check(request.queries, request.score.scale)
        self.sums.build(request.queries, request.score.scale)
        rows = scored_rows(request, self.store)
        descent = Descent.begin(rows, self.sums, self.kernel)
        masses = Masses(self.store.shard.mesh, descent.log_mass)
        floor = Floor.here(self.floor, rows, masses) if self.floor else None
        draw = partial(_draw, descent, self.num_negatives, floor)
        log_prob = partial(_log_prob, descent, floor)
        log_mass = descent.log_mass if floor is None else floor.log_mass
        return Proposal(
            draw, log_prob, log_mass, self.store, self.store.coverage, spends_last_first=True
        )


@dataclass(frozen=True)
class Floor:
    """Uniform draws beside those by the kernel, as they fall on the rows of this process.

    ``(1 - floor) q + floor / A`` has the mass ``(1 - floor) Q_k + floor A_k / A`` on the rows of
    process k: Q_k of the kernel's law, A_k of the A rows that a query may draw.

    Args:
        chance: that a draw which is made here is uniform.
        allowed: rows here that each query may draw.
        log_mass: of the whole law on the rows here.
    """

    chance: Float64[Tensor, "B"]
    allowed: Float64[Tensor, "B"]
    log_mass: Float64[Tensor, "B"]

    @staticmethod
    def here(floor: float, rows: ScoredRows, masses: Masses) -> "Floor":
        """Among the processes that share the rows.

        Args:
            floor: chance of a uniform draw.
            masses: of the kernel's law.
        """
        allowed = (rows.num_rows - rows.exclude.counts).double()
        uniform = floor * allowed / masses.mesh.total(allowed).clamp_min(1.0)
        mass = uniform + (1 - floor) * masses.log_share.double().exp()
        return Floor(uniform / mass.clamp_min(torch.finfo(mass.dtype).tiny), allowed, mass.log())

    def wanted(self, rows: ScoredRows, uniforms: Float64[Tensor, "B m 2"]) -> Int[Tensor, "B m"]:
        """A row for each draw that is uniform; -1 for the others."""
        uniform = draw_allowed(rows.exclude, rows.num_rows, uniforms[..., 0])
        return uniform.where(uniforms[..., 1] < self.chance[:, None], -1)

    def beside(
        self, log_q: Float64[Tensor, "B k"], masked: Bool[Tensor, "B k"]
    ) -> Float64[Tensor, "B k"]:
        """The chance of rows, from that by the kernel.

        Args:
            masked: what a uniform draw may not be.
        """
        uniform = (self.chance / self.allowed.clamp_min(1.0)).log()[:, None]
        by_kernel = log_q + torch.log1p(-self.chance)[:, None]
        return torch.logaddexp(by_kernel, uniform.where(~masked, -torch.inf))


def _draw(
    descent: Descent, num_negatives: int, floor: Floor | None, noise: Noise
) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
    """Rows by the kernel, or uniform ones; some queries at a time."""
    rows, levels = descent.rows, len(descent.sums.levels)
    uniforms = noise(num_negatives, levels + (1 if floor is None else 3))
    size, parts = max(1, PAIRS // num_negatives), []
    wanted = None if floor is None else floor.wanted(rows, uniforms[..., -2:])
    for first in range(0, len(uniforms), size):
        last = min(first + size, len(uniforms))
        some = None if wanted is None else wanted[first:last]
        parts.append(draw_down(descent.of_queries(first, last), uniforms[first:last], some))
    slots, log_q = (torch.cat(part) for part in zip(*parts, strict=True))
    if floor is None:
        return slots, log_q
    return slots, floor.beside(log_q, rows.exclude.hits(slots) | ~rows.valid[slots])


def _log_prob(
    descent: Descent, floor: Floor | None, slots: Int[Tensor, "M"]
) -> Float64[Tensor, "B M"]:
    rows, log_q = descent.rows, log_prob_down(descent, slots)
    if floor is None:
        return log_q
    return floor.beside(log_q, rows.exclude.mask(slots) | ~rows.valid[slots])


def quadratic(
    store: Store, num_negatives: int, *, alpha: float = 100.0, update_every: int = 1
) -> KernelSoftmax:
    """``q ~ alpha s^2 + 1``: the published kernel of Blanc & Rendle 2018 and its alpha.

    It is even: large negative scores are drawn like large positive ones, so it suits absolute
    softmax best (``DotScore(absolute=True)``). Its sums take D (D + 1) / 2 + 1 numbers for each 128
    rows.
    """
    return KernelSoftmax(store, num_negatives, Quadratic(alpha), update_every=update_every)


def rf_softmax(
    store: Store,
    num_negatives: int,
    *,
    num_frequencies: int = 1024,
    nu: float = 4.0,
    floor: float = 0.1,
    update_every: int = 1,
    seed: int = 0,
) -> KernelSoftmax:
    """``q ~ exp(nu <h, e>)`` through random Fourier features: RF-softmax, Rawat et al. 2019.

    Rows and queries of unit norm (``DotScore(normalize=True)``), nu at most the score's scale. Note
    that US patent 12,205,005 B2 covers RF-softmax.
    """
    dim = next(iter(store.chunks(1)))[1].shape[1]
    kernel = fourier(dim, num_frequencies, nu, seed=seed)
    return KernelSoftmax(store, num_negatives, kernel, floor=floor, update_every=update_every)
