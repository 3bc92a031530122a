"""All code that touches names which Keras keeps private, and which any release may change.

`setup.py` bounds Keras by the versions that this was tested with.
`tests/library/root/test_private_names.py` says for each name what breaks when it goes.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.optimizers.base_optimizer import BaseOptimizer

from tf_iresnet.typing import ArrayLike

Gradients: TypeAlias = Sequence[tf.Tensor]
Variables: TypeAlias = Sequence[keras.Variable]
#: What applies gradients to variables.
Apply: TypeAlias = Callable[[Gradients, Variables], None]

_LOCAL_UPDATES = (
    "_backend_update_step",
    "_apply_weight_decay",
    "_backend_increment_gradient_accumulators",
)


def layers_inside(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it, each once.

    Example:
    >>> [each.name for each in layers_inside(keras.Sequential([], name="outer"))]
    ['outer']
    """
    return list(layer._flatten_layers())


def loss_metric(model: keras.Model) -> keras.metrics.Metric | None:
    """Returns the mean that Keras' loops show as ``loss``; None before `compile`."""
    return model._loss_tracker


def steps_of(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Returns the number of gradients that an optimizer was given, as a variable.

    Where gradients are accumulated, several make one update, which `iterations` counts. An
    optimizer that scales the loss leaves the counting to the one inside.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)._iterations


def update_locally(
    optimizer: keras.optimizers.Optimizer, around: Callable[[Gradients, Variables, Apply], None]
) -> None:
    """Makes an optimizer update each replica locally, by gradients that are already summed.

    A second call for the same optimizer changes nothing.

    Args:
      optimizer: the optimizer, which is changed.
      around: called with gradients, variables and the function of both that applies them.
    """
    if "_backend_apply_gradients" in vars(optimizer):
        return
    for name in _LOCAL_UPDATES:
        # TensorFlow's optimizers override these; the methods they override are local.
        method = types.MethodType(getattr(BaseOptimizer, name), optimizer)
        object.__setattr__(optimizer, name, method)
    apply = optimizer._backend_apply_gradients

    def apply_gradients(gradients: Gradients, variables: Variables) -> None:
        around(gradients, variables, apply)

    object.__setattr__(optimizer, "_backend_apply_gradients", apply_gradients)


def apply_by(optimizer: keras.optimizers.Optimizer, apply: Apply) -> None:
    """Replaces the function by which an optimizer that scales the loss applies gradients.

    Args:
      optimizer: a `keras.optimizers.LossScaleOptimizer`, which is changed.
      apply: the function of gradients and variables, for the optimizer's conditional update.
    """
    object.__setattr__(optimizer, "_tf_apply", apply)


def writes_legacy_file() -> bool:
    """Says whether Keras is writing a model's configuration into a file of its old format, HDF5."""
    return bool(global_state.get_global_attribute("use_legacy_config", False))


class BuiltModel(keras.Model):
    """A model that its constructor builds: Keras' loops build losses and metrics only.

    Stock Keras learns their shapes from the mean of a batch over the replicas. That fails where the
    replicas' parts differ in size, and under a MultiWorkerMirroredStrategy.
    """

    def build_metrics(self, *batch: ArrayLike) -> None:
        """Makes the variables of compiled losses and metrics before the first step does.

        Args:
          *batch: x and y as a step gets them; only their shapes and dtypes matter.
        """
        self._symbolic_build(data_batch=batch)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        strategy = self._distribute_strategy
        if strategy is None:
            return
        if iterator is not None and not self._has_built_metrics():
            batch = next(next(iter(iterator))[-1])
            data_batch = tf.nest.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], batch
            )
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def _has_built_metrics(self) -> bool:
        parts = (self._compile_metrics, self._compile_loss)
        return all(part is None or part.built for part in parts)


class NormalizationBy(keras.layers.BatchNormalization):
    """Keras' batch normalisation, with moments that a subclass computes."""

    def moments(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor] | None:
        """Returns mean and variance of each channel, or None for those that Keras computes."""
        return None

    def _moments(self, inputs, mask):
        found = self.moments(inputs)
        return super()._moments(inputs, mask) if found is None else found
