"""Tests of `tf_iresnet.bijectors`."""
