"""Tests of `tf_iresnet.fixed_point`."""
