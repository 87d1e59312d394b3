"""Suites of node-postgres's packages, run with `pg` 8. `pg` itself has carried no tests since
version 5; of its sister packages the last versions that do are used. slonik's are of today."""

import shutil
import subprocess
import tarfile

from stand import cached, run


class NodeSuite:
    """A suite that mocha or ava runs."""

    port = None
    database = "suites"
    setup = ""
    hba = ""
    at_least = 20
    seconds = 600

    def __init__(self, name, package, needs, runner, **more):
        self.name, self.package, self.needs, self.runner = name, package, needs, runner
        self.carries = f"npm {package}"
        self.env = {}
        self.__dict__.update(more)

    def fetch(self, cache):
        def fill(folder):
            npm = ["npm", "--loglevel=error", "--no-audit", "--no-fund"]
            run([*npm, "pack", self.package, "--pack-destination", folder])
            (archive,) = folder.glob("*.tgz")
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            # Beside the package, so that node finds them from within it.
            (folder / "package.json").write_text('{"private": true}')
            run([*npm, "install", "--legacy-peer-deps", *self.needs], cwd=folder)

        self.folder = cached(cache / self.name, fill)

    def run(self, stand, only=None):
        package = self.folder / "package"
        values = {"port": stand.port, "database": stand.database}
        env = stand.environment()
        env |= {key: value.format(**values) for key, value in self.env.items()}
        runner = [str(self.folder / "node_modules/.bin" / self.runner[0]), *self.runner[1:]]
        child = subprocess.Popen(
            runner,
            cwd=package,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=open(self.folder / "log", "w"),
            text=True,
        )
        try:
            said, _ = child.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            said, _ = child.communicate()
        (self.folder / "said").write_text(said)
        return tap(said)


def tap(said):
    """The outcomes of a run that is told in TAP."""
    found, last = {}, None
    for line in said.splitlines():
        words = line.split(" ", 2)
        if words[0] == "ok" and len(words) > 2:
            number, name = words[1:]
            outcome = "passed"
        elif line.startswith("not ok") and len(words) > 2:
            number, _, name = words[2].partition(" ")
            outcome = "failed"
        else:
            if last and line.startswith(" "):
                outcome, why = found[last]
                found[last] = (outcome, why + line + "\n")
            continue
        name = name.removeprefix("- ")
        if "# SKIP" in name or "# TODO" in name:
            outcome = "skipped"
        while name in found:
            name += "'"
        found[name], last = (outcome, ""), name
    return found


def suites():
    mocha = ("mocha", "--reporter", "tap", "--exit", "--timeout", "20000", "test")
    return [
        NodeSuite(
            "pg-pool",
            "pg-pool@3.7.0",
            ["mocha@10", "pg@8.13.0", "pg-cursor@2.12.0", "expect.js@0.3.1", "co@4", "lodash@4", "bluebird@3"],
            mocha,
        ),
        NodeSuite("pg-cursor", "pg-cursor@2.1.0", ["mocha@10", "pg@8"], mocha),
        NodeSuite(
            "pg-query-stream",
            "pg-query-stream@3.0.0",
            ["mocha@10", "pg@8", "pg-cursor@2", "JSONStream@0.7", "concat-stream@1.0", "stream-spec@0.3"]
            + ["through@2.3"],
            # Those need a package that npm does not carry.
            (*mocha, "--ignore", "test/stream-tester*.js", "--ignore", "test/pauses.js"),
        ),
        NodeSuite(
            "slonik",
            "slonik@47.3.2",
            ["ava@6", "sinon@15", "get-port@5", "zod@3", "slonik@47.3.2", "@slonik/pg-driver@47.3.2"],
            # The other files start servers in Docker.
            ("ava", "--tap", "--serial", "--timeout=60s")
            + tuple(f"dist/integration.test/{name}.test.js" for name in ("pg", "stream")),
            env={"POSTGRES_DSN": "postgres://postgres@127.0.0.1:{port}"},
        ),
    ]
