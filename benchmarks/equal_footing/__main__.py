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

A regime is a folder, with ours in ``ours.py`` and peers in ``peers.py``. ``exact`` encodes all
items at every step: under the transformer it is left out where there are more than 50,000, it would
make a step a minute.

``--regime sequences``: a small causal transformer that says what comes next among classes that have
a vector each: ``movielens`` (SASRec; leave-last-out, the vectors are those that it reads) and
``brown`` (50,000 words, vectors of their own, with a bias that begins at the log of each word's
share). 16 sequences a step. Ours is ``SoftmaxHead``; peers are torch's ``linear_cross_entropy`` and
``AdaptiveLogSoftmaxWithLoss``, and the losses of RePlay; the floor is popularity. "Encoded" are
class vectors that a step scores with gradient.

``ratio``: MRR@10 of ``auto`` (of sequences: of the head as it comes) over the best peer's, and the
interval of the difference, which includes the spread of seeds. Every method's items encoded, with
gradient or without, stand beside.
Resumable per run; ``--table`` prints what the results say so far, as Markdown. Needs
pytorch-metric-learning, bm25s and datasets.
"""

import argparse

import torch

from benchmarks.equal_footing.regimes import REGIMES
from benchmarks.equal_footing.rounds import NAME, Place, compared
from benchmarks.equal_footing.table import page
from benchmarks.equal_footing.verdict import places, verdict, word
from benchmarks.record import conclude


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regime", choices=list(REGIMES), default="static")
    parser.add_argument("--tasks", nargs="+", default=["go", "debian"])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--methods", nargs="+", help="of the regime's; by default all of them")
    parser.add_argument("--table", action="store_true", help="print the results so far")
    options = parser.parse_args()
    if options.table:
        print(page())
        return
    methods = REGIMES[options.regime].methods
    if unknown := set(options.methods or ()) - set(methods):
        parser.error(f"expected some of {', '.join(methods)}; got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for task in options.tasks:
        compared(Place(options.regime, task, options.seconds), options.methods or methods)
    conclude(NAME, {word(place): verdict(place) for place in places()})


if __name__ == "__main__":
    main()
