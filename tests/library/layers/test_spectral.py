"""The norm constraint against the singular values of operators written out densely."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.reference import conv_matrix, difference
from tf_iresnet.layers import SpectralConv1D, SpectralConv2D, SpectralConv3D, SpectralDense

COEFF = 0.8
# constructor, input shape without the batch, padding
CASES = {
    "dense wide": (lambda **o: SpectralDense(9, **o), (4,), None),
    "dense tall": (lambda **o: SpectralDense(3, **o), (7,), None),
    "dense on images": (lambda **o: SpectralDense(4, **o), (3, 2, 5), None),
    "conv 1-D same": (lambda **o: SpectralConv1D(3, 3, **o), (7, 2), "same"),
    "conv 1-D even same": (lambda **o: SpectralConv1D(3, 4, **o), (5, 2), "same"),
    "conv 1-D valid": (lambda **o: SpectralConv1D(3, 3, padding="valid", **o), (7, 2), "valid"),
    "conv 1-D causal": (lambda **o: SpectralConv1D(3, 3, padding="causal", **o), (7, 2), "causal"),
    "conv 2-D same": (lambda **o: SpectralConv2D(4, 3, **o), (5, 6, 2), "same"),
    "conv 2-D valid": (
        lambda **o: SpectralConv2D(4, (3, 2), padding="valid", **o),
        (5, 6, 2),
        "valid",
    ),
    "conv 2-D one tap": (lambda **o: SpectralConv2D(4, 1, **o), (3, 2, 5), "same"),
    "conv 3-D same": (lambda **o: SpectralConv3D(2, (3, 1, 2), **o), (3, 2, 4, 2), "same"),
    "conv 3-D valid": (
        lambda **o: SpectralConv3D(2, 2, padding="valid", **o),
        (3, 3, 3, 2),
        "valid",
    ),
}
every = pytest.mark.parametrize("name", CASES)
some = pytest.mark.parametrize(
    "name", [n for n in CASES if "tall" in n or n.endswith("causal") or "D same" in n]
)
# The others run through the same code.
mostly_soak = pytest.mark.parametrize(
    "name",
    [n if n in some.args[1] else pytest.param(n, marks=pytest.mark.soak) for n in CASES],
)


def build(name, norm, dtype="float32", **options):
    """The layer, with a random kernel of the given operator norm set by hand."""
    keras.utils.set_random_seed(0)
    maker, shape, _ = CASES[name]
    layer = maker(**{"coeff": COEFF, "dtype": dtype, "normalization": "power_iteration", **options})
    layer.build((None, *shape))
    kernel = np.random.default_rng(1).standard_normal(layer.kernel.shape)
    layer.kernel.assign(norm * kernel / np.linalg.norm(matrix(name, kernel), 2))
    return layer


def iterate(layer, iterations=1000):
    """Many steps of the power iteration, in a graph: eager loops are slow."""
    tf.function(layer.update_spectral_state)(iterations)


def matrix(name, kernel):
    """The operator of a kernel, from the definition."""
    _, shape, padding = CASES[name]
    kernel = np.asarray(kernel, np.float64)
    return kernel if padding is None else conv_matrix(kernel, shape[:-1], padding)


@mostly_soak
def test_converged_norm_is_coeff_from_both_sides(name):
    layer = build(name, 2.5)
    iterate(layer)
    norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
    assert COEFF * (1 - 1e-5) < norm < COEFF * (1 + 1e-4)
    assert norm <= layer.lipschitz_bound() < COEFF * 1.1
    # converge_spectral_state stops earlier, at a small residual.
    layer = build(name, 2.5)
    layer.converge_spectral_state()
    norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
    assert COEFF * (1 - 1e-5) < norm < COEFF * (1 + 3e-4)
    # Soft: a multiple of the kernel, nothing else.
    ratio = layer.normalized_kernel() / layer.kernel
    np.testing.assert_allclose(ratio, tf.reduce_mean(ratio), rtol=1e-4)


@mostly_soak
@pytest.mark.parametrize("norm", [0.1, 0.79])
def test_kernels_below_coeff_are_left_alone(name, norm):
    layer = build(name, norm)
    layer.converge_spectral_state()
    np.testing.assert_array_equal(layer.normalized_kernel(), layer.kernel)


@mostly_soak
def test_sigma_is_never_above_the_norm(name):
    """So the constraint never shrinks a kernel needlessly, converged or not."""
    layer = build(name, 2.5)
    for _ in range(3):
        norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
        assert norm >= COEFF * (1 - 1e-5)
        layer.update_spectral_state(1)


@every
def test_call_is_the_normalised_operator(name):
    layer = build(name, 2.5)
    layer.bias.assign(np.arange(1.0, 1 + layer.bias.shape[0]))
    shape = CASES[name][1]
    x = np.random.default_rng(2).standard_normal((2, *shape)).astype("float32")
    y = layer(x)
    operator = matrix(name, layer.normalized_kernel())
    rows = x.reshape(-1, operator.shape[0])  # a dense layer acts on the last axis alone
    wanted = (rows @ operator).reshape(y.shape) + np.asarray(layer.bias)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["dense tall", "conv 1-D causal", "conv 2-D same", "conv 3-D same"]
)
def test_without_constraint_the_kernel_is_used_as_it_is(name):
    layer = build(name, 2.5, coeff=None)
    assert [v.name for v in layer.variables] == ["kernel", "bias"]
    np.testing.assert_array_equal(layer.normalized_kernel(), layer.kernel)
    layer.update_spectral_state(3)
    layer.converge_spectral_state()
    assert 2.5 * (1 - 1e-6) <= layer.lipschitz_bound() < 2.5 * 1.1


@pytest.mark.parametrize(
    "name", ["dense tall", "conv 1-D causal", "conv 2-D same", "conv 3-D same"]
)
def test_gradient_of_the_raw_kernel_is_that_with_fixed_u_and_v(name):
    """f(K) = <C, x K min(1, c / u^T K v)>, u and v constants, in float64."""
    layer = build(name, 2.5, "float64")
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, *CASES[name][1]))
    with tf.GradientTape() as tape:
        y = layer(x)
        weights = rng.standard_normal(y.shape)
        value = tf.reduce_sum(weights * y)
    mine = tape.gradient(value, layer.kernel)
    u, v = np.ravel(layer.u), np.ravel(layer.v)

    def function(kernel):
        operator = matrix(name, kernel)
        scale = COEFF / max(COEFF, v @ operator @ u)
        return np.sum(weights * (x.reshape(2, -1) @ operator * scale).reshape(weights.shape))

    truth = difference(function, layer.kernel.numpy())[0]
    np.testing.assert_allclose(mine, truth, rtol=1e-6, atol=1e-7)


@mostly_soak
@pytest.mark.parametrize("normalization", ["power_iteration", "bound"])
@pytest.mark.parametrize(
    "training",
    # Training is checked in graphs.
    [False, pytest.param(True, marks=pytest.mark.soak)],
)
def test_a_kernel_set_by_hand_is_held_in_the_next_call(name, normalization, training):
    check_held(name, normalization, training, graph=False)


@mostly_soak
@pytest.mark.parametrize("normalization", ["power_iteration", "bound"])
def test_a_kernel_set_by_hand_is_held_in_the_next_call_of_a_graph(name, normalization):
    check_held(name, normalization, training=True, graph=True)


def check_held(name, normalization, training, graph):
    layer = build(name, 2.5, normalization=normalization)
    x = np.random.default_rng(4).standard_normal((2, *CASES[name][1])).astype("float32")
    call = tf.function(layer) if graph else layer
    for seed in range(3):
        kernel = np.random.default_rng(seed).standard_normal(layer.kernel.shape)
        layer.kernel.assign(9 * kernel)
        y = call(x, training=training)
        largest = np.linalg.norm(matrix(name, kernel), 2)
        operator = matrix(name, kernel) * (COEFF / largest)
        rows = x.reshape(-1, operator.shape[0])
        # From below by an estimate, from above by a bound.
        found = np.linalg.norm(y) / np.linalg.norm(rows @ operator)
        assert 0.8 < found < (1.005 if normalization == "power_iteration" else 1 + 1e-5)


@mostly_soak
def test_what_is_known_is_not_sought_again(name):
    layer = build(name, 2.5)
    first = layer.normalized_kernel()
    state = [v.numpy() for v in (layer.u, layer.v)]
    x = np.random.default_rng(4).standard_normal((2, *CASES[name][1])).astype("float32")
    for batch in (1, 2):  # the state knows nothing of the batch
        layer(x[:batch], training=True)
        np.testing.assert_allclose(np.linalg.norm(layer.u), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(layer.normalized_kernel(), first)
    np.testing.assert_array_equal(layer.u, state[0])
    np.testing.assert_array_equal(layer.v, state[1])
    # A process that has the weights alone finds about the same.
    layer.known_norm.kernel.assign(np.nan * layer.kernel)
    np.testing.assert_allclose(layer.normalized_kernel(), first, rtol=5e-3)


@pytest.mark.parametrize("graph", [False, True])
def test_two_calls_under_one_tape(graph):
    """An update between two uses must not spoil the first one's gradient."""
    layer = build("conv 2-D same", 2.5, "float64")
    x = tf.constant(np.random.default_rng(5).standard_normal((2, 5, 6, 2)))

    def both():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.square(layer(x, training=True)))
            value += tf.reduce_sum(layer(x, training=True))
        return tape.gradient(value, layer.kernel)

    mine = (tf.function(both) if graph else both)()
    truth = 0.0
    for function in (tf.square, tf.identity):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(function(layer(x, training=True)))
        truth += tape.gradient(value, layer.kernel)
    np.testing.assert_allclose(mine, truth, rtol=1e-9)


