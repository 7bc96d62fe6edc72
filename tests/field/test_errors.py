"""Every error becomes one line, with an exit code that says whether the user must correct it.

The traceback of an unexpected error is saved to a file.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner_core.errors import CaptionerError, CheckFailed, JobFailed
from captioner_core.process.error_lines import BAD_INPUT, TRY_AGAIN, describe
from tests.faults.forks import make_images
from tests.field.programs import captioner, python
from tests.runs import make_run


def system_error(number, path="/data/a.jpg"):
    """Returns an error of the operating system with this number, for this path."""
    return OSError(number, os.strerror(number), path)


class ResourceExhaustedError(Exception):
    """An error with the name and the module of TensorFlow's error."""


ResourceExhaustedError.__module__ = "tensorflow.python.framework.errors_impl"

KNOWN_ERRORS = [
    (CaptionerError("bad value; choose another"), 2, "bad value"),
    (CheckFailed("3 breaches"), 1, "3 breaches"),
    (JobFailed("the job failed"), 1, "the job failed"),
    (system_error(errno.ENOENT), BAD_INPUT, "No such file or directory: '/data/a.jpg'"),
    (system_error(errno.ENOTDIR), BAD_INPUT, "/data/a.jpg"),
    (system_error(errno.EISDIR), BAD_INPUT, "/data/a.jpg"),
    (system_error(errno.ENAMETOOLONG, "/" + "x" * 300), BAD_INPUT, "shorter path"),
    (system_error(errno.ELOOP), BAD_INPUT, "links"),
    (system_error(errno.EACCES), BAD_INPUT, "permissions"),
    (system_error(errno.EPERM), BAD_INPUT, "permissions"),
    (system_error(errno.EROFS), BAD_INPUT, "--output that can be written"),
    (system_error(errno.ENXIO), BAD_INPUT, "not a device"),
    (system_error(errno.EFBIG), BAD_INPUT, "ulimit -f"),
    (system_error(errno.ENOSPC), TRY_AGAIN, "free space"),
    (system_error(errno.EDQUOT), TRY_AGAIN, "free space"),
    (system_error(errno.ESTALE), TRY_AGAIN, "connection"),
    (system_error(errno.EIO), TRY_AGAIN, "disk"),
    (system_error(errno.EMFILE), TRY_AGAIN, "ulimit -n"),
    (system_error(errno.ENFILE), TRY_AGAIN, "open files"),
    (OSError(errno.EAGAIN, "Resource temporarily unavailable"), TRY_AGAIN, "ulimit -u"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), TRY_AGAIN, "memory ran out"),
    (OSError("Couldn't deserialize thrift: TProtocolException"), BAD_INPUT, "table is damaged"),
    (OSError("the bucket does not answer"), TRY_AGAIN, "the bucket does not answer"),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), TRY_AGAIN, "connection"),
    (RuntimeError("can't start new thread"), TRY_AGAIN, "ulimit -u"),
    (MemoryError(), TRY_AGAIN, "--batch-size"),
    (ResourceExhaustedError("OOM when allocating tensor"), TRY_AGAIN, "--batch-size"),
    (pa.ArrowMemoryError("malloc of size 4 failed"), TRY_AGAIN, "memory ran out"),
    (pa.ArrowInvalid("Column 1 is broken\nmore of it"), BAD_INPUT, "Column 1 is broken more of it"),
    (pa.ArrowNotImplementedError("no such cast"), BAD_INPUT, "check the tables"),
    (pa.ArrowTypeError("not a list"), BAD_INPUT, "check the tables"),
    (UnicodeDecodeError("utf-8", b"caf\xe9", 3, 4, "invalid start byte"), BAD_INPUT, "UTF-8"),
    (UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates not allowed"), BAD_INPUT, "UTF-8"),
    (
        ModuleNotFoundError("No module named 'spacy'", name="spacy"),
        BAD_INPUT,
        "'spacy' is not installed",
    ),
    (
        ImportError("libtensorflow_cc.so.2: failed to map segment from shared object"),
        TRY_AGAIN,
        "memory ran out",
    ),
]


@pytest.mark.parametrize(
    ("error", "code", "part"), KNOWN_ERRORS, ids=[repr(item[0])[:60] for item in KNOWN_ERRORS]
)
def test_a_known_error_has_a_line_and_an_exit_code(error, code, part):
    line = describe(error)
    assert line is not None
    assert line.exit_code == code
    assert part in line.text
    assert "\n" not in line.text


UNEXPECTED_ERRORS = [
    ValueError("x"),
    KeyError("caption"),
    IndexError(),
    ModuleNotFoundError("No module named 'captioner_core.x'", name="captioner_core.x"),
    # It names no file, so it is a mistake of the program.
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
]


