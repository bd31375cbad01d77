"""What jobs survive: ``python -m benchmarks.faults`` makes real faults and counts what came of them.

Each job, with heatmaps in the database and on disk, is killed, cut off from its database and disturbed by
other processes at random moments. A fault is survived when afterwards, once the call is repeated where
that is due, all that is stored equals what an undisturbed call stores; it is lost otherwise. The table of
``docs/reliability.md`` is written by ``--docs``.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys
import tempfile
import time

from .timing import save, table

ROOT = pathlib.Path(__file__).parents[1]
# How often each fault is made, per job and storage: in the long form and in the short one.
TIMES = {
    "kill -9": (20, 2),
    "connection cut": (20, 2),
    "database away": (3, 1),
    "database frozen": (1, 1),
    "two processes": (5, 1),
    "dataset deleted": (5, 1),
    "field deleted": (5, 1),
}
_BEGIN, _END = "<!-- faults -->", "<!-- end of faults -->"


def measure(jobs: list[str], quick: bool, seed: int) -> list[dict]:
    """Makes the faults; returns a row per outcome."""
    from fault_harness.faults import Bench

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, seed)
        try:
            for job in jobs:
                for storage in ("database", "disk"):
                    trial = bench.ready(job, storage)
                    for fault, times in TIMES.items():
                        for _ in range(times[quick]):
                            outcome = trial.disturb(fault)
                            rows.append({**vars(outcome), "survived": not outcome.wrong})
                            if outcome.wrong:
                                print(f"LOST {outcome}", flush=True)
                    print(f"{job}, {storage}: {count(rows, job)}", flush=True)
        finally:
            bench.close()
    return rows


def count(rows: list[dict], job: str, fault: str | None = None) -> str:
    """How many faults of a job were survived, as ``"39 of 40"``."""
    chosen = [r for r in rows if r["job"] == job and fault in (None, r["fault"])]
    return f"{sum(r['survived'] for r in chosen)} of {len(chosen)}"


def report(rows: list[dict]) -> str:
    """The table: a row per job, a column per fault."""
    jobs = list(dict.fromkeys(r["job"] for r in rows))
    faults = list(dict.fromkeys(r["fault"] for r in rows))
    lines = [[job, *(count(rows, job, fault) for fault in faults)] for job in jobs]
    ended = collections.Counter(r["ended"] == "killed" for r in rows if r["fault"] == "kill -9")
    said = (
        f"{len(rows)} faults, {sum(r['survived'] for r in rows)} survived; of the kills {ended[True]} hit "
        f"the call, {ended[False]} came after it"
    )
    return f"{said}\n\n{table(['job', *faults], lines)}"


def write_docs(text: str) -> None:
    """Puts the table into ``docs/reliability.md``."""
    page = ROOT / "docs" / "reliability.md"
    before, rest = page.read_text(encoding="utf-8").split(_BEGIN)
    after = rest.split(_END)[1]
    page.write_text(f"{before}{_BEGIN}\n\n{text.strip()}\n\n{_END}{after}", encoding="utf-8")


def main() -> None:
    """Measures, prints and saves."""
    sys.path.insert(0, str(ROOT / "tests"))
    from fault_harness.jobs import JOBS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--quick", action="store_true", help="one or two of each")
    parser.add_argument("--docs", action="store_true", help="writes the table into the docs too")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = measure(args.jobs, args.quick, args.seed)
    text = report(rows)
    save("faults", f"Faults (seed {args.seed})", rows, text, args.out)
    if args.docs:
        write_docs(text)


if __name__ == "__main__":
    main()
