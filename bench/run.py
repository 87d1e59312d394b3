#!/usr/bin/env python3
"""Side by side on one machine: Postgres direct, a bare TCP forwarder, pgbouncer (session mode, if
it is installed) and pgsegue with a migration declared. Several rounds, the targets in turn; prints
medians, spreads, ratios to the forwarder, and CPU microseconds of the proxy process per
transaction.

    cargo build --release --bins --example forwarder && bench/run.py [--seconds 4] [--rounds 3]

Everything stays on 127.0.0.1; all processes end with the script. Needs Postgres's binaries in
$PG_BIN, on the PATH or under /usr/lib/postgresql. Run it as a user that is not root, or as root
(Postgres then runs as the user postgres)."""

import argparse, glob, json, os, pathlib, shutil, signal, socket, statistics, subprocess, sys
import tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
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
reads = 0
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
vacuum analyze
"""


def targets(machine):
    found = {"direct": (machine.port, None)}
    port = free_port()
    forwarder = ROOT / "target/release/examples/forwarder"
    process = machine.spawn([str(forwarder), f"127.0.0.1:{port}", f"127.0.0.1:{machine.port}"])
    found["forwarder"] = (port, process.pid)
    if shutil.which("pgbouncer"):
        port = free_port()
        ini = os.path.join(machine.dir, "pgbouncer.ini")
        users = os.path.join(machine.dir, "users.txt")
        pathlib.Path(users).write_text('"postgres" ""\n')
        pathlib.Path(ini).write_text(
            f"[databases]\n* = host=127.0.0.1 port={machine.port}\n[pgbouncer]\n"
            f"listen_addr=127.0.0.1\nlisten_port={port}\nauth_type=trust\nauth_file={users}\npool_mode=session\n"
            f"unix_socket_dir=\nmax_client_conn=300\ndefault_pool_size=100\n")
        process = machine.spawn([shutil.which("pgbouncer"), "-q", ini], postgres=True)
        found["pgbouncer"] = (port, process.pid)
    port, admin = free_port(), free_port()
    config = os.path.join(machine.dir, "pgsegue.toml")
    pathlib.Path(config).write_text(CONFIG.format(listen=port, server=machine.port, admin=admin))
    binary = str(ROOT / "target/release/pgsegue")
    process = machine.spawn([binary, "serve", "--config", config])
    found["pgsegue"] = (port, process.pid)
    for port, _ in found.values():
        machine.wait(port)
    subprocess.run([binary, "migration", "start", "hits_v2", "--config", config], check=True,
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
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    machine = Machine()
    try:
        machine.psql(machine.port, TABLES.rsplit(";", 1)[0])
        machine.psql(machine.port, "vacuum analyze")
        found = targets(machine)
        report = {}
        for name, arguments in cases(machine, options.seconds):
            if options.only not in name:
                continue
            seen = {target: [] for target in found}
            for _ in range(options.rounds):
                for target, (port, pid) in found.items():
                    seen[target].append(measure(machine, port, pid, arguments))
            report[name] = seen
            show(name, seen)
        port, pid = found["pgsegue"]
        for name, arguments in mirrored(machine, options.seconds):
            if options.only not in name:
                continue
            seen = [measure(machine, port, pid, arguments) for _ in range(options.rounds)]
            report[name] = {"pgsegue": seen}
            show(name, report[name])
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
