"""Certificates against dense Jacobians and singular values."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_iresnet
from tests.library import registry, small_models
from tests.library.certificate.parts import misled
from tests.library.reference import conv_matrix, jacobians
from tf_iresnet import certify, rescale
from tf_iresnet.layers import (
    ActNorm,
    InjectivePadding,
    InvertibleLayer,
    InvertibleResidual,
    InvertibleSequential,
    LipSwish,
    MultiScale,
    SpectralBranch,
    SpectralConv2D,
    SpectralDense,
    Squeeze,
)
from tf_iresnet.layers.gaussianization import MarginalGaussianization
from tf_iresnet.layers.preprocessing import ImagePreprocessing


def norm_of(layer):
    """The norm of a spectral layer's operator at its size, by singular values."""
    kernel = np.asarray(layer.normalized_kernel(), np.float64)
    if kernel.ndim > 2:
        kernel = conv_matrix(kernel, layer.linear_map.spatial_shape, layer.linear_map.padding)
    return np.linalg.norm(kernel, 2)


@pytest.mark.parametrize("name", registry.CASES)
def test_the_inverse_of_every_layer_is_bounded(name):
    """1 / the least singular value of the Jacobian is at most the layer's constant."""
    layer = registry.make(name, "float64")
    if name == "unconstrained":
        assert layer.inverse_lipschitz_bound() > 1.0
        return
    bound = layer.inverse_lipschitz_bound()
    x = registry.inputs(name, 2, "float64")
    for jacobian in jacobians(layer.forward, x):
        least = np.linalg.svd(jacobian, compute_uv=False)[-1]
        assert 1.0 <= bound * least * (1 + 1e-12)
    certificate = certify(layer)
    assert certificate.invertible, certificate.not_proven
    np.testing.assert_allclose(certificate.amplification, bound, rtol=1e-12)


@pytest.mark.parametrize(
    ("layer", "x", "tight"),
    [
        (ImagePreprocessing(8, "logit", 0.01, dtype="float64"), [[3.99], [0.1]], 1.001),
        (ImagePreprocessing(8, "shift", dtype="float64"), [[3.9], [0.1]], 1 + 1e-9),
        (ActNorm(dtype="float64"), [[1.0]], 1 + 1e-9),
    ],
)
def test_the_inverses_of_scales_are_tight(layer, x, tight):
    layer.build((None, 1))
    if isinstance(layer, ActNorm):
        layer.log_scale.assign([-0.7])
    slopes = np.abs(jacobians(layer.forward, np.asarray(x)))
    largest = 1 / slopes.min()
    assert largest <= layer.inverse_lipschitz_bound() <= largest * tight


@pytest.mark.parametrize(
    "logits", [[0.0, 1.0, -1.5, 0.3], [1.0, -1.5, 0.3, 1.5], [0.0, 5.0, 0.0, 0]]
)
def test_the_inverse_of_a_marginal_map_is_tight(logits):
    """Its steepest level lies above the median, below it, or around it."""
    layer = MarginalGaussianization(4, 0.01, dtype="float64")
    layer.build((None, 1))
    layer.logits.assign(logits)
    slopes = np.abs(jacobians(layer.forward, np.arange(0.001, 4.0, 0.002)[:, None]))
    largest = 1 / slopes.min()
    assert largest <= layer.inverse_lipschitz_bound() <= largest * 1.01


def test_latents_that_leave_early_do_not_shrink():
    """The inverse of a scale that halves, after latents have left, still has norm 1."""
    scales = [Squeeze(dtype="float64"), ActNorm(dtype="float64")]
    flow = MultiScale(scales, dtype="float64")
    flow.build((None, 2, 2, 1))
    flow.scales[1].log_scale.assign(np.full(2, math.log(4.0)))
    assert 1.0 <= flow.inverse_lipschitz_bound() < 1 + 1e-9
    flow.scales[1].log_scale.assign(np.full(2, -math.log(4.0)))
    assert 4.0 <= flow.inverse_lipschitz_bound() < 4 + 1e-9
    alone = MultiScale([ActNorm(dtype="float64")], dtype="float64")
    alone.build((None, 2, 2, 1))
    alone.scales[0].log_scale.assign([math.log(4.0)])
    assert 0.25 <= alone.inverse_lipschitz_bound() < 0.25 + 1e-9
    assert InjectivePadding(2).inverse_lipschitz_bound() == 1.0


