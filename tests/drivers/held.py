"""Holds one connection with prepared statements. For each line on standard input, a number, it
does one round of work and prints what it saw as a JSON line.

Argument: connection string.
"""

import json
import sys

import psycopg

conn = psycopg.connect(sys.argv[1], autocommit=True, prepare_threshold=0)
READ = "SELECT id, user_id, total, note FROM orders WHERE id = %s"


def rows(sql, *parameters):
    cursor = conn.execute(sql, parameters)
    assert cursor.pgresult is not None
    return [list(row) for row in cursor.fetchall()]


for line in sys.stdin:
    new = int(line)
    print(json.dumps([
        rows(READ, 1),
        rows("UPDATE orders SET total = total + %s WHERE id = %s RETURNING total", 3, 1),
        rows(READ, 1),
        rows("INSERT INTO orders VALUES (%s, 7, %s, NULL) RETURNING id, note", new, new),
        rows(READ, new),
        rows("DELETE FROM orders WHERE id = %s RETURNING total", new - 1),
        rows(READ, new - 1),
        rows("SELECT count(*) FROM orders WHERE id = ANY(%s)", [1, new, new - 1]),
    ]), flush=True)
