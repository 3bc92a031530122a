"""What a figure is drawn from, and what comes out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from training.errors import RunError
from training.runs.run import Run
from training.typing import JsonObject, Numbers, PathLike

if TYPE_CHECKING:
    from training.measures.finished import Finished


class Drawing(NamedTuple):
    """A figure, a caption that says what it shows, and the numbers in it."""

    figure: Figure
    caption: str
    numbers: Numbers


@dataclass(frozen=True)
class Request:
    """What a figure is drawn from.

    Args:
      runs: folders of runs.
      seed: of everything that is drawn.
      limit: a number of test examples that replaces the figure's own; None for that.
      results: the folder of finished runs.
      data_dir: the folder of prepared data sets; None takes TFDS_DATA_DIR.
    """

    runs: tuple[Path, ...]
    seed: int
    limit: int | None
    results: Path
    data_dir: PathLike | None

    def finished(self) -> list["Finished"]:
        """Loads the runs with their models, in order."""
        from training.measures.finished import open_finished

        return [open_finished(run, self.data_dir) for run in self.runs]

    def flow(self, images: bool = False) -> "Finished":
        """Loads the only run, which must be that of an unconditional flow.

        Args:
          images: whether it must be one of images.

        Raises:
          RunError: if it is another kind of run.
        """
        (run,) = self.finished()
        kind = "flow of images" if images else "flow"
        suits = run.is_flow and not run.is_conditional
        if not suits or (images and not run.dataset.spec.is_image):
            raise RunError(
                f"{str(run.run.folder)!r} cannot be drawn: {run.experiment.name} is no "
                f"unconditional {kind}; give the folder of one"
            )
        return run

    def count(self, default: int, available: int) -> int:
        """Returns how many test examples to use."""
        return min(default if self.limit is None else self.limit, available)

    def sources(self) -> list[JsonObject]:
        """Says, for the record, which runs these are."""
        found = []
        for folder in self.runs:
            run = Run(folder)
            experiment = run.experiment()
            found.append(
                {
                    "experiment": experiment.name,
                    "seed": experiment.seed,
                    "steps": experiment.steps,
                    "command": run.command(),
                }
            )
        return found
