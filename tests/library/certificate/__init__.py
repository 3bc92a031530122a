"""Tests of `tf_iresnet.certificate`."""
