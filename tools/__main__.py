"""The command line of a checkout: ``python -m tools [COMMAND]``, called by ``./run_all.sh``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semirobust import __main__ as library
from semirobust import paths
from tools import checks
from tools.notebooks import outputs, run, sources

ROOT = Path(__file__).resolve().parents[1]
QUICK_TIMEOUT = 1800.0  # seconds for one notebook of the quick profile; other profiles may take hours
COMMANDS = ("run", "list", "pair", "test")
SCRIPT_COMMANDS = ("setup", "python")  # the commands that run_all.sh handles itself


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="./run_all.sh",
        description="Without a command: run. More about one: ./run_all.sh COMMAND --help. "
        f"The library's own commands work too: {', '.join(library.COMMANDS)}.",
    )
    commands = top.add_subparsers(dest="command", required=True)

    notebooks = commands.add_parser("run", help="run the notebooks that are not up to date (the default)")
    library.add_profile(notebooks)
    notebooks.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="these notebooks, e.g. 10_table_1"
    )
    notebooks.add_argument(
        "--jobs", type=int, metavar="N", help="so many at a time (default: one per core, at most 4)"
    )
    notebooks.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help=f"for each notebook (default: {QUICK_TIMEOUT:g} in the quick profile, else none)",
    )
    notebooks.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a parameter of the chosen notebooks (all of them must know it); may be repeated",
    )
    notebooks.add_argument("--force", action="store_true", help="run them even where nothing has changed")

    library.add_profile(commands.add_parser("list", help="the notebooks and how their last run went"))

    pair = commands.add_parser("pair", help="make the committed notebooks (.ipynb) from their sources (.py)")
    pair.add_argument("--only", nargs="+", default=[], metavar="NAME")

    commands.add_parser("test", help="every check: style, types, lock, tests, notebooks")
    return top


class Terminal:
    """Prints lines on standard output and, on a terminal only, one overwritten line of progress below."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()

    def say(self, line: str) -> None:
        print(("\r\x1b[K" if self.live else "") + line, flush=True)

    def progress(self, line: str) -> None:
        if self.live:
            print(f"\r\x1b[K{line[:100]}", end="", flush=True)


def run_notebooks(options: argparse.Namespace, root: Path) -> int:
    terminal = Terminal()
    timeout = options.timeout
    if timeout is None and options.profile == "quick":
        timeout = QUICK_TIMEOUT
    outcomes = run.run(
        root,
        profile=options.profile,
        only=options.only,
        jobs=options.jobs,
        timeout=timeout,
        parameters=dict(sources.parse_parameter(text) for text in options.parameters),
        force=options.force,
        say=terminal.say,
        progress=terminal.progress,
    )
    for line in run.summary(outcomes, root):
        terminal.say(line)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def show_list(profile: str, root: Path) -> int:
    paths.check_profile(profile)
    manifest = outputs.read_manifest(outputs.Folders(root, profile).manifest, print)
    for path in sources.find(root / "notebooks"):
        entry = manifest.get(f"{profile}/{path.stem}")
        if entry is None:
            print(f"{path.stem:<28} not run")
        else:
            line = f"{path.stem:<28} {entry['status']:<8} {entry['seconds']:7.1f} s  {entry['finished']}"
            print(f"{line}  {entry['error']}".rstrip())
    return 0


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Runs one command. Returns 0 if all went well, 1 if something failed, 2 for an invalid request."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in library.COMMANDS:
        return library.main(words)
    try:
        options = parser().parse_args(_with_command(words))
        if options.command == "run":
            return run_notebooks(options, root)
        if options.command == "list":
            return show_list(options.profile, root)
        if options.command == "pair":
            return int(not checks.pair(root, only=options.only, say=Terminal().say))
        return int(not checks.test(root, say=Terminal().say))
    except ValueError as error:  # an unknown name, a damaged file: the message says what and what to do
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what has passed is kept, and the same command goes on from here", file=sys.stderr
        )
        return 130


def _with_command(words: list[str]) -> list[str]:
    """The words, after ``run`` where they name no command. Raises UsageError for an unknown command."""
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        return ["run", *words]
    if words[0] not in (*COMMANDS, "-h", "--help"):
        raise paths.unknown("command", words[0], (*COMMANDS, *library.COMMANDS, *SCRIPT_COMMANDS))
    return words


if __name__ == "__main__":
    sys.exit(main())
