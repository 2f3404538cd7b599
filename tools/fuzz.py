"""Mutants of the smuggling corpus against the HTTP/1.1 codecs, the validator and the splice (`make fuzz`).

Bounded by count and by time. Prints cases per second and the verdict; exit status 1 when a law was broken or fewer mutants
than asked for were checked. A mutant that broke a law is written to `tests/fuzz/found/`, where the tests replay it for ever.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "fuzz")]


def main() -> int:
    """Runs; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="mutants to check (default: 100000)")
    parser.add_argument("--seconds", type=float, default=600.0, help="time to stop after (default: 600)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same mutants (default: 1)")
    asked = parser.parse_args()

    from fuzz_engine import FOUND, run  # noqa: PLC0415 - it lies beside the tests

    verdict = run(asked.count, asked.seconds, asked.seed)
    for kind, mutant, law in verdict.broken:
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{kind}-{hashlib.sha256(mutant).hexdigest()[:12]}.bin"
        path.write_bytes(mutant)
        print(f"BROKEN {law}\n  {mutant!r}\n  kept as {path.relative_to(ROOT)}")
    rate = verdict.cases / verdict.seconds if verdict.seconds else 0.0
    print(
        f"fuzz: {verdict.cases:,} mutants in {verdict.seconds:.1f} s ({rate:,.0f}/s), seed {verdict.seed}; "
        f"{verdict.forwarded:,} requests forwarded, {verdict.answered:,} responses returned, {len(verdict.broken)} broken"
    )
    if verdict.broken:
        return 1
    if verdict.cases < asked.count:
        print(f"fuzz: only {verdict.cases:,} of {asked.count:,} mutants fitted into {asked.seconds:g} s")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