@pytest.mark.parametrize("graph", [False, True])
def test_a_kernel_that_moves_between_two_calls_under_one_tape(graph):
    """The gradient of each call is that at the kernel it has used."""
    layer = build("conv 2-D same", 2.5, "float64", normalization="bound")
    x = tf.constant(np.random.default_rng(5).standard_normal((2, 5, 6, 2)))
    start = layer.kernel.numpy()
    step = np.random.default_rng(6).standard_normal(start.shape)

    def both():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.square(layer(x)))
            layer.kernel.assign_add(step)
            value += tf.reduce_sum(layer(x))
        return tape.gradient(value, layer.kernel)

    mine = (tf.function(both) if graph else both)()
    truth = 0.0
    for kernel, function in ((start, tf.square), (start + step, tf.identity)):
        layer.kernel.assign(kernel)
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(function(layer(x)))
        truth += tape.gradient(value, layer.kernel)
    np.testing.assert_allclose(mine, truth, rtol=1e-6)


def test_update_and_convergence_inside_a_graph():
    name = "conv 1-D causal"
    layer, eager = build(name, 2.5), build(name, 2.5)

    @tf.function
    def update(iterations):
        layer.update_spectral_state(iterations)
        return layer.normalized_kernel()

    for iterations in (None, 1, 20):
        eager.update_spectral_state(iterations)
        np.testing.assert_allclose(update(iterations), eager.normalized_kernel(), rtol=1e-5)
    tf.function(layer.converge_spectral_state)()
    norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
    assert norm < COEFF * (1 + 1e-3)


