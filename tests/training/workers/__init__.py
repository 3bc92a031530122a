"""Tests of `training.workers`."""
