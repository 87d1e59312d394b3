"""Runs the steps with psycopg and prints everything that came back, one JSON line per result.

Arguments: connection string, steps.json, prepare_threshold ("default" or a number).
"""

import datetime as dt
import decimal
import json
import sys
import uuid

import psycopg
from psycopg.types.json import Jsonb

conninfo, steps, threshold = sys.argv[1:]
options = {} if threshold == "default" else {"prepare_threshold": int(threshold)}
conn = psycopg.connect(conninfo, autocommit=True, **options)
notices = []
conn.add_notice_handler(lambda n: notices.append([n.sqlstate, n.message_primary]))
# What has another number in each database is shown by name: tables and their row types.
tables = dict(conn.execute(
    "SELECT oid::int8, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"))
types = dict(conn.execute(
    "SELECT oid::int8, typname FROM pg_type WHERE typnamespace = 'public'::regnamespace"))


def show(what, value):
    print(json.dumps([what, value, conn.info.transaction_status.name, notices], default=repr))
    notices.clear()


def result(cursor, unordered=False):
    raw = cursor.pgresult
    columns = None
    if cursor.description:
        columns = [
            [c.name, types.get(c.type_code, c.type_code), raw.fmod(i), raw.fsize(i), raw.fformat(i),
             tables.get(raw.ftable(i), raw.ftable(i)), raw.ftablecol(i)]
            for i, c in enumerate(cursor.description)
        ]
    rows = [list(map(repr, row)) for row in cursor.fetchall()] if columns else None
    if rows and unordered:
        rows.sort()
    return [cursor.statusmessage, cursor.rowcount, columns, rows]


def results(cursor, unordered=False):
    found = [result(cursor, unordered)]
    while cursor.nextset():
        found.append(result(cursor))
    return found


def is_unordered(sql):
    """Rows of a table come in the order of their places in it, which vacuum changes."""
    return sql.startswith(("UPDATE", "DELETE"))


def error(e):
    d = e.diag
    return [type(e).__name__, d.sqlstate, d.severity, d.message_primary, d.message_detail,
            d.message_hint, d.statement_position, d.internal_position, d.internal_query, d.context,
            d.schema_name, d.table_name, d.column_name, d.constraint_name]


def attempt(what, action):
    try:
        show(what, action())
    except psycopg.Error as e:
        show(what, error(e))


for step in json.load(open(steps)):
    for _ in range(step.get("repeat", 1)):
        for binary in [False, True] if step["sql"].startswith("SELECT") else [False]:
            cursor = psycopg.RawCursor(conn)
            prepare = False if step.get("simple") else None
            attempt(step["sql"], lambda: results(
                cursor.execute(step["sql"], step.get("params"), prepare=prepare, binary=binary),
                is_unordered(step["sql"])))

# Python's own types, by both formats of parameters.
values = (decimal.Decimal("77.70"), uuid.UUID(int=5), Jsonb({"a": [1, {"b": None}]}),
          dt.datetime(2023, 5, 6, 7, 8, 9, 123456, dt.timezone.utc), b"\x00\x01\xfe",
          ["ä", None, '"'], [1, None, -3], True, "naïve")
for form in ["s", "t", "b"]:
    sql = ("INSERT INTO items (sku, price, tag, doc, at, raw, labels, nums, flag, note) VALUES "
           f"('py-{form}'," + ", ".join([f"%{form}"] * 9) + ") RETURNING *")
    for _ in range(2):
        attempt(sql, lambda: results(conn.execute(sql, values, binary=form == "b")))
    sql = f"SELECT * FROM items WHERE tag = %{form} AND price > %{form} ORDER BY id"
    attempt(sql, lambda: results(conn.execute(sql, (values[1], values[0] - 1), binary=True)))

# Many at once, with and without results.
cursor = conn.cursor()
attempt("executemany", lambda: [cursor.executemany(
    "INSERT INTO items (sku, qty) VALUES (%s, %s)", [(f"many-{i}", i) for i in range(20)]),
    cursor.rowcount])
