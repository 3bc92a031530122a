r"""The norms that kernels are divided by, found anew wherever kernels have moved.

A spectral layer keeps the kernel of the last look, the norm sigma found for it and the gradient of
sigma. Every call compares the kernel with that one. If they are equal the norm is known; if not, it
is found before the kernel is used: whoever moved it, in whatever mode.

`up_to_date` does this for many layers at once: one condition, and one computation for all kernels
of a shape. Inside of it the layers look no more.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tf_iresnet import lanczos, norms, replicas
from tf_iresnet.bounds import gram
from tf_iresnet.linear_maps import LinearMap

if TYPE_CHECKING:
    from tf_iresnet.layers.spectral import SpectralLayer

#: Residual of u and v, relative to sigma, above which they are searched for.
TOLERANCE = 0.01
_LONG = 0.03  # a kernel's step, relative to its size, after which the search begins anew

# Graphs of control flow, whose operations run amid those of the graph around them.
_INNER_GRAPHS = ("CondBranchFuncGraph", "WhileBodyFuncGraph", "WhileCondFuncGraph")


class KnownNorm:
    """The norm found for a kernel.

    It is derived from the weights, and no weight itself: each replica has its own, and nothing of
    it is saved but in TensorFlow's checkpoints.

    Args:
      kernel: the kernel's first value.
    """

    def __init__(self, kernel: tf.Tensor) -> None:
        with replicas.own_variables(), tf.init_scope():
            # Equal to no kernel.
            self.kernel = _variable(tf.fill(kernel.shape, tf.cast(np.nan, kernel.dtype)))
            self.sigma = _variable(tf.ones([], kernel.dtype))
            self.gradient = _variable(tf.zeros_like(kernel))

    @property
    def variables(self) -> list[tf.Variable]:
        """The three of them."""
        return [self.kernel, self.sigma, self.gradient]

    def differs(self, kernel: tf.Tensor) -> tf.Tensor:
        """Whether the kernel is another one."""
        return tf.reduce_any(kernel != self.kernel)

    def assign(self, kernel: tf.Tensor, sigma: tf.Tensor, gradient: tf.Tensor) -> None:
        """Notes the norm of a kernel."""
        self.kernel.assign(kernel)
        self.sigma.assign(tf.cast(sigma, self.sigma.dtype))
        self.gradient.assign(tf.reshape(tf.cast(gradient, self.gradient.dtype), kernel.shape))

    def sigma_of(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns sigma as a function of the kernel that it was found for."""
        if _scopes.unchanging:
            return tf.convert_to_tensor(self.sigma)

        @tf.custom_gradient
        def sigma(kernel):
            gradient = tf.convert_to_tensor(self.gradient)
            return tf.convert_to_tensor(self.sigma), lambda upstream: upstream * gradient

        return sigma(kernel)


def _variable(value: tf.Tensor) -> tf.Variable:
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, trainable=False, aggregation=first)


# --- which layers need not look ---


class _Scopes(threading.local):
    def __init__(self) -> None:
        self.open: list[tuple[Any, frozenset[int]]] = []
        self.unchanging = False


_scopes = _Scopes()


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _covered() -> frozenset[int]:
    """The layers whose norms have been looked after by a scope around."""
    graph, around = _graph(), []
    around.append(graph)
    while type(graph).__name__ in _INNER_GRAPHS:
        graph = graph.outer_graph
        around.append(graph)
    known = (ids for scope, ids in _scopes.open if any(scope is g for g in around))
    return frozenset().union(*known)


@contextlib.contextmanager
def up_to_date(layers: Iterable[SpectralLayer]) -> Iterator[None]:
    """Finds the norms of kernels that have moved; inside, these layers do not look again.

    Args:
      layers: spectral layers; those without constraint and those not built are left out.
    """
    if _scopes.unchanging:
        yield
        return
    covered = _covered()
    layers = [x for x in layers if x.known_norm is not None and id(x) not in covered]
    if layers:
        _refresh(layers)
    _scopes.open.append((_graph(), frozenset(map(id, layers))))
    try:
        yield
    finally:
        _scopes.open.pop()


@contextlib.contextmanager
def unchanging(layers: Iterable[SpectralLayer]) -> Iterator[list[tf.Variable]]:
    """Finds the norms now; what is traced inside takes them for good, as an export does.

    Args:
      layers: all spectral layers that are called inside.

    Yields:
      The variables that hold the norms.
    """
    layers = list(layers)
    with up_to_date(layers):
        pass
    before, _scopes.unchanging = _scopes.unchanging, True
    try:
        yield [layer.known_norm.sigma for layer in layers if layer.known_norm is not None]
    finally:
        _scopes.unchanging = before


def _refresh(layers: list[SpectralLayer]) -> None:
    kernels = [tf.stop_gradient(tf.convert_to_tensor(layer.kernel)) for layer in layers]
    moved = [x.known_norm.differs(k) for x, k in zip(layers, kernels, strict=True)]
    triples = list(zip(layers, kernels, moved, strict=True))
    if tf.executing_eagerly():
        _find([triple for triple in triples if triple[2]])
        return

    def find() -> tf.Tensor:
        _find(triples)
        return tf.constant(0)

    tf.cond(tf.reduce_any(tf.stack(moved)), find, lambda: tf.constant(0))


