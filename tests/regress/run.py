#!/usr/bin/env python3
"""Postgres's own test suites, direct and through `pgsegue serve`: the result files of both runs must
be the same, byte by byte.

    cargo build && tests/regress/run.py [--suite regress|isolation|pipeline|replay]
                                        [--migration none|elsewhere|unrelated|namesakes]

--suite says what is run:
  regress    the regression suite: SQL of every kind, by psql (the default)
  isolation  sessions that wait for each other
  pipeline   libpq's pipelines, with a trace of every message
  replay     the statements of the regression suite by the extended protocol, with every byte of the
             answers; what is not the same in two direct runs (times, process ids) is left out

Whether a suite passes is not the question (what it expects is printed for information): the
question is whether a client can see the proxy. Both runs begin with clusters made the same way,
and with the same migration started; the direct run has it, too, and goes around the proxy.

--migration says what the proxy is busy with:
  none       there is no [control]: a plain proxy (the default)
  elsewhere  a migration of another database
  unrelated  a migration of tables in the suite's database that the suite does not name
  namesakes  migrations of tables in another schema that are named as tables of the suite: its
             statements are read, and the session is asked what the names mean

A file that differs is looked at again: with a second direct run. Files that differ between the
two direct runs cannot say anything about the proxy; they are named.

The suites come with the source package of the installed Postgres (15 or later, Debian's or one
built like it), fetched with apt; what is C in them is compiled against its headers. All is kept in
target/regress, with the results of the last runs. Nothing is installed. As root, the user
postgres (or nobody) runs Postgres and the tests. Everything stays on 127.0.0.1.

--folder only fetches the suites, and prints where they are."""

import argparse, difflib, filecmp, glob, os, pathlib, pwd, re, shutil, signal, socket, subprocess
import json, sys, tarfile, tempfile, time, urllib.request

# Else a run leaves a folder of its own beside the scripts.
sys.dont_write_bytecode = True
import replay

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DATABASE = "regression"
DIFF_LINES_SHOWN = 40
DIFF_COLUMNS_SHOWN = 200
START_SECONDS_MAX = 60
# As pg_regress asks it of the clusters that it makes itself.
SERVER_SETTINGS = ["max_prepared_transactions=2", "fsync=off", "listen_addresses=127.0.0.1",
                   "unix_socket_directories=", "log_lock_waits=on", "max_connections=200"]
DATABASE_SETTINGS = ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"]
SUITES = {"regress": "/src/test/regress/", "isolation": "/src/test/isolation/",
          "pipeline": "/src/test/modules/libpq_pipeline/"}
REPLAY = "replay"
PIPELINE_ROWS = 700
# It sends until the sockets are full, and prints how often it could.
PIPELINE_UNSTEADY = "uniqviol"
# Tables that many files of the suite make or use, under the simplest names it has.
NAMESAKES = ["tenk1", "onek", "int4_tbl", "int8_tbl", "test", "foo", "t1", "t2", "a", "emp"]


def stop(why):
    sys.exit(f"tests/regress: {why}")


def say(what):
    print(what, flush=True)


