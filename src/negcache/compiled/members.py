"""Which members of drawn clusters are drawn; compiled. The twin is in ``ops.cluster_draw``."""

import numpy as np

from negcache.compiled.compiling import compiled


@compiled
def draw_members(
    firsts: np.ndarray, sizes: np.ndarray, offsets: np.ndarray, gone: np.ndarray,
    clusters: np.ndarray, uniforms: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """A member of each cluster, but for those that its query may not draw.

    Args:
        firsts: int64 [W]; place of each cluster's first member, ascending.
        sizes: int64 [W]; its members.
        offsets: int64 [B + 1] of ``gone``.
        gone: int64 [E]; places that each query may not draw, ascending.
        clusters: int64 [B, m].
        uniforms: float64 [B, m].
        out: int64 [B, m] to write places to; what follows the cluster where nobody is left in it.
    """
    for query in range(len(clusters)):
        own = gone[offsets[query] : offsets[query + 1]]
        for which in range(clusters.shape[1]):
            first, size = firsts[clusters[query, which]], sizes[clusters[query, which]]
            before, after = np.searchsorted(own, first), np.searchsorted(own, first + size)
            left = size - (after - before)
            place = first + max(min(np.int64(uniforms[query, which] * left), left - 1), 0)
            while before < len(own) and own[before] <= place:
                place, before = place + 1, before + 1
            out[query, which] = min(place, firsts[-1] + sizes[-1] - 1)
