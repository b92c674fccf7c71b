"""The low-rank cache: fill, refresh, full pass, items that come and go, files, resume."""

import copy
import json

import pytest
import torch
from pace import fast

import negcache as nc
from negcache.interfaces import Store
from negcache.ops.shards import Shard
from negcache.packing import pack, unpack
from negcache.stores import LowRankCache
from negcache.stores.coordinate_table import CoordinateTable
from negcache.stores.reading import embeddings, project_items, project_queries
from negcache.stores.reencoders import Corrector, Identity, Ridge
from negcache.stores.row_file import PAGE
from negcache.testing.conformance import check_store

N, D, L = 60, 12, 5
EVERYTHING = torch.arange(N)
REENCODERS = {
    "anchored": Ridge,
    "compose": lambda: Ridge("compose"),
    "corrector": lambda: Corrector(width=32, steps=150),
    "identity": Identity,
}


class Encoder:
    """Items whose embeddings move a little each step."""

    def __init__(self, num_items=N, speed=0.02):
        noise = torch.Generator().manual_seed(3)
        low = torch.randn(num_items, 4, generator=noise) @ torch.randn(4, D, generator=noise)
        self.rows = low + 0.2 * torch.randn(num_items, D, generator=noise)
        self.turn = speed * torch.randn(D, D, generator=noise)

    def __call__(self, ids):
        return torch.nn.functional.normalize(self.rows[ids], dim=1)

    def move(self):
        self.rows = self.rows + self.rows @ self.turn


class Ear:
    """An observer that keeps what it hears."""

    def __init__(self):
        self.changes, self.invalidated = [], 0

    def rows_changed(self, change):
        self.changes.append(change)

    def invalidate(self):
        self.invalidated += 1

    def state_dict(self):
        return {"heard": len(self.changes)}

    def load_state_dict(self, state):
        self.loaded = state["heard"]


def build(num_items=N, **settings):
    defaults = {"landmarks": L, "every": 3, "sample": 20, "full_below": 0.0}
    return LowRankCache(num_items, D, **defaults | settings)


def look(store, encode, ids, size=16):
    """Write as the training step does, some at a time."""
    for some in ids.split(size):
        store.write(some, encode(some))


def begin_refresh(store):
    """The plan of this step, which is carried out from here on."""
    planned = store.plan()
    store.commit()
    return planned


def steps(store, encode, count):
    for _ in range(count):
        encode.move()
        look(store, encode, begin_refresh(store))
        store.step()


def filled(encode=None, **settings):
    store = build(**settings)
    look(store, encode or Encoder(), store.missing())
    return store


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_items", [37, 200])
def test_landmarks_that_span_everything_obey_the_laws_of_every_store(num_items, dtype):
    check_store(lambda: LowRankCache(num_items, 3, full_below=0.0, dtype=dtype), 0.0)


def test_it_is_a_store_of_coordinates():
    store = filled()
    assert isinstance(store, Store)
    z = store.rows(EVERYTHING)
    assert z.shape == (N, L + 1)
    assert (z[:, -1] == 1).all()
    assert torch.equal(torch.cat([block for _, block in store.chunks(7)]), z)
    queries = torch.randn(4, D)
    scores = project_queries(store, queries) @ project_items(store, z).T
    torch.testing.assert_close(scores, queries @ embeddings(store, EVERYTHING).T)


def test_landmarks_come_first_and_the_others_are_projected_on_their_span():
    store, encode = build(), Encoder()
    order = store.missing()
    assert order.sort().values.equal(EVERYTHING)
    landmarks = order[:L]
    store.write(order[:3], encode(order[:3]))
    store.write(order[9:], encode(order[9:]))
    assert not store.valid.any(), "others wait until every landmark is known"
    assert store.missing()[:2].equal(landmarks[3:].sort().values)
    store.write(order[3:9], encode(order[3:9]))
    assert store.valid.nonzero().squeeze(1).equal(order[:9].sort().values)
    look(store, encode, store.missing())
    assert store.valid.all()
    torch.testing.assert_close(embeddings(store, landmarks), encode(landmarks))
    fresh = encode(EVERYTHING)
    basis = torch.linalg.qr(encode(landmarks).T).Q
    torch.testing.assert_close(embeddings(store, EVERYTHING), fresh @ basis @ basis.T)
    others = order[L:]
    kept, count = store.table.kept.sum(dim=0).tolist()
    wanted = torch.cosine_similarity(embeddings(store, others), fresh[others]).mean()
    assert count == N - L
    assert kept / count == pytest.approx(float(wanted), abs=1e-6)


