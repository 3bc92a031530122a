"""The wheel holds the library and nothing else; the constraints satisfy what it declares."""

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13")
NOT_SOURCE = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "saved_models", "results"
)

USE_IT = """
import sys
import numpy as np
import tf_iresnet

assert "tensorflow_probability" not in sys.modules  # it is imported on use
from tf_iresnet import certify
from tf_iresnet.bijectors import KerasBijector
from tf_iresnet.layers import InvertibleResidual, SpectralDense

assert "site-packages" in tf_iresnet.__file__, tf_iresnet.__file__
assert not {"sklearn", "tensorflow_datasets", "matplotlib"} & set(sys.modules)
x = np.linspace(-1.0, 1.0, 8, dtype="float32").reshape(4, 2)
assert SpectralDense(3)(x).shape == (4, 3)
block = InvertibleResidual(hidden=8)
assert np.allclose(block.inverse(block(x)), x, atol=1e-4)
assert certify(block).invertible
assert np.allclose(KerasBijector(block).forward(x), block(x))
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, so that no stale build folder can slip into it."""
    tmp = tmp_path_factory.mktemp("packaging")
    shutil.copytree(ROOT, tmp / "source", ignore=NOT_SOURCE)
    build = ("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")
    run(sys.executable, "-m", *build, str(tmp), str(tmp / "source"))
    (path,) = tmp.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def requirements(metadata):
    return [Requirement(line) for line in metadata.get_all("Requires-Dist")]


def test_wheel_holds_every_module_of_the_library_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "tf_iresnet").rglob("*.py")}
    assert names == modules | {"tf_iresnet/py.typed"}


def test_wheel_is_pure_python_and_carries_its_license(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/LICENSE"))
        assert archive.read(name).decode() == (ROOT / "LICENSE").read_text()


def test_metadata_names_the_pythons_and_the_extras(metadata):
    assert canonicalize_name(metadata["Name"]) == "tf-iresnet"
    prefix = "Programming Language :: Python :: "
    classified = [c.removeprefix(prefix) for c in metadata.get_all("Classifier") if prefix in c]
    assert classified == ["3", *PYTHONS]
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    extras = set(metadata.get_all("Provides-Extra"))
    assert extras == {"train", "test", "gpu", "serve", "bench"}


def test_core_needs_no_data_sets_and_no_plots(requirements):
    core = {canonicalize_name(r.name) for r in requirements if "extra" not in str(r.marker)}
    tensorflow = {"tensorflow", "keras", "tensorflow-probability", "tf-keras"}
    assert core == tensorflow | {"numpy", "setuptools"}


def test_constraints_are_sorted_exact_pins_without_addresses():
    lines = [ln for ln in CONSTRAINTS.read_text().splitlines() if not ln.startswith("#")]
    pins = [Requirement(line) for line in lines]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert names == sorted(set(names))
    for pin in pins:
        (clause,) = pin.specifier
        assert clause.operator == "=="
        assert pin.url is None
        assert not clause.version.endswith(".*")


def test_constraints_pin_every_declared_dependency_within_its_range(requirements):
    pins = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    for requirement in requirements:
        version = pins[canonicalize_name(requirement.name)]
        assert Version(version) in requirement.specifier, f"{requirement} but {version}"


@pytest.mark.soak
def test_wheel_works_in_an_empty_environment_with_core_dependencies_only(wheel, tmp_path):
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    python = str(tmp_path / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS), str(wheel))
    run(python, "-m", "pip", "check")
    run(python, "-c", USE_IT, cwd=tmp_path)
