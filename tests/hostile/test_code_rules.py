"""Nothing that runs code out of data is ever called: rules over the source, as a parser sees it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from captioner_core.errors import CaptionerError
from captioner_core.features.base import load_backbone
from captioner_core.text.encoders.base import load_encoder

ROOT = Path(__file__).parents[2]
PACKAGES = ("captioner_core", "captioner_cli", "captioner_airflow", "beam_jobs", "dags")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "tarfile",
    "code",
    "pty",
}
FUNCTIONS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system",
    "os.popen",
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "keras.models.load_model",
    "keras.saving.load_model",
    "keras.config.enable_unsafe_deserialization",
    "tf.keras.models.load_model",
    "tf.saved_model.load",
    "torch.load",
    "pd.read_pickle",
    "pandas.read_pickle",
    "shutil.unpack_archive",
    "tempfile.mktemp",
}
NUMPY = {"np.load", "numpy.load", "np.save", "np.savez", "np.savez_compressed"}
# modules whose names stand in tables of the file itself
MAY_IMPORT_BY_NAME = {
    "captioner_core/__init__.py",
    "captioner_cli/main.py",
    "captioner_core/features/base.py",
    "captioner_core/text/encoders/base.py",
}


def breaches(source: str, name: str = "") -> Iterator[str]:
    """What a source file does against the rules, a line for each."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"imports {found}" for found in names if found.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {what}" for what in _call_breaches(node, name))


def _call_breaches(node: ast.Call, name: str) -> Iterator[str]:
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    method = called.rpartition(".")[2]
    if called in FUNCTIONS | CALLS or called.startswith(("os.exec", "os.spawn")):
        yield called
    if given.get("shell", "False") != "False":
        yield f"{called} with a shell"
    if called in NUMPY and given.get("allow_pickle") != "False":
        yield f"{called} without allow_pickle=False"
    if method in ("extractall", "import_string", "to_csv"):
        yield called
    if method == "import_module" and name not in MAY_IMPORT_BY_NAME:
        yield f"{called} of a name that may be anybody's"
    if called == "jinja2.Environment" and given.get("autoescape") != "True":
        yield "jinja2 without autoescape"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_data(path):
    assert list(breaches(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle.x as p",
        "def f():\n    import dill",
        "eval(text)",
        "exec('1')",
        "os.system(command)",
        "os.execv(a, b)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=asked)",
        "yaml.load(text)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.savez(path, **tensors)",
        "keras.models.load_model(path, safe_mode=False)",
        "archive.extractall(folder)",
        "importlib.import_module(config['encoder'])",
        "jinja2.Environment(loader=x)",
        "frame.to_csv(path)",
    ],
)
def test_the_rules_find_what_they_forbid(source):
    assert len(list(breaches(source))) == 1


def test_the_rules_look_at_all_of_the_project():
    assert len(SOURCES) > 140


@pytest.mark.parametrize("load", [load_backbone, load_encoder])
@pytest.mark.parametrize("name", ["os", "os.path", "../x", "captioner_core.options", ""])
def test_a_name_out_of_a_model_folder_imports_nothing_but_the_table(load, name):
    with pytest.raises(CaptionerError, match="is not known"):
        load(name)
