"""Reads SavedModels with TensorFlow alone: python export_reader.py FOLDER, see test_export.py."""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

folder = Path(sys.argv[1])
loaded = tf.saved_model.load(folder / "flow" / "1")
flow = loaded.signatures
classifier = tf.saved_model.load(folder / "classifier" / "1").signatures

with np.load(folder / "inputs.npz") as inputs:
    x, far = tf.constant(inputs["x"]), tf.constant(inputs["far"])

out = {}


def keep(name, values):
    out.update({f"{name}/{key}": value.numpy() for key, value in values.items()})


for count in (1, 3, 17):
    keep(f"encode {count}", flow["encode"](x=x[:count]))
    keep(f"log_prob {count}", flow["log_prob"](x=x[:count], seed=tf.constant(5)))
    keep(f"decode {count}", flow["decode"](z=tf.constant(out[f"encode {count}/z"])))
    keep(f"classify {count}", classifier["classify"](x=x[:count]))
keep("decode far", flow["decode"](z=far))
for temperature in (0.0, 1.0):
    keep(
        f"sample {temperature}",
        flow["sample"](n=tf.constant(4), seed=tf.constant(7), temperature=tf.constant(temperature)),
    )
hybrid = tf.saved_model.load(folder / "hybrid" / "1").signatures
keep("hybrid density", hybrid["log_prob"](x=x, seed=tf.constant(5)))
keep("hybrid classes", hybrid["classify"](x=x))
keep("hybrid both", hybrid["predict"](x=x, seed=tf.constant(5)))
out["hybrid serves"] = sorted(hybrid["serving_default"].structured_outputs)
keep("hybrid latents", hybrid["encode"](x=x))
keep("hybrid images", hybrid["decode"](z=tf.constant(out["hybrid latents/z"])))
keep("features", classifier["encode"](x=x))
keep("images", classifier["decode"](features=tf.constant(out["features/features"])))
try:
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = loaded.log_prob(x=x, seed=tf.constant(5))["log_prob"]
    out["gradient"] = tape.gradient(value, x)
except Exception as error:
    out["gradient"] = f"{type(error).__name__}: {error}"
np.savez(folder / "outputs.npz", **out)
print(
    [
        name
        for name in sys.modules
        if name.split(".")[0] in ("tf_iresnet", "tf_keras", "tensorflow_probability")
    ]
)
print(sorted(flow), sorted(classifier), sorted(hybrid))
