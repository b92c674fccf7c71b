"""Which members of drawn clusters are drawn; compiled. The twin is in ``ops.cluster_draw``."""

from typing import NamedTuple

import numpy as np

from negcache.compiled.compiling import compiled


class Places(NamedTuple):
    """Where members of clusters stand, and which of the places each query may not draw; int64.

    Args:
        firsts: [W]; place of each cluster's first member, ascending.
        sizes: [W]; its members.
        offsets: [B + 1] of ``gone``.
        gone: [E]; places, ascending for each query.
    """

    firsts: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    gone: np.ndarray


@compiled
def draw_members(of: Places, clusters: np.ndarray, uniforms: np.ndarray, out: np.ndarray) -> None:
    """A member of each cluster, but for those that its query may not draw.

    Args:
        clusters: int64 [B, m].
        uniforms: float64 [B, m].
        out: int64 [B, m] to write places to; what follows the cluster where nobody is left in it.
    """
    for query in range(len(clusters)):
        own = of.gone[of.offsets[query] : of.offsets[query + 1]]
        for which in range(clusters.shape[1]):
            first, size = of.firsts[clusters[query, which]], of.sizes[clusters[query, which]]
            before, after = np.searchsorted(own, first), np.searchsorted(own, first + size)
            left = size - (after - before)
            place = first + max(min(np.int64(uniforms[query, which] * left), left - 1), 0)
            while before < len(own) and own[before] <= place:
                place, before = place + 1, before + 1
            out[query, which] = min(place, of.firsts[-1] + of.sizes[-1] - 1)
