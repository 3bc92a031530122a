"""Tests of `tf_iresnet.norms`."""
