"""The blocks of a trained flow, for comparisons on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_iresnet.layers import InvertibleResidual
from tf_iresnet.models import IResNetFlow
from training.measures.finished import open_finished
from training.measures.inputs import batches_with_index


def trained_blocks(folder: str, images: int) -> list[tuple[InvertibleResidual, tf.Tensor]]:
    """Return a run's blocks and their outputs at the first test images."""
    finished = open_finished(folder)
    _, batch = next(batches_with_index(finished, "test", images, images))
    x = batch[0] if isinstance(batch, tuple) else batch  # images alone, or with their classes
    return blocks_and_outputs(finished.model, x)


def blocks_and_outputs(
    model: IResNetFlow, x: tf.Tensor
) -> list[tuple[InvertibleResidual, tf.Tensor]]:
    """Return a model's blocks and their outputs where it encodes x."""
    noted: list[tuple[InvertibleResidual, tf.Tensor]] = []
    blocks = [b for b in model._flatten_layers() if isinstance(b, InvertibleResidual)]
    for block in blocks:  # each notes its outputs, whatever they are composed by

        def forward(x, training=False, block=block, plain=block.forward):
            noted.append((block, plain(x, training)))
            return noted[-1][1]

        block.forward = forward
    model.encode(x)
    for block in blocks:
        del block.forward
    return noted


def first_scale(folder: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the weights of a run's blocks of the first scale as the workers take them.

    Also the arguments of `Setting` that belong to them.
    """
    noted = trained_blocks(folder, 1)
    shape = tuple(noted[0][1].shape[1:])
    return weights_of([block for block, y in noted if tuple(y.shape[1:]) == shape], shape)


def weights_of(
    blocks: list[InvertibleResidual], shape: tuple[int, ...]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return blocks' weights as the workers take them, and their arguments of `Setting`."""
    weights: dict[str, np.ndarray] = {}
    for i, block in enumerate(blocks):
        for j, (activation, layer) in enumerate(
            zip(block.branch.parts[::2], block.branch.parts[1::2], strict=True)
        ):
            weights[f"block{i}_kernel{j}"] = layer.kernel.numpy()
            weights[f"block{i}_bias{j}"] = layer.bias.numpy()
            weights[f"block{i}_beta{j}"] = activation.beta.numpy()
    hidden = blocks[0].branch.hidden
    setting = {"blocks": len(blocks), "shape": tuple(shape), "hidden": hidden}
    return weights, {**setting, "coeff": blocks[0].coeff}
