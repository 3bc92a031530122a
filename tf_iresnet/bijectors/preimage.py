"""A remembered preimage, and when it may stand for an inverse."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from tf_iresnet.tensorflow_private import recording_tapes
from tf_iresnet.typing import Context

T = TypeVar("T")


class Preimage:
    """The pair (x, y) of one evaluation, y = f(x) with the weights and tapes of that moment.

    TFP's distributions compute z = f(x) and then ask for the inverse's log-determinant at the
    tensor z, which needs x again. One solve would find x, and another one its gradient. The
    remembered x is right if nothing has changed that x or z depends on: the graph being traced, the
    weights' values, and the gradient tapes that recorded z.

    Args:
      x: the preimage.
      y: the image.
      variables: the weights that y depends on.
      context: what else y depends on: a tensor, or None. Anything else, such as an array, may
        change and never counts as the same.
    """

    def __init__(
        self, x: tf.Tensor, y: tf.Tensor, variables: Sequence[tf.Variable], context: Context = None
    ) -> None:
        self._variables = variables
        self._graph = _graph()
        self._y = weakref.ref(y, self._forget)
        # A private witness, recorded by just the tapes that recorded y and watched by nobody.
        witness = tf.identity(y)
        self._tapes = [recording_tapes(x), recording_tapes(witness)]
        # A symbolic tensor lives as long as its graph, which must not live as long as this.
        hold = _strongly if self._graph is None else weakref.ref
        self._x: Callable[[], tf.Tensor | None] = hold(x)
        self._witness: Callable[[], tf.Tensor | None] = hold(witness)
        fixed = tf.is_tensor(context) and not hasattr(context, "assign")
        other = None if context is None else self  # equal to no context
        self._context: Callable[[], Context | Preimage] = (
            hold(context) if fixed else (lambda: other)
        )
        self._state = self._weights()

    def _forget(self, _: weakref.ref[tf.Tensor]) -> None:
        self._x = self._witness = lambda: None
        self._state = []

    def of(self, y: tf.Tensor, context: Context = None) -> tf.Tensor | None:
        """Returns x if y is the remembered tensor and x is its inverse now, else None."""
        if self._y() is not y or self._graph != _graph() or self._context() is not context:
            return None
        x, witness = self._x(), self._witness()
        if x is None or witness is None or not self._weights_unchanged():
            return None
        if (
            self._tapes != [recording_tapes(x), recording_tapes(witness)]
            or recording_tapes(y) != self._tapes[1]
        ):
            return None
        if max(self._tapes) > 1:  # a further tape would not show in these numbers
            return None
        # Reading the weights has made all tapes watch them: none may be newer than y.
        others = [] if context is None else [context]
        if recording_tapes(*(v.handle for v in self._variables), *others) > self._tapes[1]:
            return None
        return x

    def _weights(self) -> Any:
        """Returns the weights' values, or in a graph the number of operations traced so far."""
        if self._graph is None:
            return [tf.convert_to_tensor(v) for v in self._variables]
        return len(tf.compat.v1.get_default_graph().get_operations())

    def _weights_unchanged(self) -> bool:
        if self._graph is None:
            new = self._weights()
            return all(bool(tf.reduce_all(a == b)) for a, b in zip(self._state, new, strict=True))
        # In a graph, every operation on a resource that is no read may have changed it.
        operations = tf.compat.v1.get_default_graph().get_operations()[self._state :]
        self._touch()
        return not any(
            op.type != "ReadVariableOp" and any(i.dtype == tf.resource for i in op.inputs)
            for op in operations
        )

    def _touch(self) -> None:
        for variable in self._variables:
            tf.convert_to_tensor(variable)


def _graph() -> weakref.ref[tf.Graph] | None:
    if tf.executing_eagerly():
        return None
    return weakref.ref(tf.compat.v1.get_default_graph())


def _strongly(x: T) -> Callable[[], T]:
    return lambda: x
