"""Tests of pages, packages and benchmarks."""