attempt("executemany returning", lambda: [cursor.executemany(
    "UPDATE items SET qty = qty + 1 WHERE sku = %s RETURNING sku, qty",
    [(f"many-{i}",) for i in range(5)], returning=True), results(cursor)])
attempt("executemany that fails", lambda: cursor.executemany(
    "INSERT INTO items (sku, qty) VALUES (%s, %s)", [("e1", 1), ("e2", -1), ("e3", 1)]))

# A pipeline: many statements sent before the first answer is read.
def pipeline():
    with conn.pipeline():
        cursors = [conn.cursor() for _ in range(6)]
        cursors[0].execute("INSERT INTO items (sku) VALUES ('pipe') RETURNING id")
        cursors[1].execute("SELECT sku, qty FROM items WHERE sku = %s", ("pipe",))
        cursors[2].execute("UPDATE items SET qty = %s WHERE sku = 'pipe'", (5,))
        cursors[3].execute("SELECT sku, qty FROM items WHERE sku = %s", ("pipe",))
        cursors[4].execute("DELETE FROM items WHERE sku = %s RETURNING qty", ("pipe",))
        cursors[5].execute("SELECT name FROM other ORDER BY id")
        return [result(c) for c in cursors]

def pipeline_that_fails():
    with conn.pipeline() as p:
        first, second, third = conn.cursor(), conn.cursor(), conn.cursor()
        first.execute("INSERT INTO items (sku) VALUES ('pipe2') RETURNING sku")
        p.sync()
        second.execute("INSERT INTO items (sku) VALUES ('a')")
        third.execute("INSERT INTO items (sku) VALUES ('pipe3')")

attempt("pipeline", pipeline)
attempt("pipeline that fails", pipeline_that_fails)
attempt("after it", lambda: results(conn.execute("SELECT sku FROM items WHERE sku LIKE 'pipe%' ORDER BY 1")))

# Nested transactions, and a cursor at the server.
conn.autocommit = False
def nested():
    with conn.transaction():
        conn.execute("UPDATE items SET qty = 1 WHERE id = 46")
        try:
            with conn.transaction():
                conn.execute("UPDATE items SET qty = 2 WHERE id = 47")
                conn.execute("INSERT INTO items (sku) VALUES ('a')")
        except psycopg.errors.UniqueViolation as e:
            show("inner", error(e))
        with conn.transaction():
            conn.execute("DELETE FROM items WHERE id = 48")
        return results(conn.execute("SELECT id, qty FROM items WHERE id BETWEEN 46 AND 48 ORDER BY id"))
attempt("nested", nested)

def server_side():
    with conn.transaction(), conn.cursor("at_server") as c:
        c.itersize = 7
        c.execute("SELECT id, sku, price FROM items WHERE id > %s ORDER BY id", (3,))
        names = [d.name for d in c.description]
        return [names, [list(map(repr, row)) for row in c]]
attempt("cursor at the server", server_side)

# What a statement would give, without running it.
for sql in ["SELECT * FROM items WHERE id = $1", "UPDATE items SET qty = $1 WHERE sku = $2 RETURNING id, note",
            "DELETE FROM items WHERE tag = $1", "INSERT INTO pairs VALUES ($1, $2, $3)"]:
    conn.pgconn.prepare(b"d", sql.encode())
    d = conn.pgconn.describe_prepared(b"d")
    show("describe " + sql, [[d.param_type(i) for i in range(d.nparams)],
         [[d.fname(i).decode(), d.ftype(i), d.fmod(i), tables.get(d.ftable(i), d.ftable(i)),
           d.ftablecol(i)] for i in range(d.nfields)]])
    conn.execute("DEALLOCATE d")
conn.commit()
attempt("at the end", lambda: results(conn.execute("SELECT * FROM items ORDER BY id")))
attempt("at the end", lambda: results(conn.execute("SELECT * FROM pairs ORDER BY a, b")))
# Nobody can say what this would do, so the proxy must expect that it writes: last.
attempt("no statement", lambda: results(conn.execute("SELEC * FROM items")))
