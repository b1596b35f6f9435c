"""The command line of the library: ``semirobust COMMAND``, or ``python -m semirobust COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from semirobust import paths

COMMANDS = ("experiment", "campaign", "collate", "folders")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="semirobust", description="More about one command: semirobust COMMAND --help"
    )
    commands = top.add_subparsers(dest="command", required=True)
    experiment = commands.add_parser(
        "experiment", help="run the runs of one experiment that are not stored yet"
    )
    experiment.add_argument("name", help="e.g. algorithm_1; an unknown name lists the known ones")
    add_profile(experiment)
    campaign = commands.add_parser(
        "campaign", help="run everything of a profile that is not stored yet, most wanted first; resumable"
    )
    add_profile(campaign)
    campaign.add_argument("--only", default="", metavar="WORDS", help="jobs whose line in --list has them")
    campaign.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="so many side by side (default: 1)"
    )
    campaign.add_argument("--hours", type=float, metavar="H", help="stop after so many hours")
    campaign.add_argument("--foreground", action="store_true", help="at normal priority (default: lowest)")
    campaign.add_argument("--list", action="store_true", help="run nothing; a line for each job")
    campaign.add_argument("--job", help=argparse.SUPPRESS)  # how the queue calls one of its processes
    campaign.add_argument("--parent", type=int, default=0, help=argparse.SUPPRESS)
    add_profile(commands.add_parser("collate", help="one CSV for each experiment from the stored results"))
    commands.add_parser("folders", help="where results, figures, networks and data are read and written")
    return top


def add_profile(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--profile", default="quick", metavar="|".join(paths.PROFILES), help="default: quick"
    )


def say(line: str) -> None:
    print(line, flush=True)


def collate(profile: str) -> None:
    """Write one CSV for each experiment into the folder of the results."""
    from semirobust import runs

    folder = paths.results_root() / paths.check_profile(profile)
    experiments = sorted(path.name for path in folder.glob("*") if path.is_dir())
    if not experiments:
        raise paths.UsageError(f"there are no results in {folder}: run an experiment of this profile first")
    top = paths.checkout()
    tables = top / "build" / "tables" if top else paths.results_root() / "tables"
    for experiment in experiments:
        rows = runs.collate(experiment, profile)
        path = runs.write_csv(rows, tables / profile / f"{experiment}.csv")
        say(f"{path}: {len(rows)} runs")


def campaign(options: argparse.Namespace) -> int:
    """Run the queue (or one of its jobs); 0 where nothing is left or the time is up, 1 where a job failed."""
    from semirobust import campaign as package

    if options.job:
        package.run_job(options.job, options.profile, options.parent, say, foreground=options.foreground)
        return 0
    queue = package.Queue(options.profile, options.jobs, options.hours, options.foreground, say)
    every = package.jobs(options.profile)
    wanted = [job for job in every if options.only in f"{job.key} {job.kind}"]
    if not wanted:
        raise paths.UsageError(f"no job has {options.only!r} in its line; --list shows all {len(every)}")
    wanted = package.with_needs(wanted, every)
    try:
        if not options.list:
            queue.run(wanted)
    finally:
        package.report(wanted, say, every=options.list)
    return int(bool(queue.failed))


def folders() -> None:
    """Print each folder, and the environment variable that moves it."""
    from semirobust import data

    places = {
        "SEMIROBUST_RESULTS": paths.results_root(),
        "SEMIROBUST_FIGURES": paths.figures_root(),
        "SEMIROBUST_CACHE": paths.cache_root(),
        "SEMIROBUST_DATA": data.data_root(),
    }
    for variable, place in places.items():
        say(f"{variable:<19} {paths.VARIABLES[variable]:<34} {place}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 2 for a request that cannot work."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and not words[0].startswith("-") and words[0] not in COMMANDS:
            raise paths.unknown("command", words[0], COMMANDS)
        options = parser().parse_args(words)
        if options.command == "experiment":
            from semirobust import experiments

            experiments.main(options.name, options.profile, say=say)
        elif options.command == "campaign":
            return campaign(options)
        elif options.command == "collate":
            collate(options.profile)
        else:
            folders()
    except ValueError as error:  # an unknown name, a damaged file: the message says what and what to do
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what has finished is kept, and the same command goes on from here",
            file=sys.stderr,
        )
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