def _find(triples: list[tuple[SpectralLayer, tf.Tensor, tf.Tensor]]) -> None:
    """Finds the norms of kernels, those of one shape together.

    Args:
      triples: layers, their kernels, and whether these have moved; in graphs some may not have.
    """
    groups: dict[Any, list[tuple[SpectralLayer, tf.Tensor]]] = {}
    for layer, kernel, moved in triples:
        if layer.normalization == "bound":
            groups.setdefault(layer.norm_problem(), []).append((layer, kernel))
        elif tf.executing_eagerly():
            find_estimate(layer, kernel)
        else:  # another kernel may be all that has moved
            _find_if(moved, layer, kernel)
    for (linear_map, dtypes), group in groups.items():
        shape = group[0][0].norm_shape
        stacked = tf.stack([tf.reshape(kernel, shape) for _, kernel in group])
        sigmas, gradients = _bounds(linear_map, dtypes, stacked)
        for index, (layer, kernel) in enumerate(group):
            layer.known_norm.assign(kernel, sigmas[index], gradients[index])


def _find_if(moved: tf.Tensor, layer: SpectralLayer, kernel: tf.Tensor) -> None:
    def find() -> tf.Tensor:
        find_estimate(layer, kernel)
        return tf.constant(0)

    tf.cond(moved, find, lambda: tf.constant(0))


def _bounds(
    linear_map: LinearMap, dtypes: tuple[str, ...], kernels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Bounds of the norms of stacked kernels, and their gradients."""
    if tf.executing_eagerly():  # a graph takes longer to make than many bounds
        return _bounds_of(linear_map, dtypes, kernels)
    return _traced_bounds(linear_map, dtypes, kernels.shape, kernels.dtype)(kernels)


def _bounds_of(
    linear_map: LinearMap, dtypes: tuple[str, ...], kernels: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    found, gradients = gram.norm_bounds(linear_map, kernels)
    return found + gram.rounding_bound(kernels, *dtypes), gradients


@functools.lru_cache(maxsize=256)
def _traced_bounds(
    linear_map: LinearMap, dtypes: tuple[str, ...], shape: tf.TensorShape, dtype: tf.DType
) -> Callable[..., Any]:
    """The same as a graph, one for all functions that need it."""
    with tf.init_scope():
        traced = tf.function(
            lambda kernels: _bounds_of(linear_map, dtypes, kernels), autograph=False
        )
        return traced.get_concrete_function(tf.TensorSpec(shape, dtype))


def find_estimate(
    layer: SpectralLayer,
    kernel: tf.Tensor,
    tolerance: float | None = None,
    rounds: int = 1000,
    anew: bool = False,
) -> None:
    """Finds the leading singular vectors of a kernel, and notes sigma = u^T W v.

    Args:
      layer: a layer with a power iteration.
      kernel: its kernel.
      tolerance: of |W^T u - sigma v|, relative to sigma; by default `TOLERANCE`.
      rounds: of the search, at most.
      anew: whether to search however good u and v are.
    """
    linear_map, _ = layer.norm_problem()
    flat = tf.reshape(kernel, layer.norm_shape)
    v = tf.convert_to_tensor(layer.v)
    # After a long step other vectors may lead, though these are singular still.
    known = tf.convert_to_tensor(layer.known_norm.kernel)
    anew = anew | ~(tf.norm(kernel - known) <= _LONG * tf.norm(kernel))  # none is known: NaN
    result = lanczos.leading_vectors(
        linear_map,
        flat,
        v,
        steps=layer.power_iterations,
        tolerance=tolerance or TOLERANCE,
        rounds=rounds,
        anew=anew,
    )
    layer.u.assign(result.u)
    layer.v.assign(result.v)
    gradient = linear_map.kernel_gradient(result.v, result.u)
    layer.known_norm.assign(kernel, result.sigma, gradient)


def recall(layer: SpectralLayer, sigma: Any) -> None:
    r"""Takes a norm from a file for that of the kernel, if u and v bear it out.

    They do if \|W^T u - sigma v\| <= `TOLERANCE` sigma; else the next call finds it.

    Args:
      layer: a layer with a power iteration, whose weights are those of the file.
      sigma: the number.
    """
    linear_map, _ = layer.norm_problem()
    flat = tf.reshape(tf.convert_to_tensor(layer.kernel), layer.norm_shape)
    u, v = (tf.convert_to_tensor(vector) for vector in layer.spectral_state)
    scaled, scale = norms.unit_scale(flat)
    sigma = tf.reshape(tf.cast(sigma, flat.dtype), [])
    residuals = (
        linear_map.adjoint(scaled, u) - sigma / scale * v,
        linear_map.apply(scaled, v) - sigma / scale * u,
    )
    residual = tf.reduce_max([tf.norm(vector) for vector in residuals])
    of_unit_length = all(abs(float(tf.norm(vector)) - 1) < 1e-4 for vector in (u, v))
    if of_unit_length and bool(residual <= TOLERANCE * sigma / scale):
        gradient = linear_map.kernel_gradient(v, u)
        layer.known_norm.assign(tf.convert_to_tensor(layer.kernel), sigma, gradient)
