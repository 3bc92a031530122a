"""Tests of the experiments and the command line."""
