"""Initial kernels: their spectrum, that layers differ, and how they are named and saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_iresnet import initializers
from tf_iresnet.initializers import DeltaOrthogonal
from tf_iresnet.layers import (
    DenseNetBranch,
    InvertibleResidual,
    SpectralBranch,
    SpectralConv2D,
    SpectralDense,
)
from tf_iresnet.models import IResNetClassifier, IResNetFlow, IResNetHybrid
from tf_iresnet.norms.dense import dense_matrix

pytestmark = pytest.mark.quick

NAME = "delta_orthogonal"


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((3, 3, 4, 4), (5, 6)),
        ((3, 3, 2, 5), (4, 4)),
        ((1, 3, 5, 2), (4, 4)),
        ((2, 4, 3, 3), (5, 5)),  # even: the centre is where "same" padding puts the pixel
        ((3, 4, 3), (7,)),
        ((3, 1, 2, 4, 4), (3, 3, 4)),
    ],
)
def test_all_singular_values_are_equal(shape, sizes):
    kernel = DeltaOrthogonal(gain=0.7, seed=3)(shape, dtype="float64")
    assert kernel.dtype == tf.float64
    values = np.linalg.svd(dense_matrix(np.asarray(kernel), sizes), compute_uv=False)
    np.testing.assert_allclose(values, 0.7, rtol=1e-12)


def test_a_matrix_is_orthogonal():
    matrix = np.asarray(DeltaOrthogonal(seed=1)((6, 3)))
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype):
    kernel = DeltaOrthogonal(seed=1)((3, 3, 4, 4), dtype=dtype)
    assert kernel.dtype == dtype
    np.testing.assert_allclose(tf.norm(tf.cast(kernel, tf.float32)), 2.0, rtol=2e-2)


def test_a_branch_starts_with_all_that_its_bound_allows():
    x = tf.random.stateless_normal((16, 8, 8, 4), (0, 1))
    gains = {}
    for name in (NAME, "glorot_uniform"):
        keras.utils.set_random_seed(0)
        branch = SpectralBranch(32, coeff=0.9, input_activation=False, kernel_initializer=name)
        branch(x)
        first, second = branch.parts[0], branch.parts[2]
        assert first.norm_bound() < 0.95
        gains[name] = float(tf.norm(second(first(x))) / tf.norm(x))
    np.testing.assert_allclose(gains[NAME], 0.81, rtol=2e-3)
    assert gains["glorot_uniform"] < 0.45


@pytest.mark.parametrize("make", [SpectralBranch, lambda **k: DenseNetBranch(4, 2, **k)])
def test_every_layer_has_a_kernel_of_its_own(make):
    kernels = []
    for _ in range(2):
        branch = make(kernel_initializer=NAME)
        branch.build((None, 6, 6, 4))
        kernels += [v.numpy() for v in branch.trainable_variables if v.path.endswith("kernel")]
    for i, one in enumerate(kernels):
        for other in kernels[:i]:
            assert one.shape != other.shape or np.abs(one - other).max() > 0.1


def test_the_seed_of_keras_counts():
    def kernel():
        keras.utils.set_random_seed(7)
        layer = SpectralConv2D(4, 3, kernel_initializer=NAME)
        layer.build((None, 5, 5, 4))
        return layer.kernel.numpy()

    np.testing.assert_array_equal(kernel(), kernel())


@pytest.mark.parametrize(
    "make",
    [
        lambda name: SpectralBranch(kernel_initializer=name),
        lambda name: DenseNetBranch(kernel_initializer=name),
        lambda name: InvertibleResidual(kernel_initializer=name),
        lambda name: IResNetFlow((2,), levels=None, blocks=(1,), hidden=4, kernel_initializer=name),
        lambda name: IResNetHybrid(
            (2,), 2, levels=None, blocks=(1,), hidden=4, kernel_initializer=name
        ),
        lambda name: IResNetClassifier(
            (4, 4, 1), 2, blocks=(1,), hidden=4, kernel_initializer=name
        ),
    ],
    ids=["branch", "densenet", "residual", "flow", "hybrid", "classifier"],
)
def test_the_name_is_an_argument_of_all_and_is_saved(make):
    made = make(NAME)
    assert made.get_config()["kernel_initializer"] == NAME
    again = type(made).from_config(made.get_config())
    assert again.get_config()["kernel_initializer"] == NAME
    for wrong in ("no_such", 3, None):
        with pytest.raises(ValueError, match="kernel_initializer must be"):
            make(wrong)


def test_a_name_that_is_checked_uses_up_no_random_numbers():
    def kernel(check):
        keras.utils.set_random_seed(5)
        for _ in range(check):
            initializers.check_name("glorot_uniform")
        return np.asarray(initializers.get("glorot_uniform")((3, 4)))

    np.testing.assert_array_equal(kernel(0), kernel(2))


def test_layers_keep_the_initializer():
    layer = SpectralDense(3, kernel_initializer=NAME)
    again = SpectralDense.from_config(layer.get_config())
    assert isinstance(again.kernel_initializer, DeltaOrthogonal)
    assert isinstance(
        initializers.get(keras.initializers.serialize(DeltaOrthogonal())), DeltaOrthogonal
    )


def test_shapes_without_channels_are_refused():
    with pytest.raises(ValueError, match="spatial sizes, inputs and outputs"):
        DeltaOrthogonal()((3,))
