"""Suites of Rust drivers: the tests out of the .crate file, built as they are."""

import json
import pathlib
import re
import shutil
import subprocess

from stand import Stand, cached, run

HERE = pathlib.Path(__file__).resolve().parent


class RustSuite:
    """A suite that `cargo test` builds; each of its tests runs as one line of libtest."""

    port = None
    database = "suites"
    setup = ""
    hba = ""
    at_least = 100
    seconds = 900
    env = {}

    def __init__(self, name, version, features, targets, **more):
        self.name, self.version = name, version
        self.features, self.targets = features, targets
        self.carries = f"crates.io {name} {version}"
        self.threads = "2"
        self.__dict__.update(more)

    def fetch(self, cache):
        self.cache = cache

        def fill(folder):
            # The ordinary client fetches: a crate that depends on it, and cargo's own copy.
            shell = folder / "fetch"
            (shell / "src").mkdir(parents=True)
            (shell / "src/lib.rs").write_text("")
            (shell / "Cargo.toml").write_text(
                '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n'
                f'[dependencies]\n{self.name} = "={self.version}"\n[workspace]\n'
            )
            found = run(["cargo", "metadata", "--format-version", "1", "--quiet"], cwd=shell)
            (manifest,) = (
                package["manifest_path"]
                for package in json.loads(found)["packages"]
                if package["name"] == self.name
            )
            shutil.copytree(pathlib.Path(manifest).parent, folder / "crate")
            self.adapt(folder / "crate")

        self.folder = cached(cache / self.name, fill)
        script = self.folder / "crate/tests/postgres/setup.sql"
        if script.exists():
            self.setup = script.read_text()
        known = self.folder / "binaries.json"
        if not known.exists():
            # sqlx's macros ask a server while they are compiled.
            with Stand(None, None, self.database, self.setup) as stand:
                known.write_text(json.dumps(self.build(stand)))
        self.binaries = json.loads(known.read_text())

    def adapt(self, crate):
        """A workspace of its own, without the dev-dependencies that its tests here do not use."""
        (crate / "rust-toolchain.toml").unlink(missing_ok=True)
        manifest = crate / "Cargo.toml"
        kept, keep = [], True
        for line in manifest.read_text().splitlines():
            if line.startswith("["):
                keep = not re.search(r"dev-dependencies\.\"?(async-std|criterion|libsqlite|trybuild)", line)
                keep = keep and not line.startswith("[[bench]]")
            if keep:
                kept.append(line)
        if self.name == "sqlx":
            kept += ["[dev-dependencies.sqlx-test]", f'path = "{HERE / "sqlx-test"}"']
            kept += ["[patch.crates-io.sqlx]", 'path = "."']
        manifest.write_text("\n".join([*kept, "[workspace]", ""]))

    def build(self, stand):
        env = self.suite_env(stand) | {"CARGO_TARGET_DIR": str(self.cache / "cargo")}
        command = ["cargo", "test", "--no-run", "--features", self.features]
        for target in self.targets:
            command += ["--test", target]
        said = run(command, cwd=self.folder / "crate", env=env)
        found = re.findall(r"Executable (\S+) \((.+)\)", said)
        return [(source, str(self.folder / "crate" / path)) for source, path in found]

    def suite_env(self, stand):
        values = {"port": stand.port, "database": stand.database}
        more = {key: value.format(**values) for key, value in self.env.items()}
        return stand.environment() | more

    def run(self, stand, only=None):
        env = self.suite_env(stand)
        found = {}
        for source, binary in self.binaries:
            arguments = [str(binary), "--test-threads", self.threads]
            if only:
                wanted = [t.split(" ", 1)[1] for t in only if t.split(" ", 1)[0] == source]
                if not wanted:
                    continue
                arguments += ["--exact", *wanted]
            child = subprocess.Popen(
                arguments,
                cwd=self.folder / "crate",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            try:
                said, _ = child.communicate(timeout=self.seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                said, _ = child.communicate()
            for test, outcome in libtest(said.decode(errors="replace")).items():
                found[f"{source} {test}"] = outcome
        return found


def libtest(said):
    """The outcomes of a test program of Rust's."""
    words = {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}
    found = {}
    for test, word in re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", said, re.M):
        found[test] = (words[word], "")
    for test, why in re.findall(r"^---- (\S+) stdout ----\n(.*?)(?=^----|^failures:)", said, re.M | re.S):
        found[test] = ("failed", why)
    return found


TOKIO_POSTGRES = """
CREATE ROLE pass_user PASSWORD 'password' LOGIN;
SET password_encryption = 'md5';
CREATE ROLE md5_user PASSWORD 'password' LOGIN;
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram_user PASSWORD 'password' LOGIN;
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE EXTENSION ltree;
"""

TOKIO_POSTGRES_HBA = """
host all pass_user 127.0.0.1/32 password
host all md5_user 127.0.0.1/32 md5
host all scram_user 127.0.0.1/32 scram-sha-256
"""


def suites():
    types = "with-chrono-0_4 with-geo-types-0_7 with-serde_json-1 with-time-0_3 with-uuid-1"
    return [
        RustSuite(
            "tokio-postgres",
            "0.7.18",
            types + " with-bit-vec-0_8 with-eui48-1 with-jiff-0_2 array-impls",
            ["test"],
            # Written into its tests.
            port=5433,
            database="postgres",
            setup=TOKIO_POSTGRES,
            hba=TOKIO_POSTGRES_HBA,
        ),
        RustSuite(
            "sqlx",
            "0.9.0",
            "postgres runtime-tokio tls-none macros migrate any _unstable-all-types",
            ["postgres", "postgres-describe", "postgres-error", "postgres-query-builder"]
            + ["postgres-derives", "postgres-migrate", "postgres-test-attr"]
            + ["postgres-macros"],
            env={"DATABASE_URL": "postgres://postgres@127.0.0.1:{port}/{database}"},
            threads="1",
        ),
    ]
