"""The package's face: one import registers every class and reaches every module."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import tf_iresnet
from tests.library import small_models as small

READ = """
import json, sys
import numpy as np
import keras
import tf_iresnet

assert "tensorflow_probability" not in sys.modules
found = {}
for path in sys.argv[1:]:
    model = keras.saving.load_model(path)  # safe mode
    found[path] = np.asarray(model(np.load(path + ".npy"))).tolist()
block = tf_iresnet.layers.InvertibleResidual(
    hidden=4, log_det=tf_iresnet.log_det.Exact(), solver=tf_iresnet.fixed_point.Picard()
)
assert tf_iresnet.certify(block) if block.built else block(np.zeros((1, 2), "float32")) is not None
assert tf_iresnet.norms.dense_norm_bound(np.eye(2)) >= 1
assert tf_iresnet.models.IResNetFlow and tf_iresnet.export.export_saved_model
assert "tensorflow_probability" not in sys.modules
assert tf_iresnet.bijectors.KerasBijector(block).layer is block
assert "tensorflow_probability" in sys.modules
json.dump(found, sys.stdout)
"""


def models():
    layers = tf_iresnet.layers
    branch = layers.DenseNetBranch(growth=4, depth=1, kernel_initializer="delta_orthogonal")
    stock = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Squeeze(),
            layers.ActNorm(),
            layers.InvertibleResidual(branch, log_det=tf_iresnet.log_det.PowerSeries()),
            layers.SpectralConv2D(2, 3, activation="tanh"),
            layers.CLipSwish(),
        ]
    )
    return {
        "stock": stock,
        "flow": small.flow(preprocessing="marginal", ema_momentum=0.9, whitening=True),
        "densenet": small.flow(branch="densenet", growth=4, depth=1, blocks=(1,)),
        "classifier": small.classifier(blocks=(1,)),
        "hybrid": small.hybrid(blocks=(1,)),
    }


def test_one_import_reads_every_model_and_reaches_every_module(tmp_path):
    x, wanted = small.pixels(2), {}
    for name, model in models().items():
        path = str(tmp_path / f"{name}.keras")
        wanted[path] = np.asarray(model(x))
        model.save(path)
        np.save(path + ".npy", x)
    done = subprocess.run(
        [sys.executable, "-c", READ, *wanted], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    for path, values in wanted.items():
        np.testing.assert_allclose(found[path], values, rtol=1e-5, atol=1e-5, err_msg=path)


def all_classes():
    for module in pkgutil.walk_packages(tf_iresnet.__path__, "tf_iresnet."):
        for _, made in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if made.__module__ == module.name:
                yield made


@pytest.mark.parametrize("kind", list(all_classes()), ids=lambda kind: kind.__name__)
def test_every_class_that_has_a_configuration_is_registered(kind):
    # A base of others, which nobody saves, is abstract or hands on what a subclass says.
    base = inspect.isabstract(kind) or any(kind in other.__bases__ for other in all_classes())
    if not callable(getattr(kind, "get_config", None)) or base:
        return
    name = keras.saving.get_registered_name(kind)
    assert name == f"tf_iresnet>{kind.__name__}"
    assert keras.saving.get_registered_object(name) is kind


def test_the_face_lists_what_is_there():
    listed = dir(tf_iresnet)
    for name in tf_iresnet.__all__:
        assert name in listed
        assert getattr(tf_iresnet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tf_iresnet.nothing
