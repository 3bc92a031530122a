r"""The norms that kernels are divided by, found anew wherever kernels have moved.

A spectral layer keeps the kernel that it last looked at, the norm sigma found for it and the
gradient of sigma. Every call compares its kernel with that one. If they are equal, the norm is
known. If not, it is found before the kernel is used, in training and in evaluation, whatever has
moved the kernel.

`up_to_date` does this for many layers at once: by one condition, and one computation for all
kernels of a shape. Inside it these layers do not compare again. Inside `frozen` they read kernels
that were normalised once and for all.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from tf_iresnet import replicas
from tf_iresnet.functions.linear_maps import LinearMap
from tf_iresnet.norms import estimates, gram, lanczos
from tf_iresnet.typing import ArrayLike

if TYPE_CHECKING:
    from tf_iresnet.layers.spectral import SpectralLayer

#: Residual of u and v, relative to sigma, above which they are searched for.
TOLERANCE = 0.01
_MANY = 3  # so many searches take longer than tracing one
_LONG = 0.03  # after a larger step of the kernel, relative to its size, the search begins anew

# Graphs of control flow, whose operations run amid those of the graph around them.
_INNER_GRAPHS = ("CondBranchFuncGraph", "WhileBodyFuncGraph", "WhileCondFuncGraph")


class KnownNorm:
    """The norm found for a kernel.

    It is derived from the weights and is no weight itself. Each replica has its own, and only
    TensorFlow's checkpoints save it.

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
        """The kernel, sigma and the gradient of sigma."""
        return [self.kernel, self.sigma, self.gradient]

    def differs(self, kernel: tf.Tensor) -> tf.Tensor:
        """Says whether a kernel differs from the one that the norm was found for."""
        return tf.reduce_any(kernel != self.kernel)

    def assign(self, kernel: tf.Tensor, sigma: tf.Tensor, gradient: tf.Tensor) -> None:
        """Keeps the norm of a kernel."""
        self.kernel.assign(kernel)
        self.sigma.assign(tf.cast(sigma, self.sigma.dtype))
        self.gradient.assign(tf.reshape(tf.cast(gradient, self.gradient.dtype), kernel.shape))

    def sigma_of(self, kernel: tf.Tensor) -> tf.Tensor:
        """Returns sigma as a function of the kernel that it was found for."""

        @tf.custom_gradient
        def sigma(kernel):
            gradient = tf.convert_to_tensor(self.gradient)
            return tf.convert_to_tensor(self.sigma), lambda upstream: upstream * gradient

        return sigma(kernel)


def _variable(value: tf.Tensor) -> tf.Variable:
    first = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(value, trainable=False, aggregation=first)


# --- which layers need not compare ---


class _Scopes(threading.local):
    def __init__(self) -> None:
        self.open: list[tuple[tf.Graph | None, frozenset[int]]] = []
        self.frozen: dict[int, tf.Variable] | None = None


_scopes = _Scopes()


def _graph() -> tf.Graph | None:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _covering() -> list[frozenset[int]]:
    """Returns the layers that enclosing scopes keep up to date, as a set of ids for each scope."""
    graph: tf.Graph = _graph()
    around = [graph]
    while type(graph).__name__ in _INNER_GRAPHS:
        graph = graph.outer_graph
        around.append(graph)
    return [ids for scope, ids in _scopes.open if any(scope is g for g in around)]


@contextlib.contextmanager
def up_to_date(layers: Iterable[SpectralLayer]) -> Iterator[None]:
    """Finds the norms of kernels that have moved; inside, these layers do not compare again.

    Args:
      layers: spectral layers; those without constraint and those not built are left out.
    """
    covering = [*_covering(), (_scopes.frozen or {}).keys()]
    layers = [
        layer
        for layer in layers
        if layer.known_norm is not None and not any(id(layer) in ids for ids in covering)
    ]
    if not layers:
        yield
        return
    _refresh(layers)
    _scopes.open.append((_graph(), frozenset(map(id, layers))))
    try:
        yield
    finally:
        _scopes.open.pop()


@contextlib.contextmanager
def frozen(layers: Iterable[SpectralLayer]) -> Iterator[None]:
    """Normalises kernels now; calls inside read the results, as an exported model does for good.

    No weight may change inside, so that what is proven of the weights needs no comparison either.

    Args:
      layers: all spectral layers that are called inside.
    """
    layers = list(layers)
    with up_to_date(layers):
        kernels = {
            id(layer): tf.Variable(layer.normalized_kernel(), trainable=False) for layer in layers
        }
    before, _scopes.frozen = _scopes.frozen, kernels
    try:
        yield
    finally:
        _scopes.frozen = before


def is_frozen() -> bool:
    """Says whether `frozen` is open."""
    return _scopes.frozen is not None


