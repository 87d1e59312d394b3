//! Every form of a write on a migrated table, by every protocol: the client sees what it would see
//! without the proxy, and the shadow follows.

mod casts;
mod control;
mod copy;
mod ddl;
mod executed;
mod fields;
mod gone;
mod inherited;
mod inside;
mod keys;
mod marked;
mod names;
mod newer;
mod partitions;
mod portals;
mod prepare;
mod protocol;
mod session;
mod settings;
mod several;
mod shared_names;
mod stale;
mod texts;
mod through;
mod truncate;
mod two_phase;
mod unclassified;
mod unreadable;
mod within;

use crate::live::{Live, ORDERS, ORDERS_TABLE, Pair};

const FORMS: &[&str] = &[
    "INSERT INTO orders VALUES (11, 1, 5, 'x', 'e11')",
    "INSERT INTO orders (id, user_id) VALUES (12, 1), (13, 2), (14, 3)",
    "INSERT INTO orders (user_id, id, note) SELECT user_id, id + 100, note FROM orders WHERE id < 4",
    "INSERT INTO orders SELECT id + 200, 0, 0, NULL FROM generate_series(1, 3) AS id RETURNING id, note",
    "INSERT INTO orders DEFAULT VALUES",
    "INSERT INTO orders VALUES (1, 1, 1, 'again')",
    "INSERT INTO orders VALUES (1, 1, 1, 'again') ON CONFLICT DO NOTHING",
    "INSERT INTO orders VALUES (1, 1, 1), (300, 3, 3) ON CONFLICT (id) DO NOTHING RETURNING *",
    "INSERT INTO orders VALUES (1, 1, 1) ON CONFLICT ON CONSTRAINT orders_pkey DO NOTHING RETURNING id",
    "INSERT INTO orders AS o VALUES (2, 9, 9) ON CONFLICT (id) DO UPDATE SET total = o.total + excluded.total",
    "INSERT INTO orders AS o VALUES (2, 9, 9) ON CONFLICT (id) DO UPDATE SET (total, note) = (1, 'tuple') \
     WHERE o.total > 1000 RETURNING o.id, o.total",
    "INSERT INTO orders VALUES (3, 9, 9), (301, 9, 9) ON CONFLICT (id) DO UPDATE SET total = excluded.total \
     WHERE orders.total < 1000 RETURNING orders.id, total, (SELECT count(*) FROM other)",
    "INSERT INTO orders VALUES (302, 9, 9, 'x', 'e4') ON CONFLICT (email) DO UPDATE SET note = 'by email'",
    "INSERT INTO orders VALUES (5, 9, 9), (5, 9, 9) ON CONFLICT (id) DO UPDATE SET note = 'twice'",
    "UPDATE orders SET total = total + 1",
    "UPDATE orders SET total = total + 1 WHERE id = 5",
    "UPDATE orders SET total = 1 WHERE false",
    "UPDATE orders SET total = 1 WHERE id = 99999 RETURNING *",
    "UPDATE orders SET note = note",
    "UPDATE orders SET note = NULL, email = NULL WHERE id IN (1, 2) RETURNING note, email, id",
    "UPDATE orders SET total = DEFAULT WHERE id = 3 RETURNING total",
    "UPDATE orders SET user_id = NULL WHERE id = 3",
    "UPDATE ONLY orders SET total = 4 WHERE id = 4",
    "UPDATE orders * SET total = 4 WHERE id = 4",
    "UPDATE orders o SET total = other.id FROM other WHERE other.orders_id = o.id",
    "UPDATE orders AS o SET note = other.note FROM other JOIN other b USING (id) WHERE other.orders_id = o.id \
     RETURNING o.*, other.id, b.note",
    "UPDATE orders o SET total = p.total + 1 FROM orders p WHERE p.id = o.id - 1 RETURNING o.id, p.id",
    "UPDATE orders SET (total, note) = (SELECT id, note FROM other WHERE other.orders_id = orders.id) WHERE id = 2",
    "UPDATE orders SET (total, note) = ROW (8, 'row') WHERE id = 2 RETURNING *",
    "UPDATE orders SET total = total / (id - 3)",
    "UPDATE orders SET nothing = 1",
    "UPDATE orders SET total = 'abc' WHERE id = 1",
    "UPDATE orders SET total = total + nowhere WHERE id = 1",
    "UPDATE orders SET email = 'e5' WHERE id = 6",
    "UPDATE orders SET total = 1 WHERE id = 1 RETURNING id, nowhere",
    "DELETE FROM orders WHERE id = 10",
    "DELETE FROM orders WHERE id = 10 RETURNING *",
    "DELETE FROM orders AS o USING other WHERE other.orders_id = o.id AND other.id = 4 RETURNING o.id, other.*",
    "DELETE FROM orders o USING orders p WHERE o.id = p.id + 1 AND p.id = 6",
    "DELETE FROM orders WHERE id IN (SELECT orders_id FROM other WHERE id = 1) RETURNING id * 2 AS double",
    "DELETE FROM orders WHERE total / (id - 3) > 1",
    "UPDATE orders SET total = 77 WHERE id = 8 RETURNING id, id, total AS id, 'lit' AS id",
    "UPDATE orders SET total = 77 WHERE id = 8 RETURNING total + 1, upper(note), now() > '2000-01-01', NULL, 1.50",
    "UPDATE orders o SET total = 78 WHERE id = 8 RETURNING o, o.*, (o).note, orders_to_text(o)",
    "UPDATE orders SET total = 78 WHERE id = 8 RETURNING orders, orders.*",
    "UPDATE orders SET total = 79 WHERE id = 8 RETURNING ctid IS NULL, tableoid::regclass::text, xmax::text = '0'",
    "UPDATE orders SET total = 79 WHERE id = 8 RETURNING (SELECT max(total) FROM orders), \
     (SELECT note FROM other WHERE other.id = 1)",
    "UPDATE orders SET total = 79 WHERE id = 8 RETURNING EXISTS (SELECT 1 FROM other o WHERE o.id = orders.id)",
    "UPDATE orders SET total = 79 WHERE id = 8 RETURNING id AS k, note AS c, total AS n, 1 AS d",
    "INSERT INTO orders AS w VALUES (400, 1, 1) RETURNING w, w.id, w.*",
    "UPDATE orders AS id SET total = 1 WHERE id.id = 7 RETURNING id, id.id, id.*",
    "UPDATE orders AS note SET total = 1 WHERE note.id = 7 RETURNING note, note.note",
    "UPDATE orders AS count SET total = 1 WHERE count.id = 7 RETURNING count.id, count.*",
    "WITH x AS (SELECT 5 AS id) UPDATE orders SET total = 55 FROM x WHERE x.id = orders.id RETURNING x.id, total",
    "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 3) \
     INSERT INTO orders SELECT n + 500, n, n FROM x",
    "WITH w AS (SELECT 4 AS id), k AS MATERIALIZED (SELECT 5) DELETE FROM orders USING w WHERE w.id = orders.id",
    "INSERT INTO orders WITH x AS (SELECT 600 AS id) SELECT id, 1, 1 FROM x RETURNING id",
    "/* a */ UPDATE /* b */ orders /* c */ SET total = 3 /* d */ WHERE id = 8 /* e */ RETURNING /* f */ id /* g */",
    "UPDATE orders SET total = 3 WHERE id = 8 -- the end",
    "UPDATE orders SET total = 3 WHERE id = 8 -- RETURNING nothing\n RETURNING id -- the end",
    "UPDATE orders SET total = 3 WHERE id = 8;",
    "UPDATE orders SET total = 3 WHERE id = 8 ; -- the end",
    ";;UPDATE orders SET total = 3 WHERE id = 8;;",
    "UPDATE orders SET note = 'UPDATE orders SET; -- x' WHERE id = 8 RETURNING note",
    "UPDATE orders SET note = $$orders '; returning$$ WHERE id = 8 RETURNING note",
    "UPDATE orders SET note = E'or\\'ders' || U&'\\0041' WHERE id = 8 RETURNING note",
    "update ORDERS set TOTAL = 4 where ID = 8 returning Total",
    "UPDATE public.orders SET total = 5 WHERE public.orders.id = 8 RETURNING orders.id",
    "UPDATE public.orders SET total = 5 WHERE id = 8 RETURNING public.orders.id",
    "UPDATE \"public\".\"orders\" SET \"total\" = 6 WHERE \"id\" = 8",
    "INSERT INTO \"public\".\"orders\" (\"id\",\"user_id\",\"total\") VALUES (811,1,2) RETURNING \"public\".\"orders\".\"id\", \
     \"public\".\"orders\".\"total\"",
    "INSERT INTO public.orders VALUES (812, 1, 2), (5, 1, 2) ON CONFLICT (id) DO UPDATE SET total = \
     public.orders.total + 1 WHERE (public.orders.id = 5 AND 1=1) RETURNING public.orders.*",
    "UPDATE \"public\".\"orders\" SET \"total\" = (\"public\".\"orders\".\"total\" + 1) WHERE \
     (\"public\".\"orders\".\"id\" IN (3,4) AND 1=1) RETURNING \"public\".\"orders\".\"note\", \"public\".\"orders\".*",
    "WITH w AS (UPDATE public.orders SET total = 1 WHERE public.orders.id = 5 RETURNING public.orders.id, \
     public.orders.total) SELECT w.id, total FROM w",
    "DELETE FROM \"public\".\"orders\" WHERE (\"public\".\"orders\".\"id\" IN (7,8) AND 1=1) \
     RETURNING public.orders.email",
    "DELETE FROM public.orders o WHERE public.orders.id = 7",
    "UPDATE orders SET total = 1 WHERE note IS DISTINCT FROM 'note 8' AND id < 5",
    "UPDATE orders SET total = 1 WHERE id = ANY (ARRAY[1, 2]) OR id BETWEEN 4 AND 5",
    "UPDATE orders SET total = extract(year FROM date '2020-01-01') WHERE id = 1 RETURNING total",
    "UPDATE orders SET note = substring('abc' FROM 2 FOR 1) WHERE id = 1 RETURNING trim(both FROM note)",
    "UPDATE orders SET total = (SELECT count(*) FROM orders) WHERE id = 9 RETURNING total",
    "UPDATE orders SET note = CASE WHEN id = 1 THEN 'one' ELSE note END WHERE id < 3",
    "INSERT INTO orders (id, user_id, total) VALUES (701, 1, 1) RETURNING id, (VALUES (1))",
    "INSERT INTO orders (id, user_id, total) VALUES (702, DEFAULT, DEFAULT)",
    "INSERT INTO orders (id, user_id, total) VALUES (703, 1, DEFAULT) RETURNING total",
    "INSERT INTO orders (id) VALUES (1, 2)",
    "INSERT INTO orders (id, user_id) TABLE other",
    "INSERT INTO nowhere SELECT * FROM orders",
    "UPDATE other SET note = (SELECT note FROM orders WHERE orders.id = other.id) RETURNING *",
    "INSERT INTO other SELECT id + 1000, id, 'from orders' FROM orders ORDER BY id",
    "DELETE FROM other USING orders WHERE other.orders_id = orders.id AND orders.id = 9999",
    "UPDATE orders SET total = 1 WHERE",
    "UPDATE orders SET",
    "DELETE orders",
    "INSERT orders VALUES (1)",
    "UPDATE orders SET total = 1 WHERE id = 1 RETURNING",
    "UPDATE orders SET total = 1 RETURNING count(*)",
    "UPDATE orders SET total = 1 WHERE count(*) > 1",
    "UPDATE orders SET total = row_number() OVER ()",
    "UPDATE orders SET total = 1 WHERE id = 1 RETURNING generate_series(1, 2)",
    "UPDATE orders SET total = 99999999999 WHERE id = 1",
    "DELETE FROM orders",
];

#[tokio::test]
async fn every_form_of_a_write_looks_the_same_as_without_the_proxy() {
    let function = "CREATE FUNCTION orders_to_text(orders) RETURNS text IMMUTABLE LANGUAGE sql \
                    AS 'SELECT $1.note || $1.id'";
    let live = Live::orders("", "").await;
    live.db.client.batch_execute(function).await.unwrap();
    let mut pair = Pair::new(&live, &format!("{ORDERS};{function}")).await;
    for sql in FORMS {
        pair.every_way(sql).await;
    }
    let before = live.statements("mirrored", "write");
    assert!(before > 100.0, "only {before} mirrored");
    pair.finish(&live, &[ORDERS_TABLE]).await;
}
