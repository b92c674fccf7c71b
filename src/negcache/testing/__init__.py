"""Public laws that samplers, stores, indexes and estimators obey, and the slow exact truth."""

from negcache.testing.conformance import check_estimator, check_index, check_sampler, check_store

__all__ = ["check_estimator", "check_index", "check_sampler", "check_store"]
