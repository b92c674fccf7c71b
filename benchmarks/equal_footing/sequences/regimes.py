"""The tasks of sequences, and the model they are trained with."""

from benchmarks.equal_footing.regime import Regime
from benchmarks.equal_footing.sequences import ours, peers
from benchmarks.equal_footing.sequences.floor import popular
from benchmarks.equal_footing.sequences.runner import SequenceRunner
from benchmarks.equal_footing.sequences.tasks import TASKS

REGIMES = {
    "sequences": Regime(
        model="causal transformer",
        problem=lambda name: TASKS[name](),
        rates=(3e-4, 1e-3, 3e-3),
        runner=SequenceRunner,
        ours=ours.METHODS,
        peers=peers.METHODS,
        floor=("popularity", popular),
        batch=16,
    )
}
