"""Muon: its steps against NumPy's SVD and against Keras' Adam, its state, and what it refuses."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.tiny_runs import tiny, weights
from training.data import load_dataset
from training.experiments.config import parse_experiment
from training.loop import muon
from training.loop.models import build_model
from training.loop.muon import Muon, orthogonal_factor
from training.loop.train import train


def singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7), (1, 6), (6, 1), (1, 1)])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e8])
def test_the_factor_is_that_of_the_svd(shape, scale):
    rng = np.random.default_rng(sum(shape))
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    values = np.linspace(0.5, 1.0, min(shape))
    matrix = (left * values) @ right
    factor = orthogonal_factor(tf.constant(matrix * scale, tf.float32), 5).numpy()
    assert factor.shape == shape
    # In the singular vectors of the matrix it is diagonal, with entries near 1.
    inside = left.T @ factor @ right.T
    assert np.all((np.diag(inside) > 0.65) & (np.diag(inside) < 1.25))
    np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-5)


def test_small_directions_are_not_left_behind():
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=(40, 16)), full_matrices=False)
    matrix = (left * np.geomspace(0.02, 1.0, 16)) @ right
    values = singular_values(orthogonal_factor(tf.constant(matrix, tf.float32), 5))
    assert values.max() / values.min() < 2.5  # 50 in the matrix itself


def test_no_gradient_is_no_step():
    np.testing.assert_array_equal(orthogonal_factor(tf.zeros((4, 3)), 5), np.zeros((4, 3)))


def test_kernels_take_steps_of_one_length_by_nesterov_s_momentum():
    rng = np.random.default_rng(1)
    start = rng.normal(size=(3, 3, 4, 6)).astype("float32")
    gradients = rng.normal(size=(3, *start.shape)).astype("float32")
    kernel = keras.Variable(start)
    optimizer = Muon(learning_rate=0.1, momentum=0.8)
    first, value = np.zeros_like(start), start.astype(np.float64)
    for gradient in gradients:
        before = keras.ops.convert_to_numpy(kernel)
        optimizer.apply([tf.constant(gradient)], [kernel])
        step = before - keras.ops.convert_to_numpy(kernel)
        first = 0.8 * first + gradient
        matrix = (gradient + 0.8 * first).reshape(36, 6).astype(np.float64)
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
        inside = left.T @ (step.reshape(36, 6) / 0.1) @ right.T
        np.testing.assert_allclose(inside, np.diag(np.diag(inside)), atol=1e-4)
        assert np.all((np.diag(inside) > 0.65) & (np.diag(inside) < 1.25))
        value -= step
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), value, atol=1e-5)


def test_other_variables_take_the_steps_of_adam():
    rng = np.random.default_rng(2)
    shapes = [(), (5,), (4, 3)]
    ours = [keras.Variable(rng.normal(size=shape), dtype="float64") for shape in shapes]
    theirs = [keras.Variable(keras.ops.convert_to_numpy(v), dtype="float64") for v in ours]
    muon = Muon(learning_rate=0.2, adam_ratio=0.05, beta_1=0.8, beta_2=0.97)
    adam = keras.optimizers.Adam(0.01, beta_1=0.8, beta_2=0.97, epsilon=1e-7)
    for _ in range(4):
        gradients = [tf.constant(rng.normal(size=shape)) for shape in shapes]
        muon.apply(gradients, ours)
        adam.apply(gradients, theirs)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5)


def test_its_example():
    names = {"Muon": Muon, "keras": keras, "ops": keras.ops, "np": np}
    found = doctest.testmod(muon, extraglobs=names)
    assert (found.failed, found.attempted) == (0, 6)


def test_its_configuration_makes_an_equal_one():
    config = Muon(0.3, momentum=0.5, adam_ratio=0.2, beta_1=0.1, beta_2=0.2, steps=3).get_config()
    again = Muon.from_config(config)
    assert again.get_config() == config
    assert (again.momentum, again.adam_ratio, again.steps) == (0.5, 0.2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, "momentum must be in"),
        ({"momentum": float("nan")}, "momentum must be in"),
        ({"beta_1": -0.1}, "beta_1 must be in"),
        ({"beta_2": 1.5}, "beta_2 must be in"),
        ({"adam_ratio": 0}, "adam_ratio must be above 0"),
        ({"steps": 0}, "steps must be an integer"),
        ({"steps": True}, "steps must be an integer"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        Muon(**arguments)


@pytest.mark.usefixtures("eager")
def test_an_experiment_trains_by_it_and_goes_on_where_it_was(tmp_path):
    def experiment(steps):
        settings = ("name=muon", "momentum=0.75", "learning_rate=0.05")
        changes = [f"optimizer.{change}" for change in settings]
        changes += ["model.kernel_sizes=[3]", "model.log_det.exact_terms=1"]
        changes += ["model.eval_log_det.exact_terms=1"]
        return tiny("interval=2", "schedule={name='constant'}", *changes, steps=steps)

    assert parse_experiment(experiment(4).model_dump(mode="json")) == experiment(4)
    optimizer = build_model(experiment(4), load_dataset("digits").spec).optimizer
    assert isinstance(optimizer, Muon)
    assert optimizer.momentum == 0.75
    train(experiment(4), tmp_path / "whole", verbose=0)
    for steps in (2, 4):
        train(experiment(steps), tmp_path / "parts", verbose=0)
    ends = [weights(tmp_path / folder, 4) for folder in ("whole", "parts")]
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value, err_msg=name)
