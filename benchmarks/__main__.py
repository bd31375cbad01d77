"""All speed benchmarks, one after the other: ``python -m benchmarks``, or ``--quick`` for the short form.

Each runs in a process of its own, so that none finds the machine as another left it, and writes its JSON
and Markdown below ``bench_output``; ``speed.md`` there has them all.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import time

# name -> arguments of the short form, arguments of the long form
PARTS = {
    "engine": (["--rounds", "2", "--batch", "4"], []),
    "dataset": (["--quick"], []),
    "storage": (["--quick"], []),
    "growth": (["--quick"], []),
    "app": (["--quick"], []),
    "panel": (["--quick"], []),
    "sample_panel": (["--quick"], []),
}


def run(names: list[str], quick: bool, out: pathlib.Path) -> int:
    """Runs benchmarks; returns how many failed."""
    failed, parts = [], []
    for name in names:
        short, long = PARTS[name]
        place = out / "engine.json" if name == "engine" else out
        command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(place)]
        start = time.perf_counter()
        done = subprocess.run([*command, *(short if quick else long)], check=False)
        print(
            f"\n[{name}: {time.perf_counter() - start:.0f} s, exit {done.returncode}]\n", flush=True
        )
        written = out / f"{name}.md"
        if done.returncode:
            failed.append(name)
        elif written.is_file():
            parts.append(written.read_text())
    if parts:
        (out / "speed.md").write_text("\n".join(parts))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="the short form, a few minutes")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench_output"))
    args = parser.parse_args()
    unknown = [name for name in args.only if name not in PARTS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(PARTS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    sys.exit(1 if run(args.only or list(PARTS), args.quick, args.out) else 0)


if __name__ == "__main__":
    main()
