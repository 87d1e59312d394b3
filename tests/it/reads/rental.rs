//! The reports of a film rental: payments in partitions, and columns of every kind of type.

use super::proof::{Lookup, Proof, Report, Shadow, Source};

const DDL: &str = r#"
    CREATE TYPE rating AS ENUM ('G', 'PG', 'R');
    CREATE DOMAIN year AS int CHECK (VALUE BETWEEN 1901 AND 2155);
    CREATE TYPE size AS (w int, h int);
    CREATE TABLE film (id int PRIMARY KEY, title varchar(100) NOT NULL, "Release Year" year,
        rate numeric(4,2) NOT NULL, minutes smallint, rating rating, features text[], code char(6),
        flags bit(4), kept interval day to second(0), at timestamptz(3), doc json, docb jsonb, screen size,
        sort text COLLATE "C", ok boolean, mark "char", ref uuid, raw bytea, span int4range, price money,
        words tsvector GENERATED ALWAYS AS (to_tsvector('simple', title)) STORED);
    CREATE INDEX ON film (title); CREATE INDEX ON film USING gin (words); CREATE INDEX ON film ((lower(sort)));
    INSERT INTO film SELECT i, 'film ' || i, 1950 + i % 70, i % 5 + 0.99, i % 120 + 60,
        (ARRAY['G', 'PG', 'R', NULL])[i % 4 + 1]::rating, ARRAY['a' || i % 3, NULL, 'b,"c'], 'c' || i % 9,
        (i % 16)::bit(4), i * interval '1 hour 3 seconds', timestamptz '2024-01-01 UTC' + i * interval '1 day',
        format('{"a": %s,  "b": [1.0]}', i)::json, format('{"a": %s, "b": [1.0]}', i)::jsonb,
        ROW(i, NULL)::size, chr(65 + i % 50), i % 3 > 0, 'x', md5(i::text)::uuid,
        decode(md5(i::text), 'hex'), int4range(i, i + 5), i::money
        FROM generate_series(1, 1000) i;
    CREATE TABLE inventory (id int PRIMARY KEY, film_id int NOT NULL, store int NOT NULL);
    CREATE INDEX ON inventory (film_id);
    INSERT INTO inventory SELECT i, i % 1000 + 1, i % 2 + 1 FROM generate_series(1, 2000) i;
    CREATE TABLE rental (id int PRIMARY KEY, inventory_id int NOT NULL, customer_id int NOT NULL,
        "out" timestamp(0) NOT NULL, back timestamp(0));
    CREATE INDEX ON rental (customer_id); CREATE INDEX ON rental (inventory_id);
    INSERT INTO rental SELECT i, i * 7 % 2000 + 1, i % 150 + 1, timestamp '2024-01-01' + i * interval '3 hours',
        CASE WHEN i % 11 > 0 THEN timestamp '2024-01-03' + i * interval '3 hours' END
        FROM generate_series(1, 3000) i;
    CREATE TABLE payment (id int, paid timestamp NOT NULL, rental_id int, amount numeric(5,2) NOT NULL,
        PRIMARY KEY (id, paid)) PARTITION BY RANGE (paid);
    CREATE TABLE payment_a PARTITION OF payment FOR VALUES FROM ('2024-01-01') TO ('2024-07-01');
    CREATE TABLE payment_b PARTITION OF payment FOR VALUES FROM ('2024-07-01') TO ('2026-01-01');
    CREATE INDEX ON payment (rental_id);
    INSERT INTO payment SELECT i, timestamp '2024-01-02' + i * interval '3 hours', i, i % 7 + 0.99
        FROM generate_series(1, 3000) i;
    ANALYZE"#;

const SHADOWS: &str = r#"
    CREATE TABLE film_v2 (sort text COLLATE "und-x-icu", span int4range, price money, raw bytea, ref uuid, mark "char",
        ok boolean, screen size, docb jsonb, doc json, at timestamptz(3), kept interval day to second(0), flags bit(4),
        code char(6), features text[], rating rating, minutes int, rate numeric(4,2), released year,
        name varchar(100), id bigint PRIMARY KEY, words tsvector);
    CREATE INDEX ON film_v2 (name); CREATE INDEX ON film_v2 USING gin (words); CREATE INDEX ON film_v2 ((lower(sort)));
    CREATE TABLE rental_v2 (id bigint PRIMARY KEY, item bigint NOT NULL, customer int NOT NULL,
        back timestamp(0), "out" timestamp(0) NOT NULL, late boolean);
    CREATE INDEX ON rental_v2 (customer); CREATE INDEX ON rental_v2 (item);
    CREATE TABLE payment_v2 (paid_at timestamp NOT NULL, cents bigint NOT NULL, id bigint, rental bigint,
        PRIMARY KEY (id, paid_at));
    CREATE INDEX ON payment_v2 (rental); CREATE INDEX ON payment_v2 (paid_at)"#;

