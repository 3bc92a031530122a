"""SavedModels with named signatures, loaded by TensorFlow alone."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.certificate import certify
from tf_iresnet.layers.upkeep import unchanging
from tf_iresnet.models.density import DensityModel
from tf_iresnet.models.features import FeatureClassifier
from tf_iresnet.models.hybrid import IResNetHybrid
from tf_iresnet.models.invertible_model import InvertibleModel

Signature = tuple[Callable[..., dict[str, tf.Tensor]], list[tf.TensorSpec]]


def export_saved_model(model: InvertibleModel, path: str | os.PathLike[str]) -> None:
    r"""Writes a model as a SavedModel that needs neither this library nor Keras to run.

    A density model has the signatures (inputs -> outputs, batch sizes free)

    - ``encode``: x -> z;
    - ``decode``: z -> x, converged (x is NaN where the inverse did not converge), error_bound (of
      the Euclidean distance of x to the exact preimage, proven; infinite where nothing is);
    - ``log_prob``: x, seed -> log_prob in nats, bits_per_dim;
    - ``sample``: n, seed, temperature -> x, converged, error_bound (before pixels are clipped);

    each with one more input ``context`` [batch, context_size] if it is conditional (for ``sample``,
    of n rows); a classifier ``classify`` (x -> logits, label), ``encode`` (x -> features) and
    ``decode`` (features -> x, converged, error_bound); a hybrid those of a density model,
    ``classify``, and both numbers from one pass by ``predict`` (x, seed -> log_prob, bits_per_dim,
    logits, label). ``serving_default`` is the first of these, for a hybrid ``predict``. To export
    the averaged weights call `use_averaged_weights` before. What is proven of the exported weights
    stands beside them in ``certificate.json``. Gradients are not written: differentiating a loaded
    signature raises LookupError.

    Args:
      model: an `IResNetFlow`, `IResNetHybrid` or another `DensityModel`, or an
        `IResNetClassifier` or another `FeatureClassifier`.
      path: the folder to make, NAME/VERSION for TensorFlow Serving. It appears only when it is
        complete.

    Raises:
      ValueError: if the model is of another kind, or ``path`` exists.
      OSError: if the disk is full or the folder cannot be written to; nothing is left of it.

    Example:
    >>> import tempfile
    >>> from tf_iresnet.models import IResNetFlow
    >>> flow = IResNetFlow((2,), levels=None, blocks=(1,), hidden=8)
    >>> folder = tempfile.mkdtemp() + "/flow/1"
    >>> export_saved_model(flow, folder)
    >>> loaded = tf.saved_model.load(folder)
    >>> sorted(loaded.signatures)
    ['decode', 'encode', 'log_prob', 'sample', 'serving_default']

    Source: TensorFlow's SavedModel format; no part of the papers.
    """
    path = Path(path)
    if path.exists():
        raise ValueError(f"path {str(path)!r} exists already; give another version.")
    parts: list[keras.layers.Layer]
    if isinstance(model, IResNetHybrid):
        signatures, parts = _hybrid_signatures(model), [model.flow, model.prior, model.head]
    elif isinstance(model, DensityModel):
        signatures, parts = _flow_signatures(model), [model.flow, model.prior]
    elif isinstance(model, FeatureClassifier):
        signatures, parts = _classifier_signatures(model), [model.flow, model.head]
    else:
        raise ValueError(
            "model must be an IResNetFlow, IResNetClassifier or IResNetHybrid, got "
            f"{type(model).__name__}."
        )
    certificate = _certificate(model)
    module = tf.Module()
    # Not the model: its averages and its optimizer stay behind. Not Keras' ExportArchive either: it
    # writes every weight twice.
    module.weights = [weight.value for part in parts for weight in part.variables]
    concrete = {}
    with unchanging(model.flow.spectral_layers()) as norms:
        module.norms = norms
        for name, (function, specs) in signatures.items():
            traced = tf.function(function, input_signature=specs, autograph=False)
            concrete[name] = traced.get_concrete_function()
            setattr(module, name, concrete[name])  # a tf.function would be written a second time
    concrete["serving_default"] = concrete[next(iter(signatures))]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        tf.saved_model.save(
            module,
            os.path.join(scratch, "model"),
            signatures=concrete,
            # They are most of the graph, and what is served is not differentiated.
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        Path(scratch, "model", "certificate.json").write_text(certificate, encoding="utf-8")
        os.replace(os.path.join(scratch, "model"), path)
    except tf.errors.OpError as error:
        raise _as_os_error(error, path) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _as_os_error(error: tf.errors.OpError, path: Path) -> OSError:
    """What TensorFlow could not write, as Python says it."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
        if os.strerror(code) in error.message:
            return OSError(code, os.strerror(code), str(path))
    return OSError(f"path {str(path)!r} cannot be written: {error.message}")


