"""Tests of `tf_iresnet.log_det`."""