def output_of(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        stop(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


# ---- the suite ---------------------------------------------------------------------------------

def postgres_bin():
    folders = [os.environ.get("PG_BIN", "")]
    if shutil.which("initdb"):
        folders.append(os.path.dirname(os.path.realpath(shutil.which("initdb"))))
    newest = lambda folder: -float(folder.split("/")[4])
    folders += sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=newest)
    for folder in folders:
        if folder and os.path.exists(f"{folder}/initdb"):
            return pathlib.Path(folder)
    stop("no Postgres was found: apt-get install postgresql, or set PG_BIN")


def origins_of(package):
    """Where apt has a package from: URI, suite, component."""
    found = set()
    for line in output_of(["apt-cache", "madison", package]).splitlines():
        origin = line.split("|")[2].split()
        if origin[-1] == "Packages":
            found.add((origin[0].rstrip("/"), *origin[1].rsplit("/", 1)))
    return found


def signed_by(uri):
    """The keyring that the configured source of this URI names, if it names one."""
    for file in glob.glob("/etc/apt/sources.list.d/*.sources"):
        for stanza in re.split(r"\n\s*\n", pathlib.Path(file).read_text()):
            keyring = re.search(r"(?im)^signed-by:\s*(/\S+)\s*$", stanza)
            uris = re.search(r"(?im)^uris:(.*)$", stanza)
            if keyring and uris and uri in [u.rstrip("/") for u in uris[1].split()]:
                return keyring[1]
    for file in ["/etc/apt/sources.list", *glob.glob("/etc/apt/sources.list.d/*.list")]:
        if os.path.exists(file):
            for line in pathlib.Path(file).read_text().splitlines():
                entry = re.match(r"deb\s+\[([^]]*)\]\s+(\S+)", line)
                keyring = entry and re.search(r"signed-by=(/[^\s,]+)", entry[1])
                if keyring and entry[2].rstrip("/") == uri:
                    return keyring[1]
    return None


class Apt:
    """apt with lists of its own, fresh and with sources; the system's stay as they are."""

    def __init__(self, origins, folder):
        self.folder = folder
        lines = []
        for uri, suite, component in sorted(origins):
            keyring = signed_by(uri)
            option = f"[signed-by={keyring}] " if keyring else ""
            lines += [f"{kind} {option}{uri} {suite} {component}\n" for kind in ("deb", "deb-src")]
        (folder / "sources.list").write_text("".join(lines))
        for name in ("lists", "archives"):
            (folder / name / "partial").mkdir(parents=True)
        options = [f"Dir::Etc::SourceList={folder}/sources.list", "Dir::Etc::SourceParts=-",
                   f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}",
                   f"Dir::Cache::Archives={folder}/archives", "APT::Sandbox::User="]
        self.options = [word for option in options for word in ("-o", option)]
        self.run("apt-get", "update")

    def run(self, program, *arguments):
        return output_of([program, "-q", *self.options, *arguments], cwd=self.folder)

    def version(self, package, wanted):
        """The wanted version if it is there, or else the newest."""
        lines = self.run("apt-cache", "madison", package).splitlines()
        versions = [line.split("|")[1].strip() for line in lines]
        if not versions:
            stop(f"apt knows no package {package}")
        return wanted if wanted in versions else versions[0]


def unpack(folder, to):
    [archive] = glob.glob(f"{folder}/*.orig.tar.*")
    with tarfile.open(archive) as tar:
        for member in tar:
            for suite, place in SUITES.items():
                inside = member.name.partition(place)[2]
                if inside and member.isfile():
                    target = to / suite / inside
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(tar.extractfile(member).read())


def compile_parts(apt, major, version, pg_bin, suites):
    """regress.so with the libraries that the suite looks for beside it, and libpq_pipeline."""
    config = dict(line.split(" = ", 1) for line in output_of([pg_bin / "pg_config"]).splitlines())
    for package in (f"postgresql-server-dev-{major}", "libpq-dev"):
        apt.run("apt-get", "download", f"{package}={apt.version(package, version)}")
        [deb] = apt.folder.glob(f"{package}_*.deb")
        output_of(["dpkg", "-x", deb, apt.folder / "dev"])
    dev = f"{apt.folder}/dev"
    cc = ["cc", "-O1", "-w", "-fwrapv", "-fno-strict-aliasing",
          f"-I{dev}{config['INCLUDEDIR-SERVER']}", f"-I{dev}/usr/include/postgresql"]
    regress, pipeline = suites / "regress", suites / "pipeline"
    output_of([*cc, "-fPIC", "-shared", regress / "regress.c", "-o", regress / "regress.so"])
    for name in ("refint.so", "autoinc.so"):
        shutil.copy(f"{config['PKGLIBDIR']}/{name}", regress / name)
    output_of([*cc, pipeline / "libpq_pipeline.c", "-o", pipeline / "libpq_pipeline",
               f"-L{dev}{pg_bin.parent}/lib", "-l:libpq.so.5", "-lpgcommon", "-lpgport"])


def suites_for(pg_bin, cache):
    """The folder of the suites, made unless it is there."""
    major = re.search(r"\) (\d+)", output_of([pg_bin / "postgres", "--version"]))[1]
    installed = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", f"postgresql-{major}"],
                               capture_output=True, text=True).stdout
    if not installed:
        stop(f"the suites are fetched with apt for the package postgresql-{major}, which is not "
             f"installed: apt-get install postgresql-{major}")
    suites = cache / f"suites-{installed}"
    if suites.exists():
        return suites
    origins = origins_of(f"postgresql-{major}")
    if not origins and os.geteuid() == 0:
        output_of(["apt-get", "-q", "update"])
        origins = origins_of(f"postgresql-{major}")
    if not origins:
        stop(f"apt does not know where postgresql-{major} is from: apt-get update")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        apt = Apt(origins, pathlib.Path(folder))
        version = apt.version(f"postgresql-{major}", installed)
        say(f"fetching the suites of postgresql-{major} {version}, for {installed}")
        apt.run("apt-get", "source", "--download-only", "--only-source",
                f"postgresql-{major}={version}")
        made = apt.folder / "suites"
        unpack(apt.folder, made)
        compile_parts(apt, major, version, pg_bin, made)
        made.rename(suites)
    return suites