const TOML: &str = r#"
[[migration]]
name = "film_v2"
source = "public.film"
shadow = "public.film_v2"
key = ["id"]
[migration.columns]
id = "id"
name = "title"
released = "\"Release Year\""
rate = "rate"
minutes = "minutes"
rating = "rating"
features = "features"
code = "code"
flags = "flags"
kept = "kept"
at = "at"
doc = "doc"
docb = "docb"
screen = "screen"
words = "words"
sort = "sort"
ok = "ok"
mark = "mark"
ref = "ref"
raw = "raw"
span = "span"
price = "price"
[migration.routing]
reads = 100

[[migration]]
name = "rental_v2"
source = "public.rental"
shadow = "public.rental_v2"
key = ["id"]
[migration.columns]
id = "id"
item = "inventory_id"
customer = "customer_id"
out = "\"out\""
back = "back"
late = "back IS NULL"
[migration.routing]
reads = 100

[[migration]]
name = "payment_v2"
source = "public.payment"
shadow = "public.payment_v2"
key = ["id", "paid"]
[migration.columns]
id = "id"
paid_at = "paid"
rental = "rental_id"
cents = "(amount * 100)::bigint"
[migration.reverse]
amount = "cents / 100.0"
[migration.routing]
reads = 100
"#;

const FILM: &[&str] = &["film_v2"];
const RENTAL: &[&str] = &["rental_v2"];

