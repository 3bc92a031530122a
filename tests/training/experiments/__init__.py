"""Tests of `training.experiments`."""
