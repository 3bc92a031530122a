"""Tests of `tf_iresnet.export`."""
