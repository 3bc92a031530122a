"""The adapter from an invertible Keras layer to a TensorFlow Probability bijector."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.arguments import check_flag, check_instance, check_integers
from tf_iresnet.bijectors.preimage import Preimage
from tf_iresnet.bijectors.tfp_private import Uncached, in_transition_kernel
from tf_iresnet.certificate.walk import find_subject
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers.adaptation import learning
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.padding import InjectivePadding
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.typing import Context


class KerasBijector(Uncached):
    r"""Any invertible layer of tf_iresnet as a bijector; forward is the layer's call.

    `forward` (data to latent) and `forward_log_det_jacobian` are cheap, `inverse` iterates. A
    distribution draws by its bijector's forward: give it ``tfb.Invert(KerasBijector(layer))``,
    and its `log_prob` is cheap while `sample` iterates. `inverse_log_det_jacobian` is
    -ln\|det dy/dx\| at the inverse. Inverses that do not converge raise in eager code and are NaN
    in graphs.

    Leading axes are a batch of any rank. TFP's cache is not used, neither here nor by a
    `tfb.Chain` around it: its values would outlive a change of the weights, hide them from a
    gradient tape and freeze a stochastic log-determinant. So each call computes and, without a
    ``seed``, draws anew. Only the preimage of the latest output is remembered, which TFP's
    `log_prob` asks for. It is used only while weights and gradient tapes are the same; pass
    ``tf.identity(y)`` to see the solver at work. As in TFP, two bijectors are equal if they are
    made of the same layer by equal arguments. Weights that shall stay frozen
    (``trainable = False``) must be so before the layer is built.

    All methods take a keyword ``seed`` (an integer, or int32 [2] or [3]) that makes the
    log-determinant reproducible. Through a distribution it is
    ``log_prob(x, bijector_kwargs={"seed": 0})``, through a chain ``{NAME: {"seed": 0}}``. For a
    conditional layer they need a keyword ``context`` [..., context_size] as well, whose leading
    axes are broadcast to those of x or y; `tf_iresnet.layers.Conditioned` fixes one context.

    Args:
      layer: the invertible layer. As in every call of it, the norms of kernels that have moved are
        found anew.
      event_shape: shape of one example of the layer's input; needed if it is not built.
      log_det: an estimator that replaces that of every residual block; `Exact()` where a
        log-determinant must not be stochastic, as in Markov chain Monte Carlo: TFP's transition
        kernels (`tfp.mcmc`) get a ValueError for an unseeded stochastic estimate.
      validate_args: as in TFP.
      name: of the bijector and in a chain's keyword arguments; by default the layer's.

    Raises:
      ValueError: if the layer is not invertible, holds an `InjectivePadding`, or is not built
        and no event shape is given.

    Example:
    >>> from tensorflow_probability import bijectors as tfb, distributions as tfd
    >>> from tf_iresnet.layers import InvertibleResidual
    >>> bijector = KerasBijector(InvertibleResidual(hidden=8), event_shape=[2])
    >>> density = tfd.TransformedDistribution(
    ...     tfd.MultivariateNormalDiag(tf.zeros(2)), tfb.Invert(bijector)
    ... )
    >>> density.sample(5).shape, density.log_prob(tf.zeros([5, 2])).shape
    (TensorShape([5, 2]), TensorShape([5]))
    >>> len(density.trainable_variables) == len(bijector.layer.trainable_variables)
    True

    Source: Invertible Residual Networks, section 3; Residual Flows, section 3.
    """

    def __init__(
        self,
        layer: InvertibleLayer,
        *,
        event_shape: Sequence[int] | None = None,
        log_det: LogDetEstimator | None = None,
        validate_args: bool = False,
        name: str | None = None,
    ) -> None:
        parameters = dict(locals())
        check_instance("layer", layer, InvertibleLayer, "InvertibleResidual()")
        if log_det is not None:
            check_instance("log_det", log_det, LogDetEstimator, "Exact()")
        check_flag("validate_args", validate_args)
        if name is not None and not isinstance(name, str):
            raise ValueError(f"name must be a string, or None for the layer's, got {name!r}.")
        if event_shape is not None:
            event_shape = check_integers("event_shape", event_shape, "axis of one example")
            parameters["event_shape"] = event_shape  # equal shapes make equal bijectors
        for part in layers_inside(layer):
            if isinstance(part, InjectivePadding):
                raise ValueError(
                    f"layer {layer.name} holds the InjectivePadding {part.name}, which is no "
                    "bijection and has no log-determinant; leave it out."
                )
        event = self._built_event_shape(layer, event_shape)
        latent = tf.TensorShape(layer.compute_output_shape((None, *event))[1:])
        self._layer = layer
        self._log_det = log_det
        self._input_event, self._output_event = event, latent
        # A bijector finds its weights by walking tf.Modules, and a Keras layer is none. They are
        # set past TensorFlow's hooks, by which checkpoints would hold each of them twice.
        self.__dict__["_tf_variables"] = [variable.value for variable in layer.variables]
        self._latest: Preimage | None = None
        with tf.name_scope(name or layer.name) as scope:
            super().__init__(
                forward_min_event_ndims=event.rank,
                inverse_min_event_ndims=latent.rank,
                dtype=tf.as_dtype(layer.variable_dtype),
                validate_args=validate_args,
                parameters=parameters,
                name=scope,
            )

    @staticmethod
    def _built_event_shape(
        layer: InvertibleLayer, event_shape: Sequence[int] | None
    ) -> tf.TensorShape:
        """Builds the layer if it is not, and returns the shape of one example."""
        if not layer.built:
            if event_shape is None:
                raise ValueError(
                    f"layer {layer.name} is not built: pass event_shape, the shape of one example "
                    "without the batch, or build it first."
                )
            layer.build((None, *event_shape))
        built = layer._event_shape
        if event_shape is not None and built is not None and event_shape != tuple(built):
            raise ValueError(
                f"event_shape {event_shape} differs from {tuple(built)}, for which layer "
                f"{layer.name} was built."
            )
        return tf.TensorShape(event_shape if built is None else built)

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    @property
    def layer(self) -> InvertibleLayer:
        """The Keras layer."""
        return self._layer

    @property
    def is_stochastic(self) -> bool:
        """Whether two calls without a seed give two log-determinants."""
        own = [getattr(part, "log_det", None) for part in layers_inside(self.layer)]
        estimators = [e for e in own if isinstance(e, LogDetEstimator)]
        if self._log_det is not None:
            return self._log_det.stochastic and bool(estimators)
        return any(e.stochastic for e in estimators)

    def update(self, iterations: int | None = None) -> None:
        """Finds the norms of all kernels that have moved; every call does so anyway.

        Args:
          iterations: how many power iterations to make besides; None for none.
        """
        self.layer.update_spectral_state(iterations)

    # --- TFP's hooks ---

    def _forward(self, x, seed=None, context=None):
        flat, lead = _flatten(x, self._input_event)
        rows = self._rows_of(context, flat, lead)
        with learning(self.layer):
            y = self.layer.evaluate(flat, context=rows)
        y = _restore(y, lead, self._output_event)
        self._latest = Preimage(x, y, self._tf_variables, context)
        return y

    def _inverse(self, y, seed=None, context=None):
        x = None if self._latest is None else self._latest.of(y, context)
        if x is None:
            flat, lead = _flatten(y, self._output_event)
            x = self.layer.invert(flat, context=self._rows_of(context, flat, lead))
            x = _restore(x, lead, self._input_event)
            self._latest = Preimage(x, y, self._tf_variables, context)
        return x

    def _forward_log_det_jacobian(self, x, seed=None, context=None):
        if seed is None and self.is_stochastic and in_transition_kernel():
            raise ValueError(
                f"the log-determinant of {self.name} is a random estimate, with which Markov chain "
                "Monte Carlo draws from another density than its target: pass log_det=Exact() to "
                "KerasBijector."
            )
        flat, lead = _flatten(x, self._input_event)
        key, rows = randomness.as_seed(seed), self._rows_of(context, flat, lead)
        _, value = self.layer.evaluate_with_log_det(flat, key, self._log_det, context=rows)
        return _restore(value, lead, tf.TensorShape([]))

    def _rows_of(
        self, context: Context, flat: tf.Tensor, lead: tf.TensorShape | None
    ) -> tf.Tensor | None:
        """Returns the context with the batch axis of ``flat``; None for a layer without one."""
        size = self.layer.context_size
        if context is not None and size is not None:
            rows: tf.Tensor = tf.cast(tf.convert_to_tensor(context), flat.dtype)
            if rows.shape.rank == 0 or rows.shape[-1] != size:
                raise ValueError(f"context must have the shape [..., {size}], got {rows.shape}.")
            lead = tf.shape(flat)[:1] if lead is None else tf.cast(lead, tf.int32)
            rows = tf.broadcast_to(rows, tf.concat([lead, [size]], axis=0))
            context = tf.reshape(rows, [-1, size])
        return self.layer._check_context(context, flat)

    def _forward_event_shape(self, input_shape):
        return _replace_event(input_shape, self._input_event, self._output_event)

    def _inverse_event_shape(self, output_shape):
        return _replace_event(output_shape, self._output_event, self._input_event)

    def _forward_event_shape_tensor(self, input_shape):
        lead = input_shape[: tf.size(input_shape) - self._input_event.rank]
        return tf.concat([lead, self._output_event.as_list()], axis=0)

    def _inverse_event_shape_tensor(self, output_shape):
        lead = output_shape[: tf.size(output_shape) - self._output_event.rank]
        return tf.concat([lead, self._input_event.as_list()], axis=0)


def _flatten(x: tf.Tensor, event: tf.TensorShape) -> tuple[tf.Tensor, tf.TensorShape | None]:
    """Returns x with one batch axis, and the shape of its leading axes (None for one axis)."""
    if x.shape.rank is None:
        x = tf.reshape(x, tf.concat([tf.shape(x)[: tf.rank(x) - event.rank], event], axis=0))
        lead = tf.shape(x)[: tf.rank(x) - event.rank]
        return tf.reshape(x, [-1, *event.as_list()]), lead
    axes = x.shape.rank - event.rank
    if axes < 0 or not x.shape[axes:].is_compatible_with(event):
        raise ValueError(
            f"expected a tensor of shape [..., {', '.join(map(str, event.as_list()))}], got "
            f"{x.shape}."
        )
    if axes == 1:
        return x, None
    lead = x.shape[:axes]
    lead = lead if lead.is_fully_defined() else tf.shape(x)[:axes]
    size = 1 if axes == 0 else -1
    return tf.reshape(x, [size, *event.as_list()]), lead


def _restore(x: tf.Tensor, lead: tf.TensorShape | None, event: tf.TensorShape) -> tf.Tensor:
    """Gives x its leading axes back."""
    if lead is None:
        return x
    return tf.reshape(x, tf.concat([tf.cast(lead, tf.int32), event.as_list()], axis=0))


def _replace_event(
    shape: tf.TensorShape, old: tf.TensorShape, new: tf.TensorShape
) -> tf.TensorShape:
    """Replaces the trailing axes of a shape."""
    if shape.rank is None:
        return tf.TensorShape(None)
    axes = shape.rank - old.rank
    if axes < 0 or not shape[axes:].is_compatible_with(old):
        raise ValueError(f"expected an event shape that ends in {old}, got {shape}.")
    return shape[:axes].concatenate(new)


@find_subject.register
def _layer_of(bijector: KerasBijector) -> tuple[InvertibleLayer, list[keras.Variable]]:
    return bijector.layer, []
