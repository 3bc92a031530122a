"""Nothing is talked into a proof: each claim is at least what is measured, or there is none."""

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library import registry, small_models
from tests.library.certificate import hostile
from tests.library.reference import rows_at_once
from tf_iresnet import certify, rescale
from tf_iresnet.export import export_saved_model
from tf_iresnet.fixed_point import ConvergenceError
from tf_iresnet.layers import (
    ActNorm,
    Conditioned,
    InvertibleLayer,
    InvertibleResidual,
    InvertibleSequential,
    LipSwish,
    MultiScale,
    SpectralBranch,
    SpectralConv2D,
    SpectralDense,
)
from tf_iresnet.layers.activations import activation_bound


def steepest(function, event):
    """The largest slope found: of dense Jacobians, and along a line that crosses any jump."""
    x = np.random.default_rng(0).standard_normal((8, *event))
    line = np.linspace(-3.0, 3.0, 3001)
    y = np.reshape(function(tf.constant(np.multiply.outer(line, np.ones(event)))), (len(line), -1))
    rises = np.linalg.norm(np.diff(y, axis=0), axis=1) / np.diff(line) / math.sqrt(np.prod(event))
    norms = np.linalg.svd(rows_at_once(function, x), compute_uv=False)[:, 0]
    return max(rises.max(), norms.max())


def asked(make):
    """What `make` claims and an empty text, or None and the text of its refusal."""
    try:
        return make(), ""
    except ValueError as error:
        return None, str(error)


def check(make, truth, word, other="?"):
    """A claim is no less than the truth; a refusal is due, and holds the word."""
    bound, refusal = asked(make)
    assert (bound is None) == bool(word), refusal
    assert word in refusal or other in refusal
    assert bound is None or bound >= truth * (1 - 1e-9)


@pytest.mark.parametrize("name", hostile.BRANCHES)
def test_no_branch_is_talked_into_a_proof(name):
    case = hostile.BRANCHES[name]
    layer = case.make()
    truth = steepest(layer, case.event)
    assert truth > case.believed * (1 + 1e-6)
    chain = keras.Sequential([keras.Input(case.event, dtype="float64"), layer])
    each = keras.layers.TimeDistributed(layer, dtype="float64")
    each.build((None, 2, *case.event))
    # Whoever asks; of a block alone, though, a certificate is about the branch in it.
    for front in (each,) if isinstance(layer, InvertibleResidual) else (layer, chain, each):
        check(lambda front=front: certify(front).contraction, truth, case.word)


@pytest.mark.parametrize("name", hostile.BRANCHES)
def test_no_block_is_talked_into_a_proof(name):
    """A block may take a branch's function where others call it: what it computes is measured."""
    case = hostile.BRANCHES[name]
    layer = case.make()
    block = InvertibleResidual(layer, coeff=None, dtype="float64")
    block.build((None, *case.event))
    truth = 0.0 if case.word else steepest(lambda x: block.forward(x) - x, case.event)
    check(lambda: certify(block).contraction, truth, case.word)
    check(block.lipschitz_bound, truth, case.word)
    assert asked(lambda: certify(block).invertible)[0] in (None, False)  # coeff=None

    def in_a_flow():
        constrained = InvertibleResidual(layer, coeff=0.9, dtype="float64")
        flow = InvertibleSequential([constrained], dtype="float64")
        flow.build((None, *case.event))
        certificate = certify(flow)
        assert certificate.invertible == (certificate.contraction < 1.0)
        return certificate.contraction

    # Some have no method of this name, and are refused when the block is made.
    missing = "has no lipschitz_bound()"
    word = case.word or ("" if hasattr(type(layer), "lipschitz_bound") else missing)
    check(in_a_flow, truth, word, missing)


@pytest.mark.parametrize("name", hostile.INVERSES)
def test_no_inverse_is_talked_into_a_proof(name):
    case = hostile.INVERSES[name]
    layer = case.make()
    x = np.random.default_rng(0).standard_normal((4, *case.event))
    least = np.linalg.svd(rows_at_once(layer.forward, x), compute_uv=False)[:, -1].min()
    truth = math.inf if least == 0 else 1 / least
    assert truth > case.believed * (1 - 1e-6)
    fronts = [lambda: certify(layer)]
    if isinstance(layer, InvertibleLayer):
        for kind in (InvertibleSequential, MultiScale):
            stack = kind([layer], dtype="float64")
            stack.build((None, *case.event))
            fronts += [lambda stack=stack: certify(stack), stack.inverse_lipschitz_bound]
    for front in fronts:
        found, refusal = asked(front)
        assert (found is None) == bool(case.word), refusal
        assert case.word in refusal
        if found is not None:
            bound = found if isinstance(found, float) else found.amplification
            assert bound >= truth * (1 - 1e-9)
            assert isinstance(found, float) or found.invertible == math.isfinite(bound)