const REPORTS: &[Report] = &[
    ("SELECT * FROM film WHERE id = 7", Lookup(FILM)),
    ("TABLE film ORDER BY title LIMIT 2", Shadow),
    ("SELECT f.* FROM film f WHERE f.title = 'film 9'", Lookup(FILM)),
    (
        "SELECT \"Release Year\", \"film\".\"title\" AS \"Title \"\" quoted\" FROM \"public\".\"film\" WHERE id = 3",
        Lookup(FILM),
    ),
    ("SELECT rating, count(*) FROM film GROUP BY rating ORDER BY rating NULLS FIRST", Shadow),
    (
        "SELECT id, features[1], features || ARRAY['x'], cardinality(features) FROM film WHERE id < 4 ORDER BY id",
        Lookup(FILM),
    ),
    (
        "SELECT doc ->> 'a', docb -> 'b', doc::text, docb #>> '{b,0}' FROM film WHERE id = 12",
        Lookup(FILM),
    ),
    ("SELECT id FROM film WHERE docb @> '{\"a\": 77}'", Shadow),
    ("SELECT id FROM film WHERE words @@ to_tsquery('simple', '42') ORDER BY id", Shadow),
    ("SELECT (screen).w, (screen).h, screen FROM film WHERE id = 5", Lookup(FILM)),
    (
        "SELECT code, code || '|', octet_length(code), flags, kept, at, price, raw, ref, mark, span FROM film WHERE id IN (1, 2) ORDER BY id",
        Lookup(FILM),
    ),
    ("SELECT sort, id FROM film WHERE id < 60 ORDER BY sort, id", Lookup(FILM)),
    ("SELECT min(sort), max(sort), max(rate), sum(rate), avg(minutes) FROM film", Shadow),
    ("SELECT id FROM film WHERE sort > 'Z' AND ok ORDER BY id LIMIT 9", Shadow),
    (
        "SELECT id, kept * 2, at + kept, extract(hour FROM kept), date_trunc('month', at) FROM film WHERE id = 30",
        Lookup(FILM),
    ),
    ("SELECT title FROM film WHERE \"Release Year\" = 1960 AND rating = 'PG' ORDER BY id", Shadow),
    (
        "SELECT f.title, count(*) AS rented FROM film f JOIN inventory i ON i.film_id = f.id JOIN rental r ON r.inventory_id = i.id GROUP BY f.id, f.title ORDER BY rented DESC, f.id LIMIT 10",
        Shadow,
    ),
    ("SELECT * FROM film NATURAL JOIN (SELECT 4 AS id) x", Source("looked up")),
    ("SELECT * FROM rental JOIN inventory USING (id) WHERE id = 8 ORDER BY 1", Source("looked up")),
    (
        "SELECT r.* FROM rental r WHERE r.customer_id = 5 ORDER BY r.\"out\" DESC, r.id",
        Lookup(RENTAL),
    ),
    (
        "SELECT r.id, f.title FROM rental r JOIN inventory i ON r.inventory_id = i.id JOIN film f ON i.film_id = f.id WHERE r.id = 44",
        Lookup(&["rental_v2", "film_v2"]),
    ),
    (
        "SELECT i.id FROM inventory i WHERE NOT EXISTS (SELECT 1 FROM rental r WHERE r.inventory_id = i.id AND r.back IS NULL) AND i.film_id = 3 ORDER BY 1",
        Shadow,
    ),
    ("SELECT * FROM rental WHERE back IS NULL AND customer_id = 33 ORDER BY id", Lookup(RENTAL)),
    (
        "SELECT customer_id, max(id), min(\"out\") FROM rental GROUP BY customer_id ORDER BY customer_id LIMIT 5",
        Shadow,
    ),
    ("SELECT max(id), min(id) FROM rental", Shadow),
    ("SELECT id FROM rental ORDER BY id DESC LIMIT 1", Shadow),
    ("SELECT count(*), sum(amount) FROM payment", Shadow),
    ("SELECT * FROM payment WHERE id = 12 ORDER BY paid", Lookup(&["payment_v2"])),
    ("SELECT * FROM payment WHERE paid = '2024-03-01 00:00'", Lookup(&["payment_v2"])),
    (
        "SELECT date_trunc('month', paid) AS m, sum(amount), count(*) FROM payment GROUP BY m ORDER BY m",
        Shadow,
    ),
    (
        "SELECT p.amount, r.customer_id FROM payment p JOIN rental r ON p.rental_id = r.id WHERE r.customer_id = 9 ORDER BY p.id",
        Shadow,
    ),
    (
        "SELECT r.id, p.amount FROM rental r LEFT JOIN LATERAL (SELECT amount FROM payment p WHERE p.rental_id = r.id ORDER BY p.id LIMIT 1) p ON true WHERE r.id BETWEEN 10 AND 12 ORDER BY r.id",
        Shadow,
    ),
    (
        "SELECT a.id FROM rental a FULL JOIN payment b ON a.id = b.rental_id WHERE a.id IS NULL OR b.id IS NULL ORDER BY 1",
        Shadow,
    ),
    (
        "SELECT id, sum(amount) OVER (PARTITION BY date_trunc('month', paid) ORDER BY paid, id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM payment ORDER BY id LIMIT 20",
        Shadow,
    ),
    (
        "WITH late AS (SELECT customer_id, count(*) n FROM rental WHERE back IS NULL GROUP BY 1) SELECT n, count(*) FROM late GROUP BY n ORDER BY n",
        Shadow,
    ),
    (
        "SELECT id FROM film WHERE id = 1 UNION ALL SELECT id FROM rental WHERE id = 2 UNION ALL SELECT id::int FROM payment WHERE id = 3 ORDER BY 1",
        Shadow,
    ),
    ("SELECT (VALUES (1)), id FROM film WHERE id = 3", Lookup(FILM)),
    (
        "SELECT \"public\".\"film\".\"id\" FROM \"public\".\"film\" WHERE \"public\".\"film\".\"id\" = 3",
        Lookup(FILM),
    ),
    (
        "SELECT \"public\".\"film\".\"id\", \"film\".\"title\" FROM \"public\".\"film\", (SELECT 5 AS a) \"x\" WHERE \"public\".\"film\".\"id\" = \"x\".\"a\" ORDER BY \"public\".\"film\".\"title\"",
        Lookup(FILM),
    ),
    (
        "SELECT public.film.*, public.rental.back FROM public.film JOIN public.rental ON public.rental.id = public.film.id WHERE public.film.id = 9",
        Lookup(FILM),
    ),
    (
        "SELECT public.film.features[1], film.features[2:3], f.features[1] FROM film, public.film f WHERE public.film.id = 3 AND f.id = 4",
        Lookup(FILM),
    ),
    (
        "SELECT 1 FROM public.film WHERE id = 3 AND EXISTS (SELECT FROM inventory film WHERE public.film.id = film.film_id)",
        Source("next to another table of that name"),
    ),
    (
        "SELECT tableoid::regclass::text, count(*) FROM payment GROUP BY 1 ORDER BY 1",
        Source("system column"),
    ),
    ("SELECT f IS NOT NULL, f.id FROM film f WHERE id = 3", Source("whole-row")),
    ("SELECT to_jsonb(f) FROM film f WHERE id = 3", Source("whole-row")),
    ("SELECT id, clock_timestamp() IS NULL FROM film WHERE id = 3", Source("clock_timestamp")),
];

#[tokio::test]
async fn the_reports_of_a_film_rental_with_partitions_and_every_type_are_the_same() {
    let names = ["film_v2", "rental_v2", "payment_v2"];
    Proof::new(DDL, SHADOWS, TOML, &names).await.holds(REPORTS).await;
}
