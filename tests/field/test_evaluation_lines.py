"""Scoring survives captions with line separators, and a Java that fails.

Scorers exchange one caption a line, so a separator within a caption could shift all later captions.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pycocoevalcap.meteor import meteor
from pycocoevalcap.tokenizer import ptbtokenizer

from captioner_cli.main import main
from captioner_core.analysis import caption_metrics, java_metrics
from captioner_core.errors import CaptionerError

SEPARATORS = {
    "line feed": "\n",
    "carriage return": "\r",
    "both": "\r\n",
    "vertical tab": "\v",
    "form feed": "\f",
    "file separator": "\x1c",
    "group separator": "\x1d",
    "record separator": "\x1e",
    "unit separator": "\x1f",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "NUL": "\0",
    "tab": "\t",
    "escape": "\x1b",
    "delete": "\x7f",
    "half a character": "\ud800",
    "several": "\n\r\u2028\n",
}
HYPOTHESES = {
    "one.jpg": "a brown dog runs",
    "two.jpg": "two children swim",
    "three.jpg": "a red boat",
    "four.jpg": "a man climbs a wall",
}
REFERENCES = {
    "one.jpg": ["a brown dog runs on the green grass", "the dog is running"],
    "two.jpg": ["two children play in the water", "kids swim in a lake"],
    "three.jpg": ["a red boat on the sea", "one boat sails"],
    "four.jpg": ["a man climbs a steep wall", "a climber on a wall"],
}
needs_java = pytest.mark.skipif(java_metrics.java_path() is None, reason="Java is not installed")


def separated(text: str, separator: str) -> str:
    """Puts the separator before, within and after a text."""
    return separator + text.replace(" ", separator, 2) + separator


def separated_references(separator: str) -> dict[str, list[str]]:
    """Returns the references with the separator before, within and after each."""
    return {
        name: [separated(text, separator) for text in listed] for name, listed in REFERENCES.items()
    }


def separated_hypotheses(separator: str) -> dict[str, str]:
    """Returns the hypotheses with the separator before, within and after each."""
    return {name: separated(text, separator) for name, text in HYPOTHESES.items()}


@pytest.fixture
def without_meteor(monkeypatch):
    """Replaces METEOR, which takes seconds to load; the tokenizer is the real one."""
    monkeypatch.setattr(java_metrics, "meteor", lambda references, hypotheses: 0.0)


@pytest.mark.parametrize("separator", SEPARATORS.values(), ids=SEPARATORS)
@pytest.mark.parametrize("side", ["references", "hypotheses"])
@pytest.mark.parametrize(
    "java", [pytest.param(True, marks=needs_java), False], ids=["java", "no java"]
)
def test_a_line_separator_scores_as_a_space(separator, side, java, monkeypatch, without_meteor):
    monkeypatch.setattr(caption_metrics, "has_java", lambda: java)
    expected = caption_metrics.score(HYPOTHESES, REFERENCES)
    hypotheses = separated_hypotheses(separator) if side == "hypotheses" else HYPOTHESES
    references = separated_references(separator) if side == "references" else REFERENCES
    assert caption_metrics.score(hypotheses, references) == expected


@needs_java
def test_meteor_gets_the_same_tokens_for_any_separator(monkeypatch):
    scored_captions = []

    def record(*captions):
        scored_captions.append(captions)
        return 0.0

    monkeypatch.setattr(java_metrics, "meteor", record)
    caption_metrics.score(HYPOTHESES, REFERENCES)
    for separator in ("\r\n", "\f", "\u2028"):
        caption_metrics.score(separated_hypotheses(separator), separated_references(separator))
    assert all(captions == scored_captions[0] for captions in scored_captions)


@needs_java
@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("", ""),
        (" ", ""),
        (".", ""),
        ('"a dog" runs', "a dog runs"),
        ("'a dog' runs", "a dog runs"),
        ('"', ""),
        ("*NL* a dog", "* nl * a dog"),
        ("a caf\u00e9 at \u6771\u4eac", "a caf\u00e9 at \u6771\u4eac"),
        ("\U0001f415", ""),
        ("dog " * 50_000, ("dog " * 50_000).strip()),
        ("d" * 200_000, "d" * 200_000),
    ],
    ids=[
        "empty",
        "blank",
        "full stop",
        "quoted",
        "single quotes",
        "quote",
        "newline token",
        "Unicode",
        "picture",
        "long",
        "word",
    ],
)
def test_an_unusual_caption_keeps_its_line(caption, tokens):
    assert java_metrics.ptb_tokenize([caption, "a cat", caption]) == [tokens, "a cat", tokens]


@needs_java
def test_meteor_scores_empty_captions_and_field_separators():
    """Compares with pycocoevalcap's wrapper, which scored these captions without separators."""
    references = {"a": ["a dog ||| runs", ""], "b": ["a cat"], "c": ["", ""]}
    hypotheses = {"a": "||| a dog", "b": "", "c": ""}
    assert java_metrics.meteor(references, hypotheses) == pytest.approx(0.1920280, abs=1e-6)