# ---- one run -----------------------------------------------------------------------------------

def unprivileged():
    """How subprocess becomes somebody who may run Postgres."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        except KeyError:
            pass
    stop("Postgres does not run as root, and there is neither a user postgres nor nobody")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what, condition, log):
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    stop(f"waited in vain: {what}\n{log.read_text()}")


class Cluster:
    """A fresh Postgres with the suite's database, the proxy in front of it."""

    def __init__(self, work, pg_bin, pgsegue, migration, settings=()):
        self.work, self.bin, self.migration = work, pg_bin, migration
        self.settings = [*SERVER_SETTINGS, *settings]
        self.pgsegue, self.processes = pgsegue, []
        self.user = unprivileged()
        self.port, self.proxy_port, self.admin_port = free_port(), free_port(), free_port()
        shutil.rmtree(work / "data", ignore_errors=True)
        (work / "data").mkdir()
        if self.user:
            os.chown(work / "data", self.user["user"], self.user["group"])
        output_of([self.bin / "initdb", "-D", work / "data", "-A", "trust", "-U", "postgres",
                   "--no-sync", "-E", "UTF8", "--no-locale"], cwd="/", **self.user)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        settings = [word for setting in self.settings for word in ("-c", setting)]
        self.spawn("postgres", [self.bin / "postgres", "-D", self.work / "data", "-p",
                                str(self.port)] + settings, **self.user)
        ready = [self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        until("Postgres starts", lambda: subprocess.run(ready).returncode == 0,
              self.work / "postgres.log")
        for database in (DATABASE, "elsewhere"):
            self.sql("postgres", f"CREATE DATABASE {database} TEMPLATE template0")
        for setting in DATABASE_SETTINGS:
            self.sql("postgres", f"ALTER DATABASE {DATABASE} SET {setting} TO 'C'")
        self.sql("postgres", f"ALTER DATABASE {DATABASE} SET bytea_output TO 'hex'; "
                             f"ALTER DATABASE {DATABASE} SET timezone_abbreviations TO 'Default'")
        self.start_proxy()

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()

    def spawn(self, name, command, **more):
        log = open(self.work / f"{name}.log", "w")
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd="/",
                                   stdin=subprocess.DEVNULL, **more)
        self.processes.append(process)

    def sql(self, database, text):
        return output_of([self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1",
                          "-p", str(self.port), "-U", "postgres", "-d", database, "-c", text])

    def start_proxy(self):
        tables = {"none": [], "elsewhere": ["apart_orders"], "unrelated": ["apart_orders"],
                  "namesakes": NAMESAKES}[self.migration]
        database = "elsewhere" if self.migration == "elsewhere" else DATABASE
        config = (f"[proxy]\nlisten = '127.0.0.1:{self.proxy_port}'\n"
                  f"[server]\naddress = '127.0.0.1:{self.port}'\n"
                  f"[admin]\nlisten = '127.0.0.1:{self.admin_port}'\n")
        if tables:
            self.sql(database, "CREATE SCHEMA apart")
            config += (f"[control]\nurl = 'postgres://postgres@127.0.0.1:{self.port}/{database}"
                       "?application_name=pgsegue'\n")
        for table in tables:
            self.sql(database, f"""
                CREATE TABLE apart.{table} (id int PRIMARY KEY, total int NOT NULL, note text);
                CREATE TABLE apart.{table}_v2 (id bigint PRIMARY KEY, cents bigint NOT NULL, note text);
                INSERT INTO apart.{table} SELECT i, i, 'note ' || i FROM generate_series(1, 10) i;
                ANALYZE apart.{table}""")
            config += f"""
                [[migration]]
                name = "{table}"
                source = "apart.{table}"
                shadow = "apart.{table}_v2"
                key = ["id"]
                [migration.columns]
                id = "id"
                cents = "total::bigint * 100"
                note = "note"
                [migration.reverse]
                total = "(cents / 100)::int"
                [migration.routing]
                reads = 100
                dark_reads = 100
                """
        file = self.work / "pgsegue.toml"
        file.write_text(config)
        self.spawn("pgsegue", [self.pgsegue, "serve", "--config", file])
        until("the proxy is ready", self.is_ready, self.work / "pgsegue.log")
        for table in tables:
            output_of([self.pgsegue, "--config", file, "migration", "start", table])

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/readyz") as answer:
                return answer.status == 200
        except OSError:
            return False

    def regress(self, suite, out, port, tests):
        """Runs a suite that pg_regress drives."""
        isolation = suite.name == "isolation"
        program = "isolation/pg_isolation_regress" if isolation else "regress/pg_regress"
        driver = self.bin.parent / "lib/pgxs/src/test" / program
        if not driver.exists():
            stop(f"{driver} is missing; the package postgresql-client-<version> has it")
        schedule = suite / ("isolation_schedule" if isolation else "parallel_schedule")
        options = ["--schedule", schedule] if not tests else tests
        # Since version 16.
        if "--expecteddir" in output_of([driver, "--help"]):
            options = ["--expecteddir", suite, *options]
        done = subprocess.run(
            [driver, "--use-existing", "--dbname", DATABASE, "--host", "127.0.0.1", "--port",
             str(port), "--user", "postgres", "--bindir", self.bin, "--dlpath", suite,
             "--inputdir", suite, "--outputdir", out, "--max-concurrent-tests", "20", *options],
            capture_output=True, text=True, cwd="/", **self.user)
        if not (out / "results").is_dir() or not any((out / "results").iterdir()):
            stop(f"pg_regress did not run\n{done.stdout}{done.stderr}")
        tally = re.findall(r"(?m)^\s*(?:All )?(\d+.*tests (?:passed|failed).*)$", done.stdout)
        return " ".join(tally).strip(" .,")

    def pipeline(self, suite, out, port, tests):
        """Runs libpq_pipeline; of what is as expected it keeps a trace, too."""
        program, results = suite / "libpq_pipeline", out / "results"
        program.chmod(0o755)
        results.mkdir()
        conninfo = f"host=127.0.0.1 port={port} user=postgres dbname={DATABASE}"
        expected, as_expected = 0, 0
        for test in tests or output_of([program, "tests"]).split():
            wanted, trace = suite / "traces" / f"{test}.trace", results / f"{test}.trace"
            traced = ["-t", trace] if wanted.exists() else []
            done = subprocess.run([program, "-r", str(PIPELINE_ROWS), *traced, test, conninfo],
                                  capture_output=True, text=True)
            said = (done.stdout + done.stderr).splitlines(keepends=True)
            kept = said[-1:] if test == PIPELINE_UNSTEADY else said
            text = "".join([*kept, f"exit status {done.returncode}\n"])
            (results / f"{test}.out").write_text(text)
            expected += 1
            same = not traced or wanted.read_bytes() == trace.read_bytes()
            as_expected += done.returncode == 0 and same
        return f"{as_expected} of {expected} tests passed"


    def replayed(self, suite, out, port, tests):
        (out / "results").mkdir()
        sessions = json.loads((suite / "statements.json").read_text())
        sessions = [s for s in sessions if not tests or s[0].rpartition("/")[2] in tests]
        return f"{replay.replay(port, sessions, out / 'results')} statements"


