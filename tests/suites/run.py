#!/usr/bin/env python3
"""Runs the tests that drivers carry in their packages, direct and through the proxy, and compares
the outcome test by test. Exits with 1 when a test passes direct and not through the proxy.

    tests/suites/run.py                 # all suites
    tests/suites/run.py psycopg2 pgpool # some
    tests/suites/run.py --list

Packages are fetched once, by pip, npm and cargo, into target/suites. PG_BIN chooses the Postgres.
"""

import argparse
import collections
import pathlib
import sys
import time

sys.dont_write_bytecode = True

import node_suites
import python_suites
import rust_suites
from stand import Failure, Stand

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / "target/suites"
# Tests with deadlines of their own fail now and then on a busy machine, either way.
TRIES = 3


def all_suites():
    return [*python_suites.suites(), *node_suites.suites(), *rust_suites.suites()]


def stand_for(suite, proxy):
    return Stand(proxy, suite.port, suite.database, suite.setup, suite.hba)


def differences(direct, proxied):
    """Tests that pass direct and do not through the proxy."""
    return sorted(
        test
        for test, (outcome, _) in direct.items()
        if outcome == "passed" and proxied.get(test, ("missing", ""))[0] != "passed"
    )


def compare(suite, proxy):
    suite.fetch(CACHE)
    began = time.monotonic()
    with stand_for(suite, None) as stand:
        direct = suite.run(stand)
    with stand_for(suite, proxy) as stand:
        proxied = suite.run(stand)
    passed = sum(outcome == "passed" for outcome, _ in direct.values())
    if passed < suite.at_least:
        raise Failure(f"{suite.name}: {passed} tests passed direct; see the log in {suite.folder}")
    differ = differences(direct, proxied)
    for _ in range(TRIES - 1):
        if not differ:
            break
        # Again by themselves, both ways: what passes now is no difference.
        with stand_for(suite, None) as stand:
            again_direct = suite.run(stand, only=differ)
        with stand_for(suite, proxy) as stand:
            again = suite.run(stand, only=differ)
        still = differences({t: again_direct.get(t, direct[t]) for t in differ}, again)
        proxied |= {t: again.get(t, proxied.get(t, ("missing", ""))) for t in differ}
        direct |= {t: again_direct.get(t, direct[t]) for t in differ}
        differ = still
    return direct, proxied, differ, time.monotonic() - began


def show(suite, direct, proxied, differ, seconds, verbose):
    def counts(outcomes):
        n = collections.Counter(outcome for outcome, _ in outcomes.values())
        return n["passed"], n["skipped"], len(outcomes) - n["passed"] - n["skipped"]

    both = [t for t, (o, _) in direct.items() if o not in ("passed", "skipped")]
    print(
        "{:26} {:>6} {:>6} {:>6}   {:>6} {:>6} {:>6}   {:>6}   {:>5.0f} s".format(
            suite.name, *counts(direct), *counts(proxied), len(differ), seconds
        ),
        flush=True,
    )
    if verbose:
        for test in both:
            why = direct[test][1].strip().splitlines()
            print(f"    fails direct, too: {test}: {why[-1] if why else direct[test][0]}")
    for test in differ:
        outcome, why = proxied.get(test, ("missing", ""))
        print(f"    DIFFERS: {test}: {outcome}")
        print("        " + why.replace("\n", "\n        "))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE")
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("--verbose", action="store_true", help="list what fails direct, too")
    parser.add_argument("--proxy", type=pathlib.Path, default=ROOT / "target/debug/pgsegue")
    arguments = parser.parse_args()
    suites = {suite.name: suite for suite in all_suites()}
    if arguments.list:
        for suite in suites.values():
            print(f"{suite.name:26} {suite.carries}")
        return 0
    unknown = [name for name in arguments.suites if name not in suites]
    if unknown:
        raise Failure(f"no such suite: {', '.join(unknown)}; --list names them")
    if not arguments.proxy.exists():
        raise Failure(f"{arguments.proxy} does not exist: cargo build")
    print(" " * 26 + " ------ direct ------   ---- through proxy ---")
    print(" " * 26 + "   pass   skip   fail     pass   skip   fail   differ")
    bad = 0
    for name in arguments.suites or suites:
        result = compare(suites[name], arguments.proxy)
        show(suites[name], *result, arguments.verbose)
        bad += len(result[2])
    print(f"{bad} tests pass direct and not through the proxy")
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"{failure}")
