"""The proven distance to the exact preimage, against extended precision."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.library.extended_precision import WIDE, Plain, lengths, preimage
from tests.library.norms.kernels import trained
from tests.library.registry import CASES, inputs, make, randomize, representatives
from tf_iresnet.fixed_point import Anderson, ConvergenceError, FixedPointResult, Picard
from tf_iresnet.layers import ActNorm, InvertibleResidual, InvertibleSequential, Whitening
from tf_iresnet.layers.gaussianization import MarginalGaussianization
from tf_iresnet.layers.preprocessing import ImagePreprocessing


def check(block, y, solver):
    """Asserts that no bound is violated; returns how far bounds lie above distances."""
    block.solver = solver
    return check_result(block, y, block.inverse(y, return_result=True))


def check_result(block, y, result):
    """As `check`, of what an inverse has returned."""
    bound = np.asarray(result.error_bound, WIDE)
    assert (bound > 0).all()
    truth, left = preimage(Plain(block), y, np.asarray(result.x, WIDE))
    distance = lengths(np.asarray(result.x, WIDE).reshape(truth.shape) - truth)
    slack = left * block.inverse_lipschitz_bound()  # of the truth itself
    assert (distance <= bound + slack).all(), (distance / bound).max()
    return bound, distance


def dense(seed, coeff, activation="lipswish", layers=2, dtype="float32", size=4, scale=5.0):
    """A block that its constraint bounds: the nearer coeff is to 1, the worse conditioned."""
    block = InvertibleResidual(
        hidden=size,
        coeff=coeff,
        activation=activation,
        kernel_sizes=(1,) * layers,
        input_activation=layers > 1,
        dtype=dtype,
    )
    block.build((None, size))
    rng = np.random.default_rng(seed)
    for layer in block.spectral_layers():
        values = np.geomspace(1.0, rng.uniform(0.1, 1.0), size)
        left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
        if rng.random() < 0.5:  # -c I of a symmetric matrix: what is hardest to invert
            right = -left.T
        layer.kernel.assign(scale * (left * values) @ right)
        layer.bias.assign(rng.standard_normal(size) * rng.choice([0.0, 1.0, 1e3]))
    block.converge_spectral_state()
    return block


def convolution(seed, activation):
    """A block of kernels that thousands of steps have trained."""
    block = InvertibleResidual(
        hidden=6, kernel_sizes=(3, 3), coeff=0.98, activation=activation, name=f"block_{seed}"
    )
    block.build((None, 3, 3, 2))
    kernels = trained()
    for index, layer in enumerate(block.spectral_layers()):
        shape = layer.kernel.shape
        kernel = kernels[(seed + index) % len(kernels)]
        layer.kernel.assign(2 * np.resize(kernel, shape))
    block.converge_spectral_state()
    return block


SOLVERS = [Picard(), Anderson(), Picard(max_steps=3, atol=0.0), Anderson(max_steps=9, atol=0.0)]


def sample(seed, batch, size, dtype="float32"):
    """Images y of all sizes from 1e-30 to 1e30."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.choice([-30, -12, -3, 0, 0, 0, 3, 12, 30], (batch, 1))
    return (rng.standard_normal((batch, size)) * scales).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    ("coeff", "activation"),
    [(0.5, "lipswish"), (0.97, "elu"), (0.9999, "tanh"), (0.9, "maxmin"), (0.999, "lipswish")],
)
def test_no_dense_block_violates_it(coeff, activation, dtype):
    for seed, solver in enumerate(SOLVERS):
        block = dense(seed, coeff, activation, 1 + seed % 2, dtype)
        check(block, sample(seed, 40, 4, dtype), solver)


@pytest.mark.parametrize("activation", ["lipswish", "elu"])
def test_no_trained_convolution_violates_it(activation):
    block = convolution(0, activation)
    check(block, sample(0, 20, 18).reshape(-1, 3, 3, 2), Picard())