def record(options, work, suite, pg_bin):
    """Runs the regression suite once more for the statements that a server logs of it."""
    say("recording the statements of the regression suite")
    with Cluster(work, pg_bin, options.pgsegue, "none", replay.LOG_SETTINGS) as cluster:
        out = empty_out(cluster)
        cluster.regress(suite, out, cluster.port, [])
        sessions = replay.statements(work / "data" / "log" / "statements.json")
    return json.dumps(sessions)


def empty_out(cluster):
    """The same folder for every run: its name may be in the results."""
    out = cluster.work / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if cluster.user:
        os.chown(out, cluster.user["user"], cluster.user["group"])
    return out


def run(name, options, work, suite, pg_bin):
    settings = replay.STEADY_SETTINGS if options.suite == REPLAY else []
    with Cluster(work, pg_bin, options.pgsegue, options.migration, settings) as cluster:
        out = empty_out(cluster)
        port = cluster.proxy_port if name == "proxied" else cluster.port
        runner = {"pipeline": cluster.pipeline, REPLAY: cluster.replayed}.get(options.suite,
                                                                              cluster.regress)
        began = time.monotonic()
        tally = runner(suite, out, port, options.tests)
        seconds = time.monotonic() - began
    kept = options.cache / f"{options.suite}-{options.migration}" / name
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(out, kept)
    replay.without_engine_locks(kept / "results")
    for log in ("postgres.log", "pgsegue.log"):
        shutil.copy(work / log, kept / log)
    what = tally if options.suite == REPLAY else f"as expected by the suite: {tally or '?'}"
    say(f"{name:14} {seconds:6.1f} s   {what}")
    return kept / "results"


