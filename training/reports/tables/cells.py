"""How results are written into cells."""

from collections.abc import Iterable, Sequence

from training.reports.tables.records import Record

UNKNOWN = "not measured"
DATASETS = {"mnist": "MNIST", "cifar10": "CIFAR-10"}  # that have densities
REMEMBERED = "paper, as remembered"
REMEMBERED_NOTE = (
    f"The columns “{REMEMBERED}” quote the paper from memory and were not checked against it: "
    "they say what to aim at, not what is true."
)


def inverse(records: Sequence[Record]) -> str:
    """Says whether the certificates prove an inverse, by the largest bound of a block.

    Args:
      records: the runs of one experiment.
    """
    if any(record.architecture == "resnet" for record in records):
        return "no: not a bijection"
    bounds = [record.certificate and record.certificate.get("contraction") for record in records]
    known = [bound for bound in bounds if isinstance(bound, int | float)]
    if len(known) < len(bounds):
        return "not certified"
    if max(known) >= 1:
        return f"no: bound {max(known):.3f}"
    proven = all((record.certificate or {}).get("invertible") is True for record in records)
    return f"{'yes' if proven else 'not proven'}: bound {max(known):.3f}"


def reconstruction(records: Sequence[Record]) -> str:
    """Writes the largest error of a decoded pixel, as a share of the range, of all runs.

    Args:
      records: the runs of one experiment.
    """
    if any(record.architecture == "resnet" for record in records):
        return "no inverse"
    found = [record.metrics.get("reconstruction") for record in records]
    known = [report for report in found if report]
    if len(known) < len(found):
        return UNKNOWN
    images, lost = (sum(report[key] for report in known) for key in ("images", "not_converged"))
    errors = [report["largest_error"] for report in known]
    worst = "not finite" if None in errors else f"{max(errors):.1e}"
    return worst + (f" ({lost} of {images} not found)" if lost else "")


def spread(values: Iterable[float], form: str = "{:,.0f}") -> str:
    """Writes the smallest and the largest of some numbers, or the one that all of them are.

    Args:
      values: the numbers.
      form: of each.
    """
    numbers = list(values)
    ends = [form.format(end) for end in (min(numbers), max(numbers))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def bits(record: Record) -> str:
    """Writes a density's bits/dim with the standard error over test images."""
    return f"{record.number('bits_per_dim'):.3f} ± {record.number('standard_error'):.3f}"


def costs(record: Record) -> list[str]:
    """Writes a run's parameters, the CPU-seconds of its training and its steps, a cell each."""
    return [f"{record.number(key):,.0f}" for key in ("parameters", "cpu_seconds", "steps")]


def likelihood(record: Record) -> str:
    """Says how a flow's evaluation found its log-determinants."""
    log_det = record.metrics.get("log_det") or {}
    name, terms = log_det.get("name"), log_det.get("exact_terms", log_det.get("terms"))
    if name == "exact":
        return "exact" if "solver" not in log_det else "exact up to the solver's tolerance"
    if name == "russian_roulette":
        return f"unbiased, {terms} exact terms"
    if name == "hutchinson":
        return "unbiased up to the solver's tolerance"
    if name == "power_series":
        return f"biased, {terms} terms"
    return UNKNOWN
