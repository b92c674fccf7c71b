"""Faults in the diagnosis of runs over streams."""

from tests.mutants.mutant import Mutant

LOSS = "tests/diagnosis/test_streams.py::"
RUN = "tests/run/cli/test_diagnose_streams.py::"

MUTANTS = [
    Mutant(
        "diagnosed stream: coverage of slots, not of items",
        "diagnosis/coverage.py",
        "return (slots >= 0) & store.valid[slots.clamp_min(0)]",
        "return store.valid[slots.clamp_min(0)]",
        f"{LOSS}test_coverage_is_the_mass_of_what_is_held",
    ),
    Mutant(
        "diagnosed stream: the items that came first are kept",
        "diagnosis/coverage.py",
        "held = (torch.isin(sample.ids, recent[:size]) for size in sizes)",
        "held = (torch.isin(sample.ids, recent[-size:]) for size in sizes)",
        f"{LOSS}test_what_a_larger_cache_would_hold_is_told",
    ),
    Mutant(
        "diagnosed stream: a larger cache is foretold from any items",
        "diagnosis/coverage.py",
        "if not bool(held_by(store, recent[: self.rows]).all()):",
        "if not bool(held_by(store, recent[: self.rows]).any()):",
        f"{LOSS}test_nothing_is_said_of_a_larger_cache_where_it_is_not_known",
    ),
    Mutant(
        "diagnosed stream: sampled items count once each",
        "diagnosis/coverage.py",
        "log_p[asks].exp().sum(dim=0) * sample.weight[some]",
        "log_p[asks].exp().sum(dim=0)",
        f"{LOSS}test_a_sample_of_a_stream_stands_for_it",
    ),
    Mutant(
        "diagnosed stream: items without features are looked for among the others",
        "diagnosis/diagnosing.py",
        "sample = sample.only(self.items.there(sample.ids))",
        "sample = sample",
        f"{LOSS}test_items_without_features_are_none",
    ),
    Mutant(
        "diagnosed stream: items of batches to come are read one by one",
        "diagnosis/diagnosing.py",
        "if self.beside.items is None or partners is None:",
        "if True:",
        f"{LOSS}test_items_of_batches_to_come_are_read_in_the_same_pass",
    ),
    Mutant(
        "diagnosed stream: weights of one cache are tested",
        "diagnosis/diagnosing.py",
        "found = replace(found, tells=False)",
        "found = replace(found, tells=True)",
        f"{LOSS}test_coverage_is_the_mass_of_what_is_held",
    ),
    Mutant(
        "diagnosed stream: items from no corpus are advised uniformly",
        "diagnosis/diagnosing.py",
        "count = self.num_items if self.beside.items is None else None",
        "count = self.num_items",
        f"{LOSS}test_a_cache_of_all_items_is_what_a_dense_cache_is",
    ),
    Mutant(
        "diagnosed stream: pairs that were trained on",
        "run/cli/diagnosing/streamed.py",
        "run.towers.query_tower, run.trainer.position",
        "run.towers.query_tower, 0",
        f"{RUN}test_a_run_over_streams_is_diagnosed_and_left_as_it_is",
    ),
    Mutant(
        "diagnosed stream: what came last is read the wrong way round",
        "run/cli/diagnosing/streamed.py",
        "torch.cat(came).flip(0)",
        "torch.cat(came)",
        f"{RUN}test_a_run_over_streams_is_diagnosed_and_left_as_it_is",
    ),
    Mutant(
        "diagnosed stream: the items of the pairs alone",
        "run/cli/diagnosing/streamed.py",
        "(source.items, source.pairs)",
        "(source.pairs,)",
        f"{RUN}test_a_run_over_streams_is_diagnosed_and_left_as_it_is",
    ),
    Mutant(
        "diagnosed stream: more rows are looked at a step than was said",
        "run/cli/diagnosing/keys.py",
        "keys.refresh * held.rows / advice.rows",
        "keys.refresh",
        f"{RUN}test_a_share_that_is_looked_at_is_named_with_the_size",
    ),
]
