#!/usr/bin/env python3
"""Known vulnerabilities of the pinned packages, by pip-audit, where its advisory service answers.

    scripts/audit.py                    # exit 1 for a vulnerability, 3 where nobody answers
    scripts/audit.py --where-possible   # the same, but exit 0 where nobody answers: for CI

Behind a mirror of PyPI without its advisories pip-audit passes over every package and succeeds:
that is no audit, so one package is asked for first, and what was passed over is told.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).resolve().parents[1] / "constraints.txt"
PROBE = "pyyaml"
CLEAN, VULNERABLE, UNANSWERED = 0, 1, 3
SECONDS = 600


def pins() -> list[str]:
    """``name==version`` of every pinned package."""
    lines = CONSTRAINTS.read_text().splitlines()
    return [line for line in lines if "==" in line and not line.startswith("#")]


def asked(requirements: list[str]) -> list[dict[str, Any]] | None:
    """What pip-audit says of each requirement; None where it cannot say anything."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements) + "\n")
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-r", file.name]
        command += ["-f", "json", "--progress-spinner", "off", "--timeout", "15"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=SECONDS
            )
            found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, LookupError, TypeError):
            return None
    return found


def audit(requirements: list[str]) -> tuple[int, list[str]]:
    """Exit code, and what to say."""
    probe = [
        each for each in requirements if each.lower().startswith(f"{PROBE}==")
    ] or requirements[:1]
    first = asked(probe)
    if not first or all("skip_reason" in each for each in first):
        return UNANSWERED, ["not audited: the advisory service does not answer here"]
    found = asked(requirements)
    if found is None:
        return UNANSWERED, ["not audited: pip-audit gave no result"]
    told = [
        f"{each['name']} {each['version']}: {one['id']}, fixed in"
        f" {', '.join(one.get('fix_versions') or ()) or 'no version yet'}"
        for each in found
        for one in each.get("vulns", ())
    ]
    passed_over = [each["name"] for each in found if "skip_reason" in each]
    code = VULNERABLE if told else CLEAN
    told.append(f"{len(found) - len(passed_over)} of {len(requirements)} packages audited")
    if passed_over:
        told.append(f"passed over: {', '.join(passed_over)}")
    return code, told


def main() -> int:
    """Audit the pins and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--where-possible", action="store_true", help="no answer is no failure")
    given = parser.parse_args()
    code, told = audit(pins())
    print("\n".join(told))
    return CLEAN if code == UNANSWERED and given.where_possible else code


if __name__ == "__main__":
    sys.exit(main())
