"""What models of invertible layers share: weights from data, and norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.certificate.walk import find_subject
from tf_iresnet.layers import rows
from tf_iresnet.layers.adaptation import adapt, freeze_parts, layers_from_data
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.models.architecture import Architecture
from tf_iresnet.models.training.averaging import WeightAverage
from tf_iresnet.models.training.model import Model
from tf_iresnet.models.training.objective import Objective
from tf_iresnet.typing import ArrayLike, BatchLike, Context, Data, Inputs


class InvertibleModel(Model):
    """A model around an invertible layer ``flow``, made by an ``architecture``.

    What comes from data, as ActNorm's scales, is set before the first step of `fit`.
    """

    flow: InvertibleLayer
    architecture: Architecture
    context_size: int | None = None

    def _compose(self, objective: Objective) -> None:
        super()._compose(objective)
        freeze_parts(self)

    def __getattr__(self, name: str) -> Any:
        """Reads an option of the architecture, as ``model.coeff``."""
        architecture = self.__dict__.get("architecture")
        if architecture is not None and name in architecture.names():
            return getattr(architecture, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- state that no gradient trains ---

    def update_spectral_state(self, iterations: int | None = None) -> None:
        """Finds the norms of all kernels that have moved; every call does so anyway.

        Args:
          iterations: how many power iterations to make besides; None for none.
        """
        self.flow.update_spectral_state(iterations)

    def converge_spectral_state(self, tolerance: float = 1e-4, iterations: int = 1000) -> None:
        """Finds every layer's leading u and v, until |W^T u - sigma v| <= tolerance sigma."""
        self.flow.converge_spectral_state(tolerance, iterations)

    @property
    def derived_state(self) -> list[tf.Variable]:
        return [v for layer in self.flow.spectral_layers() for v in layer.derived_state]

    # --- weights from data ---

    @property
    def initialized(self) -> bool:
        """Whether no layer waits for data: each is adapted, set by hand, frozen or needs none."""
        return not any(layer.needs_data for layer in layers_from_data(self.flow))

    def adapt(
        self,
        data: Data,
        context: Context = None,
        *,
        batch_size: int | None = None,
        steps: int | None = None,
    ) -> None:
        """Sets what comes from data, such as ActNorm's scales, as `InvertibleLayer.adapt` does.

        `fit` does it for layers that are not set; in other training loops the first batch does.

        Args:
          data: [rows, *event_shape], or batches as `fit` takes them; of a batch that is a tuple the
            model reads what it reads in `fit`.
          context: [rows, context_size], beside an array, for a conditional model.
          batch_size: as in `InvertibleLayer.adapt`.
          steps: as in `InvertibleLayer.adapt`.

        Raises:
          ValueError: if there are no rows, values that are not finite or no data for this model;
            if all that comes from data is frozen.
        """
        owner, size = f"the model {self.name}", self.context_size
        rows.check_contexts(owner, data, context, size, self.variable_dtype)
        found = rows.batches(data, context, batch_size, steps)
        self._adapt(self._collected(found, steps), again=True)

    def _collected(self, found: Iterable[BatchLike], steps: int | None = None) -> list[Inputs]:
        """Returns rows of batches, in groups, by the names that `inputs_of` gives them."""
        with self.distribute_strategy.scope():  # in which the parts on several devices are gathered
            return rows.collect(found, self.inputs_of, steps)

    def _adapt(self, groups: Iterable[Inputs], again: bool) -> None:
        """Sets the weights that come from data, and their averages."""
        inputs = [self._adaptation_inputs(**group) for group in groups]
        parts = [x for x, _ in inputs]
        contexts = [conditions.get("context") for _, conditions in inputs]
        for layer in adapt(self.flow, parts, contexts, again):
            changed = {id(variable) for variable in layer.weights_from_data()}
            for shadow, variable in self._shadowed():
                if id(variable) in changed:
                    shadow.assign(variable)

    def _adaptation_inputs(self, x: ArrayLike) -> tuple[tf.Tensor, Inputs]:
        """Checks a group of rows; returns x as the flow sees it, and the flow's keywords."""
        return self._event.check(x), {}

    def prepare_averages(self) -> Callable[[], None]:
        waiting = [part for part in layers_from_data(self.flow) if part.is_due_when_traced()]
        changing = {id(v) for part in waiting for v in part.weights_from_data()}

        def start() -> None:
            if self.average is None:
                return
            first = tf.convert_to_tensor(self.average.count) == 0
            for shadow, variable in self._shadowed():
                if id(variable) in changing:
                    old, new = tf.convert_to_tensor(shadow), tf.convert_to_tensor(variable)
                    shadow.assign(tf.where(first, new, old))

        return start

    def _prepare_fit(
        self,
        x: Data | None,
        y: ArrayLike | None,
        batch_size: int | None,
        share: float,
        steps: int | None,
    ) -> Data | None:
        """Adapts the layers that are due.

        The rows that are used are still trained on, those of a generator as well. Rows that are not
        finite are left out here, but a first batch that holds some is refused.
        """
        if rows.is_array(x) and not len(x):
            raise ValueError("x holds no examples: nothing can be learned from it.")
        if self.initialized:
            return rows.as_generator(x)
        x, first, found = rows.peek(x, y, batch_size or 32, share, steps)
        if found is not None:
            if first is not None:
                (group,) = self._collected([first])
                self._adaptation_inputs(**group)
            groups = self._collected(found)
            self._adapt([rows.finite_rows(group) for group in groups], again=False)
        return x


@find_subject.register
def _flow_of(model: InvertibleModel) -> tuple[InvertibleLayer, list[keras.Variable]]:
    apart: list[keras.layers.Layer] = [model.flow]
    apart += [layer for layer in model.layers if isinstance(layer, WeightAverage)]
    known = {id(v) for layer in apart for v in layer.variables}
    return model.flow, [v for v in model.variables if id(v) not in known]
