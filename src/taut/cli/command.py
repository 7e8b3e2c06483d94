"""Commands: functions whose flags are their own parameters and the fields of dataclasses that commands share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import textwrap
import typing
from argparse import SUPPRESS
from collections.abc import Callable, Mapping
from typing import Any

from taut.cli.decisions import plan_help
from taut.data import DataError
from taut.plan import Plan

SECTIONS = tuple(f.name for f in dataclasses.fields(Plan) if f.name != "seed")


class Command:
    """A function as a command, and callable by its flags: `train("digits", labels_per_class=5)`.

    The fields of a parameter that is a dataclass are flags beside the function's own, and come first.
    without: fields of those dataclasses that the command does not take.
    """

    def __init__(self, function: Callable[..., None], without: tuple[str, ...] = ()) -> None:
        functools.update_wrapper(self, function)
        self.function, self.name, self.without = function, function.__name__, without
        hints = typing.get_type_hints(function)
        parameters = {name: hints[name] for name in inspect.signature(function).parameters}
        self.shared: dict[str, Any] = {
            name: kind for name, kind in parameters.items() if dataclasses.is_dataclass(kind)
        }
        self.flags: dict[str, Any] = {}
        for kind in self.shared.values():
            types = typing.get_type_hints(kind)
            self.flags |= {f.name: types[f.name] for f in dataclasses.fields(kind) if f.name not in without}
        self.flags |= {name: kind for name, kind in parameters.items() if name not in self.shared}

    def __call__(self, *values: Any, **flags: Any) -> None:
        """Run it; TypeError for a flag that it does not take."""
        flags = dict(zip(self.flags, values, strict=False)) | flags
        unknown = [name for name in flags if name not in self.flags]
        if unknown:
            raise TypeError(f"{self.name} takes no {', '.join(unknown)}")
        groups = {}
        for parameter, kind in self.shared.items():
            names = [f.name for f in dataclasses.fields(kind) if f.name in flags]
            groups[parameter] = kind(**{name: flags.pop(name) for name in names})
        self.function(**groups, **flags)

    def parser(self) -> Any:
        """Its parser: flags with hyphens, their help from the docstrings under fields and of the function."""
        from jsonargparse import ArgumentParser  # slow to import

        parser = ArgumentParser(
            description=(self.function.__doc__ or "").split("\n")[0],
            epilog=plan_help("objective" not in self.without) if "changes" in self.flags else None,
        )
        for kind in self.shared.values():
            left_out = {f.name for f in dataclasses.fields(kind)} & set(self.without)
            parser.add_class_arguments(kind, None, as_group=False, as_positional=True, instantiate=False, skip=left_out)
        parser.add_function_arguments(self.function, as_group=False, as_positional=True, skip=set(self.shared))
        for action in parser._actions:
            action.option_strings = [flag.replace("_", "-") for flag in action.option_strings]
            parser._option_string_actions.update(dict.fromkeys(action.option_strings, action))
            if action.dest == "changes":  # the flags of the plan, which the epilog lists
                action.help = SUPPRESS
        return parser


def _formatter() -> Any:
    """jsonargparse's formatter of help, but each line of an epilog stays one, wrapped where it is too long."""
    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "\n".join(textwrap.fill(line, width, subsequent_indent=" " * 8) for line in text.splitlines())

    return Formatter


def command(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Command]:
    """Make a function a command; see `Command`."""
    return lambda function: Command(function, without)


@functools.cache
def build_parser(commands: tuple[Command, ...]) -> Any:
    """The parser of all commands, which is made once."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="taut",
        description="Image classification from few or partly annotated images.",
        formatter_class=_formatter(),  # the commands have it too
    )
    subcommands = parser.add_subcommands(dest="command")
    for item in commands:
        subcommands.add_subcommand(item.name, item.parser())
    return parser


def parse(arguments: list[str], commands: Mapping[str, Command]) -> tuple[Command, dict[str, Any]]:
    """The command and its flags by name; DataError, or exit status 2 from argparse, where they do not fit.

    Flags of the plan, such as --train.steps 500, become the flag `changes` of commands that have it.
    """
    switches = {f"--{flag}" for item in commands.values() for flag, kind in item.flags.items() if kind is bool}
    rest, changes = split_arguments(arguments, switches)
    if changes:
        planned = [name for name, item in commands.items() if "changes" in item.flags]
        if not rest or rest[0] not in planned:
            shown = [f"`taut {name}`" for name in planned]
            raise DataError(f"--{next(iter(changes))} is for {', '.join(shown[:-1])} and {shown[-1]}")
        rest += ["--changes", json.dumps(changes)]
    parser = build_parser(tuple(commands.values()))
    parsed = parser.parse_args(rest)
    return commands[parsed.command], parser.instantiate(parsed)[parsed.command].as_dict()


def split_arguments(arguments: list[str], switches: set[str]) -> tuple[list[str], dict[str, Any]]:
    """The flags of the commands, and those of the plan (--section.field VALUE or --section.field=VALUE) by name.

    switches: flags that mean "true" where no true or false follows.
    """
    import yaml

    rest: list[str] = []
    changes: dict[str, Any] = {}
    i = 0
    while i < len(arguments):
        name, equals, value = arguments[i].removeprefix("--").partition("=")
        if not (arguments[i].startswith("--") and name.split(".")[0] in SECTIONS and "." in name):
            rest.append(arguments[i])
            if arguments[i] in switches and arguments[i + 1 : i + 2] not in (["true"], ["false"]):
                rest.append("true")
            i += 1
            continue
        if not equals:
            if i + 1 >= len(arguments) or arguments[i + 1].startswith("--"):
                raise DataError(f"--{name} needs a value")
            value = arguments[i + 1]
            i += 1
        try:
            changes[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DataError(f"--{name}: {value!r} is no value") from error
        i += 1
    return rest, changes
