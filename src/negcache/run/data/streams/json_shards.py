"""JSON lines as Parquet: each file converted once, kept by path, size and time."""


def converted(files, columns, cache_dir):
    raise NotImplementedError
