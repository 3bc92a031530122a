"""Names that Keras, TensorFlow and TensorFlow Probability keep private, and what depends on each.

What fails here says what breaks with a newer release, and which function has to find another way.
"""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.optimizers.base_optimizer import BaseOptimizer
from packaging.requirements import Requirement
from tensorflow_probability import bijectors as tfb

import tf_iresnet
from tf_iresnet.bijectors import tfp_private

pytestmark = pytest.mark.quick

ROOT = Path(tf_iresnet.__file__).parent
FILES = {"keras_private.py", "tensorflow_private.py", "tfp_private.py"}
COMPILED = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
COMPILED.compile("sgd", "mse")

USED = {
    "get_global_attribute": (global_state, "files of HDF5 are written, and lose the optimizer"),
    "_flatten_layers": (keras.Layer, "no layer finds the layers inside it"),
    "_loss_tracker": (COMPILED, "steps show no loss"),
    "_compile_loss": (COMPILED, "losses of unbuilt metrics are built twice"),
    "_compile_metrics": (COMPILED, "metrics are built twice"),
    "_symbolic_build": (keras.Model, "models on replicas do not build their metrics"),
    "_maybe_symbolic_build": (keras.Model, "`fit` fails in several workers"),
    "_distribute_strategy": (COMPILED, "models on replicas do not build their metrics"),
    "_moments": (keras.layers.BatchNormalization, "replicas normalise each by its own batch"),
    "_iterations": (BaseOptimizer(0.1), "training draws the same noise"),
    "_backend_apply_gradients": (BaseOptimizer, "gradients are clipped before they are summed"),
    "_backend_update_step": (BaseOptimizer, "updates merge replicas where none may"),
    "_apply_weight_decay": (BaseOptimizer, "updates merge replicas where none may"),
    "_backend_increment_gradient_accumulators": (BaseOptimizer, "accumulation fails on replicas"),
    "_track_trackable": (keras.Layer, "tf.train.Checkpoint saves no layers in lists"),
    "_cache": (tfb.Bijector, "TFP hands out values of old weights"),
    "_lookup": (tfp_private.cache_util.BijectorCache, "TFP hands out values of old weights"),
    "_attributes": (tfp_private.cache_util.BijectorCache, "log-determinants are stale"),
    "_invoke": (tfp_private.cache_util.BijectorCache, "bijectors compute nothing"),
}


@pytest.mark.parametrize("name", USED)
def test_the_name_is_there(name):
    owner, breaks = USED[name]
    assert hasattr(owner, name), f"{name} is gone: {breaks}"


def test_tensorflow_counts_the_tapes_that_record():
    x = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        assert tf_iresnet.tensorflow_private.recording_tapes(x) == 1


@pytest.mark.parametrize("accumulated", [None, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_each_gradient_is_a_step_whoever_scales_the_loss(scaled, accumulated):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    weight = keras.Variable(1.0)
    optimizer.build([weight])
    steps = tf_iresnet.keras_private.steps_of(optimizer)
    seen = []
    for _ in range(3):
        optimizer.apply([tf.constant(1.0)], [weight])
        seen.append(int(steps.value))
    assert seen == [1, 2, 3]  # else steps draw the same noise


def test_tfps_transition_kernels_are_where_they_are_looked_for():
    import tensorflow_probability as tfp

    for module, kernels in zip(
        (tfp.mcmc.HamiltonianMonteCarlo, tfp.experimental.mcmc.PreconditionedHamiltonianMonteCarlo),
        tfp_private._KERNELS,
        strict=True,
    ):
        assert module.__module__.startswith(kernels), "chains would draw from another density"


def test_releases_are_bounded_by_what_was_tested():
    text = (ROOT.parent / "setup.py").read_text(encoding="utf-8")
    for line in ast.literal_eval(text[text.index("CORE = [") + 7 : text.index("]") + 1]):
        requirement = Requirement(line)
        if requirement.name in ("keras", "tensorflow-probability"):
            module = importlib.import_module(requirement.name.replace("-", "_"))
            assert "<" in str(requirement.specifier)
            assert requirement.specifier.contains(module.__version__)


def sources():
    for path in sorted(ROOT.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def own_names():
    """Every name that the library itself defines or assigns."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if path.name in FILES:
                continue
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                yield node.attr
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value  # self.__dict__["name"]


TUPLES = {"_replace", "_asdict", "_fields"}  # public, of named tuples


def test_private_names_are_used_in_three_files_only():
    own = {*own_names(), *TUPLES}
    for path, tree in sources():
        if path.name in FILES:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                known = node.attr.endswith("__") or node.attr in own
                assert known, f"{path.name}:{node.lineno} uses {node.attr}, which is not ours"
            elif isinstance(node, ast.ImportFrom) and node.module:
                private = ("keras.src", "tensorflow.python", "tensorflow_probability.python")
                assert not node.module.startswith(private), f"{path.name} imports {node.module}"


# What TFP documents for subclasses.
HOOKS = {
    "_forward",
    "_inverse",
    "_forward_log_det_jacobian",
    "_forward_event_shape",
    "_forward_event_shape_tensor",
    "_inverse_event_shape",
    "_inverse_event_shape_tensor",
    "_parameter_properties",
}


def test_no_class_overrides_what_its_base_keeps_private():
    for module in pkgutil.walk_packages(tf_iresnet.__path__, "tf_iresnet."):
        if module.name.rsplit(".", 1)[-1] + ".py" in FILES:
            continue
        for _, made in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if made.__module__ != module.name:
                continue
            theirs = {
                name
                for base in made.__mro__
                if not base.__module__.startswith(("tf_iresnet", "typing"))
                for name in vars(base)
                if name.startswith("_") and not name.endswith("__") and "abc" not in name
            }
            clash = set(vars(made)) & theirs - HOOKS
            assert not clash, f"{made.__name__} overrides {clash}"