def test_a_branch_is_certified_at_the_size_at_which_it_works():
    """A convolution of large images has a larger norm than the same one of small images."""
    branch = hostile.other_size()
    assert branch.lipschitz_bound() < 0.901
    kernel, layer = branch.parts[0].kernel.numpy(), SpectralConv2D(1, 3, dtype="float64")
    layer.coeff = None
    layer.build((None, 8, 8, 1))
    layer.kernel.assign(branch.parts[0].normalized_kernel())
    truth = steepest(layer, (8, 8, 1))
    assert truth > 1.5
    block = InvertibleResidual(branch, dtype="float64", name="large")
    with pytest.raises(ValueError, match="branch of large was built for inputs of other sizes"):
        block.build((None, 8, 8, 1))
    with pytest.raises(ValueError, match="expected axis"):
        keras.Sequential([keras.Input((8, 8, 1)), branch])
    np.testing.assert_array_equal(branch.parts[0].kernel, kernel)


def test_keras_functions_are_known_themselves_not_by_name(monkeypatch):
    monkeypatch.setattr(keras.activations, "tanh", hostile.tanh)
    with pytest.raises(ValueError, match="activation 'tanh' has no known Lipschitz constant"):
        activation_bound(keras.activations.tanh)


# --- weights that are not finite ---

