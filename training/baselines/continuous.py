"""Continuous flows (FFJORD)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tf_iresnet import randomness
from tf_iresnet.fixed_point import FixedPointResult
from tf_iresnet.layers import InvertibleLayer
from tf_iresnet.log_det import Exact, LogDetEstimator, PowerSeries
from tf_iresnet.typing import Config, Shape
from training.baselines.networks import PlainNetwork

_MOST_STEPS = 1000  # of the adaptive solver, which never ends where the state is no number
_PROBES = {"rademacher": randomness.rademacher, "gaussian": randomness.normal}

_State = tuple[tf.Tensor, tf.Tensor]  # z, and the log-determinant up to there
_Derivative = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # of the time and z
_Augmented = Callable[[tf.Tensor, _State], _State]  # the derivative of both
_Augment = Callable[[_Derivative, tf.TensorShape, tf.DType], _Augmented]
_Solve = Callable[..., tfp.math.ode.Results]


@keras.saving.register_keras_serializable("training")
class ContinuousFlow(InvertibleLayer):
    r"""y = z(1) with dz/dt = f(z, t), z(0) = x; ln\|det\| = the integral of tr(df/dz).

    Training takes a fixed number of classical Runge-Kutta steps and differentiates through
    them; everything else integrates by Dormand and Prince's adaptive method, whose local error
    per step is at most atol + rtol |z| in the root mean square over the batch.

    The trace is Hutchinson's estimate, without bias, its probes fixed along the path; that is the
    first term of a power series, so `PowerSeries(terms=1)` describes it. `Exact()` takes the
    trace itself: d products for d dimensions at each evaluation.

    Args:
      hidden: channels of the network f.
      kernel_sizes: of the network's layers.
      steps: of training's solver, four evaluations of f each.
      rtol: relative tolerance of the adaptive solver.
      atol: absolute tolerance of the adaptive solver.
      log_det: the trace's estimator; by default `PowerSeries(terms=1)`.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if the estimator is of another kind.

    Source: Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud 2019 (FFJORD), section 3.
    """

    def __init__(
        self,
        hidden: int = 64,
        kernel_sizes: Sequence[int] = (3, 3, 3),
        steps: int = 2,
        rtol: float = 1e-4,
        atol: float = 1e-4,
        log_det: LogDetEstimator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden = int(hidden)
        self.kernel_sizes = tuple(kernel_sizes)
        self.steps = int(steps)
        self.rtol = float(rtol)
        self.atol = float(atol)
        self.log_det = _checked(PowerSeries(terms=1) if log_det is None else log_det)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.network = PlainNetwork(
            tf.TensorShape(input_shape)[-1],
            self.hidden,
            self.kernel_sizes,
            "softplus",
            timed=True,
            name="network",
            dtype=self.variable_dtype,
        )
        self.network.build(tuple(input_shape))

    def _flow(self, trace: _Augment, solve: _Solve) -> tfb.Bijector:
        return tfb.FFJORD(
            lambda time, state: self.network(state, time),
            ode_solve_fn=solve,
            trace_augmentation_fn=trace,
            dtype=tf.as_dtype(self.variable_dtype),
        )

    def _solver(self, training: bool) -> _Solve:
        if training:
            return _runge_kutta(self.steps)
        return tfp.math.ode.DormandPrince(
            rtol=self.rtol, atol=self.atol, first_step_size=0.1, max_num_steps=_MOST_STEPS
        ).solve

    def forward(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        flow = self._flow(_no_trace, self._solver(training))
        return _without_filler(flow.forward(_filled(x)), x)

    def _log_det(
        self, x: tf.Tensor, seed: tf.Tensor, log_det: LogDetEstimator | None, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        filled = _filled(x)
        seed = _filled(seed) if seed.shape.rank == 2 else seed  # a key for each example
        trace = _trace(_checked(self.log_det if log_det is None else log_det), filled, seed)
        flow = self._flow(trace, self._solver(training))
        # TFP's cache keeps the log-determinant that comes with the output of this very tensor.
        y = flow.forward(filled)
        value = flow.forward_log_det_jacobian(filled, event_ndims=x.shape.rank - 1)
        return _without_filler(y, x), value[: tf.shape(x)[0]]

    def _inverse(self, y: tf.Tensor) -> FixedPointResult:
        evaluations = []

        def solve(*args: Any, **kwargs: Any) -> tfp.math.ode.Results:
            result = self._solver(training=False)(*args, **kwargs)
            evaluations.append(result.diagnostics.num_ode_fn_evaluations)
            return result

        x = self._flow(_no_trace, solve).inverse(_filled(y))
        found = FixedPointResult.exact(_without_filler(x, y), math.inf)
        return found._replace(steps=found.steps + tf.cast(evaluations[0], tf.int32))

    def compute_input_shape(self, output_shape: Shape) -> tuple[int | None, ...]:
        return tuple(output_shape)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "kernel_sizes": self.kernel_sizes,
            "steps": self.steps,
            "rtol": self.rtol,
            "atol": self.atol,
            "log_det": keras.saving.serialize_keras_object(self.log_det),
        }

    @classmethod
    def from_config(cls, config: Config) -> "ContinuousFlow":
        log_det = keras.saving.deserialize_keras_object(config["log_det"])
        return cls(**{**config, "log_det": log_det})


def _filled(x: tf.Tensor) -> tf.Tensor:
    """Adds an example to an empty batch, for which a solver's error would be NaN."""
    empty = tf.cast(tf.equal(tf.shape(x)[0], 0), tf.int32)
    filled = tf.pad(x, [[0, empty], *[[0, 0]] * (x.shape.rank - 1)])
    return tf.ensure_shape(filled, (None, *x.shape[1:]))


