"""Laws of every re-encoder, and what ridge, composition and the corrector learn."""

import pytest
import torch

from negcache.errors import InputError
from negcache.interfaces import Reencoder
from negcache.ops.nystrom import landmark_basis, mean_cosine, project
from negcache.stores.reencoders import Corrector, Identity, Ridge

L, D, S = 8, 24, 400

ROSTER = {
    "identity": Identity,
    "anchored": Ridge,
    "compose": lambda: Ridge("compose"),
    "corrector": lambda: Corrector(width=32, steps=60),
}


def rows(count, seed):
    """Unit rows that a few directions explain in good part."""
    noise = torch.Generator().manual_seed(seed)
    low = torch.randn(count, L, generator=noise, dtype=torch.float64)
    wide = torch.randn(count, D, generator=noise, dtype=torch.float64)
    mix = torch.randn(L, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.nn.functional.normalize(low @ mix + 0.3 * wide, dim=1)


def drift(old, size=0.5):
    """Where embeddings go: along with each other, and a little of their own."""
    noise = torch.Generator().manual_seed(2)
    turn = torch.randn(D, D, generator=noise, dtype=torch.float64) / D**0.5
    shift = torch.randn(D, generator=noise, dtype=torch.float64) / D**0.5
    own = torch.randn(old.shape, generator=noise, dtype=torch.float64) / D**0.5
    return old + size * (old @ turn + 0.5 * shift + 0.1 * own)


BASIS = landmark_basis(rows(L, 3))
OLD = rows(S, 4)
STALE, FRESH = project(OLD, BASIS), drift(OLD)


@pytest.fixture(params=ROSTER)
def reencoder(request):
    return ROSTER[request.param]()


def moved(reencoder, stale):
    """Coordinates as a store holds them after a fit."""
    move = reencoder.take_move()
    return stale if move is None else stale @ move


def test_nothing_has_moved_at_the_start(reencoder):
    reencoder.start(BASIS)
    torch.testing.assert_close(reencoder.full(STALE), OLD @ BASIS @ BASIS.T)


def test_scores_are_those_of_the_full_embeddings(reencoder):
    assert isinstance(reencoder, Reencoder)
    reencoder.start(BASIS)
    queries = rows(5, 9)
    for _ in range(2):
        stale = moved(reencoder, STALE)
        scores = reencoder.queries(queries) @ reencoder.items(stale).T
        torch.testing.assert_close(scores, queries @ reencoder.full(stale).T, atol=1e-10, rtol=0)
        assert reencoder.items(stale[:6].view(2, 3, -1)).shape[:2] == (2, 3)
        reencoder.fit(STALE, FRESH)


def test_the_cosine_is_that_of_rows_that_were_not_learned_from(reencoder):
    reencoder.start(BASIS)
    cosine = reencoder.fit(STALE, FRESH)
    held = slice(None) if isinstance(reencoder, Identity) else slice(None, None, 10)
    found = mean_cosine(reencoder.full(moved(reencoder, STALE)[held]), FRESH[held])
    assert cosine == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize("name", ["anchored", "corrector"])
def test_held_out_rows_teach_nothing(name):
    after = []
    for scale in (1.0, 1.01):
        reencoder = Ridge(penalties=(1e-3,)) if name == "anchored" else ROSTER[name]()
        reencoder.start(BASIS)
        fresh = FRESH.clone()
        fresh[::10] *= scale
        reencoder.fit(STALE, fresh)
        after.append(reencoder.full(STALE))
    assert torch.equal(*after)


@pytest.mark.parametrize("name", ["anchored", "compose", "corrector"])
def test_what_moved_is_learned(name):
    stale = Identity()
    stale.start(BASIS)
    before = stale.fit(STALE, FRESH)
    reencoder = ROSTER[name]()
    reencoder.start(BASIS)
    assert reencoder.fit(STALE, FRESH) > before + 0.02
    coordinates = moved(reencoder, project(rows(100, 6), BASIS))
    seen, fresh = reencoder.full(coordinates), drift(rows(100, 6))
    assert mean_cosine(seen, fresh) > before + 0.02


def test_a_state_goes_on_as_if_nothing_had_happened(reencoder, request):
    reencoder.start(BASIS)
    reencoder.fit(STALE, FRESH)
    copy = ROSTER[request.node.callspec.params["reencoder"]]()
    copy.load_state_dict(reencoder.state_dict())
    stale = moved(reencoder, STALE)
    assert torch.equal(copy.full(stale), reencoder.full(stale))
    cosines = [each.fit(stale, drift(FRESH)) for each in (reencoder, copy)]
    assert cosines[0] == cosines[1]
    assert torch.equal(copy.full(stale), reencoder.full(stale))


def test_one_that_was_never_started_says_so(reencoder):
    with pytest.raises(InputError, match="never started"):
        reencoder.full(STALE)
    copy = type(reencoder)()
    copy.load_state_dict(reencoder.state_dict())


def test_anchored_and_composed_ridge_give_the_same_embeddings_after_one_fit():
    anchored, composed = Ridge(), Ridge("compose")
    for each in (anchored, composed):
        each.start(BASIS)
        each.fit(STALE, FRESH)
    coordinates = moved(composed, STALE)
    torch.testing.assert_close(composed.full(coordinates), anchored.full(STALE), atol=1e-10, rtol=0)
    assert moved(composed, coordinates) is coordinates, "a move is made once"
    basis = composed.map[:-1]
    torch.testing.assert_close(basis @ basis.T, torch.eye(L).double())


def test_much_penalty_draws_towards_the_last_map_not_towards_the_first():
    """An affine drift learned exactly, then a fit of rows that cannot teach anything new."""
    reencoder = Ridge(penalties=(1e-9,))
    reencoder.start(BASIS)
    seen = STALE @ (reencoder.map + 0.3 * torch.randn(L + 1, D).double())
    reencoder.fit(STALE, seen)
    learned = reencoder.map
    reencoder.penalties = (1e9,)
    reencoder.fit(STALE, seen)
    torch.testing.assert_close(reencoder.map, learned, atol=1e-6, rtol=0)
    torch.testing.assert_close(reencoder.full(STALE), seen, atol=1e-5, rtol=0)


def test_a_fit_that_helps_nobody_is_not_made():
    reencoder = Ridge(penalties=(1e-9,))
    reencoder.start(BASIS)
    before = reencoder.map
    wild = reencoder.full(STALE[:9]).clone()
    wild[1:] += torch.randn(8, D, generator=torch.Generator().manual_seed(0)).double()
    reencoder.fit(STALE[:9], wild)
    assert torch.equal(reencoder.map, before)


@pytest.mark.parametrize("name", list(ROSTER))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_rows_are_no_trouble(name, count):
    reencoder = ROSTER[name]()
    reencoder.start(BASIS)
    assert -1 <= reencoder.fit(STALE[:count], FRESH[:count]) <= 1 + 1e-9
    assert reencoder.full(moved(reencoder, STALE)).isfinite().all()


def test_the_corrector_bends_where_a_ridge_cannot():
    turned = OLD @ BASIS @ BASIS.T
    fresh = turned + 3 * turned.square()
    found = {}
    for name, each in (("ridge", Ridge()), ("corrector", Corrector(steps=600))):
        each.start(BASIS)
        each.fit(STALE, fresh)
        found[name] = (each.full(STALE) - fresh)[::10].square().sum()
    assert found["corrector"] < found["ridge"]


def test_a_corrector_started_in_inference_mode_learns_like_any_other():
    """A store may be filled so: the net is trained for all that, inside the mode and outside."""
    found = []
    for inside in (False, True):
        reencoder, other = ROSTER["corrector"](), ROSTER["corrector"]()
        with torch.inference_mode(inside):
            reencoder.start(BASIS)
            other.start(BASIS)
            other.fit(STALE, FRESH)
        reencoder.fit(STALE, FRESH)
        other.fit(STALE, FRESH)
        copy = ROSTER["corrector"]()
        with torch.inference_mode(inside):
            copy.load_state_dict(reencoder.state_dict())
        copy.fit(STALE, FRESH)
        found.append(torch.cat([each.full(STALE) for each in (reencoder, other, copy)]))
    assert torch.equal(*found)


def test_the_corrector_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    reencoder = ROSTER["corrector"]()
    reencoder.start(BASIS)
    reencoder.fit(STALE, FRESH)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Ridge("composed"),
        lambda: Ridge(penalties=()),
        lambda: Ridge(penalties=(0.0,)),
        lambda: Corrector(steps=0),
    ],
)
def test_bad_settings(bad):
    with pytest.raises(InputError, match="Expected"):
        bad()
