"""The trained flow of saved_models/, rebuilt as a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf

from tf_iresnet.models import IResNetFlow
from training.data import DataSpec, SplitRange
from training.experiments.config import parse_recorded
from training.loop.models import build_model

_ROOT = Path(__file__).parent.parent
_WEIGHT = "weights/{}/.ATTRIBUTES/VARIABLE_VALUE"


def exported_flow() -> IResNetFlow:
    """Return `mnist_flow` with the exported weights.

    An export holds the variables of the flow and of its prior, in their order.

    Raises:
      ValueError: if the variables are not those of the model.
    """
    settings: dict[str, Any] = json.loads(
        (_ROOT / "saved_models/mnist_flow/config.json").read_text()
    )["settings"]
    splits = {name: SplitRange("all", 0, 1) for name in ("train", "validation", "test")}
    spec = DataSpec("mnist", (28, 28, 1), 256, None, splits)
    model = build_model(parse_recorded(settings), spec)
    reader = tf.train.load_checkpoint(_ROOT / "saved_models/mnist_flow/1/variables/variables")
    # Of the marginal map's flag the export knows nothing.
    flag = model.flow.layers[0].initialized
    flag.assign(1.0)
    variables = [v for v in (*model.flow.variables, *model.prior.variables) if v is not flag]
    for index, variable in enumerate(variables):
        value = reader.get_tensor(_WEIGHT.format(index))
        if value.shape != tuple(variable.shape):
            raise ValueError(f"weight {index} has shape {value.shape}, not that of {variable.path}")
        variable.assign(value)
    return model


def scales() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the blocks' weights of each scale as the workers take them, first to last.

    Also the arguments of `Setting` that belong to them.
    """
    from benchmarks.trained import blocks_and_outputs, weights_of

    model = exported_flow()
    noted = blocks_and_outputs(model, tf.zeros([1, 28, 28, 1]))  # in the order of the flow
    shapes = dict.fromkeys(tuple(y.shape[1:]) for _, y in noted)
    return [
        weights_of([block for block, y in noted if tuple(y.shape[1:]) == shape], shape)
        for shape in shapes
    ]
