"""Table 1: properties of one layer of each system, all of them measured."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypedDict, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tf_iresnet.functions import Function
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers import ActNorm, InvertibleLayer, InvertibleResidual, InvertibleSequential
from tf_iresnet.layers.branch import Branch
from tf_iresnet.log_det import PowerSeries, RussianRoulette
from tf_iresnet.typing import ArrayLike
from training.baselines.continuous import ContinuousFlow
from training.baselines.coupling import Coupling
from training.baselines.linear import InvertibleLinear

PROPERTIES = (
    "free-form Jacobian",
    "analytic forward",
    "analytic inverse",
    "non-volume-preserving",
    "exact likelihood",
    "unbiased log-det estimator",
)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_DIMS = 4
_HIDDEN = 16
_POINTS = 64  # more than the _DIMS^2 entries that their Jacobians may span
_DRAWS = 200  # of the estimator, each for this many copies of a point:
_COPIES = 16
_ROUNDING = 1e-7  # errors of a log-determinant below it are rounding, in float64
_ZERO = 1e-9  # singular values below it are none
_LARGEST_Z = 5.0  # an unbiased normal mean goes beyond it once in 1.7 million measurements


class Measured(TypedDict):
    """Whether a system has a property, None where that has no meaning, and what it rests on."""

    value: bool | None
    evidence: dict[str, float]


def measure_properties(
    seed: int = 0, systems: Mapping[str, InvertibleLayer] | None = None
) -> dict[str, dict[str, Measured]]:
    """Measures the properties of one layer of each system, on vectors in float64.

    A Jacobian is free-form if it may be any matrix at different points: then the differences of the
    Jacobians at many points span all d^2 entries. Constant linear maps around a layer, such as
    permutations, do not change that number. A direction is analytic if it takes one evaluation of
    the layer's network. A likelihood is exact if the log-determinant is that of the dense Jacobian,
    up to rounding, for every seed. Where it is not, the estimator is unbiased if the mean of
    independent draws deviates from the truth by less than five standard errors. A bias shows at
    kernels of the largest norm that the constraint allows.

    Args:
      seed: of the weights, the points and the draws.
      systems: the layers by name; by default those of the paper's table and Residual Flow's.

    Returns:
      For each system and property the "value" (None where the property has no meaning: a ResNet
      without constraint has no inverse, an exact likelihood needs no estimator) and the "evidence",
      numbers by name.
    """
    systems = one_layer_each(seed) if systems is None else systems
    return {name: _measured(layer, seed) for name, layer in systems.items()}


def one_layer_each(seed: int = 0) -> dict[str, InvertibleLayer]:
    """Makes one layer of each system, built for vectors and moved away from its initial weights.

    Args:
      seed: of the weights.
    """
    keras.utils.set_random_seed(seed)
    half, dtype = range(_DIMS // 2), "float64"
    # Of finite variance for all branches of this constraint: 1 - p exceeds their (0.9^3)^2.
    series, roulette = PowerSeries(terms=5), RussianRoulette(exact_terms=2, probability=0.1)

    def coupling(scale: str) -> Coupling:
        return Coupling(half, _HIDDEN, scale=scale, dtype=dtype)

    def residual(**options: Any) -> InvertibleResidual:
        return InvertibleResidual(**{"hidden": _HIDDEN, "coeff": 0.9, "dtype": dtype, **options})

    glow = [ActNorm(dtype=dtype), InvertibleLinear(dtype=dtype), coupling("sigmoid")]
    layers = {
        "ResNet": residual(coeff=None, activation="elu"),
        "NICE": coupling("none"),
        "Real-NVP": coupling("tanh"),
        "Glow": InvertibleSequential(glow, dtype=dtype),
        "FFJORD": ContinuousFlow(_HIDDEN, steps=8, rtol=1e-6, atol=1e-6, dtype=dtype),
        "i-ResNet": residual(activation="elu", log_det=series),
        "Residual Flow": residual(log_det=roulette),
    }
    rng = np.random.default_rng(seed)
    for layer in layers.values():
        layer.build((None, _DIMS))
        for variable in layer.trainable_variables:
            variable.assign_add(0.3 * rng.standard_normal(variable.shape))
        if isinstance(layer, InvertibleResidual):
            _strengthen(layer, rng)
    return layers


def _strengthen(block: InvertibleResidual, rng: np.random.Generator) -> None:
    """Aligns a branch's kernels: their product is about a multiple of -1, as large as it may be.

    Random kernels make Jacobians so small that a few terms of their series are all of it.
    """
    for layer in block.spectral_layers():
        shape = tuple(layer.kernel.shape)
        sign = -1.0 if shape[-1] == _DIMS else 1.0  # the last one's
        noise = 0.01 * rng.standard_normal(shape)
        layer.kernel.assign(2.0 * (sign * np.eye(*shape) + noise))
    block.converge_spectral_state()


def _measured(layer: InvertibleLayer, seed: int) -> dict[str, Measured]:
    x = 2.0 * np.random.default_rng(seed).standard_normal((_POINTS, _DIMS))
    jacobians = _dense_jacobians(layer, x)
    invertible = not (isinstance(layer, InvertibleResidual) and layer.coeff is None)
    found = {
        "free-form Jacobian": _free_form(jacobians),
        "analytic forward": _analytic(layer, lambda: layer(x)),
    }
    if not invertible:
        # A continuous map of determinants of both signs folds space.
        signs = np.sign(np.linalg.det(jacobians))
        folds = {"largest sign": float(signs.max()), "smallest sign": float(signs.min())}
        return found | {name: _entry(None, **folds) for name in PROPERTIES[2:]}
    truth = np.linalg.slogdet(jacobians)[1]
    y, back = layer(x), []
    inverse = _analytic(layer, lambda: back.append(layer.inverse(y)))
    inverse["evidence"]["largest error"] = float(np.abs(back[0] - x).max())
    largest = float(np.abs(truth).max())
    exact = _exact(layer, x, truth, seed)
    needless = _entry(None, **exact["evidence"])
    return found | {
        "analytic inverse": inverse,
        "non-volume-preserving": _entry(largest > _ROUNDING, largest_log_det=largest),
        "exact likelihood": exact,
        "unbiased log-det estimator": needless
        if exact["value"]
        else _unbiased(layer, x, truth, seed),
    }


def _entry(value: bool | None, **evidence: float) -> Measured:
    return {"value": value, "evidence": {k.replace("_", " "): v for k, v in evidence.items()}}


def _dense_jacobians(layer: InvertibleLayer, x: np.ndarray) -> np.ndarray:
    def jacobians(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = layer.forward(x, training=True)  # solvers of fixed steps can be differentiated
        return tape.batch_jacobian(y, x, experimental_use_pfor=False)

    return _graph(jacobians, x)(tf.constant(x)).numpy()


def _graph(
    function: Callable[[tf.Tensor], tf.Tensor], like: ArrayLike
) -> Callable[[tf.Tensor], tf.Tensor]:
    """Compiles a function of one tensor; eager code is slow in solvers' loops."""
    signature = tf.TensorSpec.from_tensor(tf.constant(like))
    return tf.function(function, autograph=False).get_concrete_function(signature)


