"""The functions by which exported models are called."""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf

from tf_iresnet import randomness
from tf_iresnet.batches import event_axes
from tf_iresnet.export.contents import ExportOptions, Outputs, Signature, contents_of, guarded
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers.dequantize import nan_unless
from tf_iresnet.models.density import DensityModel
from tf_iresnet.models.features import FeatureClassifier
from tf_iresnet.models.hybrid import IResNetHybrid
from tf_iresnet.models.invertible_model import InvertibleModel
from tf_iresnet.models.training.pixels import have_density, lie_inside
from tf_iresnet.typing import Shape

_BYTE = 255


@contents_of.register
def flow_signatures(model: DensityModel, options: ExportOptions) -> dict[str, Signature]:
    """Returns the functions of a density model."""
    pixels = _Pixels(model, options)
    z = _specify(model, "z", (model.dims,))
    seed = tf.TensorSpec(None, tf.int32, name="seed")
    number = tf.TensorSpec((), tf.int32, name="n")
    one_seed = tf.TensorSpec((), tf.int32, name="seed")
    temperature = tf.TensorSpec((), model.variable_dtype, name="temperature")
    context = []
    if model.context_size is not None:
        context.append(_specify(model, "context", (model.context_size,)))

    def encode(x, *context):
        valid = _all_finite(pixels.in_range(x), *context)
        return {"z": nan_unless(valid, model.encode(x, *context)), "valid": valid}

    def decode(z, *context):
        return pixels.decoded(model.decode(z, True, *context))

    def log_prob(x, seed, *context):
        valid = _all_finite(pixels.have_density(x), *context)
        value, error = _mean_of_draws(
            lambda keys: (model.log_prob(x, keys, None, *context),), x, seed, options.probes
        )
        return _densities(model, valid, value[0], error)

    def sample(n, seed, temperature, *context):
        with tf.control_dependencies(_refuse_draws(n, temperature)):
            n, temperature = tf.identity(n), tf.identity(temperature)
        latents = model.sample_latents(n, seed, temperature, *context)
        return pixels.decoded(model.decode(latents, True, *context), model.clipped)

    def reconstruct(x, *context):
        valid = _all_finite(pixels.in_range(x), *context)
        result = model.decode(model.encode(x, *context), True, *context)
        return pixels.reconstructed(x, valid, result)

    return {
        "encode": guarded(encode, [pixels.spec, *context]),
        "decode": guarded(decode, [z, *context]),
        "log_prob": guarded(log_prob, [pixels.spec, seed, *context]),
        "sample": guarded(sample, [number, one_seed, temperature, *context]),
        "reconstruct": guarded(reconstruct, [pixels.spec, *context]),
    }


@contents_of.register
def hybrid_signatures(model: IResNetHybrid, options: ExportOptions) -> dict[str, Signature]:
    """Returns the functions of a hybrid; `predict` gives density and classes from one pass."""
    density = flow_signatures(model, options)
    pixels = _Pixels(model, options)

    def predict(x, seed):
        valid = pixels.have_density(x)
        (value, logits), error = _mean_of_draws(
            lambda keys: model.log_prob_and_logits(x, keys), x, seed, options.probes
        )
        return _densities(model, valid, value, error) | _classes(valid, logits)

    def classify(x):
        return _classes(pixels.in_range(x), model(x, training=False))

    _, (_, seed) = density["log_prob"]
    return {
        "predict": guarded(predict, [pixels.spec, seed]),
        "classify": guarded(classify, [pixels.spec]),
        **density,
    }


@contents_of.register
def classifier_signatures(model: FeatureClassifier, options: ExportOptions) -> dict[str, Signature]:
    """Returns the functions of a classifier."""
    pixels = _Pixels(model, options)
    shape = model.flow.compute_output_shape((None, *model.event_shape))[1:]

    def classify(x):
        return _classes(pixels.in_range(x), model(pixels.scaled(x), training=False))

    def encode(x):
        valid = pixels.in_range(x)
        return {"features": nan_unless(valid, model.encode(pixels.scaled(x))), "valid": valid}

    def decode(features):
        return pixels.decoded(model.decode(features, True))

    def reconstruct(x):
        result = model.decode(model.encode(pixels.scaled(x)), True)
        return pixels.reconstructed(x, pixels.in_range(x), result)

    return {
        "classify": guarded(classify, [pixels.spec]),
        "encode": guarded(encode, [pixels.spec]),
        "decode": guarded(decode, [_specify(model, "features", shape)]),
        "reconstruct": guarded(reconstruct, [pixels.spec]),
    }


