"""The invertible residual block."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_iresnet.arguments import check_instance
from tf_iresnet.batches import event_axes, tile_like
from tf_iresnet.fixed_point import Solver, invert
from tf_iresnet.fixed_point.failure import nan_where_failed
from tf_iresnet.functions import Function, Taped
from tf_iresnet.functions.recomputation import Recomputed, after
from tf_iresnet.layers.block_options import BlockOptions, BranchOptions, ResidualOptions
from tf_iresnet.layers.branch import SpectralBranch
from tf_iresnet.layers.context import context_keyword
from tf_iresnet.layers.invertible import InvertibleLayer
from tf_iresnet.layers.lipschitz import bound_of, check_offers_bound, inverse_bound
from tf_iresnet.layers.proof import Proof
from tf_iresnet.layers.spectral import SpectralLayer
from tf_iresnet.layers.vouching import comes_first
from tf_iresnet.log_det import LogDetEstimator
from tf_iresnet.options import restore, takes
from tf_iresnet.typing import Config, Context, Shape, StaticShape

_SLACK = 1.0 + 1e-5
_OF_BRANCH = ("hidden", "kernel_sizes", "input_activation", "context_size")


def _refuse_unused(own: Config) -> None:
    """Refuses arguments of the branch that a block makes itself where one is given."""
    defaults = inspect.signature(InvertibleResidual).parameters
    for name, value in own.items():
        default = defaults[name].default
        if type(value) is not type(default) or value != default:
            raise ValueError(
                f"{name}={value!r} is for the branch that the block makes itself, but branch is "
                f"given: leave {name} out, and give it to that branch."
            )


def offers_function(branch: keras.layers.Layer) -> bool:
    """Says whether a branch's function, with its derivatives, is what its call computes."""
    if isinstance(branch, SpectralLayer) and branch.activation is not keras.activations.linear:
        return False  # the function leaves the activation to others
    names = ("function", "function_parameters")
    return all(comes_first(type(branch), name, "call") for name in names)


def _check_bounded(branch: keras.layers.Layer) -> None:
    """Refuses a branch, built or not, whose Lipschitz constant nothing bounds."""
    if not hasattr(type(branch), "lipschitz_bound"):
        raise ValueError(
            f"branch {type(branch).__name__} has no lipschitz_bound(), so nothing bounds its "
            "Lipschitz constant; give its class that method, or pass coeff=None to go without "
            "proof."
        )
    check_offers_bound(branch)


