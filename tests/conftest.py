"""Settings that must precede TensorFlow's import, and shared fixtures."""

import gc
import inspect
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf
from absl import flags

from tests.library.eager import eagerly
from tests.library.emulation import TensorFloat32
from tests.library.registry import representatives
from tf_iresnet import log_det
from tf_iresnet.log_det import series

# Two devices, for what is trained on several; everything else runs on the first.
_PROCESSOR = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(_PROCESSOR, [tf.config.LogicalDeviceConfiguration()] * 2)

flags.FLAGS.mark_as_parsed()  # TFP's test utilities read flags

# Most graphs of tests run once or twice. To rewrite them takes longer than to run them as they are.
# The soak rewrites them, and so do the commands that tests start.
if not os.environ.get("TEST_GRAPPLER"):
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

# Graphs are many objects that live long. Searching them often for garbage is of no use.
gc.freeze()
gc.set_threshold(20_000)


def _layers(module, mark):
    """The names of those of a module's layers that a test with this mark is about.

    The module's ``LAYERS`` holds the layers by name, and one of each kind; the others are for the
    soak where kinds are asked for. ``but`` leaves some kinds to the soak as well.
    """
    cases, kinds = module.LAYERS
    names = [n for n in cases if cases[n].estimated or not mark.kwargs.get("estimated")]
    if mark.kwargs.get("of") == "kinds":
        chosen = [name for name in kinds if name not in mark.kwargs.get("but", ())]
        names = representatives(names, chosen)
    return names


def pytest_pycollect_makeitem(collector, obj):
    """Collects no test about layers of which its module has none."""
    marks = getattr(obj, "pytestmark", ()) if inspect.isfunction(obj) else ()
    module = collector.getparent(pytest.Module)
    of_none = any(mark.name == "layers" and not _layers(module.obj, mark) for mark in marks)
    return [] if of_none else None  # which leaves it to pytest


def pytest_generate_tests(metafunc):
    """Gives a test that is marked ``layers`` the name of each layer that it is about."""
    mark = metafunc.definition.get_closest_marker("layers")
    if mark is not None:
        metafunc.parametrize("name", _layers(metafunc.module, mark))


@pytest.fixture
def fixed(monkeypatch):
    """Replaces the probes of log-determinants and the draw N."""

    def fix(probes, draw=None):
        for name in ("rademacher", "gaussian"):
            monkeypatch.setitem(
                series._PROBES, name, lambda seed, like: tf.cast(probes, like.dtype)
            )
        monkeypatch.setattr(
            log_det.RussianRoulette, "draw", lambda self, seed: tf.convert_to_tensor(draw)
        )

    return fix


@pytest.fixture
def device():
    """A device that rounds the operands of float32 products."""
    emulated = TensorFloat32()
    with emulated.installed():
        emulated.switch.assign(True)
        yield emulated


@pytest.fixture
def eager():
    """Traces no functions in this test."""
    with eagerly():
        yield


@pytest.fixture(scope="module")
def eager_module():
    """Traces no functions in this module and what is made for it."""
    with eagerly():
        yield


@pytest.fixture(scope="session")
def prepared() -> Path:
    """The folder of real, prepared data sets."""
    place = os.environ.get("TFDS_DATA_DIR")
    if not place:
        pytest.skip("TFDS_DATA_DIR does not name a folder of prepared data sets")
    return Path(place)
