"""On one footing, who is best? Ours, peers through their own interface, and BM25 as the floor.

    python -m benchmarks.equal_footing [--regime static] [--tasks go debian] [--seconds 30]
                                       [--methods auto mnrl exact]
    python -m benchmarks.equal_footing --table

The same tower (shared by both sides), Adam, batches of 128 (``cached_mnrl`` and
``auto`` may choose larger ones), seeds and texts for all; budgets in CPU
seconds on one thread, all of a method on its clock (fills, refresh, mining). Learning rate (of
three) and one more setting (of two) of each method are chosen on dev with six trials of
``rounds.TUNING`` of the time, seed 0; test is looked at once, under three seeds. The runs of a call
take turns. Tasks: ``go``, ``debian``, ``code``, ``cities``, ``wordnet-sense``; with many items a
query ``debian-deps`` (recommendation) and ``gene-terms`` (labels); and whatever else has a folder.

Ours in ``ours.py``, peers in ``peers.py`` and ``mining.py``. ``exact`` encodes all items at every
step: under the transformer it is left out where there are more than 50,000, it would make a step a
minute. A table of class vectors alone is what torch's ``AdaptiveLogSoftmaxWithLoss`` and the losses
of sequential recommenders train: they have no place where items are encoded.

``ratio``: MRR@10 of ``auto`` over the best peer's, and the interval of the difference, which
includes the spread of seeds. Every method's items encoded, with gradient or without, stand beside.
Resumable per run; ``--table`` prints what the results say so far, as Markdown. Needs
pytorch-metric-learning, bm25s and datasets.
"""

import argparse

import torch

from benchmarks.equal_footing.rounds import METHODS, NAME, Place, compared
from benchmarks.equal_footing.table import page
from benchmarks.equal_footing.tasks import REGIMES
from benchmarks.equal_footing.verdict import places, verdict, word
from benchmarks.record import conclude


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regime", choices=list(REGIMES), default="static")
    parser.add_argument("--tasks", nargs="+", default=["go", "debian"])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--table", action="store_true", help="print the results so far")
    options = parser.parse_args()
    if options.table:
        print(page())
        return
    torch.set_num_threads(1)
    for task in options.tasks:
        compared(Place(options.regime, task, options.seconds), options.methods)
    conclude(NAME, {word(place): verdict(place) for place in places()})


if __name__ == "__main__":
    main()
