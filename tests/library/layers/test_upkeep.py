"""Norms are found anew where kernels have moved, and only there; their state is kept and saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.library.layers.spectral_cases import CASES, COEFF, build, matrix, mostly_soak


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


def test_the_state_is_no_weight_of_keras():
    layer = build("dense tall", 2.5, normalization="bound")
    assert [v.name for v in layer.variables] == ["kernel", "bias"]
    assert "known_norm_0" in layer._trackable_children()