@pytest.mark.parametrize("name", ["dense wide", "conv 2-D same"])
def test_state_is_saved_with_the_weights(name, tmp_path):
    model = keras.Sequential([keras.Input(CASES[name][1]), build(name, 2.5)])
    model.layers[0].normalized_kernel()
    model.save(tmp_path / "model.keras")
    (restored,) = keras.saving.load_model(tmp_path / "model.keras").layers
    np.testing.assert_array_equal(restored.u, model.layers[0].u)
    kernel = model.layers[0].normalized_kernel()
    np.testing.assert_array_equal(restored.normalized_kernel(), kernel)


@pytest.mark.parametrize("claim", ["smaller", "larger", "no number", "other vectors"])
def test_a_file_s_norm_is_taken_only_where_u_and_v_bear_it_out(claim):
    layer, store = build("conv 2-D same", 2.5), {}
    layer.save_own_variables(store)
    if claim == "other vectors":
        places = [str(index) for index, w in enumerate(layer.weights) if w.name in ("u", "v")]
        store |= {place: np.flip(store[place]) for place in places}
    else:
        store["sigma"] *= {"smaller": 0.5, "larger": 2.0, "no number": np.nan}[claim]
    other = build("conv 2-D same", 1.0)
    other.load_own_variables(store)
    norm = np.linalg.norm(matrix("conv 2-D same", other.normalized_kernel()), 2)
    assert COEFF * 0.99 < norm < COEFF * 1.005


def test_construction_is_warm_and_follows_keras_seed():
    kernels = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        layer = SpectralDense(40, coeff=0.3)
        layer.build((None, 30))
        kernels.append(layer.normalized_kernel().numpy())
        assert np.linalg.norm(kernels[-1], 2) < 0.3 * 1.05
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(kernels[0] != kernels[2])


def test_a_kernel_of_zeros_and_tiny_kernels_stay_finite():
    for initializer in ("zeros", keras.initializers.Constant(1e-30)):
        layer = SpectralConv2D(2, 3, kernel_initializer=initializer)
        y = layer(np.ones((1, 4, 4, 1), "float32"), training=True)
        layer.converge_spectral_state()
        assert np.isfinite(y).all()
        assert np.isfinite(layer.normalized_kernel()).all()
        layer.kernel.assign(tf.random.stateless_normal(layer.kernel.shape, [0, 1]))
        iterate(layer, 300)
        norm = np.linalg.norm(conv_matrix(layer.normalized_kernel().numpy(), (4, 4)), 2)
        assert norm < 0.9 * (1 + 1e-3)