@pytest.mark.parametrize("error", UNEXPECTED_ERRORS, ids=repr)
def test_an_unexpected_error_gets_no_remedy(error):
    assert describe(error) is None


def test_the_line_on_a_full_temporary_folder_names_the_variable(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/scratch")
    temporary = describe(system_error(errno.ENOSPC, "/scratch/captioner-1-x/file"))
    output = describe(system_error(errno.ENOSPC, "/data/file"))
    assert temporary is not None
    assert output is not None
    assert "TMPDIR" in temporary.text
    assert "--output" in output.text


FAILING_PROGRAM = """
import sys
from captioner_core.process import program
program.begin()

def work():
    {statement}
    return 0

sys.exit(program.guarded(work, "captioner"))
"""


def run_failing_program(statement, **changes):
    """Runs a program whose work is this statement, with these environment variables."""
    return python(FAILING_PROGRAM.format(statement=statement), **changes)


def test_the_line_on_an_unexpected_error_names_a_file_with_the_traceback(tmp_path):
    ended = run_failing_program("{}['no such caption']", CAPTIONER_CACHE=str(tmp_path))
    assert ended.code == 1
    (line,) = ended.lines
    assert line.startswith("captioner: error: unexpected KeyError ('no such caption')")
    (path,) = (tmp_path / "errors").iterdir()
    assert repr(str(path)) in line
    traceback = path.read_text()
    assert "Traceback (most recent call last)" in traceback
    assert "captioner 0" in traceback
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_saved_traceback_contains_no_secret_of_the_command_line(tmp_path):
    code = FAILING_PROGRAM.format(statement="1 / 0")
    assert python(code, "--s3_secret_access_key=hunter2", CAPTIONER_CACHE=str(tmp_path)).code == 1
    (path,) = (tmp_path / "errors").iterdir()
    assert "hunter2" not in path.read_text()
    assert "s3_secret_access_key=***" in path.read_text()


def test_a_traceback_is_saved_in_the_temporary_folder_without_a_cache(tmp_path):
    ended = run_failing_program("1 / 0", CAPTIONER_CACHE="/etc/passwd/cache", TMPDIR=str(tmp_path))
    (path,) = tmp_path.glob("*.txt")
    assert str(path) in ended.lines[-1]
    assert len(ended.lines) == 1


def test_debugging_prints_the_traceback(tmp_path):
    ended = run_failing_program("1 / 0", CAPTIONER_CACHE=str(tmp_path), CAPTIONER_DEBUG="1")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert "ZeroDivisionError" in ended.err
    assert not (tmp_path / "errors").exists()


@pytest.mark.parametrize(
    ("statement", "code", "lines"),
    [
        ("import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()", 0, 1),
        ("type('X', (), {'__del__': lambda self: 1 / 0})()", 0, 0),
        ("sys.exit(7)", 7, 0),
        ("sys.exit('a message')", 1, 1),
        ("raise BrokenPipeError(32, 'Broken pipe')", 1, 1),
        ("raise KeyboardInterrupt", 130, 1),
        ("raise Exception('a\\\\nb\\\\x1b[31m')", 1, 1),
        ("raise RecursionError", 1, 1),
    ],
)
def test_no_traceback_is_printed_wherever_an_error_is_raised(tmp_path, statement, code, lines):
    ended = run_failing_program(
        statement.replace("{", "{").replace("}", "}"), CAPTIONER_CACHE=str(tmp_path)
    )
    assert (ended.code, len(ended.lines)) == (code, lines), ended
    assert "Traceback" not in ended.err
    assert "\x1b" not in ended.err


def test_a_failing_import_is_reported_in_one_line(tmp_path):
    code = "from captioner_core.process import program; program.begin(); import no_such_package"
    ended = python(code, CAPTIONER_CACHE=str(tmp_path))
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert "'no_such_package' is not installed" in ended.err


# Paths that cannot be an output folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Returns a folder with two images and a broken file."""
    return make_images(tmp_path_factory.mktemp("images") / "images", 2, 1)


def outputs(folder):
    """Makes and returns paths that cannot be a folder, by what they are."""
    (folder / "file").write_text("mine")
    (folder / "dangling").symlink_to(folder / "nowhere" / "at all")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "file": folder / "file",
        "below a file": folder / "file" / "below",
        "device": Path("/dev/null"),
        "below a device": Path("/dev/null/x"),
        "dangling link": folder / "dangling",
        "loop": folder / "loop" / "x",
        "long name": folder / ("x" * 300),
        "proc": Path("/proc/captioner"),
    }


@pytest.mark.parametrize(
    "kind", ["file", "below a file", "device", "below a device", "loop", "long name", "proc"]
)
def test_an_output_that_cannot_be_a_folder_is_refused_in_one_line(images, tmp_path, kind):
    output = outputs(tmp_path)[kind]
    ended = captioner("extract", "--images", images, "--output", output)
    assert ended.code == 2, ended
    assert len(ended.lines) == 1, ended.err
    assert (tmp_path / "file").read_text() == "mine"


