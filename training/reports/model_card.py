"""The page that goes with an exported model: what it is, how to call it, how good, how made."""

from tf_iresnet.certificate import Certificate
from training.measures.finished import Finished
from training.typing import Results


def model_card(finished: Finished, certificate: Certificate | None, rescaled: bool = False) -> str:
    """Describes a run's model, in Markdown, from its settings and from what was measured.

    Args:
      finished: the run.
      certificate: what is proven of the exported weights; None for a baseline.
      rescaled: whether the exported weights were scaled after they were measured.
    """
    spec, metrics = finished.dataset.spec, finished.metrics()
    results = _results(metrics) or ["Not evaluated when it was exported."]
    if rescaled:
        results.append("the numbers above are from before the kernels were scaled for this export")
    if certificate is not None:
        results.append(_proven(certificate))
    kind = "a normalizing flow" if finished.is_baseline else "an invertible residual network"
    made = {
        "experiment": finished.experiment.name,
        "command": metrics.get("command"),
        "seed": finished.experiment.seed,
        "training steps": finished.step,
        "CPU-seconds of training": metrics.get("cpu_seconds"),
        "parameters": metrics.get("parameters"),
        "versions": ", ".join(f"{k} {v}" for k, v in (metrics.get("versions") or {}).items()),
    }
    return "\n".join(
        [
            f"# {finished.experiment.name}",
            "",
            f"{finished.experiment.description}. A SavedModel of {kind}; TensorFlow alone loads "
            "it: `tf.saved_model.load(FOLDER).signatures`.",
            "",
            *_contexts(finished),
            "## Measured",
            "",
            *[f"- {line}" for line in results],
            "",
            "## Made by",
            "",
            *[f"- {key}: {value}" for key, value in made.items() if value not in (None, "")],
            "",
            "## Limits",
            "",
            f"It knows {spec.name} alone. "
            + (
                "A flow gives simple images a high density whatever they show, so the density by "
                "itself does not tell whether an image belongs to the training set's kind."
                if finished.is_flow
                else "Its logits are not calibrated, and say nothing of images of another kind."
            ),
            "",
        ]
    )


def _contexts(finished: Finished) -> list[str]:
    """Says what the numbers mean that the signatures' own page only counts."""
    spec, lines = finished.dataset.spec, []
    if spec.is_image and not finished.is_flow:
        lines.append(f"Images are divided by {(spec.levels or 2) - 1}, unless they are bytes.")
    if finished.is_conditional:
        lines.append("The context is the class as a one-hot vector.")
    return [*lines, ""] if lines else []


def _results(metrics: Results) -> list[str]:
    lines = []
    place = "on {images} images of the {split} set"
    if metrics.get("bits_per_dim") is not None:
        spread = "" if metrics.get("standard_error") is None else " ± {standard_error:.4f}"
        lines.append(f"{{bits_per_dim:.4f}}{spread} bits/dim {place}".format(**metrics))
    elif "bits_per_dim" in metrics:
        lines.append(f"bits/dim that are not finite {place}".format(**metrics))
    if metrics.get("error_percent") is not None:
        lines.append(f"{{error_percent:.2f}} % error {place}".format(**metrics))
    found = metrics.get("reconstruction")
    if found and not found["not_converged"] and found["largest_error"] is not None:
        lines.append(
            f"decode(encode(x)) on {found['images']} test images: every inverse converged, "
            f"largest error {found['largest_error']:.1e} of the pixel range"
        )
    elif found:
        lines.append(
            f"decode(encode(x)): the inverse of {found['not_converged']} of {found['images']} "
            "test images was not found"
        )
    return lines


def _proven(certificate: Certificate) -> str:
    if certificate.not_proven:
        return f"invertibility is not proven: {certificate.not_proven[0]}"
    return (
        "proven to be invertible: the Lipschitz constant of every residual branch is at most "
        f"{certificate.contraction:.6g} (certificate.json)"
    )