def _without_filler(filled: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(filled[: tf.shape(x)[0]], x.shape)


def _checked(log_det: LogDetEstimator) -> LogDetEstimator:
    one = isinstance(log_det, PowerSeries) and log_det.terms == 1
    if not one and not isinstance(log_det, Exact):
        raise ValueError(
            "log_det of a continuous flow must be PowerSeries(terms=1), which is Hutchinson's "
            f"estimate of a trace, or Exact(), got {log_det!r}."
        )
    return log_det


class _Solution(NamedTuple):
    """What TFP reads of a solver's results: states at the solution times."""

    states: tuple[tf.Tensor, ...]


def _runge_kutta(steps: int) -> Callable[..., _Solution]:
    """The classical method of fourth order with a fixed number of steps."""

    def solve(
        ode_fn: _Augmented,
        initial_time: float,
        initial_state: _State,
        solution_times: Sequence[float],
    ) -> _Solution:
        (end,) = solution_times
        size, state = (end - initial_time) / steps, initial_state

        def moved(slope: _State, by: float) -> _State:
            return tf.nest.map_structure(lambda z, dz: z + by * dz, state, slope)

        for step in range(steps):
            time = tf.constant(initial_time + step * size, state[0].dtype)
            first = ode_fn(time, state)
            second = ode_fn(time + size / 2, moved(first, size / 2))
            third = ode_fn(time + size / 2, moved(second, size / 2))
            fourth = ode_fn(time + size, moved(third, size))
            mean = tf.nest.map_structure(
                lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth
            )
            state = moved(mean, size)
        return _Solution(tf.nest.map_structure(lambda z: z[None], state))

    return solve


def _no_trace(ode_fn: _Derivative, shape: tf.TensorShape, dtype: tf.DType) -> _Augmented:
    """Leaves the log-determinant at zero."""

    def augmented(time: tf.Tensor, state: _State) -> _State:
        return ode_fn(time, state[0]), tf.zeros_like(state[1])

    return augmented


def _trace(log_det: LogDetEstimator, x: tf.Tensor, seed: tf.Tensor) -> _Augment:
    """Adds the trace of df/dz, spread over the coordinates, to the derivative."""
    probes: list[tf.Tensor] = []
    if isinstance(log_det, PowerSeries):
        draw = _PROBES[log_det.probe_distribution]
        probes = [draw(randomness.fold_in(seed, index), x) for index in range(log_det.probes)]

    def augment(ode_fn: _Derivative, shape: tf.TensorShape, dtype: tf.DType) -> _Augmented:
        def augmented(time: tf.Tensor, state: _State) -> _State:
            z = state[0]
            # A tape of the state alone: one around this call may still watch the weights.
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(z)
                slope = ode_fn(time, z)
            if not probes:
                return slope, _diagonal(tape, slope, z)
            traces = [probe * tape.gradient(slope, z, probe) for probe in probes]
            return slope, tf.add_n(traces) / len(traces)

        return augmented

    return augment


def _diagonal(tape: tf.GradientTape, y: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    jacobian = tape.batch_jacobian(y, x, experimental_use_pfor=False)
    size = x.shape[1:].num_elements()
    diagonal = tf.linalg.diag_part(tf.reshape(jacobian, [-1, size, size]))
    return tf.reshape(diagonal, tf.shape(x))
