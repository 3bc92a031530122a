"""A flow that was trained, where a device rounds the operands of float32 products (TF32)."""

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.exported import exported_flow
from tests.library.emulation import TensorFloat32
from tf_iresnet.export import export_saved_model, saved_model
from tf_iresnet.fixed_point import Anderson, Picard
from tf_iresnet.keras_private import layers_inside
from tf_iresnet.layers import InvertibleResidual
from training.data import eval_batches, load_dataset


class TrainedFlow:
    """The trained flow of saved_models, images, and their latents by products of float32."""

    def __init__(self):
        self.model = exported_flow()
        # Of the test images, since there are few to read.
        batches = eval_batches(load_dataset("mnist"), "test", 16, seed=0, task="density", limit=16)
        self.x = next(iter(batches))
        self.z = self.model.encode(self.x)

    def solve_by(self, solver):
        for layer in layers_inside(self.model.flow):
            if isinstance(layer, InvertibleResidual):
                layer.solver = solver

    def assert_inverted(self, x, converged):
        assert np.asarray(converged).sum() == len(self.x) == 16
        assert np.abs(np.asarray(x) - self.x).max() <= 1e-5 * self.model.levels


@pytest.fixture(scope="module")
def flow(prepared):  # of samples some lie far out, where every error grows
    return TrainedFlow()


@pytest.mark.parametrize(
    ("solver", "graph"),
    [
        pytest.param(Anderson(), False, marks=pytest.mark.soak),
        pytest.param(Picard(), False, marks=pytest.mark.soak),
        pytest.param(Picard(), True, marks=pytest.mark.soak),
    ],
    ids=["anderson", "picard", "picard in a graph"],
)
def test_a_trained_flow_is_inverted(flow, device, solver, graph):
    """Sixteen blocks, of which each amplifies what a later one leaves."""
    assert np.abs(flow.model.encode(flow.x) - flow.z).max() > 1e-3  # latents by rounded products
    flow.solve_by(solver)
    decode = flow.model.decode  # not for a result: its bound takes as long again
    x = (tf.function(decode, autograph=False) if graph else decode)(flow.z)
    flow.assert_inverted(x, np.isfinite(x).all((1, 2, 3)))


@pytest.mark.soak
def test_an_exported_flow_is_inverted(flow, tmp_path, monkeypatch):
    """The SavedModel finds out by itself what device it is on."""
    made = saved_model.contents_of
    monkeypatch.setattr(  # tracing the others takes a minute
        saved_model,
        "contents_of",
        lambda m: {name: made(m)[name] for name in ("encode", "decode")},
    )
    flow.solve_by(Picard())
    with TensorFloat32(always=True).installed():
        export_saved_model(flow.model, tmp_path / "1")
    loaded = tf.saved_model.load(tmp_path / "1")
    z = loaded.signatures["encode"](x=flow.x)["z"]
    assert np.abs(z - flow.z).max() > 1e-3
    result = loaded.signatures["decode"](z=flow.z)
    flow.assert_inverted(result["x"], result["converged"])
