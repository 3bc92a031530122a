"""Names for what arguments and results are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

#: Numbers as TensorFlow converts them: a tensor, an array, a number, nested sequences of numbers.
ArrayLike: TypeAlias = tf.Tensor | npt.ArrayLike
#: An integer, or int32 [2], [3] or [batch, 3], see `tf_iresnet.randomness`; None draws a fresh one.
Seed: TypeAlias = ArrayLike | None
#: The size of an axis: an integer, or None where it is not known.
Size: TypeAlias = Any
#: Sizes of axes, as Keras hands them over.
Shape: TypeAlias = Sequence[Size] | tf.TensorShape
#: Sizes of axes, as layers return them.
StaticShape: TypeAlias = tuple[int | None, ...]
#: What a conditional density is given beside x, [batch, context_size]; None for none.
Context: TypeAlias = ArrayLike | None
#: What names a type of numbers: "float32", tf.float32, np.float32.
DTypeLike: TypeAlias = str | tf.DType | npt.DTypeLike
#: A batch as Keras' loops hand it over: x, (x, y) or (x, y, weights).
BatchLike: TypeAlias = tf.Tensor | Sequence[ArrayLike | None]
#: An array of rows, or batches of rows, as `keras.Model.fit` takes them.
Data: TypeAlias = (
    tf.Tensor | np.ndarray | tf.data.Dataset | keras.utils.PyDataset | Iterable[BatchLike]
)
#: What a layer or a model is called with, by keyword: x, and a context where it takes one.
Inputs: TypeAlias = dict[str, tf.Tensor]
#: An activation as Keras takes it: its name, a function, a layer; None for the identity.
ActivationLike: TypeAlias = str | Callable[[tf.Tensor], tf.Tensor] | None
#: A constructor's arguments by name, as `get_config` returns them and `from_config` takes them.
Config: TypeAlias = dict[str, Any]
#: An initializer as Keras takes it: its name, its configuration, an object or a function.
InitializerLike: TypeAlias = str | Config | keras.initializers.Initializer
#: A regularizer as Keras takes it: its name, its configuration, an object; None for none.
RegularizerLike: TypeAlias = str | Config | keras.regularizers.Regularizer | None
#: The values of metrics by name, as Keras' training steps return them.
Logs: TypeAlias = dict[str, tf.Tensor]
#: What an evaluation returns: metrics by name, or the loss alone, or in a list with the metrics.
Scores: TypeAlias = Logs | float | list[float]


class Bounded(Protocol):
    """A layer or an activation that states a Lipschitz constant of what it computes."""

    def lipschitz_bound(self) -> float:
        """Returns the constant, at least 0."""
