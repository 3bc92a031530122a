"""Truth written from definitions, in float64, with none of the library's arithmetic."""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy import signal

from tf_iresnet import functions
from tf_iresnet.functions.linear_maps import ConvMap, DenseMap

DATA = Path(__file__).parent / "data"
SEED = tf.constant([1, 2, 0], tf.int32)


def _spread(kernel: np.ndarray, dilation: Sequence[int]) -> np.ndarray:
    """Inserts dilation - 1 zeros between the taps of a kernel without channels."""
    spread = np.zeros([(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation, strict=True)])
    spread[tuple(slice(None, None, d) for d in dilation)] = kernel
    return spread


def _pads(size: int, reach: int, stride: int, padding: str) -> tuple[int, int]:
    """Zeros before and after one axis, as Keras and TensorFlow document them."""
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach - 1, 0
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def conv_matrix(
    kernel: np.ndarray,
    spatial_shape: Sequence[int],
    padding: str = "same",
    strides: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> np.ndarray:
    """A convolution as a matrix [inputs, outputs], by scipy on every unit image."""
    rank = len(spatial_shape)
    strides, dilation = strides or (1,) * rank, dilation or (1,) * rank
    per_group, filters = kernel.shape[-2:]
    rows = []
    for position in itertools.product(*map(range, spatial_shape), range(per_group * groups)):
        *pixel, channel = position
        group, inner = divmod(channel, per_group)
        image = np.zeros(spatial_shape)
        image[tuple(pixel)] = 1.0
        planes = []
        for f in range(filters):
            taps = _spread(kernel[..., inner, f], dilation)
            pads = [
                _pads(n, reach, s, padding)
                for n, reach, s in zip(spatial_shape, taps.shape, strides, strict=True)
            ]
            plane = signal.correlate(np.pad(image, pads), taps, "valid", method="direct")
            belongs = group == f // (filters // groups)
            planes.append(plane[tuple(slice(None, None, s) for s in strides)] * belongs)
        rows.append(np.stack(planes, -1).ravel())
    return np.stack(rows)


def difference(function: Callable[[np.ndarray], np.ndarray], at, step: float = 1e-6) -> np.ndarray:
    """Central differences: [size of the value, *shape of ``at``]."""
    at = np.asarray(at, np.float64)
    columns = []
    for index in np.ndindex(at.shape):
        shift = np.zeros_like(at)
        shift[index] = step
        rise = np.asarray(function(at + shift)) - np.asarray(function(at - shift))
        columns.append(rise.ravel() / (2 * step))
    return np.stack(columns, -1).reshape(-1, *at.shape)


def jacobians(function: Callable[[tf.Tensor], tf.Tensor], x) -> np.ndarray:
    """Each example's dense Jacobian, by a tape."""
    x = tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = function(x)
    jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False).numpy()
    return jacobian.reshape(len(x), np.prod(y.shape[1:]), np.prod(x.shape[1:]))


def rows_at_once(function: Callable[[tf.Tensor], tf.Tensor], x) -> tf.Tensor:
    """The same in one backward pass, each row of a Jacobian by a copy of its example.

    For functions that treat every example by itself, whatever the batch; tapes may watch.
    """
    x = tf.convert_to_tensor(x)
    batch, size = x.shape[0], math.prod(function(x[:1]).shape[1:])
    copies = tf.repeat(x, size, axis=0)
    with tf.GradientTape() as tape:
        tape.watch(copies)
        y = function(copies)
        chosen = tf.reshape(tf.tile(tf.eye(size, dtype=y.dtype), [batch, 1]), tf.shape(y))
        total = tf.reduce_sum(chosen * y)
    return tf.reshape(tape.gradient(total, copies), [batch, size, -1])


