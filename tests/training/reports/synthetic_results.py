"""Folders as finished runs leave them, with numbers that were never measured."""

import json

CLASSIFIER = {"error_percent": 0.5, "images": 10_000}
FLOW = {
    "bits_per_dim": 1.25,
    "standard_error": 0.0025,
    "images": 10_000,
    "exact_terms": 20,
    "log_det": {"name": "russian_roulette", "exact_terms": 20},
}
FOUND = {"images": 1000, "largest_error": 2e-6, "not_converged": 0}
LOST = {"images": 1000, "largest_error": 19.3, "not_converged": 990}


def write_run(results, experiment, seed=0, *, folder=None, contraction=None, model=None, **metrics):
    """Writes a run's files; metrics replace those of a plausible run, None leaves one out."""
    place = results / (folder or experiment)
    place.mkdir(parents=True, exist_ok=True)
    content = {
        "experiment": experiment,
        "command": f"python -m training train {experiment} --out runs/{place.name}",
        "seed": seed,
        "steps": 100,
        "cpu_seconds": 12.0,
        "parameters": 345,
        "split": "test",
        **(FLOW if "_flow" in experiment or "_hybrid" in experiment else {}),
        **({} if "_flow" in experiment else CLASSIFIER),
        **metrics,
    }
    content = {key: value for key, value in content.items() if value is not None}
    (place / "metrics.json").write_text(json.dumps(content))
    config = {"experiment": experiment, "settings": {"model": model or {}}}
    (place / "config.json").write_text(json.dumps(config))
    if contraction is not None:
        (place / "certificate.json").write_text(
            json.dumps({"invertible": contraction < 1, "contraction": contraction})
        )
    return place


def write_seeds(results, experiment, errors, **others):
    """Writes runs that differ in their seed, by the error of each."""
    for seed, error in errors.items():
        folder = f"table2/{experiment}_seed{seed}"
        write_run(results, experiment, seed, folder=folder, error_percent=error, **others)
