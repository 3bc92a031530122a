"""The trained flow of saved_models/, rebuilt as a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_iresnet.models import IResNetFlow
from training.config import FlowExperiment
from training.data import DataSpec, SplitRange
from training.models import build_model

_ROOT = Path(__file__).parent.parent
_WEIGHT = "weights/{}/.ATTRIBUTES/VARIABLE_VALUE"


def exported_flow() -> IResNetFlow:
    """Return `mnist_flow` with the exported weights.

    An export holds the variables of the flow and of its prior, in their order.

    Raises:
      ValueError: if the variables are not those of the model.
    """
    settings: dict[str, Any] = json.loads(
        (_ROOT / "training/results/mnist_flow/config.json").read_text()
    )["settings"]
    splits = {name: SplitRange("all", 0, 1) for name in ("train", "validation", "test")}
    spec = DataSpec("mnist", (28, 28, 1), 256, None, splits)
    model = build_model(FlowExperiment(**settings), spec)
    reader = tf.train.load_checkpoint(_ROOT / "saved_models/mnist_flow/1/variables/variables")
    for index, variable in enumerate([*model.flow.variables, *model.prior.variables]):
        value = reader.get_tensor(_WEIGHT.format(index))
        if value.shape != tuple(variable.shape):
            raise ValueError(f"weight {index} has shape {value.shape}, not that of {variable.path}")
        variable.assign(value)
    return model


def first_scale() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights of the first scale's blocks as the workers take them.

    Also the arguments of `Setting` that belong to them.
    """
    from benchmarks.trained import weights_of
    from tf_iresnet.layers import InvertibleResidual

    layers = exported_flow().flow._flatten_layers()
    blocks = [layer for layer in layers if isinstance(layer, InvertibleResidual)]
    shape = blocks[0]._event_shape
    return weights_of([block for block in blocks if block._event_shape == shape], shape)
