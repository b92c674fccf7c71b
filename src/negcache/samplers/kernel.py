"""Draws by a kernel of the query and the item, through sums of its features: O(D log N) a draw."""

import math

import torch

from negcache.errors import InputError
from negcache.functional.draws import draw_allowed, use_columns
from negcache.functional.features import Fourier, Kernel, Quadratic
from negcache.functional.kernel_draw import draw_by_sums
from negcache.functional.views import within
from negcache.indexes.sums import KernelSums
from negcache.protocols import Cache, Draw, Law, Request
from negcache.shapes import Float, Float64, Int, Tensor

PAIRS = 1 << 15
"""(query, draw) pairs on their way down at a time, about 4 kB each: a bound on memory."""


class KernelSoftmax:
    """Independent draws for each query, ``q_b(y) ~ K(h_b, e_y)``, without a score for every item.

    The sums follow the cache: the first draw builds them, every write moves them. ``quadratic`` and
    ``rf_softmax`` are the published choices. Source: Blanc & Rendle, ICML 2018.

    Args:
        cache: the rows drawn from: a ``LiveTable`` of class vectors, or cached embeddings.
        num_negatives: draws per query, m; wrap in ``SharedDraws`` to share them over the batch.
        kernel: what is drawn by.
        floor: chance of a uniform draw instead: no weight is above log(N / (floor m)).
        update_every: bring the sums up to date at every so many writes. 1 follows each row; where a
            step moves rows of most cells, 10 costs less, and the weights are as honest.
    """

    has_density = True

    def __init__(
        self,
        cache: Cache,
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
        self.cache, self.num_negatives, self.kernel, self.floor = (
            cache, num_negatives, kernel, floor,
        )  # fmt: skip
        self.sums = KernelSums(cache, kernel, every=update_every)
        cache.attach(self.sums)

    @property
    def coverage(self) -> float:
        return self.cache.coverage

    def draw(self, request: Request, generator: torch.Generator) -> Draw:
        inside = self._asked(request)
        needed = len(self.sums.levels) + (3 if self.floor else 1)
        noise = request.uniforms(generator, self.num_negatives, needed)
        wanted = None
        if self.floor:
            uniform = draw_allowed(inside.exclude, self.cache.num_rows, noise[..., -2])
            wanted = uniform.where(noise[..., -1] < self.floor, -1)
        slots, log_q = self._drawn(inside, noise, wanted)
        weight = -log_q - math.log(self.num_negatives * self.coverage)
        weight = weight.masked_fill(log_q == -torch.inf, -torch.inf)
        return use_columns(self.cache.ids(slots), weight.to(request.queries.dtype))

    def log_prob(
        self, request: Request, ids: Int[Tensor, "M"], law: Law | None = None
    ) -> Float[Tensor, "B M"]:
        """The way down to every id, for every query: all cells of the ids are scored."""
        inside, slots = self._asked(request), self.cache.slots(ids)
        wanted = slots.clamp_min(0).expand(len(request.queries), -1)
        unused = torch.zeros((), dtype=torch.float64, device=slots.device)
        unused = unused.expand(*wanted.shape, len(self.sums.levels) + 1)
        log_q = self._drawn(inside, unused, wanted)[1].to(request.queries.dtype)
        return log_q.masked_fill(request.exclude.mask(ids) | (slots < 0), -torch.inf)

    def _asked(self, request: Request) -> Request:
        """The request in slots; the sums are built if they are not."""
        self.kernel.check(request.queries, request.score.scale)
        self.sums.build(request.queries, request.score.scale)
        return within(request, self.cache)

    def _drawn(
        self, inside: Request, noise: Float[Tensor, "B m n"], wanted: Int[Tensor, "B m"] | None
    ) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
        """Rows by the kernel, or the wanted ones, and their log-chance; some queries at a time."""
        size, parts = max(1, PAIRS // max(1, noise.shape[1])), []
        for first in range(0, len(noise), size):
            last = min(first + size, len(noise))
            some = None if wanted is None else wanted[first:last]
            parts.append(self._at_once(inside.slice(first, last), noise[first:last], some))
        slots, log_q = (torch.cat(part) for part in zip(*parts, strict=True))
        return slots, log_q

    def _at_once(
        self, inside: Request, noise: Float[Tensor, "B m n"], wanted: Int[Tensor, "B m"] | None
    ) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
        """The same for few queries; the floor is in the chance."""
        slots, log_q = draw_by_sums(inside, self.cache, self.sums, self.kernel, noise, wanted)
        if not self.floor:
            return slots, log_q
        allowed = (self.cache.num_rows - inside.exclude.counts)[:, None].double()
        rows = torch.arange(len(slots), device=slots.device)[:, None].expand_as(slots)
        barred = inside.exclude.contains(rows, slots) | ~self.cache.valid[slots]
        floor = (self.floor / allowed).log().masked_fill(barred, -torch.inf)
        return slots, torch.logaddexp(log_q + math.log1p(-self.floor), floor)


def quadratic(
    cache: Cache, num_negatives: int, *, alpha: float = 100.0, update_every: int = 1
) -> KernelSoftmax:
    """``q ~ alpha s^2 + 1``: the published kernel of Blanc & Rendle 2018 and its alpha.

    It is even: large negative scores are drawn like large positive ones, so it suits absolute
    softmax best (``DotScore(absolute=True)``). Its sums take D (D + 1) / 2 + 1 numbers for each 128
    rows.
    """
    return KernelSoftmax(cache, num_negatives, Quadratic(alpha), update_every=update_every)


def rf_softmax(
    cache: Cache,
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
    dim = next(iter(cache.chunks(1)))[1].shape[1]
    kernel = Fourier(dim, num_frequencies, nu, seed=seed)
    return KernelSoftmax(cache, num_negatives, kernel, floor=floor, update_every=update_every)
