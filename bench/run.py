#!/usr/bin/env python3
"""Side by side on one machine: Postgres direct, a bare TCP forwarder, pgbouncer (session mode, if
it is installed) and pgsegue with a migration declared. Several rounds, the targets in turn; prints
medians, spreads, ratios to the forwarder, and CPU microseconds of the proxy process per
transaction (per megabyte for COPY, per statement in a pipeline's transaction of ten). Then memory
per idle session, mirrored writes beside row triggers, and how fast a flip reaches busy clients.

    cargo build --release --bins --example forwarder && bench/run.py [--seconds 4] [--rounds 3]

Everything stays on 127.0.0.1; all processes end with the script. Needs Postgres's binaries in
$PG_BIN, on the PATH or under /usr/lib/postgresql. Run it as a user that is not root, or as root
(Postgres then runs as the user postgres)."""

import argparse, glob, json, os, pathlib, resource, shutil, signal, socket, statistics, struct
import subprocess, sys, tempfile, time, urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
PGSEGUE = str(ROOT / "target/release/pgsegue")
FORWARDER = str(ROOT / "target/release/examples/forwarder")
TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def find_bin():
    candidates = [os.environ.get("PG_BIN", "")]
    if shutil.which("initdb"):
        candidates.append(os.path.dirname(shutil.which("initdb")))
    candidates += sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)
    for folder in candidates:
        if folder and all(os.path.exists(os.path.join(folder, p)) for p in ("initdb", "pgbench", "pg_isready")):
            return folder
    sys.exit("no Postgres found: apt-get install postgresql, or set PG_BIN")


