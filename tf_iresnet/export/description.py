"""What stands beside an exported model: how to call it, what it is, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tf_iresnet.export.contents import ExportOptions, readable
from tf_iresnet.typing import Config

#: Of `config.json`; a change of its meaning counts it up.
FORMAT = 1


def describe(
    model: keras.Model,
    options: ExportOptions,
    inputs: Mapping[str, Sequence[tf.TensorSpec]],
    outputs: Mapping[str, Mapping[str, tf.TensorSpec]],
) -> Config:
    """Returns the content of ``config.json``: the model's configuration and its signatures.

    Args:
      model: what is exported.
      options: how it is called.
      inputs: of each signature.
      outputs: of each signature, by name.
    """
    levels = getattr(model, "levels", None)
    return {
        "format": FORMAT,
        "model": keras.saving.serialize_keras_object(model),
        "preprocessing": {
            "x": options.images if len(model.event_shape) > 1 else model.variable_dtype,
            "event_shape": list(model.event_shape),
            "levels": levels,
            "kind": getattr(model, "preprocessing", None),
            "noise": "inside" if options.images == "uint8" and levels else "by the caller",
        },
        "probes": options.probes,
        "signatures": {
            name: {
                "inputs": {spec.name: _tensor(spec) for spec in specs},
                "outputs": {key: _tensor(spec) for key, spec in sorted(outputs[name].items())},
            }
            for name, specs in inputs.items()
        },
    }


def _tensor(spec: tf.TensorSpec) -> Config:
    shape = None if spec.shape.rank is None else [size for size in spec.shape]
    return {"dtype": tf.as_dtype(spec.dtype).name, "shape": shape}


def page(model: keras.Model, description: Config, card: str | None) -> str:
    """Returns the README of an exported model, in Markdown.

    Args:
      model: what is exported.
      description: the result of `describe`.
      card: what comes before the signatures; None for a line on the model.
    """
    about = (
        f"# {model.name}\n\nA SavedModel of {type(model).__name__}. TensorFlow alone loads it: "
        "`tf.saved_model.load(FOLDER).signatures`.\n"
    )
    rows = [
        f"| `{name}` | {_listed(each['inputs'])} | {_listed(each['outputs'])} |"
        for name, each in description["signatures"].items()
    ]
    return "\n".join(
        [
            (about if card is None else card).rstrip(),
            "",
            "## Signatures",
            "",
            "| signature | inputs | outputs |",
            "|---|---|---|",
            *rows,
            "",
            _reads(description),
            "",
            "`seed` is one integer, or one for each example. Where `valid` is false, x is no "
            "example: the answer is NaN. Where `converged` is false, x was not found: it is NaN, "
            "or 0 as bytes. `certificate.json` says what is proven, `config.json` how the model "
            "was made.",
            "",
        ]
    )


def _reads(description: Config) -> str:
    read, levels = description["preprocessing"], description["preprocessing"]["levels"]
    if len(read["event_shape"]) == 1:
        return f"`x` holds points, {read['x']}."
    if read["x"] == "uint8":
        more = f" of {levels} levels; their noise is added inside" if levels else ", as they are"
        return f"`x` holds images as bytes, channels last{more}."
    if levels:
        return f"`x` holds pixels plus noise, {read['x']} in [0, {levels}), channels last."
    return f"`x` holds images as the model was trained on, {read['x']}, channels last."


def _listed(tensors: Config) -> str:
    return ", ".join(
        f"`{name}` {each['dtype']}{'' if not each['shape'] else ' ' + readable(each['shape'])}"
        for name, each in tensors.items()
    )
