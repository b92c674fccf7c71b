"""Faults of what reads and keeps rows: two stages, views, stores, refresh plans, observers."""

from tests.mutants.mutant import Mutant, laws

DISTINCT = "tests/samplers/test_distinct.py::"
PROPOSALS = "tests/ops/test_proposals.py::"
REFRESH = "tests/stores/test_refresh.py::"
SUBSET = "tests/stores/test_subset.py::"
TWO_STAGE = "tests/ops/test_two_stage.py::"

READ = [
    Mutant(
        "excluded items not translated to slots",
        "stores/reading.py",
        "return exclude if slots is exclude.ids else exclude.renumbered(slots)",
        "return exclude",
        laws("cached-half"),
    ),
    Mutant(
        "an exclusion in slot 0 is lost",
        "exclusion.py",
        "kept = numbers >= 0",
        "kept = numbers > 0",
        f"{SUBSET}test_a_positive_in_any_slot_is_excluded",
    ),
    Mutant(
        "unwritten rows in chunks",
        "ops/two_stage.py",
        "if not self.all_valid:",
        "if False:",
        laws("cached-gaps"),
    ),
    Mutant(
        "unwritten rows in gathered blocks",
        "ops/drawn_blocks.py",
        "    logits.masked_fill_(~_in_blocks(rows.valid, value=False)[blocks], -torch.inf)\n",
        "",
        laws("cached-large_gaps"),
    ),
    Mutant(
        "exclusions in gathered blocks",
        "ops/drawn_blocks.py",
        "    _mask_excluded(logits, rows.exclude, queries, blocks)\n    return",
        "    return",
        laws("cached-large"),
    ),
    Mutant(
        "a row taken away stays in its block",
        "ops/two_stage.py",
        "rows, blocks = rows.without(slots), slots[queries, columns] // BLOCK",
        "blocks = slots[queries, columns] // BLOCK",
        f"{DISTINCT}test_no_item_is_drawn_twice",
    ),
    Mutant(
        "a row taken away keeps its mass",
        "ops/two_stage.py",
        "log_masses[some, where] = torch",
        "unused = torch",
        laws("head_tail-fresh"),
    ),
    Mutant(
        "a row taken away keeps its score",
        "ops/two_stage.py",
        "return rows, Scan(log_masses, None)",
        "return rows, Scan(log_masses, scanned.logits)",
        f"{TWO_STAGE}test_taking_rows_away_forgets_the_scores_that_held_them",
    ),
    Mutant(
        "kept scores share their memory",
        "ops/two_stage.py",
        "torch.cat([each.clone() for _, each in masked_chunks(rows)], dim=1)",
        "torch.cat([each for _, each in masked_chunks(rows)], dim=1)",
        f"{TWO_STAGE}test_every_way_through_stage_two_draws_the_same",
    ),
    Mutant(
        "threads share the memory of their scores",
        "ops/two_stage.py",
        """        memory = masking.memory()
        return lambda piece""",
        """        memory = masking.shared = getattr(masking, "shared", masking.memory())
        return lambda piece""",
        "tests/ops/test_threads.py::test_draws_are_the_same_for_any_number_of_threads",
    ),
    Mutant(
        "pieces stand in the order in which they were done",
        "ops/threads.py",
        "[found[number] for number in range(len(found))]",
        "list(found.values())",
        "tests/ops/test_threads.py::test_a_thread_that_is_done_takes_the_next_piece",
    ),
    Mutant(
        "many scores are kept",
        "ops/two_stage.py",
        "if few and scores_all(per_query, rows.num_rows):",
        "if scores_all(per_query, rows.num_rows):",
        f"{TWO_STAGE}test_scores_are_kept_only_where_they_are_few",
    ),
    Mutant(
        "a walk scores a block's neighbour",
        "ops/drawn_blocks.py",
        "blocks[drawn] - first // BLOCK]",
        "(blocks[drawn] - first // BLOCK) * 0]",
        f"{TWO_STAGE}test_a_walk_scores_blocks_as_gathering_does",
    ),
    Mutant(
        "a walk goes through the rows for each query",
        "ops/drawn_blocks.py",
        "return draws * BLOCK >= num_rows",
        "return False",
        f"{TWO_STAGE}test_a_walk_reads_each_row_once",
    ),
    Mutant(
        "stage one is not told what stage two wants",
        "samplers/cached.py",
        "scanned = scan(rows, num_negatives)",
        "scanned = scan(rows)",
        "tests/samplers/test_passes.py::"
        "test_the_softmax_of_cached_scores_is_one_pass_over_the_rows",
    ),
    Mutant(
        "cumulative masses in float32",
        "ops/cumulative.py",
        "(log_masses - peak).double().exp_().cumsum_(dim=1)",
        "(log_masses - peak).double().exp_().cumsum_(dim=1).float().double()",
        f"{TWO_STAGE}test_small_masses_are_not_lost_beside_a_large_one",
    ),
    Mutant(
        "reshaped scores lose their shape in pairs",
        "score.py",
        "return self.reshape(self.score.paired(queries, items))",
        "return self.score.paired(queries, items)",
        laws("flat-large"),
    ),
]
"""Of the two stages of a draw."""

