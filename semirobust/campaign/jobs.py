"""The jobs of a profile, what each needs first, and what it will cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from semirobust import paths, runs
from semirobust.experiments import algorithm_1, controls, networks

#: experiments whose plans are lists of configurations with a function ``run_*(config, say=...)``
_FLAT = (("figure_1", "run_size"), ("lineage", "run_pair"), ("saturation", "run_network"))
#: experiments that run a whole plan: ``run_plan(plan, profile, say=...)`` and ``stored(plan, profile)``
_PLANS = ("layerwise", "performance", "table_2", "prediction")


@dataclass(frozen=True)
class Job:
    """One thing to compute. ``key`` names it on the command line. ``kind``: jobs of one kind cost about the
    same. ``needs``: keys of jobs to be done before. ``is_done`` looks at the disk and computes nothing;
    ``seconds`` reads how long a finished one took (None: not known)."""

    key: str
    kind: str
    make: Callable[[runs.Say], Any] = field(repr=False)
    is_done: Callable[[], bool] = field(repr=False)
    seconds: Callable[[], float | None] = field(repr=False)
    needs: tuple[str, ...] = ()


def jobs(profile: str) -> list[Job]:
    """Every job of a profile, most wanted first: Algorithm 1 with its controls, then what builds on it.

    Networks come before what is measured on them. One that no unfinished job needs counts as done.
    Raises ``ValueError`` for an unknown profile.
    """
    made: list[Job] = []
    for plan in algorithm_1.plans(paths.check_profile(profile)):
        made += _of_plan(plan, profile)
    for plan, experiment, config in controls.plans(profile):
        kind = f"{experiment} {plan.name}" if experiment == controls.LONG else f"trial {_size(plan)}"
        compute = partial(algorithm_1.trial_with_baseline, plan, config, profile, experiment)
        made.append(_of_record(experiment, config, profile, kind, compute, (_baseline_key(plan),)))
    for name, function in _FLAT:
        module = import_module(f"semirobust.experiments.{name}")
        for config in module.plans(profile):
            compute = partial(_run_flat, module, getattr(module, function), config, profile)
            made.append(_of_record(module.EXPERIMENT, config, profile, name, compute))
    for name in _PLANS:
        module = import_module(f"semirobust.experiments.{name}")
        made += [_of_whole_plan(module, name, plan, profile) for plan in module.plans(profile)]
    return _with_networks(made, algorithm_1.plans(profile))


def _of_plan(plan: algorithm_1.Plan, profile: str) -> list[Job]:
    """The baselines of a pair, and its trials, first those of every size, then the next of every size."""
    baseline = _of_record(
        algorithm_1.BASELINES,
        plan.baseline,
        profile,
        f"baseline {_size(plan)}",
        partial(algorithm_1.baseline_record, plan, profile),
        tuple(_network_key(config) for config in (plan.pair.standard, plan.pair.robust)),
    )
    trials = [
        _of_record(
            algorithm_1.EXPERIMENT,
            plan.trial(n_fb, number),
            profile,
            f"trial {_size(plan)}" + (", AutoAttack on all" if number == 0 else ""),
            partial(
                algorithm_1.trial_with_baseline,
                plan,
                plan.trial(n_fb, number),
                profile,
                algorithm_1.EXPERIMENT,
            ),
            (baseline.key,),
        )
        for number in range(plan.trials)
        for n_fb in plan.n_fb
    ]
    return [baseline, *trials]


def _of_record(
    experiment: str,
    config: Any,
    profile: str,
    kind: str,
    compute: Callable[..., Any],
    needs: tuple[str, ...] = (),
) -> Job:
    def stored() -> runs.Record | None:
        return runs.stored(config, experiment=experiment, profile=profile)

    def seconds() -> float | None:
        record = stored()
        return None if record is None else float(record.meta["wall_time_s"])

    return Job(
        f"{experiment}/{runs.config_hash(config)}",
        kind,
        lambda say: compute(say=say),
        lambda: stored() is not None,
        seconds,
        needs,
    )


def _of_whole_plan(module: ModuleType, name: str, plan: Any, profile: str) -> Job:
    return Job(
        f"{name}/{plan.name}",
        name,
        lambda say: module.run_plan(plan, profile, say=say),
        lambda: module.stored(plan, profile) is not None,
        lambda: None,
    )


def _run_flat(
    module: ModuleType, function: Callable[..., Any], config: Any, profile: str, *, say: runs.Say
) -> runs.Record:
    return runs.run(config, partial(function, say=say), experiment=module.EXPERIMENT, profile=profile)


def _with_networks(made: list[Job], plans: Sequence[algorithm_1.Plan]) -> list[Job]:
    """The jobs, each pair of networks before the first job that needs it."""
    pairs = {
        _network_key(config): config for plan in plans for config in (plan.pair.standard, plan.pair.robust)
    }
    users = {key: [job for job in made if key in job.needs] for key in pairs}
    ordered: list[Job] = []
    for job in made:
        for key in job.needs:
            if key in pairs:
                ordered.append(_of_network(key, pairs.pop(key), users[key]))
        ordered.append(job)
    return ordered


def _of_network(key: str, config: networks.NetworkConfig, users: Iterable[Job]) -> Job:
    start = (_network_key(config.start),) if config.start else ()
    cached = paths.cache_root() / f"{runs.config_hash(config)}.safetensors"
    name = networks.COMMITTED.get(runs.config_hash(config))

    def done() -> bool:
        there = cached.exists() or (name is not None and name in runs.committed_weights())
        return there or all(job.is_done() for job in users)

    def seconds() -> float | None:
        return float(runs.load_tensors(cached)[1]["wall_time_s"]) if cached.exists() else None

    attack = "standard" if config.train.attack is None else "adversarial"
    kind = f"{attack} training of {config.label.split(', seed')[0]} on {config.dataset}"
    return Job(key, kind, lambda say: networks.trained(config, say=say), done, seconds, start)


def _network_key(config: networks.NetworkConfig) -> str:
    return f"network/{runs.config_hash(config)}"


def _baseline_key(plan: algorithm_1.Plan) -> str:
    return f"{algorithm_1.BASELINES}/{runs.config_hash(plan.baseline)}"


def _size(plan: algorithm_1.Plan) -> str:
    robust = plan.pair.robust
    return f"{robust.model}, width {robust.width} on {robust.dataset}"


def with_needs(wanted: Sequence[Job], every: Sequence[Job]) -> list[Job]:
    """The wanted jobs and all that they need, in the order of ``every``."""
    by_key, keys = {job.key: job for job in every}, {job.key for job in wanted}
    waiting = list(keys)
    while waiting:
        needed = set(by_key[waiting.pop()].needs) - keys
        keys |= needed
        waiting += needed
    return [job for job in every if job.key in keys]


def expected_seconds(made: Sequence[Job], done: Iterable[str]) -> dict[str, float]:
    """Kind -> the median seconds that the finished jobs of that kind took, on whatever machine ran them.

    A run that was cut off is stored with the time of its last part alone, so this may be too little."""
    finished, taken = set(done), dict[str, list[float]]()
    for job in made:
        if job.key in finished and (seconds := job.seconds()):
            taken.setdefault(job.kind, []).append(seconds)
    return {kind: statistics.median(values) for kind, values in taken.items()}
