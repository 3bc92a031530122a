"""The functions by which exported models are called."""

from __future__ import annotations

import math

import tensorflow as tf

from tf_iresnet.export.contents import Contents, Signature, contents_of
from tf_iresnet.models.density import DensityModel
from tf_iresnet.models.features import FeatureClassifier
from tf_iresnet.models.hybrid import IResNetHybrid
from tf_iresnet.models.invertible_model import InvertibleModel
from tf_iresnet.typing import Shape


def _specify(model: InvertibleModel, name: str, shape: Shape) -> tf.TensorSpec:
    return tf.TensorSpec((None, *shape), model.variable_dtype, name=name)


def _decode(
    model: InvertibleModel, latents: tf.Tensor, *context: tf.Tensor
) -> dict[str, tf.Tensor]:
    result = model.decode(latents, True, *context)
    bound = tf.where(result.converged, result.error_bound, tf.constant(math.inf, tf.float64))
    return {"x": result.checked(), "converged": result.converged, "error_bound": bound}


def flow_signatures(model: DensityModel) -> dict[str, Signature]:
    """Returns the functions of a density model."""
    x, z = _specify(model, "x", model.event_shape), _specify(model, "z", (model.dims,))
    seed = tf.TensorSpec((), tf.int32, name="seed")
    number = tf.TensorSpec((), tf.int32, name="n")
    temperature = tf.TensorSpec((), model.variable_dtype, name="temperature")

    context = []
    if model.context_size is not None:
        context.append(_specify(model, "context", (model.context_size,)))

    def encode(x, *context):
        return {"z": model.encode(x, *context)}

    def decode(z, *context):
        return _decode(model, z, *context)

    def log_prob(x, seed, *context):
        value = model.log_prob(x, seed, None, *context)
        return {"log_prob": value, "bits_per_dim": model.to_bits(value)}

    def sample(n, seed, temperature, *context):
        latents = model.sample_latents(n, seed, temperature, *context)
        drawn = _decode(model, latents, *context)
        return {**drawn, "x": model.clipped(drawn["x"])}

    return {
        "encode": (encode, [x, *context]),
        "decode": (decode, [z, *context]),
        "log_prob": (log_prob, [x, seed, *context]),
        "sample": (sample, [number, seed, temperature, *context]),
    }


def _label(logits: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"logits": logits, "label": tf.argmax(logits, axis=-1)}


def hybrid_signatures(model: IResNetHybrid) -> dict[str, Signature]:
    """Returns the functions of a hybrid; `predict` gives density and logits from one pass."""
    density = flow_signatures(model)
    _, (x, seed) = density["log_prob"]

    def predict(x, seed):
        value, logits = model.log_prob_and_logits(x, seed)
        return {"log_prob": value, "bits_per_dim": model.to_bits(value), **_label(logits)}

    def classify(x):
        return _label(model(x, training=False))

    return {"predict": (predict, [x, seed]), "classify": (classify, [x]), **density}


def classifier_signatures(model: FeatureClassifier) -> dict[str, Signature]:
    """Returns the functions of a classifier."""
    x = _specify(model, "x", model.event_shape)
    shape = model.flow.compute_output_shape((None, *model.event_shape))[1:]
    features = _specify(model, "features", shape)

    def classify(x):
        return _label(model(x, training=False))

    def encode(x):
        return {"features": model.encode(x)}

    def decode(features):
        return _decode(model, features)

    return {
        "classify": (classify, [x]),
        "encode": (encode, [x]),
        "decode": (decode, [features]),
    }


@contents_of.register
def _density(model: DensityModel) -> Contents:
    return Contents(flow_signatures(model), [model.flow, model.prior])


@contents_of.register
def _hybrid(model: IResNetHybrid) -> Contents:
    return Contents(hybrid_signatures(model), [model.flow, model.prior, model.head])


@contents_of.register
def _classifier(model: FeatureClassifier) -> Contents:
    return Contents(classifier_signatures(model), [model.flow, model.head])
