"""Results as a Markdown table."""

from __future__ import annotations

from typing import Any

_TITLES = {
    "training_step": "one training step",
    "inverse": "inverse, same error",
    "log_det": "log-determinant, evaluation",
    "memory": "peak memory of training",
}


def markdown(results: dict[str, Any]) -> str:
    """Return the table and what is needed to read it."""
    versions = results["versions"]
    lines = [
        "# tf_iresnet and normflows, side by side",
        "",
        "| | tf_iresnet | normflows | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, title in _TITLES.items():
        if name in results:
            row = results[name]
            ours, peer = (f"{row[key]:.4g} {row['unit']}" for key in ("ours", "normflows"))
            lines.append(f"| {title} | {ours} | {peer} | {row['ratio']:.2f} |")
    lines += ["", "A ratio above 1 means that tf_iresnet is better."]
    if "roofline_fraction" in results:
        fraction = results["roofline_fraction"]
        lines.append(f"The training step's bare convolutions take {fraction:.0%} of its time.")
    if "inverse" in results:
        row = results["inverse"]
        lines.append(
            f"Largest errors of the inverses: {row['ours_max_error']:.2g} and "
            f"{row['normflows_max_error']:.2g}."
        )
    if "memory" in results:
        terms = results["memory"]["ours_by_terms"]
        values = ", ".join(f"{value:.0f} MB at {count}" for count, value in terms.items())
        lines.append(f"Memory by the number of terms: {values}.")
    lines.append(
        f"Threads: {results['threads']}; repeats: {results['repeats']}; versions: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )
    return "\n".join(lines) + "\n"
