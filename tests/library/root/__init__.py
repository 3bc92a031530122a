"""Tests of the face of tf_iresnet and of what stands at its root."""
