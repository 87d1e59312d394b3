//! The reports of a music shop: tracks, invoices and their lines are migrated at once.

use super::proof::{Lookup, Proof, Report, Shadow, Source};

const DDL: &str = "
    CREATE TABLE artist (id int PRIMARY KEY, name varchar(120) NOT NULL);
    CREATE TABLE album (id int PRIMARY KEY, title varchar(160) NOT NULL,
        artist_id int NOT NULL REFERENCES artist);
    CREATE TABLE genre (id int PRIMARY KEY, name varchar(120));
    CREATE TABLE employee (id int PRIMARY KEY, name text NOT NULL, reports_to int);
    CREATE TABLE customer (id int PRIMARY KEY, name text NOT NULL, email varchar(60) NOT NULL,
        country varchar(40), support_rep_id int REFERENCES employee);
    CREATE TABLE track (id int PRIMARY KEY, title varchar(200) NOT NULL, album_id int,
        genre_id int, legacy text, millis int NOT NULL, size bigint, price numeric(10,2) NOT NULL);
    CREATE INDEX ON track (album_id); CREATE INDEX ON track (title);
    CREATE TABLE invoice (id int PRIMARY KEY, customer_id int NOT NULL, at timestamp NOT NULL,
        country varchar(40), total numeric(10,2) NOT NULL);
    CREATE INDEX ON invoice (customer_id); CREATE INDEX ON invoice (at);
    CREATE TABLE invoice_line (id int PRIMARY KEY, invoice_id int NOT NULL, track_id int NOT NULL,
        price numeric(10,2) NOT NULL, quantity int NOT NULL);
    CREATE INDEX ON invoice_line (invoice_id); CREATE INDEX ON invoice_line (track_id);
    INSERT INTO artist SELECT i, 'artist ' || i FROM generate_series(1, 60) i;
    INSERT INTO album SELECT i, 'album ' || i, i % 55 + 1 FROM generate_series(1, 200) i;
    INSERT INTO genre SELECT i, 'genre ' || i FROM generate_series(1, 12) i;
    INSERT INTO employee VALUES (1, 'boss', NULL), (2, 'ann', 1), (3, 'bob', 1), (4, 'eve', 2);
    INSERT INTO customer SELECT i, 'customer ' || i, 'c' || i || '@example.org',
        (ARRAY['NO', 'DE', NULL, 'US', 'BR'])[i % 5 + 1], i % 3 + 2 FROM generate_series(1, 80) i;
    INSERT INTO track SELECT i, 'track ' || i * 37 % 2000, nullif(i % 201, 0), i % 12 + 1, NULL,
        100000 + i * 7919 % 300000, CASE WHEN i % 9 > 0 THEN i * 12345 END,
        CASE WHEN i % 10 = 0 THEN 1.99 ELSE 0.99 END FROM generate_series(1, 2000) i;
    INSERT INTO invoice SELECT i, i % 77 + 1, timestamp '2024-01-01' + i * interval '17 hours',
        (ARRAY['NO', 'DE', NULL, 'US', 'BR'])[(i % 77 + 1) % 5 + 1], 0
        FROM generate_series(1, 1000) i;
    INSERT INTO invoice_line SELECT i, i % 1000 + 1, i * 31 % 2000 + 1,
        CASE WHEN i % 10 = 0 THEN 1.99 ELSE 0.99 END, i % 3 + 1 FROM generate_series(1, 5000) i;
    UPDATE invoice SET total = (SELECT sum(price * quantity) FROM invoice_line l
        WHERE l.invoice_id = invoice.id);
    ANALYZE";

