"""Keeps requirements.lock in step with pyproject.toml.

Without options it resolves the dependency tables again, by `uv pip compile`, and records a digest
of those tables in the lock's first lines. `--check` needs no network: it fails when the tables
have changed since, when a named dependency is missing from the lock or locked at a version that
its specifier refuses, or when the lock names an index or a path of the machine that made it.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
EXTRAS = ("demo", "dev")
DIGEST_LINE = re.compile(r"^# inputs: sha256:([0-9a-f]{64})$", re.MULTILINE)
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)
# A lock that others can use names neither where it was resolved nor from where.
FOREIGN = re.compile(r"--(?:extra-)?index-url|--find-links|://|^-e |file:|\s/\w", re.MULTILINE)


def requirements(project: dict[str, Any]) -> list[str]:
    """The dependencies that the lock must cover, sorted, distinct."""
    optional = project.get("optional-dependencies", {})
    named = [*project["dependencies"], *(one for extra in EXTRAS for one in optional[extra])]
    return sorted(set(named))


def digest(project: dict[str, Any]) -> str:
    """A digest of everything in pyproject.toml that decides the lock."""
    inputs = {"python": project["requires-python"], "requirements": requirements(project)}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def problems(project: dict[str, Any], lock: str) -> list[str]:
    """What is wrong with the lock, one sentence each; empty when it is in step."""
    found: list[str] = []
    recorded = DIGEST_LINE.search(lock)
    if recorded is None or recorded[1] != digest(project):
        found.append("the dependency tables of pyproject.toml changed after the lock was made")
    found.extend(f"the lock names an index or a path: {hit[0]!r}" for hit in FOREIGN.finditer(lock))
    pinned = {canonicalize_name(name): version for name, version in PINNED.findall(lock)}
    for text in requirements(project):
        wanted = Requirement(text)
        version = pinned.get(canonicalize_name(wanted.name))
        if version is None:
            found.append(f"{wanted.name} is not in the lock")
        elif not wanted.specifier.contains(version, prereleases=True):
            found.append(f"{wanted.name} is locked at {version}, pyproject.toml asks {text!r}")
    return found


def compile_lock(project: dict[str, Any]) -> None:
    """Resolves the tables for every platform and Python version, and writes requirements.lock."""
    # The output goes through a pipe, because uv prefers the versions of a file that exists.
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--universal"]
    command += ["--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"]
    command += ["--no-header", "--no-annotate", "--quiet"]
    command += [word for extra in EXTRAS for word in ("--extra", extra)]
    resolved = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    header = f"# Made by `make lock` from pyproject.toml.\n# inputs: sha256:{digest(project)}\n"
    LOCK.write_text(header + resolved)


def main() -> int:
    """Writes the lock, or with `--check` says whether it is in step; returns the exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if "--check" not in sys.argv[1:]:
        compile_lock(project)
    found = problems(project, LOCK.read_text())
    for problem in found:
        print(f"requirements.lock: {problem}; run `make lock`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
