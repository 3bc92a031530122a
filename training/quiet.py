"""Importing TensorFlow without what it writes to standard error on every machine."""

import os
import sys
import tempfile


def import_tensorflow() -> None:
    """Imports TensorFlow and finds its devices, whose remarks are shown only on failure.

    TensorFlow writes them before it reads TF_CPP_MIN_LOG_LEVEL. A level of 0 or 1 asks for them.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default on some processors
    if "tensorflow" in sys.modules or os.environ["TF_CPP_MIN_LOG_LEVEL"] in ("0", "1"):
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as remarks:
        os.dup2(remarks.fileno(), 2)
        try:
            import absl.logging
            import tensorflow as tf

            tf.config.list_physical_devices()
            tf.get_logger().setLevel("ERROR")
            absl.logging.set_verbosity(absl.logging.ERROR)  # TensorFlow Datasets' remarks
        except BaseException:
            remarks.seek(0)
            os.write(stderr, remarks.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