/// Reordered, renamed, widened; a column is dropped, another is new.
const SHADOWS: &str = "
    CREATE TABLE track_v2 (name varchar(200) NOT NULL, id bigint PRIMARY KEY, price numeric(10,2)
        NOT NULL, duration_ms int NOT NULL, album_id int, size bigint, currency text NOT NULL,
        genre_id smallint);
    CREATE INDEX ON track_v2 (album_id); CREATE INDEX ON track_v2 (name);
    CREATE TABLE invoice_v2 (id bigint PRIMARY KEY, placed_at timestamp NOT NULL, buyer int NOT NULL,
        country varchar(40), total numeric(12,2) NOT NULL);
    CREATE INDEX ON invoice_v2 (buyer); CREATE INDEX ON invoice_v2 (placed_at);
    CREATE TABLE invoice_line_v2 (id bigint PRIMARY KEY, track_id int NOT NULL, invoice_id bigint
        NOT NULL, quantity int NOT NULL, price numeric(10,2) NOT NULL);
    CREATE INDEX ON invoice_line_v2 (invoice_id); CREATE INDEX ON invoice_line_v2 (track_id)";

const TOML: &str = r#"
[[migration]]
name = "track_v2"
source = "public.track"
shadow = "public.track_v2"
key = ["id"]
[migration.columns]
id = "id"
name = "title"
album_id = "album_id"
genre_id = "genre_id"
duration_ms = "millis"
size = "size"
price = "price"
currency = "'EUR'"
[migration.reverse]
genre_id = "genre_id::int"
legacy = "NULL"
[migration.routing]
reads = 100

[[migration]]
name = "invoice_v2"
source = "public.invoice"
shadow = "public.invoice_v2"
key = ["id"]
[migration.columns]
id = "id"
buyer = "customer_id"
placed_at = "at"
country = "country"
total = "total"
[migration.routing]
reads = 100

[[migration]]
name = "line_v2"
source = "public.invoice_line"
shadow = "public.invoice_line_v2"
key = ["id"]
[migration.columns]
id = "id"
invoice_id = "invoice_id"
track_id = "track_id"
price = "price"
quantity = "quantity"
[migration.routing]
reads = 100
"#;

const TRACK: &[&str] = &["track_v2"];
const INVOICE: &[&str] = &["invoice_v2"];
const LINE: &[&str] = &["invoice_line_v2"];