@pytest.mark.soak
def test_a_million_inverses_and_no_violation():
    coeffs = [0.3, 0.9, 0.98, 0.999, 0.9999]
    activations = ["lipswish", "elu", "tanh", "maxmin"]
    count = 0
    for seed, (coeff, activation, layers, solver) in enumerate(
        itertools.islice(
            itertools.cycle(itertools.product(coeffs, activations, (1, 2, 3), SOLVERS)), 960
        )
    ):
        if seed % 8 == 7:
            block = convolution(seed, activation)
            y = sample(seed, 1100, 18).reshape(-1, 3, 3, 2)
        else:
            dtype = "float64" if seed % 8 == 3 else "float32"
            scale = 10.0 ** (seed % 7 - 3)
            block = dense(seed, coeff, activation, layers, dtype, scale=scale)
            y = sample(seed, 1100, 4, dtype)
        check(block, y, solver)
        count += len(y)
    assert count >= 10**6


def test_it_says_something():
    """Where the block contracts well, it lies within a factor of the real distance."""
    block = dense(0, 0.9)
    y = np.random.default_rng(0).standard_normal((200, 4)).astype("float32")
    bound, distance = check(block, y, Picard())
    sizes = lengths(block.inverse(y, return_result=True).x)
    assert (bound < 1e-5 * sizes).all()
    assert np.median(bound) < 50 * np.median(distance)


def test_far_from_y_it_is_not_lost_in_rounding():
    """x + g(x) - y in float32 is off by the last place of x, a thousand times that of y."""
    block = InvertibleResidual(kernel_sizes=(1,), input_activation=False, coeff=0.999)
    block.build((None, 3))
    block.branch.parts[0].kernel.assign(-5 * np.eye(3))
    block.converge_spectral_state()
    y = np.random.default_rng(0).standard_normal((50, 3)).astype("float32")
    result = block.inverse(y, return_result=True)
    assert (lengths(result.x) > 500 * lengths(y)).all()
    bound, distance = check_result(block, y, result)
    assert (bound < 100 * distance + 1e-3 * lengths(result.x)).all()


def test_iterates_that_did_not_converge_have_one():
    block = dense(1, 0.9)
    y = np.random.default_rng(0).standard_normal((20, 4)).astype("float32")
    bound, distance = check(block, y, Picard(max_steps=2))
    assert (distance > 1e-3).any()
    with pytest.raises(ConvergenceError) as raised:
        block.inverse(y)
    np.testing.assert_array_equal(raised.value.result.error_bound, bound.astype(float))


@pytest.mark.parametrize("name", representatives(sorted(set(CASES) - {"own branch"})))
def test_every_layer_has_one(name):
    """The truth is the layer in float64, at the weights of float32."""
    layer, twin = make(name), make(name, "float64")
    for ours, theirs in zip(twin.variables, layer.variables, strict=True):
        ours.assign(tf.cast(theirs, tf.float64))
    for ours, theirs in zip(twin.spectral_layers(), layer.spectral_layers(), strict=True):
        ours.kernel.assign(tf.cast(theirs.normalized_kernel(), tf.float64))
    y = layer.forward(tf.constant(inputs(name, 4)))
    result = layer.inverse(y, return_result=True)
    truth = twin.inverse(y)
    distance = lengths(np.asarray(result.x, np.float64) - np.asarray(truth))
    bound = result.error_bound.numpy()
    assert bound.dtype == np.float64
    # The twin's kernels are normalised in float64: a rounding of float32 apart.
    rounding = 4 * np.finfo("float32").eps * float(layer.amplification()) * lengths(truth)
    assert (distance <= bound + (rounding if CASES[name].estimated else 0)).all()
    assert (bound <= 1e-4).all()
    if name.startswith("squeeze"):
        assert (bound == 0).all()


@pytest.mark.parametrize("kind", ["logit", "shift", "marginal", "actnorm", "whitening"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 8.0])
def test_closed_forms_are_bounded_too(kind, scale):
    makers = {
        "logit": lambda dtype: ImagePreprocessing(256, dtype=dtype),
        "shift": lambda dtype: ImagePreprocessing(256, "shift", dtype=dtype),
        "marginal": lambda dtype: MarginalGaussianization(16, dtype=dtype),
        "actnorm": lambda dtype: ActNorm(dtype=dtype),
        "whitening": lambda dtype: Whitening(dtype=dtype),
    }
    layer, twin = (makers[kind](dtype) for dtype in ("float32", "float64"))
    rng = np.random.default_rng(0)
    for one in (layer, twin):
        one.build((None, 5))
    randomize(layer)
    if kind == "marginal":
        layer.logits.assign(2 * rng.standard_normal(16))
    for ours, theirs in zip(twin.variables, layer.variables, strict=True):
        ours.assign(tf.cast(theirs, ours.dtype))
    y = (scale * rng.standard_normal((500, 5))).astype("float32")
    result = layer.inverse(y, return_result=True)
    distance = lengths(np.asarray(result.x, np.float64) - np.asarray(twin.inverse(y)))
    assert distance.max() > 0
    assert (distance <= result.error_bound.numpy()).all()
    assert result.error_bound.numpy().max() <= 50 * distance.max()


