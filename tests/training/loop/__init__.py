"""Tests of `training.loop`."""