const REPORTS: &[Report] = &[
    ("SELECT * FROM track WHERE id = 17", Lookup(TRACK)),
    ("SELECT t.* FROM track t WHERE t.id IN (3, 5, 8) ORDER BY t.id", Lookup(TRACK)),
    ("SELECT * FROM track WHERE id BETWEEN 100 AND 110 ORDER BY id", Lookup(TRACK)),
    ("SELECT id, title FROM track WHERE id > 1990 ORDER BY id", Lookup(TRACK)),
    ("SELECT id FROM track WHERE id = ANY ('{4,9}'::int[]) ORDER BY 1", Lookup(TRACK)),
    ("SELECT title, millis FROM track WHERE title = 'track 37' ORDER BY id", Lookup(TRACK)),
    ("SELECT id, title FROM track WHERE album_id = 7 ORDER BY title, id", Lookup(TRACK)),
    (
        "SELECT id, legacy FROM track WHERE album_id = 7 AND legacy IS NULL ORDER BY id",
        Lookup(TRACK),
    ),
    ("SELECT * FROM invoice WHERE customer_id = 5 ORDER BY id", Lookup(INVOICE)),
    (
        "SELECT id, total FROM invoice WHERE at >= '2024-02-01' AND at < '2024-02-03' ORDER BY at",
        Lookup(INVOICE),
    ),
    ("SELECT id, at FROM invoice ORDER BY at DESC LIMIT 5", Shadow),
    ("SELECT max(at), min(at) FROM invoice", Shadow),
    ("SELECT count(*), sum(total), avg(total), min(total), max(total) FROM invoice", Shadow),
    (
        "SELECT g.name, count(*), avg(t.millis)::int FROM track t JOIN genre g ON g.id = t.genre_id GROUP BY g.name ORDER BY g.name",
        Shadow,
    ),
    (
        "SELECT ar.name, count(DISTINCT al.id) albums, count(t.id) AS \"Tracks\" FROM artist ar LEFT JOIN album al ON al.artist_id = ar.id LEFT JOIN track t ON t.album_id = al.id GROUP BY ar.id, ar.name ORDER BY ar.id",
        Shadow,
    ),
    (
        "SELECT i.country, to_char(i.at, 'YYYY-MM') AS month, sum(l.price * l.quantity) FROM invoice i JOIN invoice_line l ON l.invoice_id = i.id GROUP BY 1, 2 ORDER BY 1 NULLS FIRST, 2",
        Shadow,
    ),
    (
        "SELECT country, sum(total) FROM invoice GROUP BY ROLLUP (country) ORDER BY country NULLS LAST, 2",
        Shadow,
    ),
    (
        "SELECT country, date_trunc('year', at), sum(total), grouping(country) FROM invoice GROUP BY GROUPING SETS ((country), (date_trunc('year', at)), ()) ORDER BY 1, 2, 3",
        Shadow,
    ),
    (
        "SELECT c.name, (SELECT count(*) FROM invoice WHERE customer_id = c.id) FROM customer c ORDER BY c.id",
        Lookup(INVOICE),
    ),
    (
        "SELECT c.id, c.name FROM customer c WHERE NOT EXISTS (SELECT FROM invoice i WHERE i.customer_id = c.id) ORDER BY c.id",
        Shadow,
    ),
    (
        "SELECT name FROM customer WHERE id IN (SELECT customer_id FROM invoice WHERE total > 20) ORDER BY id",
        Shadow,
    ),
    (
        "SELECT c.id, last.id, last.total FROM customer c LEFT JOIN LATERAL (SELECT i.id, i.total FROM invoice i WHERE i.customer_id = c.id ORDER BY i.at DESC LIMIT 2) last ON true ORDER BY c.id, last.id",
        Shadow,
    ),
    (
        "SELECT * FROM (SELECT genre_id, title, rank() OVER (PARTITION BY genre_id ORDER BY millis DESC, id) AS r FROM track) x WHERE r <= 3 ORDER BY genre_id, r",
        Shadow,
    ),
    (
        "SELECT id, total, sum(total) OVER w, lag(total, 1, 0.0) OVER w, ntile(4) OVER (ORDER BY id) FROM invoice WINDOW w AS (PARTITION BY customer_id ORDER BY at) ORDER BY id",
        Shadow,
    ),
    (
        "SELECT DISTINCT ON (customer_id) customer_id, id, at FROM invoice ORDER BY customer_id, at DESC",
        Shadow,
    ),
    ("SELECT DISTINCT price FROM track ORDER BY price", Shadow),
    (
        "SELECT count(*) FILTER (WHERE price > 1), count(*) FILTER (WHERE size IS NULL) FROM track",
        Shadow,
    ),
    (
        "WITH best AS MATERIALIZED (SELECT track_id, sum(quantity) AS sold FROM invoice_line GROUP BY track_id) SELECT t.title, b.sold FROM best b JOIN track t ON t.id = b.track_id ORDER BY b.sold DESC, t.id LIMIT 10",
        Shadow,
    ),
    (
        "WITH RECURSIVE boss AS (SELECT id, name, 1 AS depth FROM employee WHERE reports_to IS NULL UNION ALL SELECT e.id, e.name, depth + 1 FROM employee e JOIN boss ON e.reports_to = boss.id) SELECT boss.name, depth, count(i.id) FROM boss LEFT JOIN customer c ON c.support_rep_id = boss.id LEFT JOIN invoice i ON i.customer_id = c.id GROUP BY boss.id, boss.name, depth ORDER BY boss.id",
        Shadow,
    ),
    (
        "SELECT id FROM track WHERE price > 1 EXCEPT SELECT track_id FROM invoice_line ORDER BY 1",
        Shadow,
    ),
    (
        "(SELECT title FROM track WHERE id < 4) UNION (SELECT title FROM track WHERE id < 6) ORDER BY title",
        Shadow,
    ),
    (
        "SELECT id FROM track INTERSECT ALL SELECT track_id FROM invoice_line WHERE quantity = 3 ORDER BY id LIMIT 20",
        Shadow,
    ),
    (
        "SELECT a.id, b.id FROM track a, track b WHERE a.id = 10 AND b.album_id = a.album_id ORDER BY 1, 2",
        Lookup(TRACK),
    ),
    (
        "SELECT t.title, x.n FROM track t CROSS JOIN generate_series(1, 2) AS x(n) WHERE t.id = 4 ORDER BY n",
        Lookup(TRACK),
    ),
    (
        "SELECT title AS \"Title of it\", price * 2 AS \"price\", millis / 1000 FROM track WHERE id = 12",
        Lookup(TRACK),
    ),
    (
        "SELECT CASE WHEN millis > 250000 THEN 'long' ELSE 'short' END AS l, count(*) FROM track GROUP BY l ORDER BY l",
        Shadow,
    ),
    (
        "SELECT coalesce(c.country, '?'), sum(i.total) FROM invoice i JOIN customer c ON c.id = i.customer_id GROUP BY 1 HAVING sum(i.total) > 10 ORDER BY 2 DESC, 1",
        Shadow,
    ),
    (
        "SELECT id, ARRAY(SELECT l.track_id FROM invoice_line l WHERE l.invoice_id = 5 ORDER BY l.id) FROM invoice WHERE id = 5",
        Lookup(INVOICE),
    ),
    (
        "SELECT json_agg(title ORDER BY id), array_agg(id ORDER BY id DESC), string_agg(title, ',' ORDER BY id) FROM track WHERE album_id = 9",
        Lookup(TRACK),
    ),
    ("SELECT count(*) FROM invoice_line WHERE invoice_id = 77", Lookup(LINE)),
    // By a widened key: joined, in order.
    (
        "SELECT l.* FROM invoice i JOIN invoice_line l ON l.invoice_id = i.id WHERE i.id = 77 ORDER BY l.id",
        Lookup(&["invoice_v2", "invoice_line_v2"]),
    ),
    (
        "SELECT i.id, l.quantity FROM invoice i LEFT JOIN invoice_line l ON i.id = l.invoice_id WHERE i.id IN (3, 5) ORDER BY i.id, l.id",
        Lookup(&["invoice_v2", "invoice_line_v2"]),
    ),
    ("SELECT * FROM track ORDER BY id LIMIT 3", Shadow),
    (
        "SELECT t.id, t.title FROM track t WHERE t.price > 1 ORDER BY t.id DESC LIMIT 10 OFFSET 5",
        Shadow,
    ),
    ("SELECT max(id) FROM invoice", Shadow),
    (
        "SELECT c.name, i.* FROM customer c JOIN invoice i ON i.customer_id = c.id WHERE c.id = 9 ORDER BY i.id",
        Lookup(INVOICE),
    ),
    (
        "SELECT t.title FROM invoice_line l JOIN track t ON t.id = l.track_id WHERE l.invoice_id = 12 ORDER BY l.id",
        Lookup(&["track_v2", "invoice_line_v2"]),
    ),
    // The source's.
    (
        "SELECT id, title FROM track GROUP BY id ORDER BY id LIMIT 3",
        Source("must appear in the GROUP BY"),
    ),
    ("SELECT * FROM track TABLESAMPLE SYSTEM (100) WHERE id = 1", Source("TABLESAMPLE")),
    ("SELECT track FROM track WHERE id = 1", Source("whole-row")),
    ("SELECT id FROM track ORDER BY random() LIMIT 0", Source("random()")),
    ("SELECT id FROM invoice WHERE id = 1 FOR SHARE", Source("locking")),
    ("SELECT id FROM ONLY invoice WHERE id = 1", Source("")),
];

#[tokio::test]
async fn the_reports_of_a_music_shop_with_three_migrations_are_the_same() {
    let proof = Proof::new(DDL, SHADOWS, TOML, &["track_v2", "invoice_v2", "line_v2"]).await;
    proof.holds(REPORTS).await;
}
