"""Lists of layers, as TensorFlow's checkpoints see them."""

from __future__ import annotations

from collections.abc import Iterable

import keras

from tf_iresnet.tensorflow_private import save_with


def track(owner: keras.layers.Layer, name: str, layers: Iterable[keras.layers.Layer]) -> None:
    """Makes `tf.train.Checkpoint` save layers that ``owner`` holds in a list.

    Keras saves them in its own formats, but hides its lists from TensorFlow. A checkpoint of
    ``owner`` would silently lack their weights.

    Args:
      owner: the layer with the list.
      name: prefix of their names in a checkpoint.
      layers: the list.
    """
    save_with(owner, name, layers)
