"""Every data set by name."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.datasets.cities import write_cities
from benchmarks.datasets.city_names import write_city_classes
from benchmarks.datasets.debian import write_debian
from benchmarks.datasets.dependencies import write_debian_deps
from benchmarks.datasets.gene_terms import write_gene_terms
from benchmarks.datasets.genes import write_genes
from benchmarks.datasets.go import write_go
from benchmarks.datasets.movielens import write_movielens
from benchmarks.datasets.next_word import write_brown, write_mix
from benchmarks.datasets.passages import write_passages

WRITERS: dict[str, Callable[..., Path]] = {
    "brown": write_brown,
    "cities": write_cities,
    "city-classes": write_city_classes,
    "debian": write_debian,
    "debian-deps": write_debian_deps,
    "gene-terms": write_gene_terms,
    "genes": write_genes,
    "go": write_go,
    "mix": write_mix,
    "movielens": write_movielens,
    "passages": write_passages,
}
"""(folder to write) -> the folder, written."""