VIEWED = [
    Mutant(
        "a view's coverage without its store's",
        "samplers/cached.py",
        "coverage=inside.coverage * view.share",
        "coverage=view.share",
        laws("scored-half"),
    ),
    Mutant(
        "a store's coverage without its view's",
        "samplers/cached.py",
        "coverage=inside.coverage * view.share",
        "coverage=inside.coverage",
        laws("scored-fresh"),
    ),
    Mutant(
        "slots of a view given out as the store's",
        "samplers/cached.py",
        "return view.to_base(slots), log_q",
        "return slots, log_q",
        laws("scored-fresh"),
    ),
    Mutant(
        "blocks out of view have the first one's chance",
        "samplers/cached.py",
        "inside.log_prob(slots.clamp_min(0)).masked_fill(slots < 0, -torch.inf)",
        "inside.log_prob(slots.clamp_min(0))",
        laws("scored-fresh"),
    ),
    Mutant(
        "a view's validity by its own slots",
        "ops/views.py",
        "valid=rows.valid[base]",
        "valid=rows.valid[every]",
        laws("scored-gaps"),
    ),
    Mutant(
        "exclusions by the store's slots",
        "ops/views.py",
        "exclude = rows.exclude.renumbered(self.from_base(rows.exclude.ids))",
        "exclude = rows.exclude",
        laws("scored-drifted"),
    ),
    Mutant(
        "blocks that a view lacks",
        "ops/views.py",
        "torch.full((_num_blocks(self.num_base),), -1",
        "torch.full((_num_blocks(self.num_base),), 0",
        laws("scored-fresh"),
    ),
    Mutant(
        "from the store's slots to the block alone",
        "ops/views.py",
        "torch.where(block >= 0, block * BLOCK + slots % BLOCK, -1)",
        "torch.where(block >= 0, block * BLOCK, -1)",
        f"{PROPOSALS}test_every_block_is_scored_with_the_same_chance",
    ),
    Mutant(
        "to the store's slots of the first block",
        "ops/views.py",
        "return self.blocks[slots // BLOCK] * BLOCK + slots % BLOCK",
        "return self.blocks[0] * BLOCK + slots",
        f"{PROPOSALS}test_every_block_is_scored_with_the_same_chance",
    ),
    Mutant(
        "the short last block of a view",
        "ops/views.py",
        "whole - max(0, last - self.num_base)",
        "whole",
        laws("scored-large"),
    ),
]
"""Of a view of some blocks."""

KEPT = [
    Mutant(
        "membership by score",
        "stores/subset.py",
        "self.table.write(slots[kept], rows[kept], self.clock)",
        "self.table.write(slots[kept], rows[kept], self.clock)\n"
        "            self.entered[slots[kept]] = self.clock",
        f"{SUBSET}test_rows_leave_in_the_order_they_entered_whatever_is_written",
    ),
    Mutant(
        "rows that moved in count as old ones",
        "stores/subset.py",
        "self.entered[slots] = self.clock + 1",
        "pass",
        f"{SUBSET}test_rows_leave_in_the_order_they_entered_whatever_is_written",
    ),
    Mutant(
        "rows that moved in have the old ones' embeddings",
        "stores/subset.py",
        "self.table.let_go(here)",
        "pass",
        f"{SUBSET}test_membership_is_uniform_and_moves_on_whatever_is_drawn",
    ),
    Mutant(
        "items that left keep their slots",
        "stores/subset.py",
        "            self.place[self.held[slots]] = -1\n",
        "",
        f"{SUBSET}test_laws",
    ),
    Mutant(
        "asking for the plan carries it out",
        "stores/subset.py",
        "generator = self.generator.clone_state()",
        "generator = self.generator",
        "tests/stores/test_plans.py",
    ),
    Mutant(
        "a snapshot takes rows of the training step",
        "stores/refresh.py",
        "takes_training_rows = False",
        "takes_training_rows = True",
        f"{REFRESH}test_rows_drawn_between_two_snapshots_are_passed_over",
    ),
    Mutant(
        "a pool's snapshot takes rows of the training step",
        "stores/subset.py",
        "kept &= ~self.valid[slots.clamp_min(0)]",
        "pass",
        f"{REFRESH}test_a_pool_passes_rows_over_that_are_drawn_between_two_snapshots",
    ),
    Mutant(
        "a snapshot passes its own plan over",
        "stores/dense.py",
        "if not (self.refresh.takes_training_rows or self.refreshing):",
        "if not self.refresh.takes_training_rows:",
        f"{REFRESH}test_a_snapshot_is_of_the_weights_after_the_step",
    ),
    Mutant(
        "a snapshot is never over",
        "stores/dense.py",
        "self.clock, self.refreshing = self.clock + 1, False",
        "self.clock = self.clock + 1",
        f"{REFRESH}test_rows_drawn_between_two_snapshots_are_passed_over",
    ),
    Mutant(
        "the newest rows are renewed",
        "stores/refresh.py",
        "seniority = last * len(written) + slots",
        "seniority = -last * len(written) + slots",
        "tests/stores/test_dense.py::test_laws",
    ),
    Mutant(
        "an observer takes the first state of its kind",
        "stores/observers.py",
        "own = saved.get(name)",
        'own = next((s for s in saved.values() if s["kind"] == type(observer).__name__), None)',
        "tests/stores/test_observers.py::"
        "test_a_state_is_restored_by_name_in_whatever_order_indexes_came",
    ),
    Mutant(
        "an observer takes the state of another kind",
        "stores/observers.py",
        'if own is not None and own["kind"] == type(observer).__name__:',
        "if own is not None:",
        "tests/indexes/test_states.py",
    ),
    Mutant(
        "observers share a name",
        "stores/observers.py",
        "while wanted in taken:",
        "while False:",
        "tests/stores/test_observers.py::test_an_index_that_two_samplers_share_is_told_of_a_row_once",
    ),
]
"""Of stores, and of what follows them."""

MUTANTS = [*READ, *VIEWED, *KEPT]
