"""The house is as its pages say: paths that exist, folders that are not crowded."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parents[2]
PACKAGES = ("tf_iresnet", "training")


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_on_a_page_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`([\w/.]+(?:/|\.py))`", text)
    assert len(named) > 10
    places = (ROOT, *(ROOT / package for package in PACKAGES))
    missing = [path for path in named if not any((place / path).exists() for place in places)]
    assert not missing


def test_every_room_stands_on_the_page():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rooms = {
        path.parent.name for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")
    }
    assert rooms
    assert not [room for room in sorted(rooms) if f"`{room}/`" not in text]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_folder_is_crowded(package):
    skipped = {"__pycache__", "results"}  # committed results are data
    folders = [path for path in (ROOT / package).rglob("*") if path.is_dir()]
    counts = {
        folder.name: sum(path.is_file() for path in folder.iterdir())
        for folder in folders
        if not skipped & set(folder.parts)
    }
    assert counts
    assert {name for name, count in counts.items() if count > 15} <= {"layers"}