def frozen_kernel(layer: SpectralLayer) -> tf.Tensor | None:
    """Returns the normalised kernel that `frozen` holds of a layer, if it is open and does."""
    kernel = (_scopes.frozen or {}).get(id(layer))
    return None if kernel is None else tf.convert_to_tensor(kernel)


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
    groups: dict[
        tuple[str, int, tuple[LinearMap, tuple[str, ...]]],
        list[tuple[SpectralLayer, tf.Tensor, tf.Tensor]],
    ] = {}
    for layer, kernel, moved in triples:
        key = (layer.normalization, layer.power_iterations, layer.norm_problem())
        groups.setdefault(key, []).append((layer, kernel, moved))
    for (normalization, _, (linear_map, dtypes)), group in groups.items():
        if normalization == "bound":
            sigmas, gradients = _bounds(linear_map, dtypes, _stacked(group))
            for index, (layer, kernel, _) in enumerate(group):
                layer.known_norm.assign(kernel, sigmas[index], gradients[index])
        elif tf.executing_eagerly():
            for layer, kernel, _ in group:
                find_estimate(layer, kernel, traced=len(group) >= _MANY)
        else:
            _find_estimates(group)


def _stacked(group: list[tuple[SpectralLayer, tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """Stacks the kernels of one shape, in the shape of their norm's problem."""
    return tf.stack([tf.reshape(kernel, layer.norm_shape) for layer, kernel, _ in group])


def _find_estimates(group: list[tuple[SpectralLayer, tf.Tensor, tf.Tensor]]) -> None:
    """Finds estimates of those kernels of one shape that have moved, in a graph.

    A loop searches for them: with a search for each kernel, the graph of a large model takes many
    times longer to prepare.
    """
    first = group[0][0]
    linear_map, _ = first.norm_problem()
    u_shape, v_shape = (1, *linear_map.output_shape), (1, *linear_map.input_shape)
    shapes = ((), u_shape, v_shape, first.norm_shape)  # of sigma, u, v and the gradient

    def one(arguments: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        moved, kernel, v, known = arguments

        def search() -> tuple[tf.Tensor, ...]:
            found = _estimated(first, kernel, v, known, TOLERANCE, 1000, False)
            return tuple(tf.ensure_shape(f, s) for f, s in zip(found, shapes, strict=True))

        return tf.cond(moved, search, lambda: tuple(tf.zeros(s, kernel.dtype) for s in shapes))

    kernels = _stacked(group)
    vs = tf.stack([tf.convert_to_tensor(layer.v) for layer, _, _ in group])
    known = tf.stack([tf.reshape(x.known_norm.kernel, x.norm_shape) for x, _, _ in group])
    moved = tf.stack([has_moved for _, _, has_moved in group])
    dtypes = (kernels.dtype,) * len(shapes)
    found = tf.map_fn(one, (moved, kernels, vs, known), fn_output_signature=dtypes)
    for index, (layer, kernel, has_moved) in enumerate(group):
        sigma, u, v, gradient = (part[index] for part in found)
        norm = layer.known_norm
        layer.u.assign(tf.where(has_moved, u, layer.u))
        layer.v.assign(tf.where(has_moved, v, layer.v))
        gradient = tf.where(has_moved, tf.reshape(gradient, kernel.shape), norm.gradient)
        norm.assign(kernel, tf.where(has_moved, sigma, norm.sigma), gradient)


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
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Returns `_bounds_of` as a graph, one for all functions that need it."""
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
    traced: bool = False,
) -> None:
    """Finds the leading singular vectors of a kernel, and keeps them and sigma = u^T W v.

    Args:
      layer: a layer with a power iteration.
      kernel: its kernel.
      tolerance: of |W^T u - sigma v|, relative to sigma; by default `TOLERANCE`.
      rounds: of the search, at most.
      anew: whether to search however good u and v are.
      traced: whether to search by a graph also in eager code.
    """
    flat, known = (tf.reshape(x, layer.norm_shape) for x in (kernel, layer.known_norm.kernel))
    v = tf.convert_to_tensor(layer.v)
    found = _estimated(layer, flat, v, known, tolerance or TOLERANCE, rounds, anew, traced)
    sigma, u, v, gradient = found
    layer.u.assign(u)
    layer.v.assign(v)
    layer.known_norm.assign(kernel, sigma, gradient)


def _estimated(
    layer: SpectralLayer,
    kernel: tf.Tensor,
    v: tf.Tensor,
    known: tf.Tensor,
    tolerance: float,
    rounds: int,
    anew: bool,
    traced: bool = False,
) -> tuple[tf.Tensor, ...]:
    """Returns sigma, u, v and sigma's gradient, from v and the kernel that it was found for."""
    linear_map, _ = layer.norm_problem()
    # After a long step other vectors may lead, although these are still singular. An unknown
    # kernel is NaN, and so not near.
    near = tf.norm(kernel - known) <= _LONG * tf.norm(kernel)
    found = lanczos.leading_vectors(
        linear_map,
        kernel,
        v,
        steps=layer.power_iterations,
        tolerance=tolerance,
        rounds=rounds,
        anew=anew | ~near,
        traced=traced,
    )
    return (*found, linear_map.kernel_gradient(found.v, found.u))


def recall(layer: SpectralLayer, sigma: ArrayLike) -> None:
    r"""Takes a norm from a file as the kernel's, if u and v confirm it.

    They do if \|W^T u - sigma v\| and \|W v - sigma u\| are at most `TOLERANCE` sigma. If not, the
    next call finds the norm.

    Args:
      layer: a layer with a power iteration, whose weights are those of the file.
      sigma: the number.
    """
    linear_map, _ = layer.norm_problem()
    flat = tf.reshape(tf.convert_to_tensor(layer.kernel), layer.norm_shape)
    u, v = (tf.convert_to_tensor(vector) for vector in layer.spectral_state)
    scaled, scale = estimates.unit_scale(flat)
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
