"""Nystroem coordinates: projection, ridge, composition, and the way back to coordinates."""

import pytest
import torch

from negcache.errors import InputError
from negcache.ops.nystrom import (
    compose,
    find_coordinates,
    landmark_basis,
    map_of_basis,
    mean_cosine,
    project,
    ridge,
)

B, N, L, D = 5, 40, 6, 16


def nystrom_scores(queries, items, landmarks):
    """The published form, ``(A h)^T (A A^T)^-1 (A e)``."""
    inside = torch.linalg.solve(landmarks @ landmarks.T, landmarks @ items.T)
    return queries @ landmarks.T @ inside


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def close(found, truth, tolerance=1e-10):
    torch.testing.assert_close(found, truth, atol=tolerance, rtol=0)


def some_map():
    """A map with an intercept, [C, D]."""
    return map_of_basis(landmark_basis(noise(L, D))) + 0.3 * noise(L + 1, D, seed=5)


def test_the_published_form_is_the_projection_onto_the_landmarks():
    queries, items, landmarks = noise(B, D), noise(N, D, seed=1), noise(L, D, seed=2)
    basis = landmark_basis(landmarks)
    ours = (queries @ basis) @ project(items, basis)[:, :-1].T
    close(ours, nystrom_scores(queries, items, landmarks))
    close(basis.T @ basis, torch.eye(L).double())
    close(landmarks @ basis @ basis.T, landmarks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_landmarks_that_depend_on_each_other_give_fewer_columns(dtype):
    few = noise(3, D)
    landmarks = torch.cat([few, few, few.sum(dim=0)[None], torch.zeros(1, D)]).to(dtype)
    basis = landmark_basis(landmarks)
    assert basis.shape == (D, 3)
    close(landmarks @ basis @ basis.T, landmarks, 1e-5)
    assert landmark_basis(few[:1].expand(9, D)).shape == (D, 1)


def test_landmarks_that_span_everything_lose_nothing_at_all():
    items = noise(N, D).float()
    basis = landmark_basis(noise(D + 4, D).float())
    assert torch.equal(project(items, basis) @ map_of_basis(basis), items)


@pytest.mark.parametrize("landmarks", [torch.zeros(4, D), torch.zeros(0, D)])
def test_landmarks_without_direction_are_refused(landmarks):
    with pytest.raises(InputError, match="landmarks other than zero"):
        landmark_basis(landmarks)


def test_the_map_on_the_query_side_gives_the_scores_of_re_encoded_items():
    queries, map = noise(B, D), some_map()
    stale = project(noise(N, D, seed=1), landmark_basis(noise(L, D)))
    close((queries @ map.T) @ stale.T, queries @ (stale @ map).T)
    close(stale @ map, stale[:, :-1] @ map[:-1] + map[-1])


@pytest.mark.parametrize("rows", [L - 3, L, L + 1, L + 2, 200])
def test_primal_and_dual_ridge_agree(rows):
    stale = project(noise(rows, D), landmark_basis(noise(L, D, seed=1)))
    residual = noise(rows, D, seed=2)
    primal, dual = (ridge(stale, residual, 1e-3, dual=each) for each in (False, True))
    close(primal, dual)
    close(ridge(stale, residual, 1e-3), primal)


def test_ridge_is_where_the_penalised_error_is_flat():
    """Gradient of mean ||Y - X W||^2 + penalty ||W without its intercept||^2."""
    stale = project(noise(50, D), landmark_basis(noise(L, D, seed=1)))
    residual, penalty = noise(50, D, seed=2), 0.7
    solved = ridge(stale, residual, penalty).requires_grad_()
    error = (residual - stale @ solved).square().sum() / 50 + penalty * solved[:-1].square().sum()
    close(torch.autograd.grad(error, solved)[0], torch.zeros(L + 1, D).double())


@pytest.mark.parametrize("rows", [L - 1, 100])
def test_an_infinite_penalty_changes_no_score_but_by_a_constant_of_the_query(rows):
    stale = project(noise(rows, D), landmark_basis(noise(L, D, seed=1)))
    step = ridge(stale, noise(rows, D, seed=2), 1e14)
    close(step[:-1], torch.zeros(L, D).double())
    moved = noise(B, D, seed=3) @ (project(noise(N, D, seed=4), noise(D, L)) @ step).T
    close(moved, moved[:, :1].expand_as(moved))


@pytest.mark.parametrize("rank", [L, L - 2])
def test_a_composed_map_gives_the_same_embeddings_from_an_orthonormal_basis(rank):
    map = some_map()
    map[rank:-1] = map[: L - rank]
    stale = project(noise(N, D), landmark_basis(noise(L, D, seed=1)))
    move, composed = compose(map)
    assert composed.shape == (rank + 1, D)
    moved = stale @ move
    close(moved[:, -1], torch.ones(N).double())
    close(moved @ composed, stale @ map)
    close(composed[:-1] @ composed[:-1].T, torch.eye(rank).double())
    close(composed[:-1] @ composed[-1], torch.zeros(rank).double())


def test_the_composed_basis_spans_the_landmarks_new_embeddings():
    """A <- Z_A R: the landmarks of the published form, without intercept."""
    landmarks, map = noise(L, D), some_map()
    map[-1] = 0
    anew = project(landmarks, landmark_basis(landmarks)) @ map
    ours, published = compose(map).map[:-1].T, landmark_basis(anew)
    close(ours @ ours.T, published @ published.T)


def test_coordinates_of_an_item_encoded_later_are_what_the_map_takes_to_it():
    map, wanted = some_map(), project(noise(N, D), noise(D, L))
    seen = wanted @ map
    close(find_coordinates(seen, lambda z: z @ map, L), wanted)
    off = noise(N, D, seed=7)
    left = off - find_coordinates(off, lambda z: z @ map, L) @ map
    close(left @ map[:-1].T, torch.zeros(N, L).double())


def test_coordinates_under_a_network_are_nearer_than_the_projection():
    basis, weight = landmark_basis(noise(L, D)), 0.4 * noise(D, D, seed=1)

    def full(z):
        seen = z @ map_of_basis(basis)
        return seen + torch.tanh(seen @ weight) @ weight.T

    fresh = full(project(0.3 * noise(N, D, seed=2), basis))
    missed, found = (
        (fresh - full(z)).square().sum(dim=1)
        for z in (project(fresh, basis), find_coordinates(fresh, full, L, rounds=8))
    )
    assert (found <= missed + 1e-12).all()
    assert found.mean() < 0.1 * missed.mean()


def test_a_step_that_leads_away_is_not_taken():
    def full(z):
        return 0.01 * z[:, :-1] @ basis.T + 5 * torch.sin(9 * z[:, :-1]) @ basis.T

    basis, rows = landmark_basis(noise(L, D)), noise(N, D, seed=2)
    for rounds in (1, 5):
        left = (rows - full(find_coordinates(rows, full, L, rounds))).square().sum(dim=1)
        assert (left <= rows.square().sum(dim=1) + 1e-12).all(), "no worse than the origin"


def test_mean_cosine_of_rows():
    assert mean_cosine(torch.eye(3), 2 * torch.eye(3)) == pytest.approx(1.0)
    assert mean_cosine(torch.zeros(2, 3), torch.ones(2, 3)) == 0.0
