"""Names for what arguments and results are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import keras
import numpy.typing as npt
import tensorflow as tf

#: Numbers as TensorFlow converts them: a tensor, an array, a number, nested sequences of numbers.
ArrayLike: TypeAlias = tf.Tensor | npt.ArrayLike
#: An integer, or int32 [2], [3] or [batch, 3], see `tf_iresnet.randomness`; None draws a fresh one.
Seed: TypeAlias = ArrayLike | None
#: Sizes of axes, as Keras hands them over; None for one that is not known.
Shape: TypeAlias = Sequence[int | None] | tf.TensorShape
#: What names a type of numbers: "float32", tf.float32, np.float32.
DTypeLike: TypeAlias = str | tf.DType | npt.DTypeLike
#: Rows, or batches of rows, as `keras.Model.fit` takes them.
Data: TypeAlias = ArrayLike | tf.data.Dataset | keras.utils.PyDataset | Iterable[ArrayLike]
#: A constructor's arguments by name, as `get_config` returns them and `from_config` takes them.
Config: TypeAlias = dict[str, Any]
#: The values of metrics by name, as Keras' training steps return them.
Logs: TypeAlias = dict[str, tf.Tensor]
