"""Bytes that one of several processes sends in an optimizer step: they do not grow with the items.

Counted as rings send them: to tell all what each has a share of costs (1 - 1/K) of the whole, to
add up over all twice as much.
"""

from typing import NamedTuple

from negcache.run.cli.planning.planned_run import PlannedRun

FLOAT, ID = 4, 8


class Processes(NamedTuple):
    """K processes that train on batches of B queries in all, in D dimensions."""

    number: int
    queries: int
    dim: int

    def told(self, bytes_of_all: float | int) -> int:
        """To let all have what each has a share of."""
        return round((1 - 1 / self.number) * bytes_of_all)

    def added_up(self, bytes_of_all: float | int) -> int:
        """To add up over all, or to let all have what one has."""
        return 2 * self.told(bytes_of_all)

    def requests(self, excluded: float | int = 1) -> int:
        """Embeddings, positives, and what may not be drawn: number and ids.

        Args:
            excluded: items that a query may not draw, its positive among them.
        """
        return self.told(self.queries * (FLOAT * self.dim + ID + ID + ID * excluded))

    def masses(self, rounds: int = 1) -> int:
        """Of the rows of each process, for each query; once a draw where a draw changes them."""
        return self.told(rounds * FLOAT * self.queries * self.number)

    def own_draws(self, each: int) -> int:
        """``each`` draws of each query: items and log q, known to the one that drew."""
        return self.added_up((ID + FLOAT) * self.queries * each)

    def chances(self, encoded: int) -> int:
        """How often each item that all queries share was to be expected."""
        return self.added_up(FLOAT * encoded)

    def embeddings(self, encoded: int) -> int:
        """Of the items that all encode together, and their gradients, brought home."""
        return 2 * self.told(FLOAT * self.dim * encoded)

    def gradients(self, trained: int) -> int:
        """Of so many numbers, as DDP adds them up."""
        return self.added_up(FLOAT * trained)


class Sent(NamedTuple):
    """Bytes by purpose; the methods of ``Processes`` say what each is."""

    requests: int = 0
    masses: int = 0
    draws: int = 0
    embeddings: int = 0
    gradients: int = 0


def sent_by(planned: PlannedRun) -> Sent:
    """What a process of a run sends in an optimizer step, at most."""
    config, trained = planned.config, planned.towers * planned.tower.trained
    every = Processes(planned.processes, config.batch_size, planned.tower.dim)
    gradients = every.gradients(trained + int(config.score.learn_temperature))
    if not planned.is_shared:
        return Sent(gradients=gradients)
    rounds = planned.each if config.sampler.name == "distinct" else 1
    once = Sent(
        requests=every.requests(),
        masses=every.masses(rounds) if planned.cost.keeps_cache else 0,
        draws=_draws(planned, every) if planned.cost.keeps_cache else 0,
        embeddings=every.embeddings(planned.encoded),
    )
    batches = config.accumulation
    return Sent(*(batches * each for each in once))._replace(gradients=gradients)


def _draws(planned: PlannedRun, every: Processes) -> int:
    keys, queries, drawn = planned.config.sampler, every.queries, planned.drawn
    if keys.name == "cached_rest":  # what stands for the rest; demand, what is chosen, its chances
        rest = every.added_up(FLOAT * queries * (every.dim + 1) + ID * queries)
        return rest + every.told(ID * drawn * every.number) + every.told(3 * ID * drawn)
    if keys.name == "head_tail":  # the best of each process
        best = every.told((ID + FLOAT) * every.number * queries * keys.head)
        return best + every.own_draws(keys.num_negatives)
    if keys.name == "mixture":  # the chance of each query and item; once more where it is pooled
        chances = (1 + int(planned.is_pooled)) * every.added_up(FLOAT * queries * drawn)
        return chances + every.own_draws(keys.num_negatives)
    return every.own_draws(planned.each) + (every.chances(drawn) if planned.is_pooled else 0)
