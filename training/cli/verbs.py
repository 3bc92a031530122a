"""The verbs of the command line: arguments are read, and results printed."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.cli.command import Verbs
from training.console import say, warn
from training.experiments.catalog import experiment_names, load_experiment
from training.quiet import import_tensorflow
from training.reports.figures import describe
from training.runs.files import as_text, new_file, write_files
from training.typing import JsonObject

if TYPE_CHECKING:
    from training.measures.finished import Finished

_out = click.option("--out", required=True, type=click.Path(), help="Where to write.")
_run = click.argument("folder", metavar="DIR", type=click.Path())
_data = click.option(
    "--data-dir", type=click.Path(), help="Prepared TensorFlow Datasets; else TFDS_DATA_DIR."
)

_results = click.option(
    "--results",
    type=click.Path(),
    default=Path(__file__).parents[1] / "results",
    help="The folder of finished runs; else the one that comes with this package.",
)

_rescale = click.option(
    "--rescale",
    type=float,
    is_flag=False,
    flag_value=0.99,
    metavar="[BELOW]",
    help="Scale the kernels of blocks whose bound is not below this (0.99).",
)


@click.group(cls=Verbs)
def main() -> None:
    """Trains and measures invertible residual networks."""


@main.command("list")
def list_experiments() -> None:
    """List the experiments."""
    names = experiment_names()
    width = max(map(len, names))
    for name in names:
        say(f"{name:{width}}  {load_experiment(name).description}")


@main.command(
    help="Train EXPERIMENT in a folder; the same command resumes. SIGTERM and Ctrl-C save the "
    "state at the end of a step; the exit status is 0 after SIGTERM and 130 after Ctrl-C. A second "
    "Ctrl-C ends at once; the last checkpoint stays."
)
@click.argument("experiment")
@click.option("--out", required=True, type=click.Path(), help="The run's folder.")
@_data
@click.option("--seed", type=int, help="Replaces the experiment's seed.")
@click.option(
    "--steps",
    type=int,
    help="Replaces the experiment's number of steps; a warm-up that is no shorter gives way.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Changes a setting.")
@click.option(
    "--precision",
    type=click.Choice(("float32", "float64", "mixed_bfloat16")),
    help="Replaces the experiment's precision.",
)
@click.option(
    "--strategy",
    type=click.Choice(("none", "mirrored", "multiworker")),
    default="none",
    show_default=True,
    help="One device, all of this machine, or the workers of TF_CONFIG or Slurm.",
)
@click.option("--logical-devices", type=int, help="With mirrored: split the processor in so many.")
@click.option(
    "--hang-timeout",
    type=click.FloatRange(min=1),
    default=300,
    show_default=True,
    help="With multiworker: seconds after which a step that does not end is an error.",
)
def train(
    experiment: str,
    out: str,
    data_dir: str | None,
    seed: int | None,
    steps: int | None,
    sets: tuple[str, ...],
    precision: str | None,
    strategy: str,
    logical_devices: int | None,
    hang_timeout: float,
) -> None:
    """Trains an experiment in a folder, or continues it."""
    changes = [*sets, *([] if precision is None else [f"precision={precision}"])]
    settings = load_experiment(experiment, changes, steps=steps, seed=seed)
    import_tensorflow()
    from training.loop.train import repeating_command
    from training.loop.train import train as run_training
    from training.workers.devices import make_devices

    run_training(
        settings,
        out,
        data_dir=data_dir,
        command=repeating_command(experiment, out, steps, seed, changes),
        verbose=1 if sys.stdout.isatty() else 2,
        devices=make_devices(strategy, logical_devices),
        hang_timeout=hang_timeout,
    )


@main.command(
    help="Train with several workers on this machine; ARGUMENTS are those of train. SIGTERM and "
    "Ctrl-C are passed on: all workers save the same step.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option("--workers", type=int, required=True, help="How many processes.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def launch(workers: int, arguments: tuple[str, ...]) -> None:
    """Trains with several workers on this machine."""
    given = train.make_context("train", list(arguments)).params
    if given["strategy"] != "none" or given["logical_devices"] is not None:
        raise click.UsageError("launch chooses the strategy; leave out --strategy")
    from training.workers.launch import launch as run_workers

    sys.exit(run_workers(workers, arguments))


@main.command()
@_run
@_data
@click.option("--split", default="test", show_default=True, help="train, validation or test.")
@click.option("--limit", type=int, help="Use only the first so many examples.")
@click.option(
    "--against",
    metavar="OTHER",
    type=click.Path(),
    help="Compare example by example with another run, evaluated before.",
)
@click.option(
    "--views", is_flag=True, help="Classify also by several views of each image: shifted, mirrored."
)
def evaluate(
    folder: str,
    data_dir: str | None,
    split: str,
    limit: int | None,
    against: str | None,
    views: bool,
) -> None:
    """Measure the run in DIR; writes metrics.json."""
    finished = _open(folder, data_dir)
    from training.measures.evaluate import evaluate as measure
    from training.runs.run import Run

    other = None if against is None else Run(against)
    _show(measure(finished, split=split, limit=limit, against=other, by_views=views))


@main.command()
@_run
@_out
@_data
@click.option("--n", "count", type=int, default=64, show_default=True, help="How many.")
@click.option("--seed", type=int, default=0, show_default=True, help="The samples' seed.")
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Their spread.")
def sample(
    folder: str, out: str, data_dir: str | None, count: int, seed: int, temperature: float
) -> None:
    """Draw samples of the flow in DIR as a picture."""
    finished = _open(folder, data_dir)
    from training.measures.sample import write_samples

    write_samples(finished, out, count, seed=seed, temperature=temperature)
    say(f"{count} samples in {out}")


@main.command()
@_run
@_out
@_data
def reconstruct(folder: str, out: str, data_dir: str | None) -> None:
    """Draw test images, their reconstructions and the differences."""
    finished = _open(folder, data_dir)
    from training.measures.reconstruct import write_reconstructions

    _show(write_reconstructions(finished, out))


@main.command()
@_run
@_data
@click.option("--images", type=int, default=16, show_default=True, help="How many test images.")
@click.option("--draws", type=int, default=100, show_default=True, help="Estimates of each.")
def exact(folder: str, data_dir: str | None, images: int, draws: int) -> None:
    """Compare the run's estimate of bits/dim with its exact value."""
    finished = _open(folder, data_dir)
    from training.measures.exact_check import exact_check

    _show(exact_check(finished, images=images, draws=draws))


