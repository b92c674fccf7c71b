"""What `benchmarks.fuzz` tries out: inputs, how they are spoilt, and what they mean."""