@keras.saving.register_keras_serializable("tf_iresnet")
class InvertibleResidual(InvertibleLayer):
    r"""y = x + g(x), a bijection since Lip(g) < 1; its inverse is a fixed-point iteration.

    g = W_n . phi . ... . W_1 [. phi] with each \|W\| held at coeff, so Lip(g) <= coeff^n. With
    J the Jacobian of g, ln\|det dy/dx\| = ln\|det(I + J)\| is left to an estimator object.

    Args:
      branch: a Keras layer g that keeps its input's shape; None builds the paper's branch from the
        arguments below. Unless ``coeff=None`` its class needs a method ``lipschitz_bound()``, which
        speaks of what this class computes, not of its base. A given branch computes in its own
        dtype policy, also in inference: give it one of full precision. A branch with a
        ``context_size`` is also called with a ``context``; its bound holds for every context.
      hidden: channels between the branch's linear layers.
      kernel_sizes: taps of the convolutions; for rank-2 inputs their number alone counts.
      input_activation: whether the branch starts with an activation.
      context_size: features of a context, of which every bias of the branch is a linear function,
        so that Lip(g) is the same for every context; None for no context.
      options: how the block is made, a `BlockOptions`, whose fields are keywords here, too. A given
        branch has its own, and only ``coeff`` may then be given beside the block's.
      **kwargs: of `keras.layers.Layer`.

    Raises:
      ValueError: if an argument is out of range, or the branch offers no bound.

    Example:
    >>> block = InvertibleResidual(hidden=8)
    >>> x = np.linspace(-1.0, 1.0, 8, dtype="float32").reshape(4, 2)
    >>> bool(np.allclose(block.inverse(block(x)), x, atol=1e-5))
    True
    >>> y, log_det = block.forward_and_log_det(x, seed=0)
    >>> log_det.shape
    TensorShape([4])

    Source: Invertible Residual Networks, theorem 1 and algorithms 1 and 2.
    """

    @takes(BlockOptions)
    def __init__(
        self,
        branch: keras.layers.Layer | None = None,
        *,
        hidden: int = 64,
        kernel_sizes: Sequence[int] = (3, 1, 3),
        input_activation: bool = True,
        context_size: int | None = None,
        options: BlockOptions,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.coeff = options.coeff
        options.part(ResidualOptions).keep_on(self)
        self._given_branch = branch is not None
        self._contraction_proof = Proof()
        own: Config = {
            "hidden": hidden,
            "kernel_sizes": kernel_sizes,
            "input_activation": input_activation,
            "context_size": context_size,
        }
        if branch is None:
            of_branch = options.part(BranchOptions)
            branch = SpectralBranch(
                **own, options=of_branch, name="branch", dtype=self.dtype_policy
            )
        else:
            # coeff may be given with a branch: it says whether a bound is needed.
            others = {n: getattr(options, n) for n in BranchOptions.names() if n != "coeff"}
            _refuse_unused({**own, **others})
        check_instance("branch", branch, keras.layers.Layer, "SpectralBranch()")
        if self._given_branch and self.coeff is not None:
            _check_bounded(branch)
        self.branch = branch

    log_det: LogDetEstimator
    solver: Solver
    recompute: bool

    @property
    def context_size(self) -> int | None:
        return getattr(self.branch, "context_size", None)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if not self.branch.built:
            self.branch.build(tuple(input_shape))
        # A convolution's norm holds for the size that it was built for. Its function, which is what
        # a block evaluates, does not check the size as a layer's call does.
        sizes = getattr(self.branch.input_spec, "axes", None) or {}
        if any(input_shape[axis] != size for axis, size in sizes.items()):
            raise ValueError(
                f"the branch of {self.name} was built for inputs of other sizes, by axis {sizes}, "
                f"than {tuple(input_shape)}; give each block its own branch."
            )
        shape = tuple(self.branch.compute_output_shape(tuple(input_shape)))
        if shape[1:] != tuple(input_shape)[1:]:
            raise ValueError(
                f"the branch of {self.name} maps {tuple(input_shape)} to {shape}; x + g(x) needs "
                "the same shape."
            )

    def _differentiated(
        self, dtype: str, context: tf.Tensor | None = None
    ) -> tuple[Function, list[tf.Tensor]]:
        """Returns `_function` for a forward pass that a backward pass may follow."""
        function, parameters = self._function(dtype, context)
        return (Recomputed(function) if self.recompute else function), parameters

    def _function(
        self, dtype: str, context: tf.Tensor | None = None
    ) -> tuple[Function, list[tf.Tensor]]:
        """Returns the branch and its parameters, computing in ``dtype``."""
        branch = self.branch
        conditions = context_keyword(branch, context)
        if offers_function(branch):
            parameters = branch.function_parameters(**conditions)
            return branch.function(), [tf.cast(p, dtype) for p in parameters]
        variables = [*branch.trainable_variables, *branch.non_trainable_variables]
        frozen = [tf.convert_to_tensor(v) for v in branch.non_trainable_variables]
        takes_training = "training" in inspect.signature(branch.call).parameters
        options = {"training": False} if takes_training else {}

        def call(parameters, x):
            if conditions:
                *parameters, rows = parameters
                options["context"] = tile_like(rows, x)
            # A call: unlike stateless_call it applies the branch's own dtype policy.
            mapping = list(zip(variables, [*parameters, *frozen], strict=True))
            with keras.StatelessScope(state_mapping=mapping):
                return tf.cast(branch(x, **options), x.dtype)

        parameters = [tf.convert_to_tensor(v) for v in branch.trainable_variables]
        parameters += conditions.values()
        return Taped(call, len(parameters)), parameters

    def _dtype(self, training: bool) -> str:
        # Only training computes in low precision: an inverse in float32 differs from a forward
        # pass in bfloat16 by the latter's rounding. A given branch does its own casting.
        known = offers_function(self.branch)
        return self.compute_dtype if training and known else self.variable_dtype

    def forward(self, x: tf.Tensor, training: bool = False, context: Context = None) -> tf.Tensor:
        dtype = self._dtype(training)
        function, parameters = self._differentiated(dtype, context)
        return x + tf.cast(function(parameters, tf.cast(x, dtype)), x.dtype)

    def _log_det(self, x, seed, log_det, training, context=None):
        dtype = self._dtype(training)
        function, parameters = self._differentiated(dtype, context)
        estimator = self.log_det if log_det is None else log_det
        g, value = estimator(function, parameters, tf.cast(x, dtype), seed)
        if self.recompute:  # the next block waits until this one holds nothing but x
            g = after(g, value)
        y = x + tf.cast(g, x.dtype)
        # Where y is NaN, as after a failed inverse, slopes may still be finite.
        axes = event_axes(y)
        return y, nan_where_failed(value, ~tf.reduce_any(tf.math.is_nan(y), axis=axes))

    def _inverse(self, y, context=None):
        function, parameters = self._function(self.variable_dtype, context)
        return invert(function, parameters, y, self.solver, amplification=self.amplification)

    def amplification(self) -> tf.Tensor:
        # The kernels of a graph and of eager code differ by roundings of their norms.
        contraction = _SLACK * self._contraction_proof.of(self, self.lipschitz_bound)
        known = contraction < 1
        rest = tf.where(known, 1 - contraction, tf.ones_like(contraction))
        return tf.where(known, 1 / rest, tf.constant(math.inf, tf.float64))

    def lipschitz_bound(self) -> float:
        """Returns a proven bound of Lip(g); below 1 the block is invertible."""
        return bound_of(self.branch)

    _bounded_by_branch = True  # so `lipschitz_bound` is what a subclass must state, see `lipschitz`

    def inverse_lipschitz_bound(self, sublayers: Sequence[float] | None = None) -> float:
        return inverse_bound(self.lipschitz_bound())

    def compute_input_shape(self, output_shape: Shape) -> StaticShape:
        return tuple(output_shape)

    def get_config(self) -> Config:
        config = {**super().get_config(), **ResidualOptions.config_of(self)}
        if self._given_branch:
            branch = keras.saving.serialize_keras_object(self.branch)
            return {**config, "coeff": self.coeff, "branch": branch}
        shared = BranchOptions.config_of(self.branch)
        own = {name: getattr(self.branch, name) for name in _OF_BRANCH}
        return {**config, **shared, **own}

    @classmethod
    def from_config(cls, config: Config) -> InvertibleResidual:
        return cls(**restore(config))
