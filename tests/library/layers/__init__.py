"""Tests of `tf_iresnet.layers`."""
