"""The page of results, made from the files of finished runs and from nothing else."""

from pathlib import Path

from training.errors import RunError
from training.reports.tables import (
    classification,
    densities,
    hybrids,
    invertible_classifiers,
    properties,
    sizes,
    trials,
)
from training.reports.tables.cells import inverse, reconstruction
from training.reports.tables.intervals import error_rate
from training.reports.tables.records import Record, Records
from training.reports.tables.table import Grid
from training.runs.files import read_json
from training.typing import JsonObject

_HEAD = """\
# Results

`python -m training results` makes this page from the files of finished runs in `training/results/`
and the figures in `docs/figures/`; a test fails where it is not what they say. `python -m training
table N` prints one table, `python -m training figure N` draws a figure.
"""

_DIFFERENCES = """\
## What differs from the paper

- **Budget.** Everything was trained on CPUs, for the CPU-seconds (user and system, of all
  processes) beside each number; the paper's classifiers were trained for 200 epochs on GPUs. So the
  numbers say how the systems compare at this budget, not how good they can be. A second of a
  processor with AVX-512 does up to twice the work of one with AVX2 alone: the processor is in the
  table of all runs where it was noted.
- **Size.** The paper's classifiers of CIFAR have 54 blocks and its densities 48 or 96; networks
  here have fewer blocks and channels. MNIST's classifiers have the paper's 21 blocks.
- **Bits/dim** are over the 784 pixels of 28x28 images of MNIST. The paper's code pads them to
  32x32, so its number may be another quantity.
- **Dequantisation** is uniform, one draw for each image; all Jacobians of the preprocessing count.
- **Preprocessing.** Flows of MNIST learn each pixel's marginal distribution first ("marginal");
  the paper shifts pixels to [-0.5, 0.5], Residual Flows take logits, as the flows of CIFAR-10 here.
- **Evaluation.** A log-determinant is an unbiased estimate with 20 exact terms and a roulette of
  finite variance, unless a row says something else; the paper's truncated series is biased.
- **Bounds.** A guaranteed inverse is one that a certificate proves from the stored kernels, in
  exact arithmetic, at the images' real size and padding; a power iteration alone proves nothing.
- **Selection.** Choices were made on the last 5,000 training images; the test set was used once for
  each reported run. Evaluation uses averages of the weights.
"""


def make_page(results: Path, figures: Path) -> str:
    """Writes the page in Markdown, with its figures in the folder `figures` beside it.

    Args:
      results: the folder of finished runs.
      figures: the folder of figures with their numbers.

    Raises:
      RunError: if files are damaged.
    """
    records = Records(results)
    tables = [
        maker(records).markdown()
        for maker in (
            classification.make_table,
            invertible_classifiers.make_table,
            densities.make_table,
            sizes.make_table,
            hybrids.make_table,
            trials.make_table,
        )
    ]
    if properties.is_measured(records):
        tables.insert(0, properties.make_table(records).markdown())
    parts = [_HEAD, *tables, *_outliers(records), *_figures(figures), _DIFFERENCES, _runs(records)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _runs(records: Records) -> str:
    found = records.all()
    header = [
        "run",
        "seed",
        "result on test images",
        "images",
        "certificate",
        "reconstruction error",
        "parameters",
        "steps",
        "CPU-seconds",
        "cores",
        "processor",
    ]
    rows = [
        [
            str(record.folder.relative_to(records.folder)),
            str(record.seed),
            _result(record),
            f"{record.metrics.get('images', '–')}",
            inverse([record]),
            reconstruction([record]),
            *(f"{record.number(key):,.0f}" for key in ("parameters", "steps", "cpu_seconds")),
            *(str(record.metrics.get(key, "–")) for key in ("cores", "processor")),
        ]
        for record in found
    ]
    commands = "\n".join(
        f"{record.metrics['command']}  # {record.folder.relative_to(records.folder)}"
        for record in found
    )
    return "\n\n".join(
        [
            "## All runs",
            "Bits/dim with the standard error over test images, errors in percent with Wilson's "
            "95 % interval. CPU-seconds are those of training.",
            Grid(header, rows).markdown(),
            "They were trained by these commands, and evaluated by `python -m training evaluate`, "
            "where views are named with `--views`. An experiment may have changed since: "
            "`config.json` of each run has all its settings.",
            f"```sh\n{commands}\n```",
        ]
    )


def _result(record: Record) -> str:
    parts = []
    if record.measured and "bits_per_dim" in record.metrics:
        error = record.number("standard_error")
        parts.append(f"{record.number('bits_per_dim'):.4f} ± {error:.4f} bits/dim")
    if record.measured and "log_prob" in record.metrics:  # of points, which are not quantised
        parts.append(f"{record.number('log_prob'):.3f} nats")
    if record.measured and "error_percent" in record.metrics:
        parts.append(f"{error_rate(record)} %")
        by_views = record.by_views()
        if by_views is not None:
            parts.append(f"{error_rate(by_views)} % by {by_views.metrics['count']} views")
    return ", ".join(parts) or "not evaluated"


def _outliers(records: Records) -> list[str]:
    """Returns what `python -m training ood` found, if it was run."""
    rows = []
    for path in sorted(records.folder.glob("*/ood.json")):
        content = read_json(path)
        try:
            rows += [
                [
                    path.parent.name,
                    kind,
                    f"{entry['bits_per_dim']:.3f}",
                    *(_area(entry["auroc"][score]) for score in ("likelihood", "typicality")),
                    f"{entry['images']:,}",
                    str(content["seed"]),
                ]
                for kind, entry in content["outliers"].items()
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"{str(path)!r} is damaged; make it again by `python -m training ood`"
            ) from error
    if not rows:
        return []
    header = ["run", "outliers", "bits/dim", "by likelihood", "by typicality", "images", "seed"]
    return [
        "## Outliers",
        "The area under the ROC curve of outliers against test images, with its 95 % interval: 1 "
        "tells them apart, 0.5 does not, and below 0.5 outliers seem more likely than test images.",
        Grid(header, rows).markdown(),
    ]


def _area(area: JsonObject) -> str:
    low, high = area["interval"]
    return f"{area['value']:.3f} [{low:.3f}, {high:.3f}]"


def _figures(folder: Path) -> list[str]:
    parts = []
    for path in sorted(folder.glob("*.json")):
        content = read_json(path)
        try:
            name, caption, command = (content[key] for key in ("figure", "caption", "command"))
            seconds = float(content["cpu_seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{str(path)!r} is damaged; draw the figure again") from error
        title = f"Figure {name}" if name.isdigit() else name.replace("_", " ").capitalize()
        picture = f"figures/{path.with_suffix('.png').name}"
        parts += [
            f"### {title}",
            f"![{title}]({picture})",
            f"{caption} Made by `{command}` in {seconds:.0f} CPU-seconds "
            f"([numbers](figures/{path.name})).",
        ]
    return ["## Figures", *parts] if parts else []
