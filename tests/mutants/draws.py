"""Faults of what turns slots into items: proposals, draws, pools and mixtures."""

from tests.mutants.mutant import ROSTER, Mutant, forms, laws

IDENTITIES = "tests/ops/test_identities.py::"
PROPOSALS = "tests/ops/test_proposals.py::"
PASSES = "tests/samplers/test_passes.py::"
TWO_FORMS = ("distinct", "head_tail", "chain", "index_rejection", "index_tree")
PER_QUERY = ("cached", "quadratic", "dynamic_index")

PROPOSED = [
    Mutant(
        "hits on positives are not masked",
        "draws.py",
        "return ids, log_q.masked_fill(self.request.exclude.hits(ids), -torch.inf)",
        "return ids, log_q",
        laws("popularity-fresh"),
    ),
    Mutant(
        "a law that draws positives says that it leaves them out",
        "samplers/popularity.py",
        "return Proposal(draw, log_prob, log_expected=log_expected)",
        "return Proposal(draw, log_prob, log_expected=log_expected, leaves_out=True)",
        laws("popularity-fresh"),
    ),
    Mutant(
        "positives have a chance",
        "draws.py",
        "log_q[exclude.among(ids)] = -torch.inf",
        "pass",
        laws("popularity-fresh"),
    ),
    Mutant(
        "slots given out as items",
        "draws.py",
        "return slots if self.proposal.store is None else self.proposal.store.ids(slots)",
        "return slots",
        laws("cached-half"),
    ),
    Mutant(
        "chances looked up by item",
        "draws.py",
        "slots = ids if store is None else store.slots(ids)",
        "slots = ids if store is None else ids % store.num_rows",
        laws("cached-half_gaps"),
    ),
    *(
        Mutant(
            f"{case}: items not held have the first row's chance",
            "draws.py",
            "log_q[:, slots < 0] = -torch.inf",
            "pass",
            laws(f"{case}-half"),
        )
        for case in PER_QUERY
    ),
    *(
        Mutant(
            f"{case}: weight without coverage",
            "draws.py",
            "(log_share - log_q - self.log_coverage(ids))",
            "(log_share - log_q)",
            laws(f"{case}-half"),
        )
        for case in PER_QUERY
    ),
    *(
        Mutant(
            f"{case}: log_z without coverage",
            "draws.py",
            "(log_mass - math.log(self.proposal.coverage))",
            "self.proposal.log_mass",
            forms(f"{case}-half"),
        )
        for case in ("cached", "scored")
    ),
    Mutant(
        "a mass that is no partition taken for one",
        "draws.py",
        "if self.proposal.is_softmax and",
        "if",
        f"{ROSTER}test_draws_have_the_forms_that_are_listed[flat]",
    ),
    Mutant(
        "uniform weight counts excluded items",
        "samplers/uniform.py",
        "(self.num_items - request.exclude.counts)",
        "(self.num_items - 0 * request.exclude.counts)",
        f"{IDENTITIES}test_weights_give_the_partition_at_any_staleness",
    ),
    Mutant(
        "a query without rows draws",
        "samplers/cached.py",
        "(found.logits - log_mass[:, None]).masked_fill(nothing, -torch.inf)",
        "(found.logits - log_mass[:, None]).masked_fill(nothing, 0)",
        f"{PROPOSALS}test_a_query_whose_rows_are_all_positives_draws_what_is_left[cached]",
    ),
    Mutant(
        "unwritten rows have a chance",
        "samplers/cached.py",
        "~rows.valid[slots] | (log_mass",
        "(log_mass",
        laws("cached-gaps"),
    ),
]
"""Of a proposal in items, and of the draws that each query makes from it."""

