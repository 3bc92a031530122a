"""Side-by-side comparisons with peers; `python -m benchmarks --help`."""
