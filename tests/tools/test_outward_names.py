"""Commands with their options, kinds of errors and their exit codes are those that scripts know."""

import importlib
import pkgutil

import click

import journal.errors
import pipeline.errors
import store.errors
from tools.cli import cli
from tools.exit_codes import ExitCode, code_of

PACKAGES = ("journal", "store", "pipeline", "tools")


def error_classes():
    """Every public error class, by its name and not by its place."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)
    found, left = set(), [BaseException]
    while left:
        cls = left.pop()
        left += cls.__subclasses__()
        if cls.__module__.partition(".")[0] in PACKAGES and not cls.__name__.startswith("_"):
            found.add(cls)
    return found


def test_commands_take_the_options_that_they_took(golden):
    commands = {name: cli.get_command(None, name) for name in cli.list_commands(None)}
    found = {
        name: {
            "arguments": [
                each.human_readable_name for each in command.params if isinstance(each, click.Argument)
            ],
            "options": ["/".join(each.opts) for each in command.params if isinstance(each, click.Option)],
        }
        for name, command in commands.items()
    }
    golden.check("names", "commands", found)


def test_kinds_of_errors_are_called_what_they_were_called(golden):
    trees = (journal.errors, store.errors, pipeline.errors)
    found = {
        tree.__name__.partition(".")[0]: {"kinds": [str(kind) for kind in tree.ErrorKind]} for tree in trees
    }
    golden.check("names", "error kinds", found)


def test_errors_end_a_command_with_the_code_that_they_had(golden):
    """Each class without arguments, because the code follows from the class; internal errors are left out."""
    codes = {cls.__name__: code_of(cls.__new__(cls)) for cls in error_classes()}
    found = {
        f"{code:d}": {"errors": sorted(name for name, own in codes.items() if own is code)}
        for code in sorted({*codes.values()} - {ExitCode.INTERNAL})
    }
    golden.check("names", "exit codes of errors", found)
