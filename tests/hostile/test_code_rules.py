"""No source file calls anything that could execute data, such as pickle, eval or a shell.

The rules are checked on the syntax tree of every source file, and a second test shows that each
rule finds what it forbids.
"""

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
# These files import modules by names from their own tables only.
MAY_IMPORT_BY_NAME = {
    "captioner_core/__init__.py",
    "captioner_cli/main.py",
    "captioner_core/captioning/search/base.py",
    "captioner_core/features/base.py",
    "captioner_core/features/engines/base.py",
    "captioner_core/text/encoders/base.py",
}


def violations(source: str, name: str = "") -> Iterator[str]:
    """Yields a line for each violation of the rules in a source file.

    Args:
      source: The source code.
      name: The path of the file relative to the repository.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            modules = []
        yield from (f"imports {module}" for module in modules if module.split(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            yield from (f"line {node.lineno}: {text}" for text in _call_violations(node, name))


def _call_violations(node: ast.Call, name: str) -> Iterator[str]:
    """Yields a text for each violation of the rules in a call."""
    function = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    method = function.rpartition(".")[2]
    if function in FUNCTIONS | CALLS or function.startswith(("os.exec", "os.spawn")):
        yield function
    if keywords.get("shell", "False") != "False":
        yield f"{function} with a shell"
    if function in NUMPY and keywords.get("allow_pickle") != "False":
        yield f"{function} without allow_pickle=False"
    if method in ("extractall", "import_string", "to_csv"):
        yield function
    if method == "import_module" and name not in MAY_IMPORT_BY_NAME:
        yield f"{function} of a name that may come from data"
    if function == "jinja2.Environment" and keywords.get("autoescape") != "True":
        yield "jinja2 without autoescape"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_data(path):
    assert (
        list(violations(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())) == []
    )


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
def test_each_rule_finds_what_it_forbids(source):
    assert len(list(violations(source))) == 1


def test_the_rules_are_applied_to_all_packages():
    assert len(SOURCES) > 140


@pytest.mark.parametrize("load", [load_backbone, load_encoder])
@pytest.mark.parametrize("name", ["os", "os.path", "../x", "captioner_core.options", ""])
def test_a_name_in_a_model_folder_imports_only_modules_of_the_table(load, name):
    with pytest.raises(CaptionerError, match="is not known"):
        load(name)
