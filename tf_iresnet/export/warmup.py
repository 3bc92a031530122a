"""Requests that TensorFlow Serving sends to a model before it says that it is ready.

TensorFlow Serving reads them from ``assets.extra/tf_serving_warmup_requests``, a TFRecord file of
PredictionLog messages. Its own package of messages pins other versions of TensorFlow, so the few
fields that are needed are declared here, by their numbers in its .proto files.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from tensorflow.core.framework import tensor_pb2

#: Where TensorFlow Serving looks, below a version's folder.
PLACE = "assets.extra/tf_serving_warmup_requests"

_PACKAGE = "tf_iresnet.serving"  # of descriptors in this process; messages do not hold it
_ENTRY = f".{_PACKAGE}.Entry"
# The name, the number and the message of each field; texts have none. Maps of protobuf are
# repeated entries of a key and a value.
_MESSAGES: dict[str, list[tuple[str, int, str | None]]] = {
    "ModelSpec": [("name", 1, None), ("signature_name", 3, None)],
    "Entry": [("key", 1, None), ("value", 2, ".tensorflow.TensorProto")],
    "PredictRequest": [("model_spec", 1, f".{_PACKAGE}.ModelSpec"), ("inputs", 2, _ENTRY)],
    "PredictLog": [("request", 1, f".{_PACKAGE}.PredictRequest")],
    "PredictionLog": [("predict_log", 6, f".{_PACKAGE}.PredictLog")],
}


@functools.cache
def _prediction_log() -> type[Message]:
    """Returns the class of TensorFlow Serving's messages."""
    file = descriptor_pb2.FileDescriptorProto(
        name="tf_iresnet/warmup.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[tensor_pb2.DESCRIPTOR.name],
    )
    for kind, fields in _MESSAGES.items():
        message = file.message_type.add(name=kind)
        for field, number, of in fields:
            added = message.field.add(name=field, number=number)
            added.type = added.TYPE_STRING if of is None else added.TYPE_MESSAGE
            added.label = added.LABEL_REPEATED if of == _ENTRY else added.LABEL_OPTIONAL
            if of is not None:
                added.type_name = of
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.PredictionLog"))


def example_inputs(specs: Sequence[tf.TensorSpec]) -> dict[str, np.ndarray]:
    """Returns inputs that a signature takes: one example, or one draw.

    Args:
      specs: of the signature's inputs.

    Example:
    >>> example_inputs([tf.TensorSpec((None, 2), tf.float32, "x")])["x"].tolist()
    [[0.5, 0.5]]
    """
    inputs = {}
    for spec in specs:
        shape = [1 if size is None else size for size in spec.shape or ()]
        # Half a level is a pixel with noise; 1 is a number of draws, a seed and a temperature.
        value = 0.5 if spec.dtype.is_floating and shape else 1
        inputs[spec.name] = np.full(shape, value, spec.dtype.as_numpy_dtype)
    return inputs


def write_requests(
    path: str, model: str, signatures: Mapping[str, Sequence[tf.TensorSpec]]
) -> None:
    """Writes one request for each signature.

    Args:
      path: of the file to write.
      model: the name that the model is served by.
      signatures: the inputs of each signature.
    """
    with tf.io.TFRecordWriter(path) as writer:
        for name, specs in signatures.items():
            log: Any = _prediction_log()()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = model, name
            for key, value in example_inputs(specs).items():
                entry = request.inputs.add(key=key)
                entry.value.CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())
