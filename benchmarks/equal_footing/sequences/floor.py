"""What came next most often, which nothing is trained for."""

from benchmarks.equal_footing.sequences.problem import NextClass
from benchmarks.equal_footing.sequences.runner import ranked, some
from negcache.run.evaluation import Evaluation


def popular(problem: NextClass, queries: int) -> Evaluation:
    """Of so many of test, the same for all but what is barred."""
    asked = some(problem.asked["test"], queries)
    return ranked(problem.counts.float().expand(len(asked.wanted), -1), asked)