def test_errors_grow_through_earlier_layers():
    def result(error):
        ones = tf.ones([2])
        return FixedPointResult(ones[:, None], tf.ones([2], tf.int32), ones, ones > 0, error)

    later, earlier = result(tf.constant([1.0, 0.0])), result(tf.constant([0.5, 0.25]))
    both = later.then(earlier, lambda: tf.constant(3.0)).bound()
    np.testing.assert_allclose(both, [3.5, 0.25], rtol=1e-12)
    assert (both.numpy() >= [3.5, 0.25]).all()
    np.testing.assert_array_equal(later.then(earlier).bound(), [np.inf, both[1]])
    moved = FixedPointResult.exact(tf.zeros([2, 1]))
    np.testing.assert_array_equal(moved.then(moved).bound(), [0.0, 0.0])
    np.testing.assert_array_equal(result(tf.constant([np.nan, 1.0])).bound(), [np.inf, 1.0])


class TestProof:
    def test_graphs_know_the_weights_they_were_traced_with(self):
        block = dense(0, 0.9)
        y = np.ones((2, 4), "float32")
        graph = tf.function(lambda y: block.inverse(y, return_result=True).error_bound)
        known = graph(y).numpy()
        np.testing.assert_allclose(known, block.inverse(y, return_result=True).error_bound, rtol=1)
        assert np.isfinite(known).all()
        kernel = next(block.spectral_layers()).kernel
        old = [v.numpy() for v in block.variables]
        kernel.assign(np.roll(kernel.numpy(), 1))  # the same numbers elsewhere
        block.converge_spectral_state()
        assert np.isinf(graph(y)).all()
        assert np.isfinite(block.inverse(y, return_result=True).error_bound).all()
        for variable, value in zip(block.variables, old, strict=True):
            variable.assign(value)
        np.testing.assert_array_equal(graph(y), known)

    def test_is_made_once_for_the_same_weights(self, monkeypatch):
        block = dense(0, 0.9)
        y, calls = np.ones((2, 4), "float32"), []
        bound = block.lipschitz_bound
        monkeypatch.setattr(block, "lipschitz_bound", lambda: calls.append(1) or bound())
        for _ in range(3):
            block.inverse(y, return_result=True)
        assert len(calls) == 1
        next(block.spectral_layers()).bias.assign_add(np.ones(4))
        block.inverse(y, return_result=True)
        assert len(calls) == 2

    def test_is_not_asked_for_where_x_alone_is(self, monkeypatch):
        flow = InvertibleSequential([dense(0, 0.9), ActNorm()])
        flow.build((None, 4))
        for layer in flow.layers:
            monkeypatch.setattr(layer, "amplification", lambda: pytest.fail("asked"))
        flow.inverse(np.ones((1, 4), "float32"))

    def test_nothing_is_claimed_without_one(self):
        block = dense(0, 0.9)
        next(block.spectral_layers()).bias.assign(np.full(4, np.nan))
        y = np.ones((2, 4), "float32")
        assert np.isinf(block.inverse(y, return_result=True).error_bound).all()
        loose = InvertibleResidual(hidden=3, coeff=None, kernel_sizes=(1,), input_activation=False)
        loose.build((None, 4))
        loose.branch.parts[0].kernel.assign(-0.5 * np.eye(4) + 2.0 * np.eye(4, k=1))
        assert np.isinf(loose.inverse(y, return_result=True).error_bound).all()
        own = make("own branch")
        assert np.isinf(own.inverse(inputs("own branch"), return_result=True).error_bound).all()