@pytest.mark.quick
def test_a_flow_s_certificate():
    flow = small_models.train(small_models.flow(), small_models.pixels(16))
    flow.converge_spectral_state()
    certificate = certify(flow)
    assert certificate.invertible
    assert certificate.not_proven == ()
    assert [block.name for block in certificate.blocks] == [
        "scales/scale_0/block_0",
        "scales/scale_1/block_0",
    ]
    blocks = [scale.layers[-1] for scale in flow.flow.layers[-1].scales]
    for block, layer in zip(certificate.blocks, blocks, strict=True):
        truth = math.prod(norm_of(part) for part in layer.branch._linear)
        assert truth <= block.bound < truth * (1 + 1e-5)
        assert block.bound == layer.lipschitz_bound()
        assert [part.kind for part in block.parts] == ["LipSwish", "SpectralConv2D"] * 3
    assert certificate.contraction == max(block.bound for block in certificate.blocks)
    product = math.prod(inverse.bound for inverse in certificate.inverses)
    np.testing.assert_allclose(certificate.amplification, product, rtol=1e-9)
    kinds = [inverse.kind for inverse in certificate.inverses]
    assert kinds == ["ImagePreprocessing", *["Squeeze", "ActNorm", "InvertibleResidual"] * 2]
    # Two latents and their images, in float64's place: the errors do not grow more.
    x = small_models.pixels(2)
    z = flow.encode(x)
    near = flow.decode(z + 1e-2 * tf.random.stateless_normal(z.shape, [0, 1]))
    grown = np.linalg.norm(near - x) / 1e-2
    assert grown < certificate.amplification * np.linalg.norm(
        tf.random.stateless_normal(z.shape, [0, 1])
    )


def test_a_flow_by_bounds_is_proven_at_every_step():
    """At a learning rate that moves all kernels far; an estimate follows."""
    x, proven = small_models.pixels(16), {}
    for normalization in ("bound", "power_iteration"):
        flow = small_models.flow(
            (4, 4, 1), blocks=(1,), coeff=0.9, normalization=normalization, kernel_sizes=(3, 3)
        )
        bounds = []
        for _ in range(4):
            small_models.train(flow, x, steps=1, rate=0.3)
            bounds.append(certify(flow).contraction)
        proven[normalization] = max(bounds)
    assert proven["bound"] <= 0.9**2
    assert 0.9**2 * (1 - 1e-3) < proven["power_iteration"] < 0.9**2 * 1.005**2


def test_the_truth_wins_over_the_power_iteration():
    block = misled()
    first = block.branch._linear[0]
    assert float(tf.reduce_sum(first.u * (first.v @ first.kernel))) < first.coeff
    certificate = certify(block)
    assert not certificate.invertible
    assert 1.2 <= certificate.contraction < 1.2 + 1e-5
    assert certificate.amplification == math.inf
    assert [part.name for part in certificate.exceeding] == ["misled/linear_0"]
    assert certificate.not_proven == ("misled: the bound 1.2 is not below 1",)
    assert "not proven to be invertible" in str(certificate)
    block.converge_spectral_state()  # which stirs
    assert certify(block).invertible
    assert 0.72 * (1 - 1e-6) < certify(block).contraction < 0.72 * (1 + 1e-4)


def test_without_a_constraint_nothing_is_claimed():
    block = InvertibleResidual(hidden=3, coeff=None, name="free")
    block.build((None, 2))
    for scale in (0.1, 3.0):
        for part in block.branch._linear:
            part.kernel.assign(scale * tf.ones_like(part.kernel))
        certificate = certify(block)
        assert not certificate.invertible
        assert certificate.amplification == math.inf
        assert len(certificate.not_proven) == 1
        assert "free: " in certificate.not_proven[0]
        assert certificate.contraction > 0
    with pytest.raises(ValueError, match="free has coeff=None"):
        rescale(block, below=0.9)


def test_bijectors_models_chains_and_branches_are_taken_apart():
    from tf_iresnet.bijectors import KerasBijector

    block = InvertibleResidual(hidden=4, coeff=0.7, name="block")
    bijector = KerasBijector(block, event_shape=[2])
    bound = block.lipschitz_bound()
    assert certify(bijector).contraction == certify(block).contraction == bound
    assert certify(block.branch).contraction == bound
    model = keras.Sequential([keras.Input((2,)), block, ActNorm(name="norm")])
    certificate = certify(model)
    assert certificate.contraction == bound
    assert [inverse.name for inverse in certificate.inverses] == ["block", "norm"]
    classifier = small_models.classifier()
    assert certify(classifier).inverses[0].kind == "InjectivePadding"


@keras.saving.register_keras_serializable("tf_iresnet_tests")
class Twice(keras.layers.Layer):
    """2 x, of which nobody knows the Lipschitz constant."""

    def call(self, x):
        return 2.0 * x


def chain(*layers):
    return keras.Sequential([keras.Input((4, 4, 2)), *layers], name="chain")


