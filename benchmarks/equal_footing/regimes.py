"""Every regime by its name."""

from benchmarks.equal_footing.regime import Regime
from benchmarks.equal_footing.sequences import regimes as sequences
from benchmarks.equal_footing.texts import regimes as texts

REGIMES: dict[str, Regime] = texts.REGIMES | sequences.REGIMES
