"""k-means by Lloyd's algorithm, in plain matrix products."""

import torch

from negcache.shapes import Float, Int, Tensor

SCORES = {"cpu": 1 << 20, "cuda": 1 << 25}
"""(point, centre) pairs looked at at a time: what a core's own cache takes in, or a GPU likes."""


def nearest(
    points: Float[Tensor, "n C"], centres: Float[Tensor, "G C"]
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n"]]:
    """The centre nearest to each point, the first of equals, and the distance to it."""
    half = centres.square().sum(dim=1) / 2
    pairs = SCORES.get(points.device.type, SCORES["cpu"])
    parts = [
        torch.addmm(half, some, centres.T, alpha=-1).argmin(dim=1)
        for some in points.split(max(1, pairs // len(centres)))
    ]
    labels = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long, device=points.device)
    # Not from the products above: these lose the digits of a short distance between long vectors.
    return labels, distance(points, centres, labels)


def distance(
    points: Float[Tensor, "n C"], centres: Float[Tensor, "G C"], labels: Int[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """How far each point is from its own centre."""
    return torch.linalg.vector_norm(points - centres[labels], dim=1)


def lloyd(
    points: Float[Tensor, "n C"], num_clusters: int, iterations: int, generator: torch.Generator
) -> Float[Tensor, "G C"]:
    """Centres of at most ``num_clusters`` clusters: random points, then means of what is nearest.

    A centre that nothing is nearest to is dropped: equal points make fewer clusters.
    """
    start = torch.randperm(len(points), generator=generator)[:num_clusters]
    centres = points[start.to(points.device)]
    for _ in range(iterations):
        means, counts = _means(points, centres)
        centres = means[counts > 0]
    return centres


def refine(
    points: Float[Tensor, "n C"], centres: Float[Tensor, "G C"], iterations: int
) -> Float[Tensor, "G C"]:
    """Centres that move to the means of what is nearest to them; one of nothing stays.

    They keep their order, and so their numbers.
    """
    for _ in range(iterations):
        means, counts = _means(points.to(centres.dtype), centres)
        centres = means.where(counts[:, None] > 0, centres)
    return centres


def _means(
    points: Float[Tensor, "n C"], centres: Float[Tensor, "G C"]
) -> tuple[Float[Tensor, "G C"], Int[Tensor, "G"]]:
    """Mean and number of the points nearest to each centre."""
    labels, _ = nearest(points, centres)
    sums = torch.zeros_like(centres).index_add_(0, labels, points)
    counts = torch.bincount(labels, minlength=len(centres))
    return sums / counts.clamp_min(1)[:, None], counts
