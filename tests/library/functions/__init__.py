"""Tests of `tf_iresnet.functions`."""
