"""Options: what is checked, which source wins, and which line a mistake gets."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from vididi_hf.options import Options, errors_in_one_line, option, parse_options


@dataclass(kw_only=True)
class Sizes(Options):
    """Options of every kind."""

    presets: ClassVar = {"small": {}, "large": {"num_clips": 50, "seed": 7}}

    model: str = option(positional=True, help="Required.")
    output: str | None = option(default=None, positional=True, may_change=True, help="Optional.")
    preset: str = option(default="small", choices=("small", "large"), may_change=True, help="Defaults.")
    num_clips: int = option(
        default=10, at_least=1, at_most=100, old_names=("clips",), help="An integer, 100 % checked."
    )
    share: float = option(default=0.5, below=1, help="A number.")
    widths: list[int] | None = option(default=None, at_least=1, help="A list.")
    inputs: list[str] = option(default_factory=lambda: ["frames"], choices=("frames", "both"), help="Names.")
    seed: int = option(default=0, at_least=0, help="A seed.")
    progress: bool = option(default=True, help="True by default.")


def parse(*arguments: str) -> Sizes:
    return parse_options(Sizes, arguments, prog="vididi sizes")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as end:
        parse(*arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("vididi sizes: error: ")


def test_flags_positionals_and_their_spellings():
    expected = Sizes(model="m", output="o", num_clips=3, widths=[1, 2], inputs=["both", "frames"], progress=False)
    lists = "--widths 1 2 --inputs both frames"
    assert parse(*f"m o --num_clips 3 {lists} --no_progress".split()) == expected
    assert parse(*f"--num-clips=3 {lists} --progress false --model m --output o".split()) == expected
    assert parse("m", "--progress") == Sizes(model="m")


def test_flags_beat_the_file_which_beats_the_preset_which_beats_the_defaults(tmp_path: Path):
    file = tmp_path / "file.json"
    file.write_text(json.dumps({"num_clips": 20}))
    assert parse("m").num_clips == 10
    assert parse("m", "--preset", "large") == Sizes(model="m", preset="large", num_clips=50, seed=7)
    assert parse("m", "--preset", "large", "--config", str(file)) == Sizes(
        model="m", preset="large", num_clips=20, seed=7
    )
    assert parse("m", "--config", str(file), "--num_clips", "30").num_clips == 30
    assert Sizes.from_preset("large", model="m", seed=1) == Sizes(model="m", preset="large", num_clips=50, seed=1)
    file.write_text(parse("m", "--widths", "4").to_json())
    assert parse("--config", str(file)) == Sizes(model="m", widths=[4])


def test_old_names_work_everywhere_and_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.warns(FutureWarning, match="clips is now called num_clips"):
        assert Sizes(model="m", clips=3).num_clips == 3
    assert parse("m", "--clips", "3").num_clips == 3
    assert capsys.readouterr().err == "note: --clips is now called --num_clips\n"
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"clips": 4}))
    assert parse("m", "--config", str(file)).num_clips == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the option --model is required"),
        ("m o x", "unexpected argument 'x'"),
        ("m --num_clip 3", "unknown option '--num_clip': did you mean '--num_clips'?"),
        ("m --zzz", "unknown option '--zzz'"),
        ("m --num_clips many", "argument --num_clips: invalid int value: 'many'"),
        ("m --num_clips 0", "num_clips must be at least 1 and at most 100, got 0"),
        ("m --num_clips 101", "num_clips must be at least 1 and at most 100, got 101"),
        ("m --share 1", "share must be below 1, got 1.0"),
        ("m --share nan", "share must be below 1, got nan"),
        ("m --widths 3 0", "widths must be at least 1, got 0"),
        ("m --inputs frame", "inputs must be one of frames, both, got 'frame': did you mean 'frames'?"),
        ("m --preset huge", "preset must be one of small, large, got 'huge'"),
        ("m --progress maybe", "argument --progress: expected true or false, got 'maybe'"),
        ("m --model n", "model is given twice: as 'm' and as --model"),
        ("m --config missing.json", "missing.json: No such file or directory"),
    ],
)
def test_a_mistake_gets_one_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]):
    assert refused(capsys, *arguments.split()) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"num_clip": 3}', "has the unknown option 'num_clip': did you mean 'num_clips'?"),
        ('{"num_clips": true}', "num_clips must be an integer, got True"),
        ('{"widths": [1.5]}', "widths must be a list of int or null, got [1.5]"),
        ('{"share": [1]}', "share must be a number, got [1]"),
        ("[1]", "must hold a JSON object, got a list"),
        ("{", "is not JSON: "),
    ],
)
def test_a_mistake_in_a_file_gets_one_line(content, message, tmp_path, capsys):
    file = tmp_path / "file.json"
    file.write_text(content)
    assert message in refused(capsys, "m", "--config", str(file))


def test_a_resumed_run_keeps_its_options():
    saved = {"model": "m", "output": "a", "num_clips": 10, "unknown": 1}
    Sizes(model="m", output="b", seed=3).check_resumes(saved)  # seed is not in the older file
    with pytest.raises(ValueError, match=r"must keep its options, but num_clips was 10 and is 3$"):
        Sizes(model="m", num_clips=3).check_resumes(saved)


def test_errors_of_paths_and_values_are_one_line_and_ours_keep_their_traceback(capsys, monkeypatch):
    with pytest.raises(SystemExit) as end, errors_in_one_line("vididi it"):
        raise OSError("no file\n  of that name\n")
    assert end.value.code == 2
    assert capsys.readouterr().err == "vididi it: error: no file of that name\n"
    with pytest.raises(KeyError), errors_in_one_line("vididi it"):
        raise KeyError("a mistake of the program")
    monkeypatch.setattr("sys.argv", ["vididi", "m", "--debug"])
    assert parse_options(Sizes).model == "m"
    with pytest.raises(OSError, match="no file"), errors_in_one_line("vididi it"):
        raise OSError("no file")