# ---- the comparison ----------------------------------------------------------------------------

def files(folder):
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def differing(one, other):
    names = files(one) | files(other)
    same = lambda n: (one / n).is_file() and (other / n).is_file() and filecmp.cmp(one / n, other / n, False)
    return sorted(n for n in names if not same(n)), len(names)


def show(name, one, other):
    read = lambda f: f.read_text(errors="backslashreplace").splitlines() if f.is_file() else []
    lines = list(difflib.unified_diff(read(one / name), read(other / name), f"direct/{name}",
                                      f"proxied/{name}", lineterm="", n=3))
    say("\n".join(line[:DIFF_COLUMNS_SHOWN] for line in lines[:DIFF_LINES_SHOWN]))
    if len(lines) > DIFF_LINES_SHOWN:
        say(f"… {len(lines) - DIFF_LINES_SHOWN} more lines: diff {one / name} {other / name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="regress", choices=[*SUITES, REPLAY])
    parser.add_argument("--migration", default="none",
                        choices=["none", "elsewhere", "unrelated", "namesakes"])
    parser.add_argument("--pgsegue", type=lambda path: pathlib.Path(path).resolve(),
                        default=ROOT / "target/debug/pgsegue")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / "target/regress")
    parser.add_argument("--folder", action="store_true")
    parser.add_argument("tests", nargs="*", help="these files only, in this order (test_setup first)")
    options = parser.parse_args()
    # So that what was started and made ends with the script.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options.cache = options.cache.resolve()
    if options.folder:
        return say(suites_for(postgres_bin(), options.cache))
    if not options.pgsegue.exists():
        stop(f"{options.pgsegue} is missing: cargo build")
    pg_bin = postgres_bin()
    suites = suites_for(pg_bin, options.cache)
    # Where the other user can read it.
    parent = "/tmp" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pgsegue-regress-", dir=parent,
                                     ignore_cleanup_errors=True) as work:
        os.chmod(work, 0o755)
        work = pathlib.Path(work)
        suite = "regress" if options.suite == REPLAY else options.suite
        here = work / suite
        shutil.copytree(suites / suite, here)
        version = output_of([pg_bin / "postgres", "--version"]).strip()
        say(f"{options.suite} of {version}, migration: {options.migration}")
        if options.suite == REPLAY and not (here / "statements.json").exists():
            (suites / suite / "statements.json").write_text(record(options, work, here, pg_bin))
            shutil.copy(suites / suite / "statements.json", here)
        direct = run("direct", options, work, here, pg_bin)
        proxied = run("proxied", options, work, here, pg_bin)
        unsteady = []
        if options.suite == REPLAY:
            again = run("direct again", options, work, here, pg_bin)
            left_out = replay.blank_unsteady(direct, again, [proxied])
            say(f"{sum(left_out.values())} statements are not steady: "
                + ", ".join(f"{name} {n}" for name, n in left_out.items()))
        differences, count = differing(direct, proxied)
        if differences and options.suite != REPLAY:
            again = run("direct again", options, work, here, pg_bin)
            unsteady = [n for n in differing(direct, again)[0] if n in differences]
    for name in differences:
        show(name, direct, proxied)
    seen = [n for n in differences if n not in unsteady]
    say(f"{count} files, {count - len(differences)} identical, {len(seen)} different"
        + (f": {', '.join(seen)}" if seen else ""))
    if unsteady:
        say(f"not the same in two direct runs either: {', '.join(unsteady)}")
    sys.exit(1 if seen else 0)


if __name__ == "__main__":
    main()
