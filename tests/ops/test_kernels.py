"""Kernel features: exact for the quadratic kernel, right on average for random frequencies."""

import math

import pytest
import torch
from pace import slow
from torch import tensor

import negcache as nc
from negcache.draws import use_columns
from negcache.estimators import log_q_corrected, softmax_loss
from negcache.ops.kernels import Kernel, Quadratic, Quartic, fourier, positive
from negcache.ops.kernels import kernel as kernel_file
from negcache.ops.kernels import quadratic as quadratic_file

F64, DIM, REDRAWS = torch.float64, 8, 4000
KERNELS = {
    "quadratic": lambda: Quadratic(alpha=7.0),
    "fourier": lambda: fourier(DIM, 12, 2.0),
    "orthogonal": lambda: fourier(DIM, 12, 2.0, orthogonal=True),
    "positive": lambda: positive(DIM, 12, 2.0),
    "hyperbolic": lambda: positive(DIM, 12, 2.0, hyperbolic=True),
}
RANDOM = [name for name in KERNELS if name != "quadratic"]


def units(*shape, seed=0, dtype=F64):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(*shape, DIM, generator=generator, dtype=F64)
    return torch.nn.functional.normalize(rows, dim=-1).to(dtype)


def close(ours, theirs, atol=1e-10):
    theirs = theirs if isinstance(theirs, torch.Tensor) else tensor(theirs, dtype=F64)
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


def test_quadratic_features_equal_the_kernel_and_the_full_outer_product():
    queries, items, scale = 2 * units(5), 3 * units(9, seed=1), tensor(1.7, dtype=F64)
    kernel = Quadratic(alpha=7.0)
    product = kernel.query_features(queries, scale) @ kernel.item_features(items).T
    dots = queries @ items.T
    wanted = 7.0 * (1.7 * dots).square() + 1
    full = [torch.einsum("bi,bj->bij", rows, rows).flatten(1) for rows in (queries, items)]
    assert kernel.item_features(items).shape == (9, kernel.num_features(DIM)) == (9, 37)
    assert [kernel.num_features(dim) for dim in (64, 128, 256)] == [2081, 8257, 32897]
    torch.testing.assert_close(product, wanted, atol=1e-10, rtol=1e-13)
    torch.testing.assert_close(product, 7.0 * 1.7**2 * full[0] @ full[1].T + 1)
    torch.testing.assert_close(kernel.log_kernel(dots, scale), wanted.log())
    torch.testing.assert_close(Quartic().log_kernel(dots, scale), ((1.7 * dots) ** 4 + 1).log())


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
@pytest.mark.parametrize("name", KERNELS)
def test_sums_equal_the_weighted_sum_of_item_features(name, block, monkeypatch):
    monkeypatch.setattr(kernel_file, "BLOCK", block)
    monkeypatch.setattr(quadratic_file, "BLOCK", block)
    kernel, clusters = KERNELS[name](), units(4, 7)
    weight = torch.randn(4, 7, generator=torch.Generator().manual_seed(3), dtype=F64)
    features = kernel.item_features(clusters.flatten(0, 1)).unflatten(0, (4, 7))
    assert features.shape[2] == kernel.num_features(DIM)
    close(kernel.sum_features(clusters, weight), (weight[..., None] * features).sum(dim=1))
    assert kernel.sum_features(clusters[:0], weight[:0]).shape == (0, features.shape[2])
    assert isinstance(kernel, Kernel)


def test_golden_vector_of_the_quadratic_kernel():
    """K-1; its phi has sqrt(alpha) on both sides, ours has alpha on the query's."""
    kernel, one = Quadratic(alpha=100.0), tensor(1.0, dtype=F64)
    query = tensor([[1.0, 0.5]], dtype=F64)
    items = tensor([[1.0, 0], [0, 1], [-1, 1], [0.5, -0.5]], dtype=F64)
    phi, theirs = kernel.query_features(query, one), [10, 7.071067812, 2.5, 1]
    close(phi[0], [10 * x for x in theirs[:3]] + [1.0], atol=1e-6)
    total = kernel.sum_features(items[None], torch.ones(1, 4, dtype=F64))
    close(total[0], [2.25, -1.7677669530, 2.25, 4], atol=1e-9)
    close(phi @ total.T, [[160.25]])
    halves = kernel.sum_features(items.view(2, 2, 2), torch.ones(2, 2, dtype=F64))
    close(phi @ halves.T, [[127.0, 33.25]])
    masses = kernel.log_kernel(query @ items.T, one)
    close(masses.exp(), [[101, 26, 26, 7.25]])
    close(masses.softmax(1), [[0.630265211, 0.162246490, 0.162246490, 0.045241810]], atol=1e-9)
    close((phi @ kernel.item_features(items).T).log(), masses)

    law = masses[:, 1:].log_softmax(1)
    close(law.exp(), [[0.438818565, 0.438818565, 0.122362869]], atol=1e-9)
    logits = query @ items.T
    weight = -(math.log(2) + law)
    close(logits[:, 1:] + weight, [[0.630522061, -0.369477939, 1.657617131]], atol=1e-9)
    draw = use_columns(tensor([[1, 3]]), weight[:, [0, 2]])
    fresh = logits[:, draw.ids].gather(1, draw.columns)
    close(softmax_loss(logits[:, 0], log_q_corrected(fresh, draw)), [1.286828244], atol=1e-9)
    close(softmax_loss(logits[:, 0], logits[:, 1:]), [0.833790201], atol=1e-9)


