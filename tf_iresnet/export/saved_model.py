"""SavedModels with named signatures, loaded by TensorFlow alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import keras
import tensorflow as tf

from tf_iresnet.certificate import certify
from tf_iresnet.export import warmup
from tf_iresnet.export.contents import ExportOptions, contents_of
from tf_iresnet.export.description import describe, page
from tf_iresnet.layers.upkeep import frozen


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    images: str = "float32",
    probes: int = 1,
    card: str | None = None,
) -> None:
    r"""Writes a model as a SavedModel that needs neither this library nor Keras to run.

    A density model has the signatures (inputs -> outputs, batch sizes free)

    - ``encode``: x -> z, valid;
    - ``decode``: z -> x, converged (x is NaN where the inverse did not converge), error_bound (of
      the Euclidean distance of x to the exact preimage, proven; infinite where nothing is);
    - ``log_prob``: x, seed -> log_prob in nats, bits_per_dim, valid;
    - ``sample``: n, seed, temperature -> x, converged, error_bound (before pixels are clipped);
    - ``reconstruct``: x -> the outputs of decode(encode(x)), largest_error, valid;

    each with one more input ``context`` [batch, context_size] if it is conditional (for ``sample``,
    of n rows). A classifier has ``classify`` (x -> logits, probabilities, label, valid), ``encode``
    (x -> features, valid), ``decode`` (features -> x, converged, error_bound) and ``reconstruct``.
    A hybrid has those of a density model, ``classify``, and both from one pass by ``predict`` (x,
    seed -> log_prob, bits_per_dim, logits, probabilities, label, valid). ``serving_default`` is
    ``encode``, ``classify`` and ``predict``, respectively.

    An answer depends on the example and its seed alone: ``seed`` is one integer, or one for each
    example. ``valid`` is false, and the answer NaN (a label -1), where x or the context is not
    finite, leaves its range, or, for a density, has no noise or was scaled. A wrong shape, a batch
    without examples, n below 1 and a negative temperature raise InvalidArgumentError.

    To export the averaged weights, call `use_averaged_weights` first. Kernels are stored
    normalised. Gradients are not written: differentiating a loaded signature raises LookupError.

    Beside the model stand ``certificate.json`` (what is proven of the weights), ``config.json``
    (the model's configuration, its preprocessing and its signatures), ``README.md`` (the
    signatures, for people) and requests by which TensorFlow Serving warms it up.

    Args:
      model: an `IResNetFlow`, `IResNetHybrid` or another `DensityModel`, or an
        `IResNetClassifier` or another `FeatureClassifier`.
      path: the folder to make, NAME/VERSION for TensorFlow Serving. It appears only when it is
        complete.
      images: "float32" for x as the model takes it, or "uint8": bytes in and out. A density adds
        their noise inside; a classifier divides them by 255. Examples that did not converge are 0.
      probes: how many draws ``log_prob`` is the mean of; from 2 on it returns ``standard_error``.
      card: Markdown that ``README.md`` begins with; None for a line on the model.

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
    ['decode', 'encode', 'log_prob', 'reconstruct', 'sample', 'serving_default']

    Source: TensorFlow's SavedModel format; no part of the papers.
    """
    options = ExportOptions(images, probes)
    path = Path(path)
    if path.exists():
        raise ValueError(f"path {str(path)!r} exists already; give another version.")
    signatures = contents_of(model, options)
    inputs = {name: specs for name, (_, specs) in signatures.items()}
    beside = {"certificate.json": _certificate(model)}
    module = tf.Module()
    concrete = {}
    with frozen(model.flow.spectral_layers()):
        for name, (function, specs) in signatures.items():
            traced = tf.function(function, input_signature=specs, autograph=False)
            concrete[name] = traced.get_concrete_function()
            setattr(module, name, concrete[name])  # a tf.function would be written a second time
        # Not the model: its averages and its optimizer stay behind. Not Keras' ExportArchive
        # either: it writes every weight twice.
        module.weights = _read_by(concrete.values())
    outputs = {name: graph.structured_outputs for name, graph in concrete.items()}
    description = describe(model, options, inputs, outputs)
    beside["config.json"] = json.dumps(description, indent=2) + "\n"
    beside["README.md"] = page(model, description, card)
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
        folder = Path(scratch, "model")
        for name, text in beside.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / warmup.PLACE).parent.mkdir()
        warmup.write_requests(str(folder / warmup.PLACE), _served_name(path), inputs)
        os.replace(folder, path)
    except tf.errors.OpError as error:
        raise _as_os_error(error, path) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read_by(functions: Iterable[tf.types.experimental.ConcreteFunction]) -> list[tf.Variable]:
    """Returns the variables that functions read when they run, each once."""
    found = {}
    for function in functions:
        handles = set(map(id, function.captured_inputs))
        for variable in function.graph.variables:  # also those that tracing alone has read
            if id(variable.handle) in handles:
                found[id(variable)] = variable
    return list(found.values())


def _served_name(path: Path) -> str:
    """Returns the name of NAME/VERSION, by which TensorFlow Serving serves the folder."""
    return path.resolve().parent.name


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
