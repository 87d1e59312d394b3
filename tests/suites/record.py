"""A pytest plugin: one line of JSON per test and phase, written at once, so that a suite that is
cut off has left what it did."""

import json
import os


def pytest_runtest_logreport(report):
    with open(os.environ["SUITE_RECORD"], "a") as record:
        line = [report.nodeid, report.when, report.outcome, str(report.longrepr or "")[-2000:]]
        record.write(json.dumps(line) + "\n")


def pytest_runtest_logstart(nodeid, location):
    with open(os.environ["SUITE_RECORD"], "a") as record:
        record.write(json.dumps([nodeid, "start", "cut off", ""]) + "\n")