def steepest(function: Callable[[tf.Tensor], tf.Tensor], event: Sequence[int]) -> float:
    """The largest slope found: of dense Jacobians, and along a line that crosses any jump."""
    x = np.random.default_rng(0).standard_normal((8, *event))
    line = np.linspace(-3.0, 3.0, 3001)
    y = np.reshape(function(tf.constant(np.multiply.outer(line, np.ones(event)))), (len(line), -1))
    rises = np.linalg.norm(np.diff(y, axis=0), axis=1) / np.diff(line) / math.sqrt(np.prod(event))
    norms = np.linalg.svd(rows_at_once(function, x), compute_uv=False)[:, 0]
    return max(rises.max(), norms.max())


class DenseBranch:
    """A contraction of d dimensions with two layers, and what is known about it."""

    def __init__(self, seed: int, size: int = 3, norm: float = 0.8, hidden: int = 5) -> None:
        rng = np.random.default_rng(seed)
        first, last = rng.standard_normal((size, hidden)), rng.standard_normal((hidden, size))
        last = 0.3 * last - first.T  # Jacobians then are large and far from nilpotent
        first *= np.sqrt(norm) / np.linalg.norm(first, 2)
        last *= np.sqrt(norm) / np.linalg.norm(last, 2)
        bias = 1.0 + 0.3 * rng.standard_normal(hidden)
        self.size, self.norm = size, norm
        self.parameters = [tf.constant(p) for p in (first, bias, np.float64(0.7), last)]
        self.x = rng.standard_normal((4, size))
        self.function = functions.Chain(
            [
                functions.Affine(DenseMap(size, hidden), True),
                functions.ScaledSwish(),
                functions.Affine(DenseMap(hidden, size), False),
            ]
        )

    @staticmethod
    def plain(parameters: Sequence, x) -> tf.Tensor:
        """The branch's formula."""
        first, bias, beta, last = parameters
        h = tf.matmul(x, first) + bias
        return tf.matmul(h * tf.sigmoid(tf.math.softplus(beta) * h) / 1.1, last)

    def jacobian(self, x=None, parameters=None) -> np.ndarray:
        """J at each example, [batch, d, d]."""
        parameters = self.parameters if parameters is None else parameters
        return jacobians(lambda z: self.plain(parameters, z), self.x if x is None else x)


class Normflows:
    """normflows' numbers and the branch they were made with; see data/make_normflows_truth.py."""

    def __init__(self, kind: str) -> None:
        with np.load(DATA / f"normflows_{kind}.npz") as arrays:
            self.arrays = dict(arrays)
        self.kernel_names = [f"kernel_{i}" for i in range(3)]
        parts, self.names = [], []
        for i in range(3):
            shape = self.arrays[f"kernel_{i}"].shape
            conv = len(shape) == 4
            layer = ConvMap(self["x"].shape[1:-1], shape) if conv else DenseMap(*shape)
            parts += [functions.ScaledSwish(), functions.Affine(layer, True)]
            self.names += [f"beta_{i}", f"kernel_{i}", f"bias_{i}"]
        self.function = functions.Chain(parts)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @property
    def parameters(self) -> list[tf.Tensor]:
        """beta, kernel and bias of each layer."""
        return [tf.constant(self[name]) for name in self.names]


def value_and_gradients(estimator, branch, x, upstream=None, seed=SEED):
    """The log-determinants and the gradients, of x first, of their sum weighted by upstream."""
    value, gradients = tensors_of(estimator, branch, x, upstream, seed)
    return value.numpy(), [g.numpy() for g in gradients]


def tensors_of(estimator, branch, x, upstream=None, seed=SEED):
    """The same as tensors."""
    arguments = [tf.constant(x), *branch.parameters]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        _, value = estimator(branch.function, arguments[1:], arguments[0], seed)
        total = tf.reduce_sum(value if upstream is None else upstream * value)
    return value, tape.gradient(total, arguments)


def assert_all_close(gradients, expected, rtol, atol):
    assert len(gradients) == len(expected)
    for gradient, truth in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, truth, rtol=rtol, atol=atol)
