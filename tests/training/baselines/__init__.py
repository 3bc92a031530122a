"""Tests of `training.baselines`."""
