"""Tests of `tf_iresnet.models`."""
