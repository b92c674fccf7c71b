"""What is predicted: the next film of a user, the next word of a text."""

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.datasets.movielens import write_movielens
from benchmarks.datasets.next_word import open_next_word, write_brown
from benchmarks.equal_footing.sequences.problem import Asked, NextClass
from benchmarks.retrieval import kept
from examples.language_model import stretches
from examples.next_item import by_user, windows
from negcache.exclusion import Exclusion
from negcache.run.data import open_interactions
from negcache.run.data.judgements import Judgements
from negcache.shapes import Int, Tensor

FILMS, WORDS, VOCABULARY = 50, 64, 50_000
"""Length of a sequence of films, of one of words; words that have a number."""


def movielens() -> NextClass:
    """MovieLens 100K: leave-last-out; what a user took before is not asked for again."""
    data = open_interactions(kept("movielens", write_movielens) / "log.parquet")
    order = data.item_counts.argsort(descending=True, stable=True).argsort()  # rank of each
    parts = {
        split: by_user(Judgements(of.queries, order[of.items], of.grades))
        for split, of in data.splits.items()
    }
    before = {"train": {}, "dev": parts["train"], "test": {}}
    for user, wanted in parts["train"].items():
        before["train"][user] = wanted[:-1]
        before["test"][user] = torch.cat([wanted, parts["dev"].get(user, wanted[:0])])
    ends = {user: wanted[-1:] for user, wanted in parts["train"].items()}
    wanted = parts | {"train": ends}
    asked = {split: _after(before[split], wanted[split]) for split in before}
    return NextClass(
        windows(parts["train"].values(), FILMS), 1 + len(data.items), asked, dropout=0.2, tied=True
    )


def _after(before: dict[int, Tensor], wanted: dict[int, Tensor]) -> Asked:
    """Of every user who has a past."""
    users = [user for user in wanted if len(before[user])]
    pasts = [before[user] for user in users]
    rows = torch.arange(len(users)).repeat_interleave(torch.tensor([len(past) for past in pasts]))
    barred = Exclusion.from_pairs(rows, torch.cat(pasts), len(users))
    seen = pad_sequence([past[-FILMS:] for past in pasts], batch_first=True)
    return Asked(seen, torch.cat([wanted[user][:1] for user in users]), barred)


def brown() -> NextClass:
    """The Brown corpus: the 65th word of stretches of 64; an unknown one is not asked for."""
    data = open_next_word(kept("brown-50k", write_brown, vocabulary=VOCABULARY))
    parts = {split: _rows(getattr(data, split)) for split in ("train", "dev", "test")}
    return NextClass(
        parts["train"], VOCABULARY, {s: _last(r) for s, r in parts.items()}, dropout=0.0, tied=False
    )


def _rows(words: np.ndarray) -> Int[Tensor, "n T1"]:
    return stretches(torch.from_numpy(words.astype(np.int64)), WORDS)


def _last(rows: Int[Tensor, "n T1"]) -> Asked:
    rows = rows[(rows[:, -2:] > 0).all(dim=1)]
    nothing = torch.empty(0, dtype=torch.int64)
    return Asked(rows[:, :-1], rows[:, -1], Exclusion.from_pairs(nothing, nothing, len(rows)))


TASKS = {"movielens": movielens, "brown": brown}