class _Pixels:
    """What examples look like at the door of an exported model, and what is accepted as one.

    Args:
      model: the model.
      options: says whether images are bytes. A classifier's bytes stand for numbers on [0, 1].
    """

    def __init__(self, model: InvertibleModel, options: ExportOptions) -> None:
        levels = model._event.levels
        self.bytes = options.images == "uint8"
        if self.bytes and (len(model.event_shape) == 1 or (levels or 0) > _BYTE + 1):
            raise ValueError(
                f"images='uint8' is for images of at most {_BYTE + 1} levels, got a model of "
                f"examples of shape {model.event_shape} and {levels} levels; leave images out."
            )
        if self.bytes and levels is None and isinstance(model, DensityModel):
            raise ValueError(
                "images='uint8' is for densities of images with levels, got a model without "
                "preprocessing; leave images out."
            )
        self.levels = levels
        self.dtype = model.variable_dtype
        dtype = tf.uint8 if self.bytes else tf.as_dtype(self.dtype)
        self.spec = tf.TensorSpec((None, *model.event_shape), dtype, name="x")

    def scaled(self, x: tf.Tensor) -> tf.Tensor:
        """Returns a classifier's images as it takes them."""
        return tf.cast(x, self.dtype) / _BYTE if self.bytes else x

    def in_range(self, x: tf.Tensor) -> tf.Tensor:
        """Says of each example whether its numbers are finite and in range, bool [batch]."""
        if self.levels is not None:
            good = lie_inside(x, self.levels)
        else:
            good = tf.ones_like(x, tf.bool) if x.dtype.is_integer else tf.math.is_finite(x)
        return tf.reduce_all(good, axis=event_axes(x))

    def have_density(self, x: tf.Tensor) -> tf.Tensor:
        """Says of each example whether the density is defined there, bool [batch]."""
        if self.levels is None or x.dtype.is_integer:
            return self.in_range(x)
        return have_density(x, self.levels)

    def decoded(
        self,
        result: FixedPointResult,
        finish: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    ) -> Outputs:
        """Returns decoded examples, finished; without convergence they are NaN, or 0 as bytes."""
        bound = tf.where(result.converged, result.error_bound, tf.constant(math.inf, tf.float64))
        x = self._shown(finish(result.checked()))
        return {"x": x, "converged": result.converged, "error_bound": bound}

    def reconstructed(self, x: tf.Tensor, valid: tf.Tensor, result: FixedPointResult) -> Outputs:
        """Returns `decoded`, and the largest difference of a number of each valid example to x."""
        outputs = self.decoded(result, lambda found: nan_unless(valid, found))
        wide = [tf.cast(value, tf.float32) for value in (outputs["x"], x)]
        difference = tf.reduce_max(tf.abs(wide[0] - wide[1]), axis=event_axes(x))
        error = nan_unless(valid & result.converged, difference)
        return {**outputs, "largest_error": error, "valid": valid}

    def _shown(self, x: tf.Tensor) -> tf.Tensor:
        if not self.bytes:
            return x
        whole = tf.round(x * _BYTE) if self.levels is None else tf.floor(x)
        top = _BYTE if self.levels is None else self.levels - 1
        whole = tf.where(tf.math.is_nan(whole), tf.zeros_like(whole), whole)
        return tf.cast(tf.clip_by_value(whole, 0, top), tf.uint8)


def _specify(model: InvertibleModel, name: str, shape: Shape) -> tf.TensorSpec:
    return tf.TensorSpec((None, *shape), model.variable_dtype, name=name)


def _all_finite(good: tf.Tensor, *contexts: tf.Tensor) -> tf.Tensor:
    """Adds to what is good of each example that its context is finite."""
    for context in contexts:
        good &= tf.reduce_all(tf.math.is_finite(context), axis=1)
    return good


def _mean_of_draws(
    evaluate: Callable[[tf.Tensor], tuple[tf.Tensor, ...]],
    x: tf.Tensor,
    seed: tf.Tensor,
    probes: int,
) -> tuple[tuple[tf.Tensor, ...], tf.Tensor | None]:
    """Returns the mean of a first value over draws and the other values, and its standard error.

    Args:
      evaluate: keys -> (values [batch], ...), of which the others do not depend on the keys.
      x: [batch, ...].
      seed: integers, a scalar or [batch].
      probes: how many draws, at least 1; the standard error of one is None.
    """
    seeds = tf.reshape(seed, [-1])
    batch = tf.shape(x)[0]
    fits = (tf.size(seeds) == 1) | (tf.size(seeds) == batch)
    words = "seed must be one integer, or one for each example."
    with tf.control_dependencies([tf.debugging.Assert(fits, [words])]):
        seeds = tf.broadcast_to(seeds, [batch])
    keys = randomness.keys_of_seeds(seeds, x)
    if probes == 1:
        return evaluate(keys), None
    first = evaluate(randomness.fold_in(keys, 0))
    shift = tf.zeros_like(first[0])

    def add(draw, total, squares):
        value, *_ = evaluate(randomness.fold_in(keys, draw))
        rest = value - first[0]  # small, so that squares lose nothing
        return draw + 1, total + rest, squares + rest**2

    _, total, squares = tf.while_loop(
        lambda draw, *_: draw < probes, add, (1, shift, shift), parallel_iterations=1
    )
    variance = (squares - total**2 / probes) / (probes - 1)
    error = tf.sqrt(tf.maximum(variance, 0) / probes)
    return (first[0] + total / probes, *first[1:]), error


def _densities(
    model: DensityModel, valid: tf.Tensor, log_prob: tf.Tensor, error: tf.Tensor | None
) -> Outputs:
    value = nan_unless(valid, log_prob)
    outputs = {"log_prob": value, "bits_per_dim": model.to_bits(value), "valid": valid}
    return outputs if error is None else {**outputs, "standard_error": nan_unless(valid, error)}


def _classes(valid: tf.Tensor, logits: tf.Tensor) -> Outputs:
    """Returns logits, probabilities and the label, -1 where there is none."""
    valid &= tf.reduce_all(tf.math.is_finite(logits), axis=1)
    logits = nan_unless(valid, logits)
    label = tf.where(valid, tf.argmax(logits, axis=-1), tf.constant(-1, tf.int64))
    return {
        "logits": logits,
        "probabilities": tf.nn.softmax(logits),
        "label": label,
        "valid": valid,
    }


def _refuse_draws(n: tf.Tensor, temperature: tf.Tensor) -> list[tf.Operation]:
    good = tf.math.is_finite(temperature) & (temperature >= 0)
    return [
        tf.debugging.Assert(n >= 1, ["n must be at least 1, got", n]),
        tf.debugging.Assert(
            good, ["temperature must be a finite number of at least 0, got", temperature]
        ),
    ]