class Machine:
    def __init__(self):
        self.bin = find_bin()
        self.dir = tempfile.mkdtemp(prefix="pgsegue-bench-")
        os.chmod(self.dir, 0o755)
        self.processes = []
        self.port = free_port()
        data = os.path.join(self.dir, "data")
        os.mkdir(data)
        if os.geteuid() == 0:
            shutil.chown(data, "postgres")
        self.as_postgres([f"{self.bin}/initdb", "-D", data, "-A", "trust", "-U", "postgres",
                          "--no-sync", "-E", "UTF8", "--locale=C"], check=True)
        self.spawn([f"{self.bin}/postgres", "-D", data, "-p", str(self.port), "-k", "",
                    "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
                    "-c", "shared_buffers=512MB", "-c", "max_connections=300"], postgres=True)
        self.wait(self.port)
        self.psql(self.port, "create database app", "postgres")
        self.pgbench(self.port, ["-i", "-q", "-s", "10"])

    def as_postgres(self, command, **more):
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] + command
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)

    def spawn(self, command, postgres=False):
        if postgres and os.geteuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] + command
        log = open(os.path.join(self.dir, f"log{len(self.processes)}"), "w")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def wait(self, port):
        for _ in range(200):
            ready = subprocess.run([f"{self.bin}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)])
            if ready.returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"nothing answers on port {port}; logs in {self.dir}")

    def psql(self, port, sql, database="app"):
        done = subprocess.run(
            [f"{self.bin}/psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1",
             "-p", str(port), "-U", "postgres", "-d", database, "-c", sql],
            capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout.strip()

    def stream(self, port, sql, **streams):
        subprocess.run([f"{self.bin}/psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres",
                        "-d", "app", "-c", sql], check=True, **streams)

    def pgbench(self, port, arguments):
        done = subprocess.run(
            [f"{self.bin}/pgbench", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
            + arguments + ["app"], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return done.stdout

    def end(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def cpu_us(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / TICKS


CONFIG = """
[proxy]
listen = "127.0.0.1:{listen}"
[server]
address = "127.0.0.1:{server}"
[control]
url = "postgres://postgres@127.0.0.1:{server}/app"
[admin]
listen = "127.0.0.1:{admin}"
[[migration]]
name = "hits_v2"
source = "public.hits"
shadow = "public.hits_v2"
key = ["id"]
[migration.columns]
id = "id"
total = "n::bigint"
[migration.routing]
dual_write = true
reads = {reads}
dark_reads = 0
"""

TABLES = """
create table hits (id int primary key, n int not null);
create table hits_v2 (id bigint primary key, total bigint not null);
insert into hits select i, 0 from generate_series(1, 100000) i;
create table trig (id int primary key, n int not null);
create table trig_v2 (id bigint primary key, total bigint not null);
insert into trig select i, 0 from generate_series(1, 100000) i;
insert into trig_v2 select id, n from trig;
create table failures (id int);
create function mirror() returns trigger language plpgsql as $$
begin
    begin
        insert into trig_v2 values (new.id, new.n) on conflict (id) do update set total = excluded.total;
    exception when others or assert_failure then
        insert into failures values (new.id);
    end;
    return null;
end $$;
create trigger mirror after insert or update on trig for each row execute function mirror();
create unlogged table bulk (a int, b text);
insert into bulk select i, repeat('x', 90) from generate_series(1, 1000000) i;
vacuum analyze
"""


def pgbouncer(machine, mode):
    port = free_port()
    ini = os.path.join(machine.dir, f"{mode}.ini")
    users = os.path.join(machine.dir, "users.txt")
    pathlib.Path(users).write_text('"postgres" ""\n')
    pathlib.Path(ini).write_text(
        f"[databases]\n* = host=127.0.0.1 port={machine.port}\n[pgbouncer]\n"
        f"listen_addr=127.0.0.1\nlisten_port={port}\nauth_type=trust\nauth_file={users}\npool_mode={mode}\n"
        f"unix_socket_dir=\nmax_client_conn=12000\ndefault_pool_size=100\n")
    machine.spawn([shutil.which("pgbouncer"), "-q", ini], postgres=True)
    return port


def targets(machine):
    found = {"direct": (machine.port, None)}
    port = free_port()
    process = machine.spawn([FORWARDER, f"127.0.0.1:{port}", f"127.0.0.1:{machine.port}"])
    found["forwarder"] = (port, process.pid)
    if shutil.which("pgbouncer"):
        port = pgbouncer(machine, "session")
        found["pgbouncer"] = (port, machine.processes[-1].pid)
    port, admin = free_port(), free_port()
    machine.config = os.path.join(machine.dir, "pgsegue.toml")
    machine.ports = {"listen": port, "server": machine.port, "admin": admin}
    pathlib.Path(machine.config).write_text(CONFIG.format(**machine.ports, reads=0))
    process = machine.spawn([PGSEGUE, "serve", "--config", machine.config])
    found["pgsegue"] = (port, process.pid)
    for port, _ in found.values():
        machine.wait(port)
    subprocess.run([PGSEGUE, "migration", "start", "hits_v2", "--config", machine.config], check=True,
                   stdout=subprocess.DEVNULL)
    return found


def cases(machine, seconds):
    script = lambda name, text: (pathlib.Path(machine.dir, name).write_text(text),
                                 os.path.join(machine.dir, name))[1]
    select = [(f"select -M {mode}, {clients} clients", ["-S", "-M", mode, "-c", str(clients)])
              for mode in ("simple", "extended", "prepared") for clients in (1, 8, 32)]
    more = [
        ("TPC-B prepared, 8 clients", ["-M", "prepared", "-c", "8"]),
        ("100,000 rows, 1 client",
         ["-f", script("rows", "select * from pgbench_accounts where aid <= 100000;\n"), "-c", "1"]),
        ("connect, select, close, 4 clients", ["-S", "-C", "-c", "4"]),
        ("pipeline of 10 selects, 8 clients",
         ["-M", "extended", "-c", "8", "-f", script("pipe", "\\startpipeline\n"
          + "\\set aid random(1, 1000000)\nselect abalance from pgbench_accounts where aid = :aid;\n" * 10
          + "\\endpipeline\n")]),
    ]
    return [(name, ["-n", "-T", str(seconds)] + arguments) for name, arguments in select + more]


def migrated(machine, seconds):
    """Statements on a migrated table that are not mirrored: what looking at them costs."""
    for table in ("pgbench_accounts", "hits"):
        column = "aid" if table == "pgbench_accounts" else "id"
        for mode, text in (("simple", "select 1 from {} where {} = 5;\n"),
                           ("prepared", "\\set id random(1, 100000)\nselect 1 from {} where {} = :id;\n")):
            path = os.path.join(machine.dir, f"{table}-{mode}")
            pathlib.Path(path).write_text(text.format(table, column))
            name = "the migrated table" if table == "hits" else "another table"
            yield f"read of {name}, {mode}", ["-n", "-M", mode, "-T", str(seconds), "-c", "8", "-f", path]


COPY = {"out": "copy (select * from bulk) to stdout", "in": "copy bulk_in from stdin"}


def copy(machine, port, pid, direction):
    """Megabytes per second, CPU microseconds per megabyte."""
    file = os.path.join(machine.dir, "bulk.copy")
    if not os.path.exists(file):
        with open(file, "wb") as out:
            machine.stream(machine.port, COPY["out"], stdout=out)
    machine.psql(machine.port, "drop table if exists bulk_in; create unlogged table bulk_in (a int, b text)")
    before, begun = (cpu_us(pid) if pid else 0), time.monotonic()
    if direction == "out":
        machine.stream(port, COPY["out"], stdout=subprocess.DEVNULL)
    else:
        with open(file, "rb") as data:
            machine.stream(port, COPY["in"], stdin=data)
    took = time.monotonic() - begun
    megabytes = os.path.getsize(file) / 1e6
    return megabytes / took, ((cpu_us(pid) - before) / megabytes if pid else 0)


def session(port, statement):
    """A raw session that has run a statement."""
    client = socket.create_connection(("127.0.0.1", port))
    parameters = b"user\0postgres\0database\0app\0\0"
    client.sendall(struct.pack("!ii", len(parameters) + 8, 196608) + parameters)
    text = statement.encode() + b"\0"
    for frame in (b"", b"Q" + struct.pack("!i", len(text) + 4) + text):
        client.sendall(frame)
        seen = b""
        while not seen.endswith(b"Z\0\0\0\x05I"):
            seen += client.recv(65536)
    return client


def resident_kib(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def idle(machine, count):
    """Memory per idle session. pgbouncer in transaction mode behind both, for Postgres itself would
    need a process for each."""
    if not shutil.which("pgbouncer"):
        return print("\nidle sessions: pgbouncer is not installed, so this is left out")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    behind = pgbouncer(machine, "transaction")
    machine.wait(behind)
    print(f"\n{count} idle sessions, each after one statement")
    for name in ("forwarder", "pgsegue"):
        port = free_port()
        if name == "forwarder":
            command = [FORWARDER, f"127.0.0.1:{port}", f"127.0.0.1:{behind}"]
        else:
            config = os.path.join(machine.dir, "idle.toml")
            ports = {"listen": port, "server": behind, "admin": free_port()}
            control = f"{behind}/app", f"{machine.port}/app"
            text = CONFIG.format(**ports, reads=0).replace(*control)
            pathlib.Path(config).write_text(text)
            command = [PGSEGUE, "serve", "--config", config]
        process = machine.spawn(command)
        machine.wait(port)
        clients = [session(port, "select 1") for _ in range(100)]
        before = resident_kib(process.pid)
        clients += [session(port, "select 1") for _ in range(count)]
        each = (resident_kib(process.pid) - before) / count
        print(f"  {name:10} {each:6.1f} KiB resident each", flush=True)
        for client in clients:
            client.close()


def flip(machine, port, rounds):
    """Reads of the migrated table by 32 clients, all from the shadow; the file says reads = 0. How long
    after its rename a statement last went to the shadow, by the proxy's own counter."""
    script = os.path.join(machine.dir, "flip")
    pathlib.Path(script).write_text("\\set id random(1, 100000)\nselect n from hits where id = :id;\n")
    url = f"http://127.0.0.1:{machine.ports['admin']}/metrics"
    label = 'pgsegue_statements_total{kind="read",route="shadow"}'

    def shadow_reads():
        lines = urllib.request.urlopen(url).read().decode().splitlines()
        return next((line.split()[-1] for line in lines if line.startswith(label)), "0")

    def save(reads):
        new = machine.config + ".new"
        pathlib.Path(new).write_text(CONFIG.format(**machine.ports, reads=reads))
        os.rename(new, machine.config)

    took = []
    for _ in range(rounds):
        save(100)
        load = machine.spawn([f"{machine.bin}/pgbench", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres",
                              "-n", "-M", "prepared", "-c", "32", "-T", "4", "-f", script, "app"])
        time.sleep(2)
        first = shadow_reads()
        time.sleep(0.2)
        if shadow_reads() == first:
            sys.exit("the shadow serves no reads: nothing to flip")
        save(0)
        begun = last = time.monotonic()
        seen = shadow_reads()
        while time.monotonic() - begun < 1:
            now = shadow_reads()
            if now != seen:
                seen, last = now, time.monotonic()
        took.append((last - begun) * 1000)
        load.wait()
    print(f"\nflip of 32 busy clients by the file: last statement to the shadow after "
          f"{statistics.median(took):.1f} ms (of {rounds}: {', '.join(f'{t:.1f}' for t in sorted(took))})")


def mirrored(machine, seconds):
    update = "\\set id random(1, 100000)\nupdate {} set n = n + 1 where id = :id;\n"
    many = "\\set id random(1, 90000)\nupdate {} set n = n + 1 where id between :id and :id + 9999;\n"
    for name, text, clients in (("one row", update, 4), ("10,000 rows", many, 1)):
        for table in ("hits", "trig"):
            path = os.path.join(machine.dir, f"{table}{clients}")
            pathlib.Path(path).write_text(text.format(table))
            label = "mirrored by pgsegue" if table == "hits" else "mirrored by a row trigger"
            yield (f"{name}, {label}",
                   ["-n", "-M", "prepared", "-T", str(seconds), "-c", str(clients), "-f", path])


def tps(output):
    return next(float(line.split()[2]) for line in output.splitlines() if line.startswith("tps"))


def processed(output):
    key = "number of transactions actually processed:"
    return next(int(line.split(":")[1].split("/")[0]) for line in output.splitlines() if line.startswith(key))


def measure(machine, port, pid, arguments):
    before = cpu_us(pid) if pid else 0
    output = machine.pgbench(port, arguments)
    used = (cpu_us(pid) - before) / max(processed(output), 1) if pid else 0
    return tps(output), used


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name contains one of these, between |")
    parser.add_argument("--idle", type=int, default=5000, help="sessions to hold idle")
    options = parser.parse_args()
    wanted = lambda name: any(part in name for part in options.only.split("|"))
    machine = Machine()
    try:
        machine.psql(machine.port, TABLES.rsplit(";", 1)[0])
        machine.psql(machine.port, "vacuum analyze")
        found = targets(machine)
        report = {}

        def run(name, measure, among):
            if not wanted(name):
                return
            seen = {target: [] for target in among}
            for _ in range(options.rounds):
                for target in among:
                    seen[target].append(measure(*found[target]))
            report[name] = seen
            show(name, seen)

        for name, arguments in cases(machine, options.seconds):
            run(name, lambda port, pid: measure(machine, port, pid, arguments), list(found))
        for direction in COPY:
            run(f"COPY {direction}, 1 client (MB)", lambda port, pid: copy(machine, port, pid, direction), list(found))
        for name, arguments in migrated(machine, options.seconds):
            run(name, lambda port, pid: measure(machine, port, pid, arguments), ["forwarder", "pgsegue"])
        for name, arguments in mirrored(machine, options.seconds):
            run(name, lambda port, pid: measure(machine, port, pid, arguments),
                ["pgsegue"] if "pgsegue" in name else ["direct", "pgsegue"])
        if wanted("flip"):
            flip(machine, found["pgsegue"][0], options.rounds)
        if wanted("idle"):
            idle(machine, options.idle)
        path = pathlib.Path(tempfile.gettempdir()) / "pgsegue-bench.json"
        path.write_text(json.dumps(report))
        print(f"raw figures: {path}")
    finally:
        machine.end()


def show(name, seen):
    base = statistics.median(t for t, _ in seen["forwarder"]) if "forwarder" in seen else None
    print(f"\n{name}")
    for target, figures in seen.items():
        rates = [t for t, _ in figures]
        median = statistics.median(rates)
        spread = (max(rates) - min(rates)) / median * 100
        cpu = statistics.median(c for _, c in figures)
        ratio = f"{median / base:6.2f} x fwd" if base else ""
        print(f"  {target:10} {median:10.0f} /s  +-{spread:3.0f} %  {ratio}  cpu {cpu:8.1f} us", flush=True)


if __name__ == "__main__":
    main()
