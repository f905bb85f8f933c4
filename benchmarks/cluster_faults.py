"""What becomes of a training when something breaks: five faults in the middle of it, on hosts that
are network namespaces.

python benchmarks/cluster_faults.py [--quick]        needs root and iproute2

Two DeepSpeed ranks on two of three hosts that share an S3 store and nothing else. After each fault
the same command is given again if it failed. Right means: ended, and the files and the MLflow
points are those of the undisturbed training, byte for byte and once each. Prints a table and, last,
one JSON object; status 1 when a fault ended wrong. `--quick`: the first fault only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.fault_trials import EVERY, FAULTS, STEPS, Fault, StepOutput, calm, trial
from tests.cluster.cluster import cluster
from tests.cluster.world import why_not


def row(fault: Fault, outcome: StepOutput) -> str:
    """One line of the table."""
    statuses = ", ".join(map(str, outcome.statuses))
    recovered = "-" if outcome.recovered is None else f"{outcome.recovered:.0f}"
    end = "right" if outcome.right else "WRONG: " + "; ".join(outcome.trouble or ["did not end"])
    return (
        f"| {fault.what} | {outcome.hit} | {recovered} | {outcome.seconds:.0f} | {statuses} |"
        f" {end} |"
    )


def main() -> int:
    """Run them one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the first fault only")
    parser.add_argument("--only", choices=[fault.name for fault in FAULTS], help="this fault only")
    parser.add_argument(
        "--logs", type=Path, help="keep the logs of hosts and commands in this folder"
    )
    given = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    chosen = [fault for fault in FAULTS if given.only in (None, fault.name)][
        : 1 if given.quick else None
    ]
    outcomes = []
    with tempfile.TemporaryDirectory() as name, cluster(keep=given.logs) as hosts:
        folder = given.logs or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        undisturbed = calm(hosts, folder)
        print(
            f"{STEPS} updates, a checkpoint every {EVERY}; undisturbed {undisturbed.seconds:.0f} s"
            " from the command to its end"
        )
        print(
            "| fault | after update | seconds to the next checkpoint | seconds in all | exit"
            " statuses of the command | end |"
        )
        print("|---|--:|--:|--:|---|---|", flush=True)
        for fault in chosen:
            outcomes.append(trial(hosts, fault, undisturbed, folder))
            print(row(fault, outcomes[-1]), flush=True)
    passed = all(outcome.right for outcome in outcomes)
    about = {
        "quick": given.quick, "steps": STEPS, "undisturbed_seconds": undisturbed.seconds,
        "passed": passed,
    }
    print(json.dumps({**about, "faults": [asdict(outcome) for outcome in outcomes]}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