def test_a_user_s_chain_is_composed_part_by_part():
    layers = [
        SpectralConv2D(4, 3, coeff=0.5, activation="silu", name="first"),
        keras.layers.LeakyReLU(negative_slope=1.5, name="leaky"),
        keras.layers.ReLU(name="relu"),
        keras.layers.Dropout(0.5, name="dropout"),
        LipSwish(name="lipswish"),
        keras.layers.Activation("sigmoid", name="sigmoid"),
        keras.layers.TimeDistributed(SpectralDense(2, coeff=0.5, name="dense"), name="each"),
    ]
    certificate = certify(chain(*layers))
    (block,) = certificate.blocks
    names = ["first", "first", "leaky", "relu", "dropout", "lipswish", "sigmoid", "dense"]
    assert [part.name for part in block.parts] == names
    constants = [part.bound for part in block.parts]
    assert constants[1:-1] == [1.0998393201288673, 1.5, 1.0, 1.0, 1.0, 0.25]
    np.testing.assert_allclose(block.bound, math.prod(constants))
    truth = norm_of(layers[0])
    assert truth <= constants[0] < truth * (1 + 1e-5)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Twice(name="twice"), "chain cannot be certified: Twice 'twice' has no known Lipschitz"),
        (keras.layers.Activation("softmax"), "activation 'softmax' has no known Lipschitz"),
        (keras.layers.ReLU(threshold=1.0), "ReLU .* has no known Lipschitz"),
        (SpectralConv2D(2, 3, activation=lambda x: 2 * x), "activation '<lambda>' has no known"),
        (keras.layers.BatchNormalization(name="batch"), "BatchNormalization 'batch' has no known"),
    ],
)
def test_what_has_no_known_bound_is_named(layer, words):
    with pytest.raises(ValueError, match=words):
        certify(chain(layer))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: certify(3), "model must be.*got int"),
        (lambda: certify(InvertibleResidual(name="raw")), "raw has no weights yet"),
        (lambda: certify(SpectralBranch(name="raw")), "raw has no weights yet"),
        (lambda: rescale(misled(), below=0), r"below must lie in \(0, 1\].*got 0"),
        (lambda: rescale(misled(), below=1.5), r"below must lie in \(0, 1\].*got 1.5"),
        (lambda: rescale(misled(), below=True), r"below must lie in \(0, 1\].*got True"),
        (
            lambda: certify(keras.Sequential([keras.Input((2,)), ActNorm(), Twice(name="t")])),
            "Twice 't' in .* is no invertible layer",
        ),
        (lambda: certify(chain(InvertibleResidual(hidden=2), Twice())), "no invertible layer"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_an_invertible_layer_of_unknown_inverse_is_named():
    class Cube(InvertibleLayer):
        def forward(self, x, training=False):
            return x**3

        def _log_det(self, x, seed, log_det, training):
            raise NotImplementedError

        def _inverse(self, y):
            raise NotImplementedError

        def compute_input_shape(self, output_shape):
            return output_shape

    stack = InvertibleSequential([ActNorm(), Cube(name="cube")])
    stack.build((None, 2))
    with pytest.raises(ValueError, match="Cube 'cube' has no known bound of its inverse"):
        certify(stack)


def test_low_precision_covers_both_casts():
    """A mixed policy computes with rounded kernels in training, with the stored ones after it."""
    layer = SpectralDense(6, coeff=0.9, dtype="mixed_bfloat16")
    layer.build((None, 5))
    for seed in range(4):
        layer.kernel.assign(tf.random.stateless_normal(layer.kernel.shape, [0, seed]))
        layer.converge_spectral_state()
        stored = layer.normalized_kernel()
        for dtype in (tf.float32, tf.bfloat16):
            kernel = tf.cast(tf.cast(stored, dtype), tf.float64)
            assert np.linalg.norm(kernel, 2) <= layer.norm_bound()


def test_json_and_table():
    certificate = certify(misled())
    content = json.loads(certificate.to_json())
    assert content["invertible"] is False
    assert content["amplification"] is None
    assert content["contraction"] == certificate.contraction
    (block,) = content["blocks"]
    assert block["parts"][1] == {
        "name": "linear_0",
        "kind": "SpectralDense",
        "bound": certificate.blocks[0].parts[1].bound,
        "coeff": 0.9,
    }
    lines = str(certificate).splitlines()
    assert lines[0].startswith("| block ")
    assert "1.20001" in lines[2]  # rounded up
    assert {line.count("|") for line in lines[:3]} == {5}


def test_certify_changes_nothing():
    model = small_models.train(small_models.flow(), small_models.pixels(8))
    state = {id(v) for layer in model.flow.spectral_layers() for v in layer.spectral_state}
    weights = [v for v in model.variables if id(v) not in state]
    before, x = small_models.values(weights), small_models.pixels(4)
    y = model.encode(x).numpy()
    certify(model)
    small_models.assert_same(before, small_models.values(weights))
    np.testing.assert_array_equal(model.encode(x), y)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rescale'"):
        certify(model, rescale=0.5)


def test_a_classifier_s_certificate_does_not_claim_more_than_an_image():
    classifier = small_models.classifier()
    text = str(certify(classifier))
    assert "proven to be invertible on what it maps to, since padding is not onto" in text
    assert "onto" not in str(certify(small_models.flow()))


def test_certify_and_rescale_are_names_of_the_package():
    assert tf_iresnet.certify is certify
    assert tf_iresnet.rescale is rescale
    with pytest.raises(AttributeError, match="has no attribute 'certifi'"):
        _ = tf_iresnet.certifi
