"""What active-dan is called, what it needs and what it ships; the settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """The version written in dan/__init__.py, read as text: building must not import torch."""
    text = (HERE / "dan" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise RuntimeError('dan/__init__.py has no line __version__ = "..."')
    return found.group(1)


setup(
    name="active-dan",
    version=version(),
    description="Deep adaptation with multi-kernel MMD, and the few target samples that are worth a label, in PyTorch",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="active-dan contributors",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["dan", "dan.*", "active", "active.*", "experiments", "experiments.*"]),
    entry_points={"console_scripts": ["dan = dan.__main__:main", "active-dan = active.__main__:main"]},
    package_data={
        "dan": ["py.typed", "mmd/*.json"],
        "active": ["py.typed", "*.json"],
        "experiments": ["py.typed", "paper_tables/*.toml", "checkpoint_card.md", "framework/reporting/*.html"],
    },
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-learn>=1.6",
        "pykeops>=2.2",
        "tensorboard>=2.14",
        "matplotlib>=3.8",
        "pillow>=10",
        "rich>=13",
        "tyro>=0.9",
        # the reports of experiments
        "jinja2>=3.1",
        # the papers' tables are TOML
        'tomli>=2; python_version < "3.11"',
    ],
    extras_require={
        # backbones by the name "timm:..."
        "timm": ["timm>=1.0"],
        # --adapters lora
        "peft": ["peft>=0.13"],
        # python -m dan train TASK --tune N
        "tune": ["optuna>=4.0"],
        # python -m dan export RUN --out model.onnx
        "onnx": ["onnx>=1.16", "onnxscript>=0.1", "onnxruntime>=1.18"],
        # python -m experiments run NAME --cluster dask://HOST:PORT
        "cluster": ["distributed>=2024.1"],
        # experiments/dashboard.py
        "app": ["streamlit>=1.38"],
        # make docs
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.26"],
        # notebooks/
        "notebook": ["nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"],
        # make test-long: inputs that a fuzzer finds by what code they reach
        "fuzz": ['atheris>=2.3; python_version < "3.14" and sys_platform == "linux"'],
        # what experiments/benchmarks compares with; pytorch-adapt imports pkg_resources, skada needs skorch
        "bench": [
            "pytorch-adapt>=0.0.83",
            "setuptools<81",
            "skada>=0.4",
            "skorch>=1.0",
            "geomloss>=0.2.6",
            "scikit-activeml>=1.0",
            "apricot-select>=0.6",
        ],
        "dev": [
            # so that no test of theirs is left out
            "active-dan[timm,peft,tune,onnx,cluster,app,docs,notebook]",
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.11",
            "import-linter>=2.15",
            # tests/test_packaging.py builds the wheel in this environment, without an isolated one
            "setuptools>=70.1",
            "wheel>=0.43",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
