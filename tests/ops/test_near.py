"""Walks from centre to centre end where a look at all of them would, mostly, and never farther."""

import torch

from negcache.ops import near
from negcache.ops.lloyd import distance, nearest


def scene():
    noise = torch.Generator().manual_seed(0)
    centres = torch.randn(400, 8, generator=noise)
    own = torch.randint(400, (500,), generator=noise)
    return centres, own, centres[own] + 0.3 * torch.randn(500, 8, generator=noise), noise


def test_walks_from_where_points_were_find_the_nearest(monkeypatch):
    monkeypatch.setattr(near, "DIRECT", 100)
    centres, own, points, noise = scene()
    search = near.NearestCentres(centres)
    labels, away = search.of(points, own)
    best, _ = nearest(points, centres)
    assert (labels == best).float().mean() > 0.97
    torch.testing.assert_close(away, distance(points, centres, labels))
    start = torch.randint(400, (500,), generator=noise)
    far, _ = search.of(points, start)
    assert (distance(points, centres, far) <= distance(points, centres, start) + 1e-6).all()
    assert (far != best).any(), "a walk from anywhere may end short"


def test_points_that_know_no_centre_or_end_far_off_look_at_all(monkeypatch):
    monkeypatch.setattr(near, "DIRECT", 100)
    centres, _, points, noise = scene()
    best, least = nearest(points, centres)
    search = near.NearestCentres(centres)
    none = search.of(points, torch.full((500,), -1))
    assert torch.equal(none[0], best)
    torch.testing.assert_close(none[1], least)
    start = torch.randint(400, (500,), generator=noise)
    lost = search.of(points, start, torch.zeros(400))
    assert torch.equal(lost[0], best)