OTHER_DRAWS = [
    *(
        Mutant(
            f"{case}: weight without coverage",
            "draws.py",
            "(log_weight + stands + row_weights(store, ids)).to(dtype)",
            "(log_weight + row_weights(store, ids)).to(dtype)",
            tests,
        )
        for case, tests in [
            *((case, forms(f"{case}-half")) for case in TWO_FORMS),
            ("stale_top_k_tail", laws("stale_top_k_tail-half")),
        ]
    ),
    *(
        Mutant(
            f"{case}: log_z without coverage",
            "draws.py",
            "(log_z + stands).to(dtype)",
            "log_z.to(dtype)",
            forms(f"{case}-half"),
        )
        for case in TWO_FORMS
    ),
    Mutant(
        "slots of other draws given out as items",
        "stores/reading.py",
        "mesh.from_owners(store.ids(found.slots), turns.here)",
        "mesh.from_owners(found.slots, turns.here)",
        laws("distinct-half"),
    ),
    Mutant(
        "slots of plain draws given out as items",
        "samplers/stale_ann.py",
        "self.store.ids(slots.clamp_min(0)).masked_fill(slots < 0, -1)",
        "slots.masked_fill(slots < 0, -1)",
        "tests/samplers/test_stale_ann.py::"
        "test_mining_in_a_pool_draws_the_hardest_of_the_pool_with_weight_0",
    ),
    Mutant(
        "shares weighed without the score",
        "draws.py",
        "(log_z[:, None] + log_share - scores)",
        "(log_z[:, None] + log_share)",
        laws("distinct-fresh"),
    ),
    Mutant(
        "draws without a share count",
        "draws.py",
        "masked = log_share == -torch.inf",
        "masked = torch.zeros_like(log_share, dtype=torch.bool)",
        laws("distinct-excluded"),
    ),
    Mutant(
        "uniform tail draws unwritten rows",
        "samplers/stale_ann.py",
        "(left == 0)[:, None] | ~rows.valid[slots]",
        "(left == 0)[:, None]",
        laws("stale_top_k_tail-gaps"),
    ),
    Mutant(
        "best rows that were never written",
        "samplers/stale_ann.py",
        "(slots < 0) | ~rows.valid[some]",
        "(slots < 0)",
        laws("stale_top_k_tail-gaps"),
    ),
    Mutant(
        "a small rest taken for rounding",
        "samplers/rest.py",
        "tiny = 8 *",
        "tiny = 8000 *",
        "tests/samplers/test_rest.py::test_a_small_rest_counts_in_float32",
    ),
]
"""Of samplers without density."""

COMBINED = [
    Mutant(
        "pool without coverage",
        "samplers/combinators.py",
        "proposal.log_expected(ids) + log_times + proposal.log_coverage(ids)",
        "proposal.log_expected(ids) + log_times",
        laws("shared_cached-half"),
    ),
    Mutant(
        "pool counts masked hits",
        "draws.py",
        "return ids[log_q > -torch.inf], math.log",
        "return ids, math.log",
        f"{IDENTITIES}test_a_pool_counts_no_masked_hit[False]",
    ),
    Mutant(
        "joined pool counts masked hits",
        "draws.py",
        "return ids[log_q > -torch.inf], math.log",
        "return ids, math.log",
        f"{IDENTITIES}test_a_pool_counts_no_masked_hit[True]",
    ),
    Mutant(
        "joined pool without coverage",
        "samplers/combinators.py",
        "covered = by_draws + proposal.log_coverage(ids)",
        "covered = by_draws",
        f"{IDENTITIES}test_items_that_only_a_partial_cache_reaches_count_in_a_joined_pool",
    ),
    Mutant(
        "thinned pool weighed as a whole one",
        "draws.py",
        "math.log(self.num_negatives * count / max(total, 1))",
        "math.log(self.num_negatives)",
        laws("thinned-fresh"),
    ),
    *(
        Mutant(
            f"a pool proposes twice: {what}",
            "samplers/combinators.py",
            "log_expected = proposal.log_expected(ids)",
            "log_expected = propose(self.sampler, request, generator).log_expected(ids)",
            f"{PASSES}{tests}",
        )
        for what, tests in (
            ("rows", "test_the_softmax_of_cached_scores_is_one_pass_over_the_rows"),
            ("sums", "test_the_uppermost_sums_are_scored_once"),
            ("centres", "test_the_centres_are_scored_once"),
        )
    ),
    Mutant(
        "parts of a mixture count alike",
        "samplers/combinators.py",
        "part.log_prob(ids) + math.log(part.num_negatives)",
        "part.log_prob(ids) + math.log(self.num_negatives / len(parts))",
        laws("mixture-fresh"),
    ),
    Mutant(
        "a mixture's chances are of all its draws",
        "samplers/combinators.py",
        "dim=0) - math.log(self.num_negatives)\n\n        def draw_parts",
        "dim=0)\n\n        def draw_parts",
        laws("mixture-fresh"),
    ),
    Mutant(
        "a mixture's masked hits count",
        "samplers/combinators.py",
        "log_q.masked_fill(torch.cat(log_qs, 1) == -torch.inf, -torch.inf)",
        "log_q",
        f"{PROPOSALS}test_a_query_whose_rows_are_all_positives_draws_what_is_left[mixture]",
    ),
    Mutant(
        "a mixture that reaches every item only now and then",
        "samplers/combinators.py",
        "if not any(part.reaches_all for part in parts):",
        "if False:",
        f"{PROPOSALS}test_mixtures_that_cannot_be_right_are_refused",
    ),
]
"""Of samplers made of samplers."""

MUTANTS = [*PROPOSED, *OTHER_DRAWS, *COMBINED]
