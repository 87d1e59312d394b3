"""A Postgres of one's own for one run of a suite, and the proxy in front of it if the run goes
through the proxy. The suite sees the same host and port both ways."""

import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

START_SECONDS = 60

SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = off
max_connections = 200
max_prepared_transactions = 20
wal_level = logical
max_wal_senders = 10
max_replication_slots = 10
"""

# A migration that concerns no table of any suite: statements are then read as in production.
UNRELATED = """
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere.orders (id int PRIMARY KEY, total numeric(10,2));
CREATE TABLE elsewhere.orders_v2 (id bigint PRIMARY KEY, total_minor bigint);
INSERT INTO elsewhere.orders SELECT i, i FROM generate_series(1, 10) AS i;
"""

CONFIG = """
proxy.listen = "127.0.0.1:{port}"
server.address = "127.0.0.1:{server_port}"
control.url = "host=127.0.0.1 port={server_port} user=postgres dbname={database}"
admin.listen = "127.0.0.1:{admin_port}"
[[migration]]
name = "orders"
source = "elsewhere.orders"
shadow = "elsewhere.orders_v2"
key = ["id"]
[migration.columns]
id = "id"
total_minor = "(total * 100)::bigint"
"""


class Failure(Exception):
    """The run cannot go on; the text says what to do."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_bin():
    """The folder with initdb, found as the tests in Rust find it."""
    if folder := os.environ.get("PG_BIN"):
        return pathlib.Path(folder)
    if initdb := shutil.which("initdb"):
        return pathlib.Path(initdb).resolve().parent
    found = pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")
    for initdb in sorted(found, key=lambda p: int(p.parts[-3]), reverse=True):
        return initdb.parent
    raise Failure("no Postgres was found: apt-get install postgresql, or set PG_BIN")


def unprivileged():
    """How to run a program of Postgres, which refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise Failure("Postgres refuses to run as root, and there is no user postgres or nobody")


class Stand:
    """Use with `with`: started on entry, ended and removed on exit."""

    def __init__(self, proxy_binary, port=None, database="postgres", setup="", hba=""):
        self.proxy_binary = proxy_binary
        self.port = port or free_port()
        self.server_port = free_port() if proxy_binary else self.port
        self.database = database
        self.setup = setup
        self.hba = hba
        self.children = []
        self.folder = None

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pgsegue-suites-", dir="/tmp"))
        try:
            self.start_server()
            self.prepare()
            if self.proxy_binary:
                self.start_proxy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in reversed(self.children):
            child.send_signal(2)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_server(self):
        # A port of another process may not be taken for this server.
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise Failure(f"port {self.port} must be free for this suite: {error}") from error
        drop = unprivileged()
        if drop:
            os.chown(self.folder, drop["user"], drop["group"])
        bin_folder, data = postgres_bin(), self.folder / "data"
        initdb = [bin_folder / "initdb", "-D", data, "-U", "postgres", "-A", "trust"]
        initdb += ["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        made = subprocess.run(initdb, capture_output=True, text=True, cwd="/", **drop)
        if made.returncode != 0:
            raise Failure(f"initdb failed: {made.stderr}")
        with open(data / "postgresql.conf", "a") as settings:
            settings.write(SETTINGS)
            settings.write(f"port = {self.server_port}\n")
            settings.write(f"unix_socket_directories = '{self.folder}'\n")
        if self.hba:
            rules = data / "pg_hba.conf"
            rules.write_text(self.hba + rules.read_text())
        log = open(self.folder / "server.log", "w")
        server = [bin_folder / "postgres", "-D", data]
        self.children.append(
            subprocess.Popen(server, stdout=log, stderr=log, cwd="/", **drop)
        )
        self.wait("the server accepts connections", lambda: self.sql("SELECT 1") is not None)

    def prepare(self):
        if self.database != "postgres":
            self.must(f"CREATE DATABASE {self.database}")
        self.must(UNRELATED, self.database)
        if self.setup:
            self.must(self.setup, self.database)

    def start_proxy(self):
        admin_port = free_port()
        config = self.folder / "pgsegue.toml"
        config.write_text(
            CONFIG.format(
                port=self.port,
                server_port=self.server_port,
                database=self.database,
                admin_port=admin_port,
            )
        )
        log = open(self.folder / "proxy.log", "w")
        command = [self.proxy_binary, "--config", config]
        child = subprocess.Popen([*command, "serve"], stdout=log, stderr=log)
        self.children.append(child)

        def ready():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/readyz", timeout=5):
                    return True
            except (urllib.error.URLError, ConnectionError):
                return False

        self.wait("the proxy is ready", ready)
        started = subprocess.run(
            [*command, "migration", "start", "orders"], capture_output=True, text=True
        )
        if started.returncode != 0:
            raise Failure(f"the migration did not start: {started.stderr}")

    def wait(self, what, condition):
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            child = self.children[-1]
            if child.poll() is not None or time.monotonic() > deadline:
                logs = (p.read_text(errors="replace") for p in self.folder.glob("*.log"))
                raise Failure(f"not reached: {what}\n" + "\n".join(logs))
            time.sleep(0.05)

    def sql(self, text, database="postgres"):
        """Directly at the server, over its Unix socket; None when it fails."""
        psql = shutil.which("psql")
        if not psql:
            raise Failure("psql is needed: apt-get install postgresql-client")
        arguments = [psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-f", "-"]
        arguments += ["-h", self.folder, "-p", str(self.server_port), "-d", database]
        done = subprocess.run(arguments, input=text, capture_output=True, text=True)
        self.complaint = done.stderr
        return done.stdout if done.returncode == 0 else None

    def must(self, text, database="postgres"):
        done = self.sql(text, database)
        if done is None:
            raise Failure(f"{self.complaint}\nof: {text}")
        return done

    def environment(self):
        """libpq's variables for the suite, over those of this process."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return inherited | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            "PGDATABASE": self.database,
        }


def cached(folder, fill):
    """A folder that `fill` has filled completely, now or in an earlier run."""
    complete = folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fill(folder)
        complete.write_text(json.dumps(time.time()))
    return folder


def run(command, **options):
    """Runs a command that must succeed."""
    done = subprocess.run(
        [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    if done.returncode != 0:
        raise Failure(f"{command} failed\n{done.stdout.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")
