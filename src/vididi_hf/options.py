"""One base for every options dataclass: a field is a flag of a command, a key of a JSON file, and a checked value."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from vididi_hf.files import printable
from vididi_hf.reading import read_json

DEBUG_FLAG = "--debug"


def option(
    *,
    help: str,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    choices: Sequence[str] | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    may_change: bool = False,
    positional: bool = False,
    old_names: Sequence[str] = (),
) -> Any:
    """Declares a field of an `Options` dataclass.

    `choices` and the bounds also hold for the items of a list. `at_least` and `at_most` are inclusive, `below` is
    exclusive. A resumed run may use another value if `may_change`. A `positional` value needs no flag. `old_names`
    still work, with a `FutureWarning`. An option without a default is required.
    """
    rules = {"help": help, "choices": choices, "at_least": at_least, "at_most": at_most, "below": below}
    rules |= {"may_change": may_change, "positional": positional, "old_names": tuple(old_names)}
    return field(default=default, default_factory=default_factory, metadata=rules)


class _AcceptsOldNames(type):
    def __call__(cls, *args: Any, **values: Any) -> Any:
        return super().__call__(*args, **rename_old(cls, values))


@dataclass(kw_only=True)
class Options(metaclass=_AcceptsOldNames):
    """Base of all options. Building one checks the type, the choices and the bounds of every field.

    Raises:
        ValueError: If a value is impossible. The message names the field, the value and the allowed values.

    Example:
        >>> @dataclass(kw_only=True)
        ... class Sizes(Options):
        ...     width: int = option(default=8, at_least=1, help="Width in pixels.")
        >>> Sizes(width=0)
        Traceback (most recent call last):
        ...
        ValueError: width must be at least 1, got 0
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Named sets of defaults. A class that has any needs a field `preset`."""
    alternatives: ClassVar[tuple[str, ...]] = ()
    """Fields of which at most one is set. A source that sets one overrules weaker sources that set another one."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for spec in fields(self):
            value = getattr(self, spec.name)
            if isinstance(value, tuple):  # JSON has lists only
                value = list(value)
                setattr(self, spec.name, value)
            if not _is_a(value, kinds[spec.name]):
                raise ValueError(f"{spec.name} must be {_describe(kinds[spec.name])}, got {value!r}")
            if value is not None:
                _check_rules(spec, value)
        if len(chosen := [name for name in self.alternatives if getattr(self, name) is not None]) > 1:
            raise ValueError(f"choose one of {' and '.join(chosen)}, got both")

    @classmethod
    def from_preset(cls, preset: str, **values: Any) -> Any:
        """Builds the options of a preset, except for the given values."""
        return cls(**cls.overrule(cls.preset_values(preset), rename_old(cls, values)))

    @classmethod
    def overrule(cls, weaker: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        """Merges the values of two sources."""
        if any(values.get(name) is not None for name in cls.alternatives):
            weaker = {name: value for name, value in weaker.items() if name not in cls.alternatives}
        return {**weaker, **values}

    @classmethod
    def preset_values(cls, preset: Any) -> dict[str, Any]:
        """Returns the fields that a preset sets, including its own name."""
        if preset not in tuple(cls.presets):  # a tuple also compares values that cannot be hashed
            raise ValueError(f"preset must be one of {', '.join(cls.presets)}, got {preset!r}")
        return {"preset": preset, **cls.presets[preset]}

    @classmethod
    def read_values(cls, path: str | Path) -> dict[str, Any]:
        """Reads some or all fields from a JSON file. Old names become current ones."""
        values = rename_old(cls, read_json(path), warn=False)
        names = [spec.name for spec in fields(cls)]
        for name in values:
            if name not in names:
                raise ValueError(f"{path} has the unknown option {name!r}{suggestion(name, names)}")
        return values

    def to_json(self) -> str:
        """Returns all fields as the text of a JSON file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def check_resumes(self, saved: dict[str, Any]) -> None:
        """Raises a ValueError if a field of a saved run differs that a resumed run must keep."""
        kept = [spec.name for spec in fields(self) if spec.name in saved and not spec.metadata.get("may_change")]
        values = [(name, saved[name], getattr(self, name)) for name in kept]
        changed = [f"{name} was {before!r} and is {now!r}" for name, before, now in values if before != now]
        if changed:
            raise ValueError(f"a resumed run must keep its options, but {'; '.join(changed)}")


Kind = TypeVar("Kind", bound=Options)


def rename_old(kind: type, values: dict[str, Any], warn: bool = True) -> dict[str, Any]:
    """Replaces old field names by current ones."""
    current = _current_names(kind)
    for old in set(values) & set(current):
        if warn:
            warnings.warn(f"{old} is now called {current[old]}", FutureWarning, stacklevel=4)
    return {current.get(name, name): value for name, value in values.items()}


def _current_names(kind: Any) -> dict[str, str]:
    return {old: spec.name for spec in fields(kind) for old in spec.metadata.get("old_names", ())}


def parse_options(
    kind: type[Kind], arguments: Sequence[str] | None = None, *, prog: str | None = None, description: str | None = None
) -> Kind:
    """Builds options from command-line arguments, by default those of the process.

    The strongest source wins: flags, then the file of `--config`, then `--preset`, then the defaults. A wrong flag or
    value ends the process with one line and exit status 2.

    Example:
        >>> from vididi_hf.pretraining.recipe import PretrainingRecipe
        >>> parse_options(PretrainingRecipe, ["--epochs", "3"]).epochs
        3
    """
    parser = _build_parser(kind, prog, description)
    given, rest = parser.parse_known_args(_current_flags(kind, sys.argv[1:] if arguments is None else arguments))
    flags = vars(given)
    flags.pop(argparse.SUPPRESS, None)  # of --debug
    with errors_in_one_line(parser.prog):
        positionals = _take_positionals(kind, parser, rest)
        if twice := sorted(flags.keys() & positionals.keys()):
            raise ValueError(f"{twice[0]} is given twice: as {positionals[twice[0]]!r} and as --{twice[0]}")
        flags |= positionals
        config = flags.pop("config", None)
        values = kind.read_values(config) if config else {}
        if kind.presets:
            default = next(spec.default for spec in fields(kind) if spec.name == "preset")
            values = kind.overrule(kind.preset_values(flags.get("preset", values.get("preset", default))), values)
        values = kind.overrule(values, flags)
        for spec in fields(kind):
            if _is_required(spec) and spec.name not in values:
                raise ValueError(f"the option --{spec.name} is required")
        return kind(**values)


@contextmanager
def errors_in_one_line(prog: str, after_interrupt: str = "run the same command again") -> Iterator[None]:
    """Ends the process with one line and exit status 2 after a wrong input, or with 130 after Ctrl-C."""
    try:
        with _interruptible():
            yield
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; {after_interrupt}", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        if DEBUG_FLAG in sys.argv:
            raise
        message = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            message = f"{error.filename}: {error.strerror}"  # without the error number
        print(f"{prog}: error: {printable(' '.join(message.split()))}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raises the first SIGINT as KeyboardInterrupt, even if a destructor swallows that; the second ends the process."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, or nested
        yield
        return

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    def swallowed(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return report(unraisable)
        signal.signal(signal.SIGINT, interrupt)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    report, sys.unraisablehook = sys.unraisablehook, swallowed
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        sys.unraisablehook = report
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _build_parser(kind: type[Options], prog: str | None, description: str | None) -> argparse.ArgumentParser:
    positional = [spec for spec in fields(kind) if spec.metadata.get("positional")]
    takes = [spec.name.upper() if _is_required(spec) else f"[{spec.name.upper()}]" for spec in positional]
    parser = _Parser(
        prog=prog,
        description=description,
        usage=" ".join(["%(prog)s", *takes, "[--option value ...]"]),
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
        allow_abbrev=False,  # otherwise a misspelled flag may be taken for another one
        argument_default=argparse.SUPPRESS,
    )
    kinds = get_type_hints(kind)
    for spec in fields(kind):
        if spec.init:
            _add_flag(parser, spec, kinds[spec.name])
    parser.add_argument("--config", metavar="FILE", help="JSON file of options, such as the recipe.json of a run.")
    parser.add_argument(DEBUG_FLAG, action="store_true", dest=argparse.SUPPRESS, help="Show the traceback of an error.")
    return parser


def _add_flag(parser: argparse.ArgumentParser, spec: Field[Any], kind: Any) -> None:
    flag = f"--{spec.name}"
    text = spec.metadata.get("help", "").replace("%", "%%")
    default = spec.default if spec.default_factory is MISSING else spec.default_factory()
    if isinstance(default, list) and default:
        text += f" (default: {' '.join(f'{one:g}' if isinstance(one, float) else str(one) for one in default)})"
    elif default not in (MISSING, None, "", []):
        text += f" (default: {default})"
    elif _is_required(spec):
        text += " (required)"
    settings: dict[str, Any] = {"dest": spec.name, "help": text}
    plain = _without_none(kind)
    if plain is bool:
        parser.add_argument(flag, nargs="?", const=True, type=_boolean, metavar="true|false", **settings)
        if default is True:
            parser.add_argument(f"--no_{spec.name}", dest=spec.name, action="store_false", help=argparse.SUPPRESS)
        return
    settings["type"], longest = plain, 36
    if get_origin(plain) is list:
        settings |= {"type": get_args(plain)[0], "nargs": "+"}
        longest = 28  # argparse shows it twice
    names = "|".join(spec.metadata.get("choices") or ())
    settings["metavar"] = names if 0 < len(names) <= longest else "VALUE"
    if spec.metadata.get("positional"):
        settings["metavar"] = spec.name.upper()
    parser.add_argument(flag, **settings)


def _current_flags(kind: type[Options], arguments: Sequence[str]) -> list[str]:
    """Writes flags with underscores, and old names as current ones."""
    current, result = _current_names(kind), []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            name = flag[2:].replace("-", "_")
            if name in current:
                print(f"note: --{name} is now called --{current[name]}", file=sys.stderr)
            argument = f"--{current.get(name, name)}{equals}{value}"
        result.append(argument)
    return result


def _take_positionals(kind: type[Options], parser: argparse.ArgumentParser, rest: list[str]) -> dict[str, str]:
    """Gives the arguments without a flag to the positional fields, in their order."""
    names = [spec.name for spec in fields(kind) if spec.metadata.get("positional")]
    for place, argument in enumerate(rest):
        if argument.startswith("-"):
            name, known = argument.split("=")[0], [flag for action in parser._actions for flag in action.option_strings]
            raise ValueError(f"unknown option {name!r}{suggestion(name, known)}")
        if place == len(names):
            raise ValueError(f"unexpected argument {argument!r}")
    return dict(zip(names, rest))


def suggestion(name: str, known: Sequence[str]) -> str:
    """Returns ": did you mean 'word'?" for the closest known word, or an empty text."""
    close = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def _check_rules(spec: Field[Any], value: Any) -> None:
    choices, low, high, below = (spec.metadata.get(rule) for rule in ("choices", "at_least", "at_most", "below"))
    for item in value if isinstance(value, list) else [value]:
        if choices is not None and item not in choices:
            hint = suggestion(str(item), choices)
            raise ValueError(f"{spec.name} must be one of {', '.join(choices)}, got {item!r}{hint}")
        # NaN compares false with everything, so each condition states what must hold.
        if (low is not None and not item >= low) or (high is not None and not item <= high):
            bounds = [f"at least {low}"] if low is not None else []
            bounds += [f"at most {high}"] if high is not None else []
            raise ValueError(f"{spec.name} must be {' and '.join(bounds)}, got {item}")
        if below is not None and not item < below:
            raise ValueError(f"{spec.name} must be below {below}, got {item}")
        if item != item:
            raise ValueError(f"{spec.name} must be a number, got {item}")


def _is_required(spec: Field[Any]) -> bool:
    return spec.init and spec.default is MISSING and spec.default_factory is MISSING


def _without_none(kind: Any) -> Any:
    return next(part for part in get_args(kind) if part is not type(None)) if get_origin(kind) is UnionType else kind


def _boolean(text: str) -> bool:
    if text.lower() not in (words := {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return words[text.lower()]


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value has an annotated type. An integer is a valid float, but True is not an integer."""
    if get_origin(kind) is UnionType:
        return any(_is_a(value, part) for part in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(item, get_args(kind)[0]) for item in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def _describe(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        return " or ".join(_describe(part) for part in get_args(kind))
    if get_origin(kind) is list:
        return f"a list of {get_args(kind)[0].__name__}"
    return {str: "text", int: "an integer", float: "a number", bool: "true or false"}.get(kind, "null")