def _key(seed: int, number: int) -> tf.Tensor:
    return tf.constant([seed, number, 0])


def _free_form(jacobians: np.ndarray) -> Measured:
    differences = (jacobians - jacobians[0]).reshape(len(jacobians), -1)
    values = np.linalg.svd(differences, compute_uv=False)
    spanned = int((values > _ZERO * max(values[0], 1.0)).sum())
    return _entry(spanned == values.size, spanned=spanned, entries=values.size)


def _analytic(layer: InvertibleLayer, run: Callable[[], object]) -> Measured:
    with _counted(layer) as evaluations:
        run()
    return _entry(len(evaluations) == 1, evaluations=len(evaluations))


@contextlib.contextmanager
def _counted(layer: InvertibleLayer) -> Iterator[list[None]]:
    """Notes each evaluation of the networks inside a layer, in eager code."""
    evaluations: list[None] = []

    def counting(function: Callable[_P, _T]) -> Callable[_P, _T]:
        @functools.wraps(function)
        def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
            evaluations.append(None)
            return function(*arguments, **options)

        return call

    def counting_function(branch: Branch) -> Function:
        function = type(branch).function(branch)
        vars(function).update(
            linearize=counting(function.linearize),
            fold=lambda parameters: (function, parameters),  # else an uncounted one
        )
        return function

    with contextlib.ExitStack() as stack:
        for part in layers_inside(layer):
            if isinstance(part, InvertibleResidual):
                make = functools.partial(counting_function, part.branch)
                stack.enter_context(_replaced(part.branch, "function", make))
            elif getattr(part, "network", None) is not None:
                network = part.network
                stack.enter_context(_replaced(network, "call", counting(network.call)))
        yield evaluations


@contextlib.contextmanager
def _replaced(owner: object, name: str, method: Callable[..., object]) -> Iterator[None]:
    vars(owner)[name] = method
    try:
        yield
    finally:
        del vars(owner)[name]


def _exact(layer: InvertibleLayer, x: np.ndarray, truth: np.ndarray, seed: int) -> Measured:
    value = _graph(lambda key: layer.forward_and_log_det(x, key)[1], _key(seed, 0))
    draws = [value(_key(seed, number)).numpy() for number in (0, 1)]
    errors = [float(np.abs(draw - truth).max()) for draw in draws]
    return _entry(max(errors) < _ROUNDING, largest_error=max(errors))


def _unbiased(layer: InvertibleLayer, x: np.ndarray, truth: np.ndarray, seed: int) -> Measured:
    """Tests at the point of the smallest log-determinant, of which a series misses most."""
    worst = int(truth.argmin())
    copies = tf.constant(np.repeat(x[worst : worst + 1], _COPIES, axis=0))

    def mean(key: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(layer.forward_and_log_det(copies, key)[1])

    draw = _graph(mean, _key(seed, 0))
    # A roulette's number of terms is shared by the copies: the draws are what is independent.
    draws = np.array([draw(_key(seed, number)) for number in range(_DRAWS)])
    error = float(draws.mean() - truth[worst])
    deviation = float(draws.std(ddof=1) / np.sqrt(_DRAWS))
    z = error / deviation
    return _entry(
        abs(z) < _LARGEST_Z, z=z, error=error, standard_error=deviation, draws=_DRAWS * _COPIES
    )
