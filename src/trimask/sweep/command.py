"""python -m trimask sweep NAME [--count N] [--jobs K] [--check] [--new]: search the settings of an experiment.

Exit code 1: no trial has a value, or a check found something.
"""

from __future__ import annotations

import argparse
from datetime import datetime

import yaml

from trimask.errors import OptionParser, UsageError, at_least
from trimask.run.console import console
from trimask.sweep import engine
from trimask.sweep.check import check, parsed
from trimask.sweep.local import LocalSweep
from trimask.sweep.online import is_online, run_online
from trimask.sweep.plan import SweepPlan, first_values, names, read
from trimask.sweep.report import best_line, best_trial


def sweep(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.check:
        return _check([read(name) for name in options.names or names()])
    if len(options.names) != 1:
        raise UsageError(f"Which sweep? There are {', '.join(names()) or 'none in configs/sweeps'}.")
    plan = read(options.names[0])
    count = options.count or plan.config.get("run_cap")
    if count is None and plan.config["method"] != "grid":
        raise UsageError(
            f"A {plan.config['method']} search never ends by itself; give COUNT= (--count), or `run_cap:` in its file."
        )
    _prepare(plan, anew=options.new)
    if is_online():
        project = plan.config.get("project") or parsed(plan, first_values(plan))["run"]["wandb_project"]
        return run_online(plan, project, count=options.count, jobs=options.jobs)
    if found := engine.violations(plan):
        raise UsageError(f"W&B's schema refuses {plan.name}: {found[0]}")
    search = LocalSweep(plan, count=count, jobs=options.jobs)
    search.run()
    console.print(best_line(plan, search.trials), highlight=False, markup=False, soft_wrap=True)
    console.print(f"{plan.place / 'results.csv'}  {plan.place / 'index.html'}", highlight=False, soft_wrap=True)
    return 0 if best_trial(plan, search.trials) else 1


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="trimask sweep", description="Search the settings of an experiment.")
    parser.add_argument("names", nargs="*", help="of a file of configs/sweeps; with --check, all of them by default")
    parser.add_argument(
        "--count", type=at_least(1, "number of trials"), help="trials in all; with a W&B server, of this call"
    )
    parser.add_argument("--jobs", type=at_least(1, "number of trials"), default=1, help="trials at a time")
    parser.add_argument("--check", action="store_true", help="only see whether keys, values and metric exist")
    parser.add_argument("--new", action="store_true", help="begin anew; what is there is set aside")
    return parser


def _check(plans: list[SweepPlan]) -> int:
    status = 0
    for plan in plans:
        complaints = [*_refused(plan), *check(plan)]
        status = 1 if complaints else status
        console.print(f"{plan.name}: {'ok' if not complaints else ''}", highlight=False)
        for complaint in complaints:
            console.print(f"  {complaint}", highlight=False, markup=False, soft_wrap=True)
    return status


def _refused(plan: SweepPlan) -> list[str]:
    """By W&B's schema, where its engine is installed; a W&B server looks for itself."""
    try:
        return [f"W&B's schema refuses it: {found}" for found in engine.violations(plan)]
    except UsageError as error:
        console.print(f"{plan.name}: W&B's schema is left out. {error}", highlight=False, markup=False, soft_wrap=True)
        return []


def _prepare(plan: SweepPlan, *, anew: bool) -> None:
    """The sweep's folder with a copy of its file. Trials of another file of the same name are never mixed in."""
    kept = plan.place / "sweep.yaml"
    if anew and plan.place.is_dir():
        plan.place.rename(plan.place.with_name(f"{plan.name}_until_{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    plan.place.mkdir(parents=True, exist_ok=True)
    if kept.is_file() and yaml.safe_load(kept.read_text()) != plan.config:
        raise UsageError(
            f"The sweep {plan.name} has changed since its first trials ({kept}). NEW=1 (--new) sets these aside and begins anew."
        )
    kept.write_text(yaml.safe_dump(plan.config, sort_keys=False))
