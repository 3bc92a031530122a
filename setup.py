"""Package metadata, dependencies and extras; tool settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).parent / "README.md"

CORE = [
    "tensorflow>=2.20",
    "keras>=3.12,<3.16",
    "tensorflow-probability>=0.25,<0.26",
    "tf_keras>=2.20",  # TensorFlow Probability's Keras; its minor version follows TensorFlow's
    "setuptools; python_version >= '3.12'",  # has the distutils that TensorFlow Probability imports
    "numpy>=2.0",
]

TRAIN = [
    "tensorflow-datasets>=4.9.10",
    "tensorboard>=2.20",
    "scikit-learn>=1.5",
    "matplotlib>=3.9",
    "click>=8.1.7",
    "pydantic>=2.8",
    "psutil>=5.9.6",
    "scipy>=1.14",
]

TEST = [
    "pytest>=8.3",
    "pytest-reverse>=1.8",
    "pytest-xdist>=3.6.1",
    "hypothesis>=6.100",
    "ruff>=0.9",
    "mypy>=1.14",
    "import-linter>=2.3",
    "absl-py>=2.1",
    "importlib-resources>=6.4",  # TensorFlow Datasets needs it for builders in packages
]

setup(
    name="tf_iresnet",
    version="0.1.0",
    description="Invertible residual networks: Keras 3 layers and TensorFlow Probability bijectors",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The tf_iresnet authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["tf_iresnet", "tf_iresnet.*"]),
    package_data={"tf_iresnet": ["py.typed"]},
    zip_safe=False,
    python_requires=">=3.11,<3.14",
    install_requires=CORE,
    extras_require={
        "train": TRAIN,
        "test": TRAIN + TEST,
        "gpu": ["tensorflow[and-cuda]"],
        "serve": ["kserve>=0.21"],
        "bench": ["torch==2.13.0", "normflows==1.7.3"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    keywords="invertible residual networks, normalizing flows, Lipschitz, TensorFlow, Keras",
)
