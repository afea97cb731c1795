"""In which order a plan's steps run, and how long that takes.

    priorities(plan, pending)[step_id]           # what Snakemake is given; run/snakemake.py
    wall_hours(plan, hours)                      # of a run whose steps take so many hours, by id

The simulation starts steps as Snakemake's greedy scheduler does: whenever one ends, those that are ready are
looked at in the order of their priority, and each that finds its GPUs and cores free begins, even if an
earlier one waits for more. `benchmarks/schedule.py` compares it with Snakemake itself.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from heapq import heappop, heappush

from .plan import Plan


def priorities(plan: Plan, pending: Collection[str]) -> dict[str, int]:
    """What goes first among steps that are ready: each has its own number, the highest is the first.

    Steps that most others wait for go first: the method's chain is long, its side branches are short. Among
    equals, those on many GPUs do, while few of the small ones are in their way.
    """
    waiting: defaultdict[str, set[str]] = defaultdict(set)
    order = [plan.steps[step_id] for step_id in plan.steps if step_id in set(pending)][::-1]
    for step in order:
        for before in step.needs:
            waiting[before] |= {step.id, *waiting[step.id]}
    ranked = sorted(order, key=lambda step: (len(waiting[step.id]), step.gpus))
    return {step.id: rank for rank, step in enumerate(ranked)}


def wall_hours(plan: Plan, hours: Mapping[str, float]) -> float:
    """Hours from the first step's start to the last one's end, on the plan's GPUs and cores."""
    first, now, running = priorities(plan, hours), 0.0, list[tuple[float, str]]()
    before = {i: first.keys() & plan.waits_for(plan.steps[i]) for i in first}
    gpus, cores, threads = plan.gpus, plan.cores, {i: min(plan.steps[i].threads, plan.cores) for i in first}
    while before or running:
        ready = (i for i, waits in before.items() if not waits)
        for i in sorted(ready, key=first.__getitem__, reverse=True):
            if plan.steps[i].gpus <= gpus and threads[i] <= cores:
                gpus, cores = gpus - plan.steps[i].gpus, cores - threads[i]
                heappush(running, (now + hours[i], i))
                del before[i]
        now, over = running[0][0], set[str]()
        while running and running[0][0] == now:  # steps that take no time end together
            over.add(ended := heappop(running)[1])
            gpus, cores = gpus + plan.steps[ended].gpus, cores + threads[ended]
        for waits in before.values():
            waits -= over
    return now
