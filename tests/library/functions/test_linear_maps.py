"""Linear maps against matrices that scipy wrote out."""

import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import conv_matrix
from tf_iresnet.functions.linear_maps import ConvMap, DenseMap, map_for_kernel

pytestmark = pytest.mark.quick

# spatial shape, kernel shape, padding, strides, dilation, groups
CASES = {
    "1d same": ((6,), (3, 2, 3), "same", (1,), (1,), 1),
    "1d even same": ((6,), (4, 2, 3), "same", (1,), (1,), 1),
    "1d valid": ((6,), (3, 2, 1), "valid", (1,), (1,), 1),
    "1d causal": ((6,), (3, 2, 3), "causal", (1,), (1,), 1),
    "1d causal dilated": ((6,), (3, 2, 2), "causal", (1,), (2,), 1),
    "1d causal strided": ((7,), (3, 2, 2), "causal", (2,), (1,), 1),
    "1d larger than its input": ((2,), (5, 1, 2), "same", (1,), (1,), 1),
    "2d same": ((4, 5), (3, 3, 2, 3), "same", (1, 1), (1, 1), 1),
    "2d to few": ((4, 5), (3, 3, 16, 3), "same", (1, 1), (1, 1), 1),
    "2d from few": ((4, 5), (5, 3, 3, 17), "same", (1, 1), (1, 1), 1),
    "2d larger to few": ((2, 1), (5, 3, 16, 2), "same", (1, 1), (1, 1), 1),
    "2d to few valid": ((4, 5), (3, 3, 16, 3), "valid", (1, 1), (1, 1), 1),
    "2d even same": ((4, 5), (2, 4, 2, 3), "same", (1, 1), (1, 1), 1),
    "2d valid": ((4, 5), (3, 2, 2, 3), "valid", (1, 1), (1, 1), 1),
    "2d strided": ((5, 4), (3, 2, 2, 3), "same", (2, 3), (1, 1), 1),
    "2d strided valid": ((5, 4), (3, 2, 2, 3), "valid", (2, 1), (1, 1), 1),
    "2d dilated": ((6, 5), (3, 2, 2, 3), "same", (1, 1), (2, 3), 1),
    "2d grouped": ((4, 3), (3, 2, 2, 6), "same", (1, 1), (1, 1), 3),
    "3d same": ((3, 4, 3), (3, 2, 3, 2, 1), "same", (1, 1, 1), (1, 1, 1), 1),
    "3d valid": ((3, 4, 3), (3, 2, 1, 1, 2), "valid", (1, 1, 1), (1, 1, 1), 1),
    "3d dilated grouped": ((4, 3, 3), (2, 2, 2, 1, 4), "same", (1, 1, 1), (2, 1, 1), 2),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def conv(request):
    """A convolution, its kernel and its matrix."""
    spatial_shape, kernel_shape, padding, strides, dilation, groups = request.param
    kernel = np.random.default_rng(0).standard_normal(kernel_shape)
    matrix = conv_matrix(kernel, spatial_shape, padding, strides, dilation, groups)
    return ConvMap(*request.param), kernel, matrix


def batch(shape, seed):
    return np.random.default_rng(seed).standard_normal((3, *shape))


def test_apply_is_the_matrix(conv):
    linear_map, kernel, matrix = conv
    x = batch(linear_map.input_shape, 1)
    y = linear_map.apply(tf.constant(kernel), tf.constant(x))
    assert y.shape == (3, *linear_map.output_shape)
    np.testing.assert_allclose(y.numpy().reshape(3, -1), x.reshape(3, -1) @ matrix, atol=1e-12)


def test_adjoint_is_the_transpose(conv):
    linear_map, kernel, matrix = conv
    y = batch(linear_map.output_shape, 2)
    x = linear_map.adjoint(tf.constant(kernel), tf.constant(y))
    assert x.shape == (3, *linear_map.input_shape)
    np.testing.assert_allclose(x.numpy().reshape(3, -1), y.reshape(3, -1) @ matrix.T, atol=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_kernel_gradient_pairs_with_every_kernel(case):
    spatial_shape, kernel_shape, *options = case
    linear_map = ConvMap(*case)
    x, y = batch(linear_map.input_shape, 1), batch(linear_map.output_shape, 2)
    gradient = linear_map.kernel_gradient(tf.constant(x), tf.constant(y)).numpy()
    assert gradient.shape == kernel_shape
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(kernel_shape)
        matrix = conv_matrix(direction, spatial_shape, *options)
        expected = np.sum((x.reshape(3, -1) @ matrix) * y.reshape(3, -1))
        np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=1e-10, atol=1e-10)


def test_dense_map_with_extra_axes():
    rng = np.random.default_rng(0)
    kernel, x, y = (rng.standard_normal(s) for s in ((2, 3), (4, 5, 2), (4, 5, 3)))
    dense = DenseMap(2, 3)
    np.testing.assert_allclose(dense.apply(kernel, x), np.einsum("abi,io->abo", x, kernel))
    np.testing.assert_allclose(dense.adjoint(kernel, y), np.einsum("abo,io->abi", y, kernel))
    np.testing.assert_allclose(
        dense.kernel_gradient(tf.constant(x), tf.constant(y)), np.einsum("abi,abo->io", x, y)
    )
    assert (dense.input_shape, dense.output_shape) == ((2,), (3,))


@pytest.mark.parametrize("name", ["1d causal", "2d dilated", "2d grouped", "3d same"])
def test_static_shapes_survive_an_unknown_batch(name):
    linear_map = ConvMap(*CASES[name])
    kernel = tf.ones(linear_map.kernel_shape)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *linear_map.input_shape]),
            tf.TensorSpec([None, *linear_map.output_shape]),
        ]
    )
    def shapes(x, y):
        assert linear_map.apply(kernel, x).shape.as_list() == [None, *linear_map.output_shape]
        assert linear_map.adjoint(kernel, y).shape.as_list() == [None, *linear_map.input_shape]
        return linear_map.kernel_gradient(x, y)

    gradient = shapes(tf.ones((5, *linear_map.input_shape)), tf.ones((5, *linear_map.output_shape)))
    assert gradient.shape == linear_map.kernel_shape


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((4, 4), (3, 1, 1)), ["kernel", r"\(3, 1, 1\)", "1 sizes", r"\(4, 4\)"]),
        (((4,), (3, 1, 1), "full"), ["padding", "same", "valid", "causal", "full"]),
        (((4, 4), (3, 3, 1, 1), "causal"), ["causal", "1-D"]),
        (((2,), (3, 1, 1), "valid"), ["spatial_shape", r"\(2,\)", "valid", "larger"]),
    ],
)
def test_a_bad_convolution_is_refused(arguments, words):
    with pytest.raises(ValueError, match=".*".join(words)):
        ConvMap(*arguments)


@pytest.mark.parametrize(
    ("kernel_shape", "words"),
    [((3,), r"kernel.*\(3,\)"), ((3, 3, 1, 1), r"\(3, 3, 1, 1\).*spatial_shape")],
)
def test_a_map_for_a_bad_kernel_is_refused(kernel_shape, words):
    with pytest.raises(ValueError, match=words):
        map_for_kernel(kernel_shape, None)
