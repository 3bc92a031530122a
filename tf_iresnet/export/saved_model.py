"""SavedModels with named signatures, loaded by TensorFlow alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from tf_iresnet.certificate import certify
from tf_iresnet.export.contents import contents_of
from tf_iresnet.layers.upkeep import unchanging


def export_saved_model(model: keras.Model, path: str | os.PathLike[str]) -> None:
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
    the averaged weights, call `use_averaged_weights` first. What is proven of the exported weights
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
    signatures, parts = contents_of(model)
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
            # Custom gradients are most of the graph, and a served model is not differentiated.
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        Path(scratch, "model", "certificate.json").write_text(certificate, encoding="utf-8")
        os.replace(os.path.join(scratch, "model"), path)
    except tf.errors.OpError as error:
        raise _as_os_error(error, path) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _as_os_error(error: tf.errors.OpError, path: Path) -> OSError:
    """Returns TensorFlow's error in writing as the one that Python raises."""
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
        if os.strerror(code) in error.message:
            return OSError(code, os.strerror(code), str(path))
    return OSError(f"path {str(path)!r} cannot be written: {error.message}")


def _certificate(model: keras.Model) -> str:
    """Returns the certificate as JSON, or the reason why there is none."""
    try:
        return certify(model).to_json() + "\n"
    except ValueError as error:
        reason = str(error)
        refusal = {"model": model.name, "invertible": False, "not_proven": [reason]}
        return json.dumps(refusal, indent=2) + "\n"