MODELS = {
    "flow": lambda: small_models.flow(whitening=True, branch="densenet", growth=4, depth=1),
    "marginal": lambda: small_models.flow(preprocessing="marginal", blocks=(1,)),
    "classifier": small_models.classifier,
    "hybrid": small_models.hybrid,
    "conditional": lambda: small_models.flow((3,), levels=None, blocks=(1,), context_size=2),
    "own branch": lambda: registry.make("own branch", "float32"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_weight_that_is_not_finite_proves_nothing(name):
    model = MODELS[name]()
    assert certify(model).invertible
    weights = [v for v in model.variables if "float" in keras.backend.standardize_dtype(v.dtype)]
    assert len(weights) >= 2
    for index, weight in enumerate(weights):
        value = (np.nan, np.inf, -np.inf)[index % 3]
        held = "holds NaN" if np.isnan(value) else "holds infinite values"
        before, nan_where_failed = weight.numpy(), np.array(weight.numpy())
        nan_where_failed.flat[-1] = value
        weight.assign(nan_where_failed)
        certificate = certify(model)
        assert not certificate.invertible
        assert certificate.not_proven == (f"{weight.path} {held}",)
        assert f"Not proven: {weight.path} {held}." in str(certificate)
        assert json.loads(certificate.to_json())["not_proven"] == [f"{weight.path} {held}"]
        np.testing.assert_array_equal(weight, nan_where_failed)
        weight.assign(before)
    assert certify(model).invertible


def test_a_block_with_a_weight_that_is_not_finite_is_bounded_by_nothing():
    block = registry.make("dense", "float64")
    block.branch.parts[1].bias.assign(np.full(7, np.nan))
    assert block.lipschitz_bound() == block.inverse_lipschitz_bound() == math.inf
    with pytest.raises(ValueError, match=r"cannot be rescaled: .*bias holds NaN"):
        rescale(block, below=0.5)
    flow = registry.make("sequential")
    flow.layers[1].bias.assign(flow.layers[1].bias * np.nan)
    assert flow.inverse_lipschitz_bound() == math.inf
    conditioned = Conditioned(InvertibleResidual(hidden=2, context_size=1), [np.nan])
    conditioned.build((None, 2))
    assert certify(conditioned).not_proven == (
        f"{conditioned.name}: its inverse has no known Lipschitz constant",
    )


def test_an_inverse_that_fails_says_that_no_bound_is_known():
    block = InvertibleResidual(hostile.keras_dense(), coeff=None, dtype="float64")
    block.build((None, hostile.SIZE))
    with pytest.raises(ConvergenceError, match=r"Dense 'dense.*' has no known Lipschitz constant"):
        block.inverse(np.ones((1, hostile.SIZE)))


def test_what_is_exported_says_so(tmp_path):
    model = small_models.flow((2,), levels=None, blocks=(1,), hidden=4)
    (bias,) = (v for v in model.variables if v.path.endswith("linear_1/bias"))
    bias.assign(bias * np.nan)
    export_saved_model(model, tmp_path / "1")
    content = json.loads((tmp_path / "1" / "certificate.json").read_text())
    assert content["invertible"] is False
    assert content["contraction"] is None
    assert content["not_proven"] == [f"{bias.path} holds NaN"]


# --- arithmetic ---


def test_a_certificate_names_its_arithmetic():
    exact = "exact arithmetic on the weights as stored in float{}, in inference; the rounding of "
    for name, dtype, bits in (("dense", "float32", 32), ("dense", "float64", 64)):
        certificate = certify(registry.make(name, dtype))
        assert certificate.arithmetic.startswith(exact.format(bits))
        assert "training" not in certificate.arithmetic
        assert f"Arithmetic: {certificate.arithmetic}." in str(certificate)
        assert json.loads(certificate.to_json())["arithmetic"] == certificate.arithmetic


def rises(function, x, distance):
    """The largest slope between neighbours at a distance, each difference in float64."""
    y = x + distance * np.random.default_rng(1).standard_normal(x.shape).astype("float32")
    fx, fy = (np.asarray(function(z), np.float64) for z in (x, y))
    gap = np.asarray(y, np.float64) - x
    return (np.linalg.norm(fy - fx, axis=1) / np.linalg.norm(gap, axis=1)).max()


def test_a_block_that_trains_in_bfloat16_claims_nothing_of_training():
    keras.utils.set_random_seed(0)
    block = InvertibleResidual(
        hidden=8, kernel_sizes=(1, 1), coeff=0.97, dtype="mixed_bfloat16", input_activation=False
    )
    block.build((None, 4))
    for layer in block.spectral_layers():
        layer.kernel.assign(5.0 * np.eye(*layer.kernel.shape))
        layer.bias.assign(np.full(layer.bias.shape, 3.0))
    block.converge_spectral_state()
    certificate = certify(block)
    assert certificate.invertible
    assert "nothing is claimed of training in bfloat16" in certificate.arithmetic
    x = 2.0 * np.random.default_rng(0).standard_normal((4096, 4)).astype("float32")
    trained, inferred = (
        rises(lambda z, t=t: block.forward(tf.constant(z), training=t) - z, x, 1e-2)
        for t in (True, False)
    )
    assert inferred <= certificate.contraction * (1 + 1e-3)
    assert trained > certificate.contraction


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_branch_that_computes_in_half_precision_in_inference_is_not_proven(policy):
    class Mine(keras.layers.Layer):
        def call(self, x):
            return 0.95 * tf.sin(x)

        def compute_output_shape(self, input_shape):
            return input_shape

        def lipschitz_bound(self):
            return 0.95

    block = InvertibleResidual(Mine(dtype=policy), name="mine")
    block.build((None, 4))
    x = np.random.default_rng(0).standard_normal((4096, 4)).astype("float32")
    assert rises(lambda z: block.forward(tf.constant(z)) - z, x, 1e-3) > 0.96
    certificate = certify(block)
    assert not certificate.invertible
    assert certificate.amplification == math.inf
    (doubt,) = certificate.not_proven
    assert doubt.startswith(f"mine: its branch computes in {policy[6:]} in inference too")
    full = InvertibleResidual(Mine(dtype="float32"), dtype=policy)
    full.build((None, 4))
    assert certify(full).invertible


# --- what is honest stays proven ---


class Described(SpectralDense):
    """A subclass that says no more than how it is made."""

    def __init__(self, units=4, note="", **arguments):
        super().__init__(units, coeff=0.9, **arguments)
        self.note = note

    def get_config(self):
        return {**super().get_config(), "note": self.note}


class Halved(SpectralDense):
    """States its bound where it changes what is computed."""

    def call(self, x, **arguments):
        return 0.5 * super().call(x, **arguments)

    def lipschitz_bound(self):
        return 0.5 * super().lipschitz_bound()


class Stated:
    """A mix-in that states a bound, for a layer that computes."""

    def lipschitz_bound(self):
        return 0.5


class Cosine(keras.layers.Layer):
    def call(self, x):
        return 0.5 * tf.cos(x)


class StatedCosine(Stated, Cosine):
    pass


class Flow(InvertibleSequential):
    """A composition that is made in its own way."""

    def __init__(self, **arguments):
        super().__init__([ActNorm(dtype="float64"), hostile.block()], **arguments)


class Chain(keras.Sequential):
    """A chain that is made in its own way."""

    def __init__(self, **arguments):
        layers = [hostile.dense(), LipSwish(dtype="float64"), hostile.dense()]
        super().__init__([keras.Input((hostile.SIZE,), dtype="float64"), *layers], **arguments)


class Sine:
    """An activation of one's own."""

    def __call__(self, x):
        return tf.sin(x)

    def lipschitz_bound(self):
        return 1.0


def number(kind):
    return type("Number", (hostile.Slope,), {"lipschitz_bound": lambda self: kind(0.5)})


def wrapped():
    layer = keras.layers.TimeDistributed(hostile.dense(), dtype="float64")
    return hostile.built(layer, (3, hostile.SIZE))


def orthogonal():
    """Moves entries, and drops none in inference."""
    layers = [
        keras.layers.Dropout(0.5, dtype="float64"),
        keras.layers.GaussianNoise(1.0, dtype="float64"),
        keras.layers.Reshape((2, 2), dtype="float64"),
        keras.layers.Permute((2, 1), dtype="float64"),
        keras.layers.Flatten(dtype="float64"),
        keras.layers.Identity(dtype="float64"),
    ]
    return hostile.chain(hostile.dense(), *layers)


HONEST = {
    "spectral layer": (hostile.dense, 0.9),
    "described": (lambda: hostile.dense(lambda units, coeff, **a: Described(units, **a)), 0.9),
    "halved": (lambda: hostile.dense(Halved), 0.45),
    "halved in a chain": (lambda: hostile.chain(hostile.dense(), hostile.dense(Halved)), 0.405),
    "branch": (hostile.branch, 0.9),
    "dense branch": (hostile.densenet, 0.856),
    "mix-in": (lambda: hostile.built(StatedCosine(dtype="float64")), 0.5),
    "chain of one's own": (Chain, 0.81),
    "chain in a chain": (lambda: hostile.chain(hostile.chain(hostile.dense())), 0.9),
    "isometries": (orthogonal, 0.9),
    "wrapper": (wrapped, 0.9),
    "activation by name": (lambda: hostile.dense(activation="tanh"), 0.9),
    "activation a layer": (lambda: hostile.dense(activation=LipSwish(dtype="float64")), 0.9),
    "activation of one's own": (lambda: hostile.dense(activation=Sine()), 0.9),
    "elu": (lambda: hostile.chain(hostile.dense(), keras.layers.ELU(-0.5, dtype="float64")), 0.9),
    "relu": (
        lambda: hostile.chain(
            hostile.dense(), keras.layers.ReLU(2.0, negative_slope=0.3, dtype="float64")
        ),
        0.9,
    ),
    "numpy's number": (lambda: hostile.built(number(np.float64)()), 0.5),
    "TensorFlow's number": (lambda: hostile.built(number(tf.constant)()), 0.5),
    "zero": (lambda: hostile.built(hostile.stating(0)()), 0.0),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_is_honest_stays_proven(name):
    make, bound = HONEST[name]
    layer = make()
    certificate = certify(layer)
    assert certificate.invertible
    assert certificate.not_proven == ()
    assert certificate.contraction == pytest.approx(bound, rel=1e-3)
    event = (3, hostile.SIZE) if name == "wrapper" else (hostile.SIZE,)
    if name != "zero":  # which states what is not so, and is taken at its word
        assert steepest(layer, event) <= certificate.contraction * (1 + 1e-9)


def test_a_composition_made_in_its_own_way_is_taken_apart():
    flow = Flow(dtype="float64", name="flow")
    flow.build((None, hostile.SIZE))
    certificate = certify(flow)
    assert certificate.invertible
    assert [block.bound for block in certificate.blocks] == [flow.layers[1].lipschitz_bound()]


def test_a_subclass_of_a_block_states_its_own_bound():
    class Halving(InvertibleResidual):
        """x + g(x) / 2."""

        def forward(self, x, training=False, context=None):
            return 0.5 * (x + super().forward(x, training, context))

        def _inverse(self, y, context=None):
            raise NotImplementedError

        def lipschitz_bound(self):
            return 0.5 * super().lipschitz_bound()

    block = hostile.block(Halving)
    certificate = certify(block)
    assert certificate.contraction == pytest.approx(0.45, rel=1e-6)
    assert certificate.blocks[0].parts[0].kind == "Halving"
    truth = steepest(lambda x: block.forward(x) - x, (hostile.SIZE,))
    assert truth <= certificate.contraction * (1 + 1e-9)


# --- a query and a command ---


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


def test_a_rescaling_that_fails_changes_nothing():
    """Neither when a block cannot be scaled, nor when one turns out not to follow its kernels."""

    class Stubborn(SpectralBranch):
        def call(self, x, **arguments):
            return super().call(x, **arguments)

        def lipschitz_bound(self):
            return max(0.8, super().lipschitz_bound())

    for last in (
        InvertibleResidual(registry.SineBranch(dtype="float64"), dtype="float64"),
        InvertibleResidual(hostile.branch(Stubborn), dtype="float64"),
    ):
        flow = InvertibleSequential([hostile.block(), last], dtype="float64")
        flow.build((None, hostile.SIZE))
        before = small_models.values(flow.variables)
        with pytest.raises(ValueError, match=r"no spectral layer|does not fall with its"):
            rescale(flow, below=0.4)
        small_models.assert_same(before, small_models.values(flow.variables))


def test_a_classifier_s_certificate_does_not_claim_more_than_an_image():
    classifier = small_models.classifier()
    text = str(certify(classifier))
    assert "proven to be invertible on what it maps to, since padding is not onto" in text
    assert "onto" not in str(certify(small_models.flow()))
