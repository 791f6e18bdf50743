"""Command lines: flags become fields, and mistakes are told in one line."""

import doctest
from dataclasses import dataclass

import pytest

from vididi_hf.options import build_parser, errors_in_one_line, option, parse_arguments


@dataclass(kw_only=True)
class Options:
    """What a script may be told."""

    model: str = option(help="Which one.")
    num_clips: int = option(default=10, help="How many.")
    sizes: list[int] | None = option(default=None, help="Some numbers.")
    random_init: bool = option(default=False, help="Whether.")

    def __post_init__(self):
        if self.num_clips < 1:
            raise ValueError(f"num_clips must be at least 1,\ngot {self.num_clips}")


class TestCommandLine:
    def test_flags(self):
        arguments = parse_arguments(Options, ["--model", "m", "--num_clips", "3", "--random_init"], None)
        assert arguments == Options(model="m", num_clips=3, random_init=True)

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ([], "--model"),
            (["--model", "m", "--num_clip", "3"], "--num_clip"),
            (["--model", "m", "--num_clips", "none"], "invalid int value: 'none'"),
        ],
    )
    def test_wrong_flags(self, flags, message, capsys):
        with pytest.raises(SystemExit) as stop:
            parse_arguments(Options, flags, None)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]

    def test_wrong_values(self, capsys):
        with pytest.raises(SystemExit) as stop:
            parse_arguments(Options, ["--model", "m", "--num_clips", "0"], None)
        assert stop.value.code == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.endswith("error: num_clips must be at least 1, got 0")

    def test_help_keeps_the_lines_of_the_description(self, capsys):
        with pytest.raises(SystemExit) as stop:
            parse_arguments(Options, ["--help"], "What it does.\n\npython it.py --model m")
        assert stop.value.code == 0
        assert "What it does.\n\npython it.py --model m\n" in capsys.readouterr().out


class TestErrors:
    def test_expected_ones_are_one_line(self, capsys):
        with pytest.raises(SystemExit) as stop, errors_in_one_line("it.py"):
            raise OSError("no file\n  of that name\n")
        assert stop.value.code == 2
        assert capsys.readouterr().err == "it.py: error: no file of that name\n"

    def test_ours_keep_their_traceback(self):
        with pytest.raises(KeyError), errors_in_one_line("it.py"):
            raise KeyError("a mistake of the program")


def test_arguments_without_a_flag_are_added_to_the_parser():
    parser = build_parser(Options, None, usage="%(prog)s FOLDER [--option value …]")
    parser.add_argument("folder")
    values = vars(parser.parse_args(["here", "--model", "m", "--sizes", "1", "2"]))
    assert values.pop("folder") == "here"
    assert Options(**values) == Options(model="m", sizes=[1, 2])
    assert parser.format_usage().endswith("FOLDER [--option value …]\n")


def test_example():
    assert doctest.testmod(command_line).failed == 0
