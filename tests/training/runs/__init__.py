"""Tests of `training.runs`."""
