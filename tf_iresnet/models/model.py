"""What every model of invertible blocks shares: spectral state and initialisation."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.models.trained import TrainedModel


class InvertibleModel(TrainedModel):
    """Base of the models: a subclass sets ``flow``, an `InvertibleLayer`, and builds itself.

    ActNorm is initialised from one batch before the first step of `fit`. Evaluation
    uses an exponential moving average of the weights, if there is one.
    """

    flow: InvertibleLayer

    # --- state that no gradient trains ---

    def update_spectral_state(self, iterations: int | None = None) -> None:
        """Finds the norms of all kernels that have moved; every call does so anyway."""
        self.flow.update_spectral_state(iterations)

    def converge_spectral_state(self, tolerance: float = 1e-4, iterations: int = 1000) -> None:
        """Finds every layer's leading u and v, until |W^T u - sigma v| <= tolerance sigma."""
        self.flow.converge_spectral_state(tolerance, iterations)

    @property
    def initialized(self) -> bool:
        """Whether every layer that starts from data, as ActNorm does, has seen some."""
        layers = layers_inside(self.flow)
        return not any(isinstance(layer, InvertibleLayer) and layer.needs_data for layer in layers)

    def initialize(self, x: Any) -> None:
        """Initialises every layer that starts from data, such as ActNorm, from one batch.

        Args:
          x: a batch of data, [batch, *event_shape].

        Raises:
          ValueError: in eager code, if x is no data for this model.
        """
        self._initialize(self._checked(x))

    def _initialize(self, x: tf.Tensor, **conditions: Any) -> None:
        self.flow.initialize(x, **conditions)
        for shadow, variable in self._shadowed():
            shadow.assign(variable)

    def _derived_state(self) -> list[keras.Variable]:
        return [v for layer in self.flow.spectral_layers() for v in layer.spectral_state]

    def fit(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, after ActNorm's initialisation if it is due."""
        if not self.initialized:
            x, batch = _first_batch(x, y, batch_size or 32)
            inputs = self.inputs_of(batch)
            if isinstance(x, tf.distribute.DistributedDataset):  # each replica has a part
                strategy = self.distribute_strategy
                inputs = {name: strategy.gather(part, axis=0) for name, part in inputs.items()}
            self.initialize(**inputs)
        return super().fit(x, y, batch_size=batch_size, **kwargs)


def _first_batch(x: Any, y: Any, batch_size: int) -> tuple[Any, Any]:
    """Takes the first batch from what `fit` accepts, and gives back all of x."""
    if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
        return x, next(iter(x))
    if isinstance(x, keras.utils.PyDataset):
        return x, x[0]
    if hasattr(x, "__next__"):
        first, rest = next(x), x
        return (item for source in ([first], rest) for item in source), first
    return x, x[:batch_size] if y is None else (x[:batch_size], y[:batch_size])
