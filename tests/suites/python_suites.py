"""Suites of Python drivers: the tests out of the package's source distribution, the driver itself
installed as its users install it, both of the same version."""

import json
import os
import pathlib
import shutil
import subprocess
import tarfile

from stand import cached, run

HERE = pathlib.Path(__file__).resolve().parent


class PythonSuite:
    """A suite that pytest runs."""

    port = None
    database = "suites"
    setup = ""
    hba = ""
    at_least = 100
    extras = ()
    deselect = ()
    seconds = 1200

    def __init__(self, name, sdist, driver, tests, **more):
        self.name, self.sdist, self.driver, self.tests = name, sdist, driver, tests
        self.carries = f"PyPI {sdist}"
        self.arguments = ()
        self.env = {}
        self.__dict__.update(more)

    def fetch(self, cache):
        def fill(folder):
            venv = folder / "venv"
            run(["python3", "-m", "venv", venv])
            pip = [venv / "bin/pip", "--quiet", "--disable-pip-version-check"]
            run([*pip, "install", "pytest==8.4.2", "pytest-timeout==2.4.0", *self.driver])
            download = ["download", "--no-deps", "--no-binary", self.sdist.split("==")[0]]
            run([*pip, *download, "--dest", folder, self.sdist])
            (archive,) = folder.glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tar.extractall(folder / "sdist", filter="data")
            (root,) = (folder / "sdist").iterdir()
            # Without the driver's own source beside them, which would be imported in its place.
            (folder / "tests").mkdir()
            for item in self.extras or (self.tests[0].split("/")[0],):
                source = root / item
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, folder / "tests" / item)

        self.folder = cached(cache / self.name, fill)

    def run(self, stand, only=None):
        record = self.folder / "record.jsonl"
        record.write_text("")
        env = stand.environment() | {
            "SUITE_RECORD": str(record),
            "PYTHONPATH": f"{HERE}:{self.folder / 'tests'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        values = {"port": stand.port, "database": stand.database}
        env |= {key: value.format(**values) for key, value in self.env.items()}
        env["PATH"] = f"{self.folder / 'venv/bin'}:{env['PATH']}"
        command = [self.folder / "venv/bin/python", "-m", "pytest", "-q", "-p", "record"]
        command += ["-p", "no:cacheprovider", "--timeout=120", "--tb=short"]
        command += [argument.format(**values) for argument in self.arguments]
        command += only or self.tests
        log = open(self.folder / "log", "w")
        child = subprocess.Popen(
            [str(c) for c in command],
            cwd=self.folder / "tests",
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            child.wait(self.seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        return outcomes(record)


def outcomes(record):
    """The worst of a test's phases; its complaint."""
    worst = {"passed": 0, "skipped": 1, "failed": 2}
    found = {}
    for line in record.read_text().splitlines():
        test, _when, outcome, why = json.loads(line)
        before = found.get(test, ("cut off", ""))[0]
        if worst.get(outcome, -1) >= worst.get(before, -1):
            found[test] = (outcome, why)
    return found


def suites():
    sqlalchemy = {
        "extras": ("test", "lib", "setup.cfg", "pyproject.toml"),
        "setup": "CREATE SCHEMA test_schema; CREATE SCHEMA test_schema_2; "
        "CREATE EXTENSION hstore; CREATE EXTENSION citext",
    }
    tests = ["test/dialect/test_suite.py", "test/dialect/postgresql", "test/sql/test_returning.py"]
    uri = "postgresql+{}://postgres@127.0.0.1:{{port}}/{{database}}"

    def through(driver):
        return ("--dburi", uri.format(driver), "-p", "no:warnings", "--maxfail=100000")

    common = ["sqlalchemy[asyncio]==2.1.9"]
    return [
        PythonSuite(
            "psycopg2",
            "psycopg2==2.9.13",
            ["psycopg2-binary==2.9.13"],
            ["tests"],
            database="psycopg2_test",
            setup="CREATE EXTENSION hstore",
            env={
                "PSYCOPG2_TESTDB_HOST": "127.0.0.1",
                "PSYCOPG2_TESTDB_PORT": "{port}",
                "PSYCOPG2_TESTDB_USER": "postgres",
                "PSYCOPG2_TEST_REPL_DSN": "",
            },
        ),
        PythonSuite(
            "asyncpg",
            "asyncpg==0.32.0",
            ["asyncpg==0.32.0", "distro"],
            ["tests"],
            database="postgres",
        ),
        PythonSuite(
            "pg8000",
            "pg8000==1.31.6",
            ["pg8000==1.31.6", "pytest-mock", "pytz", "pytest-benchmark"],
            ["test"],
            database="postgres",
            setup="CREATE EXTENSION hstore",
            arguments=("--ignore=test/test_readme.py", "--benchmark-disable"),
        ),
        PythonSuite(
            "sqlalchemy-psycopg",
            "sqlalchemy==2.1.9",
            [*common, "psycopg[binary]==3.3.9"],
            tests,
            arguments=through("psycopg"),
            **sqlalchemy,
        ),
        PythonSuite(
            "sqlalchemy-psycopg-async",
            "sqlalchemy==2.1.9",
            [*common, "psycopg[binary]==3.3.9"],
            tests,
            arguments=through("psycopg_async"),
            **sqlalchemy,
        ),
    ]
