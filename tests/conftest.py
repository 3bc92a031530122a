"""Settings that must precede TensorFlow's import."""

import os

from absl import flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
flags.FLAGS.mark_as_parsed()  # TFP's test utilities read flags
