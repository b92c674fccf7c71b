"""Human genes -> which of 18,933 Gene Ontology terms, as sparse features and labels."""

from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union

from benchmarks.datasets.annotated_genes import GENES, read_genes
from benchmarks.datasets.fetching import fetch
from negcache.run.atomic import atomic_write
from negcache.run.data.downloads import cache_folder
from negcache.run.data.tables import stable_split
from negcache.run.data.xc import write_xc


def write_genes(
    out: Path, *, cache_dir: Path | None = None, allow_other_version: bool = False
) -> Path:
    """Write ``train.txt``, ``dev.txt``, ``test.txt`` and ``labels.txt`` for `open_xc`.

    Features are tf-idf of the words and of the character trigrams within words that at least two
    training genes have; both halves have unit length, values are rounded to
    six decimals. A hash of the gene's id splits 80 / 10 / 10.

    Args:
        out: a folder; files of these names are replaced.
        cache_dir: where the download is kept; None: the user's cache folder.
        allow_other_version: take what the registry offers, whatever its checksum.
    """
    cache = cache_folder(cache_dir)
    genes = read_genes(fetch(GENES, cache, allow_other_version=allow_other_version))
    split = np.array([stable_split(gene) for gene in genes.ids])
    texts = np.array(genes.texts, dtype=object)
    words = TfidfVectorizer(min_df=2, token_pattern=r"\w+")
    trigrams = TfidfVectorizer(min_df=2, analyzer="char_wb", ngram_range=(3, 3))
    features = make_union(words, trigrams).fit(texts[split == "train"])
    for name in ("train", "dev", "test"):
        rows = features.transform(texts[split == name])
        rows.data = rows.data.round(6)
        write_xc(out / f"{name}.txt", rows, genes.labels[split == name])
    with atomic_write(out / "labels.txt") as part:
        part.write_text("\n".join(genes.label_names) + "\n", "utf-8")
    return out