def test_rows_before_any_landmark_are_zero_and_not_valid():
    store = build()
    assert not store.rows(EVERYTHING)[:, :-1].any()
    assert not store.valid.any()
    assert len(store.plan()) == N


@pytest.mark.parametrize("kind", ["all identical", "two alike", "fewer items than landmarks"])
def test_landmarks_of_low_rank_give_fewer_columns(kind):
    rows = {
        "all identical": torch.ones(N, D),
        "two alike": torch.eye(D)[:2].repeat(N // 2, 1),
        "fewer items than landmarks": torch.randn(3, D),
    }[kind]
    store = LowRankCache(len(rows), D, landmarks=40, every=1, sample=20)
    for _ in range(3):
        look(store, lambda ids: rows[ids], begin_refresh(store))
        store.step()
    assert store.rows(store.ids(torch.arange(2))).shape[1] == torch.linalg.matrix_rank(rows) + 1
    torch.testing.assert_close(
        embeddings(store, torch.arange(len(rows))), rows, atol=1e-5, rtol=1e-5
    )


def test_a_sample_is_due_every_so_many_steps_and_teaches_at_the_tick():
    encode = Encoder()
    store = filled(encode)
    counts = []
    for _ in range(9):
        planned = begin_refresh(store)
        assert len(planned.unique()) == len(planned)
        counts.append(len(planned))
        look(store, encode, planned[:7])
        assert store.plan().equal(planned[7:]), "asked again, it names the rest"
        look(store, encode, planned[7:])
        store.step()
    assert counts == [20, 0, 20, 0, 0, 20, 0, 0, 20], "right after the fill, then every three"
    assert store.fits == 4


@pytest.mark.parametrize("name", ["anchored", "compose", "corrector"])
def test_after_a_refresh_rows_look_as_they_do_today(name):
    """Held against a store that stays as it was."""
    found = {}
    for each in (name, "identity"):
        encode = Encoder(speed=0.05)
        store = filled(encode, reencoder=REENCODERS[each](), sample=60, every=6)
        steps(store, encode, 6)
        seen = torch.cosine_similarity(embeddings(store, EVERYTHING), encode(EVERYTHING))
        found[each] = float(seen.mean())
        assert store.cosine == pytest.approx(found[each], abs=0.1)
    assert found[name] > found["identity"] + 0.05


def test_anchored_coordinates_stay_and_composed_ones_move_to_the_same_rows():
    rows, coordinates = {}, {}
    for name in ("anchored", "compose"):
        encode, ear = Encoder(), Ear()
        store = filled(encode, reencoder=REENCODERS[name](), dtype=torch.float64)
        store.observe(ear)
        before = store.rows(EVERYTHING)
        steps(store, encode, 1)
        assert store.fits == 1
        rows[name], coordinates[name] = embeddings(store, EVERYTHING), store.rows(EVERYTHING)
        assert torch.equal(before, coordinates[name]) == (name == "anchored")
        assert ear.invalidated == (name == "compose")
        assert not ear.changes
    torch.testing.assert_close(rows["anchored"], rows["compose"], atol=1e-10, rtol=0)


def test_rows_that_a_step_encodes_are_passed_over():
    encode = Encoder()
    store = filled(encode)
    before = store.rows(EVERYTHING)
    encode.move()
    look(store, encode, EVERYTHING)
    assert torch.equal(store.rows(EVERYTHING), before)


@pytest.mark.parametrize("name", REENCODERS)
def test_a_low_cosine_brings_a_full_pass(name):
    encode, ear = Encoder(speed=0.0), Ear()
    store = filled(encode, reencoder=REENCODERS[name](), full_below=0.95)
    store.observe(ear)
    steps(store, encode, 6)
    assert not store.refresh.full_due, "nothing moved: the map still holds"
    noise = torch.Generator().manual_seed(8)
    encode.rows = torch.randn(N, D, generator=noise)  # nothing to be learned from the old ones
    steps(store, encode, 3)
    assert store.cosine < 0.6
    planned, invalidated = begin_refresh(store), ear.invalidated
    assert planned.sort().values.equal(EVERYTHING)
    assert not store.valid.any(), "old coordinates are never mixed with new ones"
    look(store, encode, planned)
    store.step()
    assert store.valid.all()
    assert ear.invalidated == invalidated + 1 >= 2, (
        "at the start of the pass, and with the new basis"
    )
    landmarks, fresh = planned[:L], encode(EVERYTHING)
    basis = torch.linalg.qr(encode(landmarks).T).Q
    torch.testing.assert_close(
        embeddings(store, EVERYTHING), fresh @ basis @ basis.T, atol=1e-5, rtol=0
    )


def test_what_projection_loses_is_no_reason_for_a_full_pass():
    """Five landmarks of wide noise keep a cosine of some 0.7: passes would never end."""
    encode = Encoder(speed=0.0)
    encode.rows = torch.randn(N, D, generator=torch.Generator().manual_seed(8))
    store = filled(encode, full_below=0.9, sample=60)
    steps(store, encode, 9)
    assert store.cosine < 0.8
    assert not store.refresh.full_due


def snapshot(store):
    """Its state, as a checkpoint's two files would give it back."""
    tree, tensors = pack(copy.deepcopy(store.state_dict()))
    return unpack(json.loads(json.dumps(tree)), tensors)


def as_tensors(state):
    """All that is in nested state, in order."""
    if isinstance(state, dict):
        return [leaf for key in state for leaf in as_tensors(state[key])]
    return [state if isinstance(state, torch.Tensor) else torch.tensor(float(state or 0))]


def assert_same(one, other):
    pairs = zip(as_tensors(one.state_dict()), as_tensors(other.state_dict()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", fast(REENCODERS, "anchored", "compose", "identity"))
@pytest.mark.parametrize("cut", ["landmarks", "fill", "steps", "refresh", "due pass", "full pass"])
def test_a_resumed_store_is_one_that_never_stopped(name, cut):
    def fresh_store(seed=0):
        return build(reencoder=REENCODERS[name](), seed=seed)

    store, encode = fresh_store(), Encoder()
    if cut == "landmarks":
        look(store, encode, store.missing()[:3])
    elif cut == "fill":
        look(store, encode, store.missing()[:30])
    else:
        look(store, encode, store.missing())
        steps(store, encode, {"refresh": 5}.get(cut, 4))
    if cut == "refresh":
        encode.move()
        look(store, encode, begin_refresh(store)[:11])
    if cut in ("due pass", "full pass"):
        store.refresh.full_due = True
    if cut == "full pass":
        look(store, encode, begin_refresh(store)[:20])
    resumed = fresh_store(seed=99)
    resumed.load_state_dict(snapshot(store))
    assert_same(store, resumed)
    for each in (store, resumed):
        steps(each, copy.deepcopy(encode), 7)
        assert each.valid.all()
        assert each.fits
    assert_same(store, resumed)
    assert torch.equal(embeddings(store, EVERYTHING), embeddings(resumed, EVERYTHING))


def test_an_item_that_comes_later_gets_coordinates_that_look_like_it_today():
    encode, ear = Encoder(speed=0.05), Ear()
    store, late = build(landmarks=D - 1, sample=60), torch.tensor([3, 40])
    store.remove(late)
    look(store, encode, store.missing())
    store.observe(ear)
    steps(store, encode, 6)
    assert not store.valid[late].any(), "removed items are not written"
    assert not ear.changes
    store.add(late)
    assert begin_refresh(store)[:2].equal(late)
    look(store, encode, late)
    (change,) = ear.changes
    assert change.slots.equal(late)
    assert not change.was_valid.any()
    assert change.is_valid.all()
    assert torch.equal(change.new, store.rows(late))
    seen = torch.cosine_similarity(embeddings(store, late), encode(late))
    assert seen.min() > 0.98
    as_if_old = torch.cosine_similarity(
        store.reencoder.full(torch.cat([encode(late) @ store.basis, torch.ones(2, 1)], 1)),
        encode(late),
    )
    assert (seen > as_if_old).all()


def test_removed_items_are_told_and_never_asked_for_again():
    encode, ear, gone = Encoder(), Ear(), torch.tensor([0, 7, 59])
    store = filled(encode)
    store.observe(ear)
    store.remove(gone)
    (change,) = ear.changes
    assert change.was_valid.all()
    assert not change.is_valid.any()
    assert torch.equal(change.old, store.rows(gone))
    for _ in range(6):
        planned = begin_refresh(store)
        assert not torch.isin(planned, gone).any()
        look(store, encode, planned)
        look(store, encode, EVERYTHING)
        store.step()
    assert not store.valid[gone].any()
    assert not len(store.missing())
    store.refresh.full_due = True
    left = EVERYTHING[store.valid.new_ones(N).index_fill(0, gone, False)]
    assert store.plan().sort().values.equal(left)


def test_removal_in_the_middle_of_a_fill_or_a_refresh():
    store, encode = build(), Encoder()
    first = store.missing()[:2]
    look(store, encode, first)
    store.remove(first)
    assert not torch.isin(store.missing(), first).any()
    look(store, encode, store.missing())
    assert len(store.missing()) == 0
    assert store.table.rank == L
    steps(store, encode, 2)
    planned = begin_refresh(store)
    look(store, encode, planned[:5])
    store.remove(planned[3:7])
    assert store.plan().equal(planned[7:])
    look(store, encode, store.plan())
    store.step()
    assert store.fits == 2


def test_too_few_items_left():
    store = build()
    with pytest.raises(nc.InputError, match="at least 2 items left"):
        store.remove(EVERYTHING[1:])
    assert len(store.missing()) == N


@pytest.mark.parametrize("when", ["before the fill", "after refreshes"])
@pytest.mark.parametrize("few", [4, 40])
def test_a_corpus_that_grew_by_half_between_two_runs(when, few):
    many = few + few // 2
    encode, old = Encoder(many), build(few)
    old.observe(Ear())
    if when == "after refreshes":
        look(old, encode, old.missing())
        steps(old, encode, 6)
    ear, grown = Ear(), build(many)
    grown.observe(ear)
    grown.load_state_dict(snapshot(old))
    assert ear.invalidated == 1, "an index of fewer items starts anew"
    if when == "after refreshes":
        assert grown.missing().equal(torch.arange(few, many))
        assert torch.equal(embeddings(grown, torch.arange(few)), embeddings(old, torch.arange(few)))
    look(grown, encode, grown.missing())
    steps(grown, encode, 6)
    assert grown.valid.all()
    seen = torch.cosine_similarity(
        embeddings(grown, torch.arange(many)), encode(torch.arange(many))
    )
    assert seen.mean() > 0.7
    with pytest.raises(nc.InputError, match=f"at most {few} items"):
        old.load_state_dict(grown.state_dict())


def test_a_state_of_other_settings_is_refused():
    state = filled().state_dict()
    for other in (build(landmarks=L + 1), LowRankCache(N, D + 1, landmarks=L)):
        with pytest.raises(nc.InputError, match="build the store as it was"):
            other.load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("name", ["anchored", "compose"])
def test_a_file_holds_what_memory_would(tmp_path, dtype, name):
    stores = []
    for path in (None, tmp_path / "coordinates"):
        encode = Encoder()
        store = filled(encode, path=path, dtype=dtype, reencoder=REENCODERS[name]())
        steps(store, encode, 4)
        stores.append(store)
    assert_same(*stores)
    size = N * (L * dtype.itemsize + 4 * (dtype == torch.int8))
    assert (tmp_path / "coordinates").stat().st_size >= PAGE + size
    assert stores[1].held.coordinates == size


def test_int8_coordinates_are_the_float_ones_rounded(tmp_path):
    """A quarter of the memory; also once the basis has moved; saved and loaded as they are."""
    exact, coarse = (filled(Encoder(), dtype=dtype) for dtype in (torch.float32, torch.int8))
    wanted, found = exact.rows(EVERYTHING), coarse.rows(EVERYTHING)
    bound = wanted[:, :-1].abs().amax(dim=1, keepdim=True) / 254
    off = (found - wanted)[:, :-1].abs()
    assert bool((off <= 1.001 * bound).all())
    assert float(off.max()) > 0
    assert torch.equal(found[:, -1], torch.ones(N))
    move = torch.eye(wanted.shape[1])
    move[0, 0] = -2.0
    coarse.table.move(move)
    torch.testing.assert_close(
        coarse.rows(EVERYTHING), found @ move, atol=2 * float(bound.max()), rtol=0
    )
    again = build(dtype=torch.int8, path=tmp_path / "coordinates")
    again.load_state_dict(coarse.state_dict())
    assert torch.equal(again.rows(EVERYTHING), coarse.rows(EVERYTHING))
    with pytest.raises(nc.InputError, match="state of coordinates without scales"):
        build().load_state_dict(coarse.state_dict())


def test_a_file_left_by_a_crash_is_filled_or_loaded_anew(tmp_path):
    path, encode = tmp_path / "coordinates", Encoder()
    store = filled(encode, path=path)
    saved, wanted = snapshot(store), embeddings(store, EVERYTHING)
    with path.open("r+b") as file:
        file.seek(PAGE)
        file.write(bytes([255]) * 777)  # killed while it wrote
    left = build(path=path)
    assert not left.valid.any(), "a file is no promise"
    left.load_state_dict(saved)
    assert torch.equal(embeddings(left, EVERYTHING), wanted)
    with path.open("r+b") as file:
        file.seek(PAGE)
        file.write(bytes([255]) * (path.stat().st_size - PAGE))
    again = build(path=path)
    assert not again.rows(EVERYTHING)[:, :-1].any(), "nothing of it is ever read"
    look(again, encode, again.missing())
    assert torch.equal(embeddings(again, EVERYTHING), wanted)


def test_a_file_of_another_size_and_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "precious"
    path.write_bytes(b"not yours")
    with pytest.raises(nc.InputError, match=r"a file of 8192 bytes that begins.*got 9 bytes at"):
        build(path=path)
    assert path.read_bytes() == b"not yours"
    with pytest.raises(nc.InputError, match="a folder with room"):
        build(path=tmp_path / "no" / "such")


def test_a_table_moves_to_fewer_columns():
    table = CoordinateTable(Shard.whole(4), 3, torch.float64, torch.device("cpu"), None)
    table.write(torch.arange(4), torch.randn(4, 4).double())
    before, move = table.rows(torch.arange(4)), torch.randn(4, 3).double()
    move[:, -1] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    table.move(move)
    torch.testing.assert_close(table.rows(torch.arange(4)), before @ move)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_refused_with_their_ids(bad):
    encode = Encoder()
    store = filled(encode)
    before = store.rows(EVERYTHING)
    rows = encode(torch.tensor([5, 41]))
    rows[1, 2] = bad
    with pytest.raises(nc.InputError, match=r"finite.*ids \[41\]"):
        store.write(torch.tensor([5, 41]), rows)
    assert torch.equal(store.rows(EVERYTHING), before)


def test_coordinates_too_large_for_their_dtype_are_refused():
    store = build(dtype=torch.float16)
    with pytest.raises(nc.InputError, match="finite"):
        look(store, lambda ids: 1e6 * torch.eye(D).repeat(5, 1)[ids], store.missing())


def test_what_is_held_is_counted():
    store = filled(reencoder=Identity())
    rows, map = max(L, 20), (L + 1) * D
    assert store.held.rows == rows
    assert store.held.on_device == 4 * (rows * D + D * L + map) + 2 * N
    assert store.held.coordinates == 4 * N * L


def test_it_holds_no_gradient():
    store, rows = build(), torch.randn(N, D, requires_grad=True)
    store.write(EVERYTHING, rows)
    assert not embeddings(store, EVERYTHING).requires_grad
    assert not project_queries(store, torch.randn(2, D)).requires_grad


@pytest.mark.parametrize(
    "bad",
    [{"num_items": 1}, {"landmarks": 0}, {"every": 0}, {"sample": 9}, {"full_below": 1.5}],
)
def test_bad_settings(bad):
    with pytest.raises(nc.InputError, match="Expected"):
        build(**bad)


def test_rows_of_other_dimensions_are_refused():
    with pytest.raises(nc.InputError, match="12 dimensions"):
        build().write(EVERYTHING, torch.zeros(N, D + 1))


def test_loading_its_own_state_changes_nothing():
    store, encode = filled(), Encoder()
    store.remove(torch.tensor([3]))
    steps(store, encode, 4)
    before = copy.deepcopy(store.state_dict())
    store.load_state_dict(store.state_dict())
    for now, was in zip(as_tensors(store.state_dict()), as_tensors(before), strict=True):
        assert torch.equal(now, was)


def test_a_second_store_at_a_path_leaves_the_first_alone(tmp_path):
    first = filled(path=tmp_path / "coordinates")
    state, norm = first.state_dict(), first.table.stored.norm()
    second = build(path=tmp_path / "coordinates")
    assert first.table.stored.norm() == norm > 0
    second.load_state_dict(state)
    assert torch.equal(second.rows(EVERYTHING), first.rows(EVERYTHING))


@pytest.mark.parametrize("ids", [[-1], [N], [2, N + 5]])
def test_items_that_are_not_there_cannot_be_removed(ids):
    store = build()
    with pytest.raises(nc.InputError, match=f"ids between 0 and {N - 1}"):
        store.remove(torch.tensor(ids))
    assert not store.table.removed.any()


def test_a_refresh_without_a_cosine_brings_a_full_pass():
    store = filled(full_below=0.5)
    store.reencoder.fit = lambda stale, fresh: float("nan")
    steps(store, Encoder(), 1)
    assert store.refresh.full_due


@pytest.mark.parametrize("sampler", [nc.quadratic, nc.rf_softmax])
def test_indexes_over_whole_rows_are_refused(sampler):
    with pytest.raises(nc.InputError, match=r"whole embeddings.*LowRankCache.*DynamicIndex"):
        sampler(filled(), 4)