# Errors in steps of a job

JOB_WITH_FAILING_STEP = """
import sys
from captioner_core.process import program
program.begin()
import apache_beam as beam
import pyarrow as pa
from beam_jobs import launch
from captioner_core.runs import commits
from captioner_core.tables.layout import RunLayout

def fail(item):
    {statement}

def work():
    run = commits.begin_attempt(RunLayout(sys.argv[1], "run"))
    launch.run_pipeline(lambda p: p | beam.Create([1]) | "Fail" >> beam.Map(fail), [], run)
    return 0

sys.exit(program.guarded(work, "captioner"))
"""


@pytest.mark.parametrize(
    ("statement", "code", "part"),
    [
        ("raise MemoryError", 1, "memory ran out"),
        ("pa.array(['x']).cast(pa.int32())", 2, "check the tables"),
        ("open('/nowhere/file')", 2, "'/nowhere/file'"),
        ("raise OSError(28, 'No space left on device', '/data/x')", 1, "free space"),
        ("import no_such_package", 2, "'no_such_package' is not installed"),
        ("bytes([255]).decode()", 2, "UTF-8"),
        ("1 / 0", 1, "unexpected ZeroDivisionError"),
    ],
)
def test_an_error_in_a_step_of_a_job_is_described_like_any_other(tmp_path, statement, code, part):
    ended = python(
        JOB_WITH_FAILING_STEP.format(statement=statement),
        tmp_path / "root",
        CAPTIONER_CACHE=str(tmp_path / "cache"),
    )
    assert ended.code == code, ended.err[-2000:]
    assert len(ended.lines) == 1, ended.err
    assert part.strip("'") in ended.err
    assert "Traceback" not in ended.err


# What later stages need is checked before the first image


def test_missing_weights_of_an_encoder_are_an_error_before_any_image_is_read(images, tmp_path):
    cache = tmp_path / "cache"
    ended = captioner(
        "run",
        *("--images", images, "--output", tmp_path / "out", "--encoder", "minilm"),
        CAPTIONER_CACHE=str(cache),
        CAPTIONER_OFFLINE="1",
    )
    assert ended.code == 2
    (line,) = ended.lines
    assert "all-MiniLM-L6-v2" in line
    assert "CAPTIONER_OFFLINE" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["extract", "--images", "IMAGES", "--output", "OUT"], "Xception"),
        (["caption", "--images", "IMAGES", "--output", "OUT", "--model", "pretrained"], "Xception"),
        (["run", "--images", "IMAGES", "--output", "OUT"], "spaCy|Xception"),
        (["run", "--images", "IMAGES", "--output", "OUT", "--check"], "spaCy|Xception"),
        (
            ["match", "--captions", "RUN/captions", "--index", "RUN/captions", "--output", "OUT"],
            "spaCy",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_missing_weights_are_an_error_before_the_work_starts(images, tmp_path, arguments, part):
    run = make_run(tmp_path / "runs")
    names = {"IMAGES": str(images), "OUT": str(tmp_path / "out"), "RUN": run}
    command = [
        re.sub("|".join(names), lambda found: names[found[0]], argument) for argument in arguments
    ]
    ended = captioner(*command, CAPTIONER_CACHE=str(tmp_path / "cache"), CAPTIONER_OFFLINE="1")
    assert ended.code == 2
    (line,) = ended.lines
    assert re.search(part, line)
    assert not (tmp_path / "out").exists()


def test_a_damaged_table_is_refused_in_one_line(tmp_path):
    table = pa.table({"image_id": ["a", "b"], "caption": ["x", "y"], "split": ["train", "test"]})
    pq.write_table(table, tmp_path / "captions.parquet")
    data = bytearray((tmp_path / "captions.parquet").read_bytes())
    data[4:40] = b"\xff" * 36
    (tmp_path / "captions.parquet").write_bytes(bytes(data))
    path = tmp_path / "captions.parquet"
    ended = captioner("match", "--captions", path, "--index", path, "--output", tmp_path / "out")
    assert ended.code == 2, ended
    assert len(ended.lines) == 1, ended.err


def test_each_known_system_error_has_a_remedy():
    lines = {name: describe(system_error(number)) for number, name in errno.errorcode.items()}
    known = {name: line for name, line in lines.items() if line is not None}
    assert len(known) > 20
    for name, line in known.items():
        assert line.exit_code in (BAD_INPUT, TRY_AGAIN), name
        remedy = line.text.rpartition("; ")[2].removesuffix(" and run it again")
        assert len(remedy.split()) > 2, line.text
