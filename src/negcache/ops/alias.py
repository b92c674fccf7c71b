"""The alias table: one draw from any fixed distribution in constant time (Walker 1977)."""

from typing import NamedTuple

import torch

from negcache.shapes import Float64, Int, Tensor


class AliasTable(NamedTuple):
    """Slot i returns i with chance ``keep[i]``, else ``alias[i]``; slots are equally likely."""

    keep: Float64[Tensor, "N"]
    alias: Int[Tensor, "N"]


def build_alias(chances: Float64[Tensor, "N"]) -> AliasTable:
    """Pack a distribution into slots, by cumulative sums instead of a loop over items.

    Light items (less than 1/N) lie in one row, heavy ones in another; the heavy fill the gaps of
    the light in order, and each heavy one, once it has become light, is filled by the next.
    Source: the sweep of Huebschle-Schneider & Sanders, "Parallel Weighted Random Sampling" (2019).

    Args:
        chances: sum to 1.
    """
    size = chances * len(chances)
    light, heavy = (size < 1).nonzero().squeeze(1), (size >= 1).nonzero().squeeze(1)
    gaps, spare = (1 - size[light]).cumsum(0), (size[heavy] - 1).cumsum(0)
    keep, alias = torch.ones_like(size), torch.arange(len(size), device=size.device)
    if len(light) and len(heavy):
        keep[light] = size[light]
        before = torch.cat([gaps.new_zeros(1), gaps[:-1]])
        donor = torch.searchsorted(spare, before, right=False).clamp_(max=len(heavy) - 1)
        alias[light] = heavy[donor]
        over = torch.searchsorted(gaps, spare, right=True)  # the gap that a heavy one cannot fill
        spent = over < len(light)
        filled = 1 + spare - gaps[over.clamp(max=len(light) - 1)]
        keep[heavy] = torch.where(spent, filled.clamp(0, 1), 1.0)
        alias[heavy[:-1]] = torch.where(spent[:-1], heavy[1:], heavy[:-1])
        keep[heavy[-1]] = 1.0
    return AliasTable(keep, alias)


def draw_alias(table: AliasTable, uniforms: Float64[Tensor, "*shape 2"]) -> Int[Tensor, "*shape"]:
    """One draw for each pair of uniforms in [0, 1)."""
    slot = (uniforms[..., 0] * len(table.keep)).long().clamp_(max=len(table.keep) - 1)
    return torch.where(uniforms[..., 1] < table.keep[slot], slot, table.alias[slot])
