"""Settings that make an experiment on digits or toys take seconds."""

TINY = (
    "model.blocks=[1]",
    "model.hidden=4",
    "model.eval_log_det.exact_terms=4",
    "model.eval_log_det.probability=0.5",
    "batch_size=8",
    "interval=2",
    "validation_images=20",
    "schedule.warmup_steps=0",
    "eval_batch_size=50",
)


def as_options(changes: tuple[str, ...]) -> list[str]:
    """Writes changes as options of the command line."""
    return [word for change in changes for word in ("--set", change)]