def _certificate(model: InvertibleModel) -> str:
    """The certificate as JSON, or why there is none."""
    try:
        return certify(model).to_json() + "\n"
    except ValueError as error:
        reason = str(error)
        refusal = {"model": model.name, "invertible": False, "not_proven": [reason]}
        return json.dumps(refusal, indent=2) + "\n"


def _events(model: InvertibleModel, name: str, shape: Any) -> tf.TensorSpec:
    return tf.TensorSpec((None, *shape), model.variable_dtype, name=name)


def _decoded(model: InvertibleModel, latents: tf.Tensor, *context: tf.Tensor) -> dict[str, Any]:
    result = model.decode(latents, True, *context)
    bound = tf.where(result.converged, result.error_bound, tf.constant(math.inf, tf.float64))
    return {"x": result.checked(), "converged": result.converged, "error_bound": bound}


def _flow_signatures(model: DensityModel) -> dict[str, Signature]:
    x, z = _events(model, "x", model.event_shape), _events(model, "z", (model.dims,))
    seed = tf.TensorSpec((), tf.int32, name="seed")
    number = tf.TensorSpec((), tf.int32, name="n")
    temperature = tf.TensorSpec((), model.variable_dtype, name="temperature")

    context = []
    if model.context_size is not None:
        context.append(_events(model, "context", (model.context_size,)))

    def encode(x, *context):
        return {"z": model.encode(x, *context)}

    def decode(z, *context):
        return _decoded(model, z, *context)

    def log_prob(x, seed, *context):
        value = model.log_prob(x, seed, None, *context)
        return {"log_prob": value, "bits_per_dim": model.to_bits(value)}

    def sample(n, seed, temperature, *context):
        latents = model.sample_latents(n, seed, temperature, *context)
        drawn = _decoded(model, latents, *context)
        return {**drawn, "x": model.clipped(drawn["x"])}

    return {
        "encode": (encode, [x, *context]),
        "decode": (decode, [z, *context]),
        "log_prob": (log_prob, [x, seed, *context]),
        "sample": (sample, [number, seed, temperature, *context]),
    }


def _labelled(logits: tf.Tensor) -> dict[str, tf.Tensor]:
    return {"logits": logits, "label": tf.argmax(logits, axis=-1)}


def _hybrid_signatures(model: IResNetHybrid) -> dict[str, Signature]:
    density = _flow_signatures(model)
    _, (x, seed) = density["log_prob"]

    def predict(x, seed):
        value, logits = model.log_prob_and_logits(x, seed)
        return {"log_prob": value, "bits_per_dim": model.to_bits(value), **_labelled(logits)}

    def classify(x):
        return _labelled(model(x, training=False))

    return {"predict": (predict, [x, seed]), "classify": (classify, [x]), **density}


def _classifier_signatures(model: FeatureClassifier) -> dict[str, Signature]:
    x = _events(model, "x", model.event_shape)
    shape = model.flow.compute_output_shape((None, *model.event_shape))[1:]
    features = _events(model, "features", shape)

    def classify(x):
        return _labelled(model(x, training=False))

    def encode(x):
        return {"features": model.encode(x)}

    def decode(features):
        return _decoded(model, features)

    return {
        "classify": (classify, [x]),
        "encode": (encode, [x]),
        "decode": (decode, [features]),
    }
