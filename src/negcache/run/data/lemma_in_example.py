"""Which lemma of an entry stands in its example sentence."""

import re
from itertools import takewhile
from typing import Literal, NamedTuple

WORD = re.compile(r"[^\W_]+")
LIKENESS = 0.5  # an inflected form shares at least this part of the lemma's letters


class Found(NamedTuple):
    """A lemma and how it was found: as it is written, by its beginning, or not at all."""

    lemma: str
    how: Literal["exact", "inflected", "absent"]


def lemma_in_example(lemmas: list[str], example: str) -> Found:
    """The lemma that an example sentence is about; the same answer on every machine.

    1. exact: a lemma whose words stand in the example side by side, whatever their case; of
       several the longest, then the first listed.
    2. inflected: each word of a lemma takes the longest beginning it shares with any word of the
       example; the lemma with the largest share of its letters so covered wins, if that is at
       least one half ("chip away" shares all its letters with "chipping away").
    3. absent: the first lemma (irregular forms such as "gave", or a synonym in its place).
    """
    words = WORD.findall(example.lower())
    spelled = [WORD.findall(lemma.lower()) for lemma in lemmas]
    sentence = f" {' '.join(words)} "
    exact = [i for i, parts in enumerate(spelled) if f" {' '.join(parts)} " in sentence]
    if exact:
        return Found(lemmas[max(exact, key=lambda i: (len(lemmas[i]), -i))], "exact")
    shares = [_covered(parts, words) for parts in spelled]
    best = max(range(len(lemmas)), key=lambda i: (shares[i], -i))
    if shares[best] >= LIKENESS:
        return Found(lemmas[best], "inflected")
    return Found(lemmas[0], "absent")


def _covered(parts: list[str], words: list[str]) -> float:
    letters = sum(len(part) for part in parts)
    shared = sum(max((_shared(part, word) for word in words), default=0) for part in parts)
    return shared / max(letters, 1)


def _shared(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
