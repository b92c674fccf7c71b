"""Questions, one file each: ``python -m benchmarks.NAME``. Results are appended, never edited."""
