"""Names for what arguments and results are, beside those of `tf_iresnet.typing`.

Nothing here imports TensorFlow, which the command line and the experiments go without.
"""

from __future__ import annotations

import os
from typing import Any, TypeAlias

#: The place of a file or a folder.
PathLike: TypeAlias = str | os.PathLike[str]
#: A value of JSON or TOML of which nothing is known: a text, a number, a list, a mapping, None.
Json: TypeAlias = Any
#: A mapping of JSON or TOML.
JsonObject: TypeAlias = dict[str, Json]
#: An experiment's settings by name, nested, as TOML files and `config.json` hold them.
RawSettings: TypeAlias = dict[str, Json]
#: Results by name, as `metrics.json` and other files of measurements hold them.
Results: TypeAlias = dict[str, Json]
#: What `history.json` holds of one interval between checkpoints, by name.
HistoryEntry: TypeAlias = dict[str, Json]
#: The numbers that a figure shows, by name, as its JSON file holds them.
Numbers: TypeAlias = dict[str, Json]
#: Losses and metrics by name, as Keras hands them to callbacks.
Logs: TypeAlias = dict[str, float]
#: Keyword arguments by name, for constructors that settings choose.
Keywords: TypeAlias = dict[str, Any]
