"""What a file of a model holds: its functions by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

from tf_iresnet.arguments import check_choice, check_integer

#: What a function returns, by name.
Outputs: TypeAlias = dict[str, tf.Tensor]
#: A function of tensors, and what it takes.
Signature: TypeAlias = tuple[Callable[..., Outputs], Sequence[tf.TensorSpec]]


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """How an exported model is called.

    Args:
      images: the dtype of images, in and out: "float32" for the model's own numbers, or "uint8" for
        bytes, which get their noise inside (densities) or are divided by 255 (classifiers).
      probes: how many draws of noise and probes a log-density is the mean of; from two on, its
        standard error is returned, too.

    Raises:
      ValueError: if an argument is out of range.
    """

    images: str = "float32"
    probes: int = 1

    def __post_init__(self) -> None:
        check_choice("images", self.images, ("float32", "uint8"))
        object.__setattr__(self, "probes", check_integer("probes", self.probes, 1))


@functools.singledispatch
def contents_of(model: object, options: ExportOptions) -> dict[str, Signature]:
    """Returns a model's signatures by name; the first is what is served by default.

    `tf_iresnet.models.signatures` registers each kind of model.

    Args:
      model: the model.
      options: how it is called.

    Raises:
      ValueError: if the model is of no kind that is exported, or an option is not for it.
    """
    raise ValueError(
        "model must be an IResNetFlow, IResNetClassifier or IResNetHybrid, got "
        f"{type(model).__name__}."
    )


def guarded(function: Callable[..., Outputs], specs: Sequence[tf.TensorSpec]) -> Signature:
    """Returns a signature that refuses tensors of another shape, and a batch without examples.

    Loaded signatures do not check shapes by themselves.

    Args:
      function: takes tensors.
      specs: of these tensors; a first size that is None is that of a batch.
    """

    @functools.wraps(function)  # TensorFlow names the graph by it
    def call(*tensors: tf.Tensor) -> Outputs:
        checks = []
        for tensor, spec in zip(tensors, specs, strict=True):
            if spec.shape.rank is None:
                continue
            # The graph takes the rank that it was traced with for certain: sizes tell it, too.
            sizes = tf.concat([tf.shape(tensor), tf.fill([spec.shape.rank + 1], -1)], 0)
            due = [*enumerate(spec.shape), (spec.shape.rank, -1)]
            same = tf.reduce_all([sizes[axis] == size for axis, size in due if size is not None])
            words = f"{spec.name} must have the shape {readable(spec.shape)}, got"
            checks.append(tf.debugging.Assert(same, [words, tf.shape(tensor)]))
            if spec.shape.rank and spec.shape[0] is None:
                some = tf.size(tensor) > 0
                words = f"{spec.name} holds no example; give at least one."
                checks.append(tf.debugging.Assert(some, [words]))
        with tf.control_dependencies(checks):
            return function(*map(tf.identity, tensors))

    return call, specs


def readable(shape: Sequence[int | None]) -> str:
    """Returns a shape as pages and messages show it, such as [batch, 2]."""
    sizes = ["batch" if size is None else str(size) for size in shape]
    return f"[{', '.join(sizes)}]"