def test_half_precision_computes_low_and_keeps_weights_and_bound_honest():
    layer = build("conv 2-D same", 2.5, "mixed_bfloat16")
    iterate(layer)
    assert layer(np.ones((1, 5, 6, 2), "float32")).dtype == tf.bfloat16
    assert {v.dtype for v in layer.variables} == {"float32"}
    cast = tf.cast(tf.cast(layer.normalized_kernel(), tf.bfloat16), tf.float64).numpy()
    assert np.linalg.norm(matrix("conv 2-D same", cast), 2) <= layer.lipschitz_bound()


@every
def test_a_bound_in_the_norm_s_place_holds_without_any_state(name):
    layer = build(name, 2.5, normalization="bound")
    assert [v.name for v in layer.variables] == ["kernel", "bias"]
    assert layer.spectral_state == []
    layer.update_spectral_state(3)
    layer.converge_spectral_state()
    norm = np.linalg.norm(matrix(name, layer.normalized_kernel()), 2)
    assert 0.8 * COEFF < norm <= COEFF
    assert norm <= layer.lipschitz_bound() <= COEFF
    assert norm <= layer.norm_estimate() <= COEFF * (1 + 1e-6)
    below = build(name, 0.5, normalization="bound")
    np.testing.assert_array_equal(below.normalized_kernel(), below.kernel)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_the_bound_covers_the_cast_for_compute(policy):
    layer = build("conv 2-D same", 2.5, policy, normalization="bound")
    for seed in range(5):
        layer.kernel.assign(tf.random.stateless_normal(layer.kernel.shape, [1, seed]))
        stored = layer.normalized_kernel()
        for dtype in (layer.variable_dtype, layer.compute_dtype):
            cast = tf.cast(tf.cast(stored, dtype), tf.float64).numpy()
            assert np.linalg.norm(matrix("conv 2-D same", cast), 2) <= COEFF


def test_the_bound_covers_a_cast_that_rounds_every_weight_up():
    """0.8 / 6 is 136.5 units of bfloat16, and its bound so tight that the cast alone decides."""
    layer = build("dense wide", 2.5, "mixed_bfloat16", normalization="bound")
    layer.kernel.assign(np.ones((4, 9)))
    cast = tf.cast(tf.cast(layer.normalized_kernel(), tf.bfloat16), tf.float64)
    assert 0.95 * COEFF < np.linalg.norm(cast, 2) <= COEFF


def test_the_lipschitz_bound_counts_the_activation():
    layer = build("dense tall", 0.5, activation="silu")
    np.testing.assert_allclose(layer.lipschitz_bound(), 1.09984 * layer.norm_bound(), rtol=1e-5)
    with pytest.raises(ValueError, match="activation 'softmax' has no known Lipschitz constant"):
        build("dense tall", 0.5, activation="softmax").lipschitz_bound()


def test_a_wrong_state_is_mended():
    """u and v of another singular value: an honest residual, and a sigma that is too small."""
    layer = build("dense tall", 2.5)
    _, _, vt = np.linalg.svd(layer.kernel.numpy())
    u = vt[-1:].astype("float32")
    layer.u.assign(u)
    layer.v.assign(u @ layer.kernel.numpy().T / np.linalg.norm(u @ layer.kernel.numpy().T))
    # The state is read where a kernel has moved: by a step that turns no singular vector much.
    layer.kernel.assign(1.1 * layer.kernel + 0.05 * np.random.default_rng(0).normal(size=(7, 3)))
    norm = np.linalg.norm(layer.normalized_kernel(), 2)
    assert norm < COEFF * 1.005
    assert norm * (1 - 1e-6) <= layer.lipschitz_bound() < norm * (1 + 1e-5)


@mostly_soak
def test_auto_is_a_choice_from_the_first_build_on(name):
    layer = build(name, 2.5, normalization="auto")
    assert layer.normalization == layer.get_config()["normalization"] == "bound"


def test_auto_is_power_iteration_for_many_channels():
    wide = SpectralConv2D(256, 3)
    wide.build((None, 4, 4, 256))
    assert wide.normalization == "power_iteration"


def test_auto_is_the_bound_for_an_operator_of_few_pixels():
    """Its matrix is wide, though it has one channel."""
    narrow = SpectralConv2D(16, 3)
    narrow.build((None, 8, 8, 1))
    assert narrow.normalization == "bound"


def test_the_state_is_no_weight_of_keras():
    layer = build("dense tall", 2.5, normalization="bound")
    assert [v.name for v in layer.variables] == ["kernel", "bias"]
    assert "known_norm_0" in layer._trackable_children()
