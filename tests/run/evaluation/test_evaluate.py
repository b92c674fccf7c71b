"""Rankings, measures and run files of a task small enough to know the answers."""

import math
import weakref

import ir_measures
import pytest
import torch
from torch import nn

from negcache import DotScore, InputError
from negcache.run.data import Judgements
from negcache.run.evaluation import Side, encode_all, evaluate, write_run
from negcache.run.evaluation.metrics import Ranking, measure

score = DotScore(temperature=1.0)


class Names:
    def __init__(self, letter):
        self.letter = letter

    def ids(self, rows):
        return [f"{self.letter}{row}" for row in rows.tolist()]


class Dropping(nn.Module):
    """A tower that would show it if dropout were left on."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.5)

    def forward(self, rows):
        return self.drop(rows) * self.scale


def circle(num):
    angles = torch.arange(num) * (2 * torch.pi / num)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def judged(*triples):
    return Judgements(*(torch.tensor(column) for column in zip(*triples, strict=True)))


def find(judgements):
    side = Side(Dropping(), circle(12), Names("q"))
    return evaluate(side, Side(Dropping(), circle(12), Names("d")), score, judgements)


def test_known_answers():
    # query i lies on item i: it ranks i first, then its neighbours, the smaller id first
    result = find(judged((0, 0, 1), (3, 2, 1), (5, 6, 2), (5, 5, 0)))
    assert result.per_query["mrr10"] == {"q0": 1.0, "q3": 0.5, "q5": pytest.approx(1 / 3)}
    assert result.means["r1"] == pytest.approx(1 / 3)
    assert result.means["r10"] == 1.0
    assert result.per_query["ndcg10"]["q5"] == pytest.approx(0.5)  # 2 / log2(1 + 3), ideal 2
    assert result.ranking.item_names[1][:3] == ["d3", "d2", "d4"]


def test_grades_count_as_gain():
    result = find(judged((3, 3, 1), (3, 2, 2)))  # found 1, 2; ideal 2, 1
    gain = (1 + 2 / 1.5849625) / (2 + 1 / 1.5849625)
    assert result.means["ndcg10"] == pytest.approx(gain)


def test_queries_without_a_relevant_item_are_not_counted():
    assert find(judged((0, 0, 1), (4, 4, 0))).means["mrr10"] == 1.0
    with pytest.raises(InputError, match="relevant"):
        find(judged((4, 4, 0)))


@pytest.mark.parametrize("right", ["a", "c", "e"])
def test_ties_are_broken_by_the_written_ranks(right):
    """Whatever library computes a measure: equal scores come in the order that is written."""
    ranking = Ranking(["q"], [["c", "a", "e"]], torch.ones(1, 3))
    rank = "cae".index(right) + 1
    values = measure(ranking, ["q"], [right], torch.tensor([1]))
    assert values["mrr10"]["q"] == 1 / rank
    assert values["r1"]["q"] == (rank == 1)
    assert values["ndcg10"]["q"] == pytest.approx(1 / math.log2(1 + rank))


def test_run_file_reads_back(tmp_path):
    result = find(judged((0, 0, 1), (3, 2, 1)))
    write_run(tmp_path / "test.trec", result.ranking)
    back = list(ir_measures.read_trec_run(str(tmp_path / "test.trec")))
    assert [(d.query_id, d.doc_id, d.score) for d in back] == [
        (query, item, value) for query, item, _, value in result.ranking.entries()
    ]


def test_a_name_with_a_blank_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"white space.*'a b'"):
        write_run(tmp_path / "run", Ranking(["q"], [["a b"]], torch.ones(1, 1)))


def test_encoding_leaves_the_mode_and_equals_one_pass():
    tower, features = Dropping().train(), circle(50)
    rows = encode_all(tower, features, score, chunk=7)
    assert tower.training
    assert not rows.requires_grad
    assert torch.equal(rows, score.embed(features))


def test_nan_embeddings_are_named():
    features = circle(50)
    features[[31, 44]] = float("nan")
    with pytest.raises(InputError, match=r"NaN or inf.*\[31, 44\]"):
        encode_all(Dropping(), features, score)


class Watched(DotScore):
    """A score that knows how many embedded tensors are alive."""

    def __init__(self):
        super().__init__(1.0)
        self.made, self.most = [], 0

    def embed(self, rows):
        self.made = [one for one in self.made if one() is not None]
        self.most = max(self.most, len(self.made))
        found = super().embed(rows)
        self.made.append(weakref.ref(found))
        return found


def test_a_search_keeps_no_item():
    """The queries, a chunk, and the one that is made next."""
    score = Watched()
    queries, items = (Side(Dropping(), circle(20_000), Names(letter)) for letter in "qd")
    evaluate(queries, items, score, judged((0, 0, 1), (3, 2, 1)))
    assert score.most <= 3
