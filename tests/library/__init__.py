"""Tests of tf_iresnet; nothing of training is imported here."""