@pytest.mark.parametrize(
    "java", [pytest.param(True, marks=needs_java), False], ids=["java", "no java"]
)
def test_references_without_a_word_are_refused(java, monkeypatch):
    monkeypatch.setattr(caption_metrics, "has_java", lambda: java)
    with pytest.raises(CaptionerError, match="no reference holds a word"):
        caption_metrics.score({"a": "a dog"}, {"a": [".", "\n"]})


@needs_java
def test_scoring_writes_nothing_into_the_folders_of_the_jars(without_meteor):
    """A file made there changes the time of the folder, even if the file is deleted again."""
    folders = [Path(module.__file__).parent for module in (ptbtokenizer, meteor)]
    before = [folder.stat().st_mtime_ns for folder in folders]
    caption_metrics.score(HYPOTHESES, REFERENCES)
    assert [folder.stat().st_mtime_ns for folder in folders] == before


@needs_java
@pytest.mark.parametrize("variable", [("LC_ALL", "C"), ("JAVA_TOOL_OPTIONS", "-Duser.language=tr")])
def test_the_locale_does_not_change_tokens(variable, monkeypatch):
    monkeypatch.setenv(*variable)
    assert java_metrics.ptb_tokenize(["A CAF\u00c9 IN IRELAND"]) == ["a caf\u00e9 in ireland"]


# --- A Java that fails


@pytest.fixture
def fake_java(tmp_path, monkeypatch):
    """Returns a function that puts a program named java first on the PATH."""

    def install(text: str) -> Path:
        """Writes the program and returns its path."""
        program = tmp_path / "bin" / "java"
        program.parent.mkdir(exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return program

    return install


@pytest.mark.parametrize(
    "answer",
    ["printf 'a dog\\n'", "printf 'a\\ndog\\n\\na cat\\n'", "printf 'a dog\\na cat'", "printf ''"],
    ids=["too few", "too many", "no last line end", "nothing"],
)
def test_a_wrong_number_of_lines_from_the_tokenizer_is_an_error(answer, fake_java):
    fake_java(f"#!/bin/sh\ncat > /dev/null\n{answer}\n")
    with pytest.raises(CaptionerError, match=r"returned \d lines for 2 captions"):
        java_metrics.ptb_tokenize(["a dog", "a cat"])


BROKEN = {
    "fails": (
        "#!/bin/sh\n"
        "echo 'Picked up JAVA_TOOL_OPTIONS: -Xx' >&2\n"
        "echo 'no runtime here' >&2\n"
        "exit 1\n",
        "no runtime",
    ),
    "is killed": ("#!/bin/sh\nkill -9 $$\n", "exit code -9"),
    "is no program": ("\x7fELF nonsense", "Exec format error"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_failing_java_is_an_error_with_a_remedy(text, message, fake_java):
    program = fake_java(text)
    for use in (
        java_metrics.check_java,
        lambda: java_metrics.ptb_tokenize(["a dog"]),
        lambda: java_metrics.meteor({"a": ["a dog"]}, {"a": "a dog"}),
    ):
        with pytest.raises(CaptionerError, match=message) as caught:
            use()
        assert str(program) in str(caught.value)
        assert "remove it from the PATH" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_answer_of_meteor_that_is_no_number_is_an_error(fake_java):
    fake_java("#!/bin/sh\nwhile read -r line; do echo 'Error: no paraphrases'; done\n")
    with pytest.raises(CaptionerError, match="no paraphrases"):
        java_metrics.meteor({"a": ["a dog"]}, {"a": "a dog"})


def test_evaluate_checks_java_before_the_model(tmp_path, fake_java, capsys, monkeypatch):
    """The model does not exist either: the error about Java comes first."""
    monkeypatch.setattr(
        "captioner_core.analysis.evaluation.read_captions_by_split",
        lambda dataset: {"dev": {"a.jpg": ["a dog"]}},
    )
    fake_java(BROKEN["fails"][0])
    assert main(["evaluate", "--model", str(tmp_path / "none"), "--dataset", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "no runtime here" in lines[0]
