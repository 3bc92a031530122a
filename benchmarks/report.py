"""Results as a Markdown table."""

from __future__ import annotations

from typing import Any

_TITLES = {
    "training_step": "one training step, norms by power iteration",
    "training_step_default": "one training step, ours by default",
    "inverse": "inverse, same error",
    "inverse_trained": "inverse of the trained flow's blocks, same error",
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
    for name, whose in (("inverse", "inverses"), ("inverse_trained", "trained flow's inverses")):
        if name in results:
            row = results[name]
            lines.append(
                f"Largest errors of the {whose}: {row['ours_max_error']:.2g} and "
                f"{row['normflows_max_error']:.2g}."
            )
    if "memory" in results:
        terms = results["memory"]["ours_by_terms"]
        values = ", ".join(f"{value:.0f} MB at {count}" for count, value in terms.items())
        lines.append(f"Memory by the number of terms: {values}.")
    lines += _own(results)
    lines.append(
        f"Processor: {results.get('processor', 'not noted')}; threads: {results['threads']}; "
        f"repeats: {results['repeats']}; versions: "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )
    return "\n".join(lines) + "\n"


def _own(results: dict[str, Any]) -> list[str]:
    """The tables of what needs no peer."""
    lines: list[str] = []
    if "where_the_time_goes" in results:
        lines += ["", "| part of a training step | time | share |", "| --- | ---: | ---: |"]
        for name, row in results["where_the_time_goes"].items():
            lines.append(f"| {name} | {row['seconds']:.3f} s | {row['fraction']:.0%} |")
    if "ours_by_depth" in results.get("memory", {}):
        row = results["memory"]
        table = {"stored": row["ours_by_depth"], "recomputed": row["ours_recomputed_by_depth"]}
        terms = list(next(iter(table["stored"].values())))
        heads = [f"{kind}, {count} terms" for kind in table for count in terms]
        lines += ["", "| blocks | " + " | ".join(heads) + " |"]
        lines.append("| ---: |" + " ---: |" * len(heads))
        for blocks in table["stored"]:
            values = [f"{table[kind][blocks][count]:.0f} MB" for kind in table for count in terms]
            lines.append(f"| {blocks} | " + " | ".join(values) + " |")
        lines += [
            "",
            f"With recomputation {row['ours_recomputed']:.0f} MB: normflows needs "
            f"{row['ratio_recomputed']:.2f} times as much.",
        ]
    if "estimators" in results:
        row = results["estimators"]
        lines += ["", "| estimator, over the trained flow | standard deviation | ratio |"]
        lines.append("| --- | ---: | ---: |")
        for name, ratio in row["ratio"].items():
            nats = row["standard_deviation_nats"][name]
            lines.append(f"| {name.replace('_', ' ')} | {nats:.2f} nats | {ratio:.3f} |")
        lines += ["", f"({row['images']} {row['source']}, {row['draws']} draws)"]
    if "solvers" in results:
        row = results["solvers"]
        lines += [
            "",
            f"Anderson's evaluations at Picard rates from {row['rate']:.2f}: at least "
            f"{row['least']:.1f} times fewer than Picard's.",
            "",
            "| blocks | Picard's rates | evaluations, Picard / Anderson |",
            "| --- | ---: | ---: |",
        ]
        for group, ends in row["groups"].items():
            rates, gains = (" to ".join(f"{v:.2f}" for v in ends[k]) for k in ("rates", "gains"))
            lines.append(f"| {group} | {rates} | {gains} |")
    if "certificates" in results:
        row = {key: value for key, value in results["certificates"].items() if key != "kernels"}
        lines += ["", "| norm of a convolution | above the norm, median (range) | time |"]
        lines.append("| --- | ---: | ---: |")
        for name, values in row.items():
            low, middle, high = values["percent_above_the_norm"].values()
            lines.append(
                f"| {name} | {middle:.2g} % ({low:.2g} to {high:.2g}) "
                f"| {1000 * values['seconds']:.0f} ms |"
            )
    return [*lines, ""] if lines else []