def redraws(build, first_seed, cosine=0.3):
    """Products of the features of one pair of unit rows under ``REDRAWS`` draws of W."""
    u, v = torch.zeros(2, 1, DIM, dtype=F64)
    u[0, 0], v[0, 0], v[0, 1] = 1, cosine, (1 - cosine**2) ** 0.5
    turn = torch.linalg.qr(units(DIM, seed=9)).Q
    scale, found = tensor(5.0, dtype=F64), []
    for seed in range(first_seed, first_seed + REDRAWS):
        kernel = build(seed)
        found.append(kernel.query_features(u @ turn, scale) @ kernel.item_features(v @ turn).T)
    exact = kernel.log_kernel(tensor(cosine, dtype=F64), scale).exp()
    return torch.cat(found).flatten(), float(exact)


def standard_errors(found, mean):
    return abs(float(found.mean()) - mean) / float(found.std() / len(found) ** 0.5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("start", [0, slow(10_000), slow(20_000)])
def test_fourier_features_have_the_mean_and_variance_of_the_formula(start):
    nu, frequencies = 2.0, 32
    found, exact = redraws(lambda seed: fourier(DIM, frequencies, nu, seed=seed), start)
    assert exact == pytest.approx(math.exp(nu * (0.3 - 1)))
    assert standard_errors(found, exact) < 4.5
    formula = (1 - exact**2) ** 2 / (2 * frequencies)
    assert float(found.var()) == pytest.approx(formula, rel=0.1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("start", [0, slow(10_000), slow(20_000)])
def test_orthogonal_frequencies_are_unbiased_and_of_lower_variance(start):
    nu, frequencies = 2.0, 28  # three blocks and a half
    found, exact = redraws(
        lambda seed: fourier(DIM, frequencies, nu, seed=seed, orthogonal=True), start
    )
    assert standard_errors(found, exact) < 4.5
    assert float(found.var()) < 0.6 * (1 - exact**2) ** 2 / (2 * frequencies)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("start", [0, slow(10_000), slow(20_000)])
@pytest.mark.parametrize("hyperbolic", [False, True])
def test_positive_features_have_the_mean_and_variance_of_the_formula(hyperbolic, start):
    nu, frequencies = 0.25, 32
    found, exact = redraws(
        lambda seed: positive(DIM, frequencies, nu, seed=seed, hyperbolic=hyperbolic), start
    )
    assert exact == pytest.approx(math.exp(nu * (0.3 - 1)))
    assert standard_errors(found, exact) < 4.5
    v = 2 * nu * 1.3
    relative = math.expm1(v) / frequencies
    if hyperbolic:
        relative = (math.exp(v) - 2 + math.exp(-v)) / (2 * frequencies)
    assert float(found.var()) == pytest.approx(exact**2 * relative, rel=0.15)


def test_orthogonal_blocks_are_orthogonal_with_free_norms():
    blocks = fourier(DIM, 2 * DIM, 2.0, orthogonal=True).frequencies.view(2, DIM, DIM)
    gram = blocks @ blocks.mT
    norms = gram.diagonal(dim1=1, dim2=2)
    close(gram, torch.diag_embed(norms))
    assert norms.std() > 0.5


@pytest.mark.parametrize("hyperbolic", [False, True])
def test_positive_features_are_never_negative(hyperbolic):
    kernel = positive(DIM, 64, 4.0, hyperbolic=hyperbolic)
    assert (kernel.item_features(units(500)) > 0).all()


@pytest.mark.parametrize("name", RANDOM)
def test_the_exact_kernel_is_never_below_its_smallest(name):
    kernel, scale = KERNELS[name](), tensor(5.0, dtype=F64)
    least = kernel.log_kernel(tensor(-1.0, dtype=F64), scale).exp()
    assert kernel.smallest == pytest.approx(float(least))
    assert Quadratic().smallest == Quartic().smallest == 1.0


def test_sums_stay_valid_when_the_scale_is_learned():
    kernel, queries, items = Quadratic(), units(3), units(20, seed=1)
    total = kernel.sum_features(items[None], torch.ones(1, 20, dtype=F64))
    score = nc.DotScore(0.5, learn_temperature=True).double()
    for log_scale in (0.1, 1.0, 3.0):
        score.log_scale.data.fill_(log_scale)
        scale = score.scale.detach()
        mass = kernel.log_kernel(queries @ items.T, scale).exp().sum(dim=1)
        ours = (kernel.query_features(queries, scale) @ total.T)[:, 0]
        torch.testing.assert_close(ours, mass, atol=0, rtol=1e-12)


@pytest.mark.parametrize("name", RANDOM)
def test_frequencies_are_one_fixed_draw(name):
    kernel, rows, scale = KERNELS[name](), units(6), tensor(5.0, dtype=F64)
    before = kernel.item_features(rows)
    torch.rand(3)  # the global generator has no part in it
    assert torch.equal(kernel.query_features(rows, scale), before)
    assert torch.equal(kernel.item_features(rows), before)
    assert torch.equal(KERNELS[name]().item_features(rows), before)


@pytest.mark.parametrize(
    ("kind", "flag"), [(fourier, "orthogonal"), (positive, "hyperbolic")], ids=["fourier", "pos"]
)
def test_frequencies_travel_in_the_state(kind, flag):
    for setting in ({}, {flag: True}):
        kernel, other = kind(DIM, 5, 2.0, seed=1, **setting), kind(DIM, 5, 2.0, seed=2, **setting)
        rows = units(6)
        assert not torch.equal(kernel.item_features(rows), other.item_features(rows))
        other.load_state_dict(kernel.state_dict())
        assert torch.equal(kernel.item_features(rows), other.item_features(rows))
    for settings in ((DIM, 6, 2.0), (DIM, 5, 1.0)):
        with pytest.raises(nc.InputError, match="settings it was saved with"):
            kind(*settings).load_state_dict(kernel.state_dict())
    with pytest.raises(nc.InputError, match="settings it was saved with"):
        kernel.load_state_dict(Quadratic().state_dict())
    Quadratic().load_state_dict({})
    Quartic().load_state_dict(Quartic().state_dict())


@pytest.mark.parametrize("name", KERNELS)
def test_half_precision_rows_and_autocast_give_float32_features(name):
    kernel, half = KERNELS[name](), units(2, 6).bfloat16()
    weight, scale = torch.ones(2, 6), tensor(5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = (
            kernel.item_features(half[0]),
            kernel.query_features(half[0], scale),
            kernel.sum_features(half, weight),
            kernel.log_kernel(half[0, :, 0], scale),
        )
    exact = half.double()
    wanted = (
        kernel.item_features(exact[0]),
        kernel.query_features(exact[0], scale),
        kernel.sum_features(exact, weight),
        kernel.log_kernel(exact[0, :, 0], scale),
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
    kernel.check(half[0], scale)


@pytest.mark.parametrize("name", RANDOM)
def test_rows_and_scales_that_do_not_suit_are_refused(name):
    kernel, rows = KERNELS[name](), units(6)
    kernel.check(rows, tensor(2.0))
    kernel.check(rows * 1.0009, tensor(1.999999))  # what float32 makes of a scale of 2
    kernel.check(rows[:0], tensor(2.0))
    rows[2] *= 1.5
    rows[4] *= 0.9
    with pytest.raises(nc.InputError, match=r"norm of 1\.5.*DotScore\(normalize=True\)"):
        kernel.check(rows, tensor(2.0))
    with pytest.raises(nc.InputError, match=r"1\.5; got nu = 2.*sharper.*lower nu"):
        kernel.check(units(6), tensor(1.5))
    for work in (lambda: kernel.num_features(5), lambda: kernel.check(rows[:, :5], tensor(2.0))):
        with pytest.raises(nc.InputError, match=r"D = 8.*D = 5"):
            work()


@pytest.mark.parametrize("name", [*KERNELS, "quartic"])
def test_rows_that_are_not_finite_are_refused(name):
    kernel, rows = (Quartic() if name == "quartic" else KERNELS[name]()), units(6)
    kernel.check(rows, tensor(5.0))
    rows[3, 1] = math.nan
    with pytest.raises(nc.InputError, match=r"in 1 of 6 rows, ids \[3\]"):
        kernel.check(rows, tensor(5.0))


def test_quartic_features_are_refused():
    kernel, rows = Quartic(), torch.ones(2, 64)
    assert isinstance(kernel, Kernel)
    for work in (
        lambda: kernel.num_features(64),
        lambda: kernel.query_features(rows, tensor(1.0)),
        lambda: kernel.item_features(rows),
        lambda: kernel.sum_features(rows[None], torch.ones(1, 2)),
    ):
        with pytest.raises(nc.InputError, match=r"766,481 features at D = 64.*reference sampler"):
            work()


@pytest.mark.parametrize(
    ("work", "match"),
    [
        (lambda: Quadratic(0.0), "alpha > 0"),
        (lambda: Quadratic(math.nan), "alpha > 0"),
        (lambda: fourier(DIM, 0, 1.0), "num_frequencies >= 1; got 0"),
        (lambda: fourier(DIM, 5, 0.0), "nu above 0"),
        (lambda: positive(DIM, -1, 1.0), "num_frequencies"),
        (lambda: positive(DIM, 5, -2.0), "nu above 0 and at most 40.0; got -2"),
        (lambda: positive(0, 5, 1.0), "dim >= 1"),
    ],
)
def test_settings_are_checked(work, match):
    with pytest.raises(nc.InputError, match=match):
        work()