@main.command()
@_run
@_data
@click.option(
    "--limit", type=int, default=1_000, show_default=True, help="How many images of each kind."
)
def ood(folder: str, data_dir: str | None, limit: int) -> None:
    """Score images of other kinds by the density in DIR; writes ood.json, ood.png."""
    finished = _open(folder, data_dir)
    from training.measures.ood import score_outliers

    _show(score_outliers(finished, limit=limit, data_dir=data_dir))


@main.command()
@_run
@_data
@_rescale
@click.option(
    "--images",
    type=int,
    default=500,
    show_default=True,
    help="How many validation examples measure the cost of scaling.",
)
def certify(folder: str, data_dir: str | None, rescale: float | None, images: int) -> None:
    """Prove that the run's blocks are invertible; writes certificate.json."""
    finished = _open(folder, data_dir)
    from training.measures.certify import certify_run

    table, doubts = certify_run(finished, below=rescale, images=images)
    say(table)
    if doubts:
        more = f"; and {len(doubts) - 1} more reasons" if len(doubts) > 1 else ""
        raise click.ClickException(f"not proven: {doubts[0]}{more}")


@main.command()
@_run
@_out
@_data
@_rescale
@click.option(
    "--images",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="The dtype of images, in and out.",
)
@click.option(
    "--probes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many draws a log-density is the mean of; from 2 on it has a standard error.",
)
def export(
    folder: str, out: str, data_dir: str | None, rescale: float | None, images: str, probes: int
) -> None:
    """Write the run in DIR as a SavedModel: saved_models/NAME/1."""
    finished = _open(folder, data_dir)
    from training.reports.saved_model import write_saved_model

    certificate = write_saved_model(finished, out, below=rescale, images=images, probes=probes)
    if certificate is None:
        say(f"SavedModel in {out}; a baseline without residual blocks")
        return
    for doubt in certificate.not_proven:
        warn(f"not proven: {doubt}")
    say(f"SavedModel in {out}; Lipschitz constants of its blocks: {certificate.contraction:.6g}")


@main.command()
@click.argument("number", metavar="N")
@_results
@click.option("--out", type=click.Path(), help="Also writes it: OUT.md and OUT.png.")
def table(number: str, results: str, out: str | None) -> None:
    """Make table N of the paper, 1 to 4, from the results of finished runs."""
    from training.reports.tables import prepare, write_table

    made = prepare(number, results, out)
    say(made.markdown())
    if out is not None:
        write_table(made, out)


@main.command(
    help="Draw FIGURE as OUT.png, with the numbers in it as OUT.json. Each is drawn from certain "
    f"runs, given in this order:\n\n\b\n{describe()}"
)
@click.argument("name", metavar="FIGURE")
@_out
@click.option("--run", "runs", multiple=True, metavar="DIR", help="A run; give it for each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn.")
@click.option("--limit", type=int, help="Use so many test examples, not the figure's number.")
@click.option("--pdf", is_flag=True, help="Also write OUT.pdf.")
@_results
@_data
def figure(
    name: str,
    out: str,
    runs: tuple[str, ...],
    seed: int,
    limit: int | None,
    pdf: bool,
    results: str,
    data_dir: str | None,
) -> None:
    """Draws a figure."""
    import_tensorflow()
    from training.reports.figures.write import write_figure

    drawn = write_figure(
        name,
        out,
        runs=runs,
        seed=seed,
        limit=limit,
        results=results,
        data_dir=data_dir,
        pdf=pdf,
    )
    say(drawn["caption"])


@main.command()
@click.option(
    "--out",
    type=click.Path(),
    default="docs/results.md",
    show_default=True,
    help="The page; its figures are in the folder `figures` beside it.",
)
@_results
def results(out: str, results: str) -> None:
    """Make the page of results from the results of finished runs."""
    from training.reports.page import make_page

    path = new_file(out)
    write_files({path: as_text(make_page(Path(results), path.parent / "figures"))})
    say(f"results in {out}")


def _open(folder: str, data_dir: str | None) -> "Finished":
    import_tensorflow()
    from training.measures.finished import open_finished

    return open_finished(folder, data_dir)


def _show(results: JsonObject) -> None:
    say(json.dumps(results, indent=2, ensure_ascii=False))
