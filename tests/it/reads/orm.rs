//! The statements that object-relational mappers make, in their spelling, with parameters: the
//! shadow answers them, byte for byte.

use crate::live::raw::{bind, describe, execute, parse, sync};
use crate::live::{Live, Pair};

const SHOP: &str = "
    CREATE TABLE users (id serial PRIMARY KEY, email varchar(80) NOT NULL UNIQUE, name text,
        created_at timestamp NOT NULL, active boolean NOT NULL DEFAULT true);
    CREATE TABLE orders (id serial PRIMARY KEY, user_id int NOT NULL REFERENCES users,
        status varchar(20) NOT NULL, total numeric(10, 2), created_at timestamp NOT NULL);
    CREATE INDEX ON orders (user_id);
    CREATE TABLE items (id serial PRIMARY KEY, order_id int NOT NULL, sku varchar(30) NOT NULL, qty int NOT NULL);
    CREATE INDEX ON items (order_id);
    INSERT INTO users SELECT i, 'u' || i || '@example.org', 'user ' || i,
        timestamp '2024-01-01' + i * interval '1 hour', i % 4 > 0 FROM generate_series(1, 300) i;
    INSERT INTO orders SELECT i, i % 300 + 1, (ARRAY['new', 'paid', 'sent'])[i % 3 + 1], i * 1.25,
        timestamp '2024-02-01' + i * interval '1 minute' FROM generate_series(1, 1500) i;
    INSERT INTO items SELECT i, i % 1500 + 1, 'sku' || i % 40, i % 5 + 1 FROM generate_series(1, 4000) i;
    ANALYZE";

const SHADOWS: &str = "
    CREATE TABLE users_v2 (created_at timestamp NOT NULL, id bigint PRIMARY KEY, mail varchar(80) NOT NULL UNIQUE,
        name text, active boolean NOT NULL);
    CREATE TABLE orders_v2 (id bigint PRIMARY KEY, state varchar(20) NOT NULL, buyer bigint NOT NULL,
        created_at timestamp NOT NULL, total numeric(10, 2), tax numeric);
    CREATE INDEX ON orders_v2 (buyer);
    CREATE TABLE items_v2 (sku varchar(30) NOT NULL, qty int NOT NULL, order_id bigint NOT NULL, id bigint PRIMARY KEY);
    CREATE INDEX ON items_v2 (order_id)";

const TOML: &str = r#"
[[migration]]
name = "users_v2"
source = "public.users"
shadow = "public.users_v2"
key = ["id"]
[migration.columns]
id = "id"
mail = "email"
name = "name"
created_at = "created_at"
active = "active"
[migration.routing]
reads = 100

[[migration]]
name = "orders_v2"
source = "public.orders"
shadow = "public.orders_v2"
key = ["id"]
[migration.columns]
id = "id"
buyer = "user_id"
state = "status"
total = "total"
created_at = "created_at"
tax = "total * 0.25"
[migration.routing]
reads = 100

[[migration]]
name = "items_v2"
source = "public.items"
shadow = "public.items_v2"
key = ["id"]
[migration.columns]
id = "id"
order_id = "order_id"
sku = "sku"
qty = "qty"
[migration.routing]
reads = 100
"#;

type Case = (&'static str, &'static [&'static str]);

const STATEMENTS: &[Case] = &[
    // SQLAlchemy: labels of every column, eager joins, pages.
    (
        "SELECT users.id AS users_id, users.email AS users_email, users.name AS users_name, users.created_at AS users_created_at, users.active AS users_active \nFROM users \nWHERE users.id = $1",
        &["7"],
    ),
    (
        "SELECT users.id, users.email, users.name \nFROM users \nWHERE users.email = $1::VARCHAR \n LIMIT $2::INTEGER",
        &["u9@example.org", "1"],
    ),
    (
        "SELECT orders.id AS orders_id, orders.status AS orders_status, items_1.id AS items_1_id, items_1.sku AS items_1_sku \nFROM orders LEFT OUTER JOIN items AS items_1 ON orders.id = items_1.order_id \nWHERE orders.id = $1 ORDER BY items_1.id",
        &["12"],
    ),
    (
        "SELECT anon_1.users_id, anon_1.users_email, orders_1.id, orders_1.total \nFROM (SELECT users.id AS users_id, users.email AS users_email \nFROM users ORDER BY users.id \n LIMIT $1 OFFSET $2) AS anon_1 LEFT OUTER JOIN orders AS orders_1 ON anon_1.users_id = orders_1.user_id ORDER BY anon_1.users_id, orders_1.id",
        &["5", "10"],
    ),
    (
        "SELECT orders.user_id AS orders_user_id, orders.id AS orders_id, orders.total AS orders_total \nFROM orders \nWHERE orders.user_id IN ($1, $2, $3) ORDER BY orders.id",
        &["1", "2", "3"],
    ),
    (
        "SELECT count(*) AS count_1 \nFROM (SELECT orders.id AS orders_id \nFROM orders \nWHERE orders.status = $1) AS anon_1",
        &["paid"],
    ),
    (
        "SELECT EXISTS (SELECT 1 \nFROM users \nWHERE users.email = $1) AS anon_1",
        &["u9@example.org"],
    ),
    (
        "SELECT users.name \nFROM users \nWHERE EXISTS (SELECT 1 \nFROM orders \nWHERE users.id = orders.user_id AND orders.total > $1::NUMERIC(10, 2)) ORDER BY users.id",
        &["1800"],
    ),
    // Django: everything quoted, (1) AS "a", T2 aliases.
    (
        r#"SELECT "users"."id", "users"."email", "users"."name", "users"."created_at", "users"."active" FROM "users" WHERE "users"."id" = $1 LIMIT 21"#,
        &["7"],
    ),
    (r#"SELECT (1) AS "a" FROM "users" WHERE "users"."email" = $1 LIMIT 1"#, &["u3@example.org"]),
    (r#"SELECT COUNT(*) AS "__count" FROM "orders" WHERE "orders"."status" = $1"#, &["new"]),
    (
        r#"SELECT "orders"."id", "orders"."user_id", "orders"."status", "users"."id", "users"."email" FROM "orders" INNER JOIN "users" ON ("orders"."user_id" = "users"."id") WHERE "users"."email" = $1 ORDER BY "orders"."id" ASC"#,
        &["u30@example.org"],
    ),
    (
        r#"SELECT "users"."id" FROM "users" WHERE "users"."id" IN (SELECT U0."user_id" FROM "orders" U0 WHERE U0."status" = $1) ORDER BY "users"."id" DESC LIMIT 3"#,
        &["sent"],
    ),
    (
        r#"SELECT "users"."id" FROM "users" WHERE NOT (EXISTS(SELECT 1 AS "a" FROM "orders" U1 WHERE (U1."status" = $1 AND U1."user_id" = ("users"."id")) LIMIT 1)) ORDER BY "users"."id" ASC LIMIT 4"#,
        &["sent"],
    ),
    (r#"SELECT DISTINCT "orders"."status" FROM "orders" ORDER BY "orders"."status" ASC"#, &[]),
    (r#"SELECT MAX("orders"."id") AS "id__max" FROM "orders""#, &[]),
    // ActiveRecord.
    (r#"SELECT "users".* FROM "users" WHERE "users"."id" = $1 LIMIT $2"#, &["7", "1"]),
    (
        r#"SELECT "orders".* FROM "orders" WHERE "orders"."user_id" = $1 ORDER BY "orders"."id" ASC LIMIT $2"#,
        &["8", "1"],
    ),
    (r#"SELECT "users".* FROM "users" ORDER BY "users"."id" DESC LIMIT $1"#, &["1"]),
    (
        r#"SELECT 1 AS one FROM "users" WHERE "users"."email" = $1 LIMIT $2"#,
        &["u3@example.org", "1"],
    ),
    (
        r#"SELECT "users"."id" AS t0_r0, "users"."email" AS t0_r1, "orders"."id" AS t1_r0, "orders"."total" AS t1_r1 FROM "users" LEFT OUTER JOIN "orders" ON "orders"."user_id" = "users"."id" WHERE "users"."id" = $1 ORDER BY "orders"."id""#,
        &["5"],
    ),
    (
        r#"SELECT COUNT(DISTINCT "orders"."user_id") FROM "orders" INNER JOIN "items" ON "items"."order_id" = "orders"."id" WHERE "items"."sku" = $1"#,
        &["sku4"],
    ),
    // Hibernate.
    (
        "select u1_0.id,u1_0.active,u1_0.created_at,u1_0.email,u1_0.name from users u1_0 where u1_0.id=$1",
        &["7"],
    ),
    (
        "select o1_0.id,i1_0.order_id,i1_0.id,i1_0.qty,i1_0.sku,o1_0.total from orders o1_0 left join items i1_0 on o1_0.id=i1_0.order_id where o1_0.user_id=$1 order by o1_0.id,i1_0.id",
        &["11"],
    ),
    (
        "select o1_0.id from orders o1_0 join users u1_0 on u1_0.id=o1_0.user_id where u1_0.email like $1 escape '' order by o1_0.id offset $2 rows fetch first $3 rows only",
        &["u1%", "0", "4"],
    ),
    ("select sum(i1_0.qty) from items i1_0 where i1_0.order_id=any ($1)", &["{4,8,15}"]),
    // Prisma: the schema before every column.
    (
        r#"SELECT "public"."users"."id", "public"."users"."email", "public"."users"."name", "public"."users"."created_at", "public"."users"."active" FROM "public"."users" WHERE ("public"."users"."id" = $1 AND 1=1) LIMIT $2 OFFSET $3"#,
        &["7", "1", "0"],
    ),
    (
        r#"SELECT "public"."orders"."id", "public"."orders"."user_id", "public"."orders"."total" FROM "public"."orders" WHERE "public"."orders"."user_id" IN ($1,$2) ORDER BY "public"."orders"."id" ASC OFFSET $3"#,
        &["7", "8", "0"],
    ),
    (
        r#"SELECT COUNT(*) FROM (SELECT "public"."users"."id" FROM "public"."users" WHERE "public"."users"."email" ILIKE $1 OFFSET $2) AS "sub""#,
        &["u1%", "0"],
    ),
    (
        r#"SELECT "public"."users"."id", COALESCE("aggr_selection_0_Order"."_aggr_count_orders", 0) AS "_aggr_count_orders" FROM "public"."users" LEFT JOIN (SELECT "public"."orders"."user_id", COUNT(*) AS "_aggr_count_orders" FROM "public"."orders" WHERE 1=1 GROUP BY "public"."orders"."user_id") AS "aggr_selection_0_Order" ON ("public"."users"."id" = "aggr_selection_0_Order"."user_id") WHERE 1=1 ORDER BY "public"."users"."email" DESC LIMIT $1 OFFSET $2"#,
        &["4", "0"],
    ),
    (
        r#"SELECT "public"."users"."id" FROM "public"."users" WHERE ("public"."users"."id") IN (SELECT "t1"."user_id" FROM "public"."orders" AS "t1" WHERE ("t1"."status" = $1 AND "t1"."user_id" IS NOT NULL)) ORDER BY "public"."users"."id" DESC LIMIT $2"#,
        &["sent", "3"],
    ),
    (
        r#"SELECT MAX("public"."orders"."id"), SUM("public"."orders"."total") FROM "public"."orders" WHERE "public"."orders"."status" = $1"#,
        &["paid"],
    ),
    // node-postgres and pgx, by hand.
    (
        "SELECT * FROM orders WHERE user_id = ANY($1::int[]) AND created_at >= $2 ORDER BY id",
        &["{3,4}", "2024-02-01 05:00"],
    ),
    (
        "SELECT o.*, u.email FROM orders o JOIN users u ON u.id = o.user_id WHERE o.id > $1 ORDER BY o.id LIMIT 5",
        &["1490"],
    ),
    (
        "SELECT u.*, (SELECT json_agg(o ORDER BY o.id) FROM (SELECT id, total FROM orders WHERE user_id = u.id) o) AS orders FROM users u WHERE u.id = $1",
        &["6"],
    ),
];

/// Groups by a widened key: that would need an index on its way back.
const STAYING: &str = r#"SELECT "users"."id", COUNT("orders"."id") AS "n" FROM "users" LEFT OUTER JOIN "orders" ON ("users"."id" = "orders"."user_id") GROUP BY "users"."id" ORDER BY "users"."id" ASC LIMIT 10"#;

fn frames(sql: &str, values: &[&str], format: u16) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|v| Some(v.as_bytes())).collect();
    [
        parse("", sql, &[]),
        describe(b'S', ""),
        bind("", "", 0, &values, format),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]
    .concat()
}

#[tokio::test]
async fn what_object_relational_mappers_ask_is_answered_by_the_shadows() {
    let names = ["users_v2", "orders_v2", "items_v2"];
    let live = Live::ready(&format!("{SHOP};{SHADOWS}"), TOML, &names).await;
    live.db.client.batch_execute("VACUUM ANALYZE").await.unwrap();
    let mut pair = Pair::new(&live, SHOP).await;
    for (sql, values) in STATEMENTS {
        super::served(&live, &mut pair.live, &frames(sql, values, 0), sql).await;
        let before = live.shadow_reads();
        pair.exchange(sql, &frames(sql, values, 0), 1).await;
        pair.exchange(sql, &frames(sql, values, 1), 1).await;
        assert!((live.shadow_reads() - before - 2.0).abs() < 0.5, "not on the shadow: {sql}");
    }
    let frames = frames(STAYING, &[], 0);
    let helps = "CREATE INDEX ON \\\"public\\\".\\\"users_v2\\\" ((CAST((\\\"id\\\") AS integer)))";
    crate::support::eventually("the log names the index that helps", async || {
        pair.exchange(STAYING, &frames, 1).await;
        let log = live.proxy.log().replace("\"", "\\\"").replace("\\\\\"", "\\\"");
        if log.contains(helps) { Ok(()) } else { Err(log) }
    })
    .await;
    let index = helps.replace('\\', "");
    live.db.client.batch_execute(&index).await.unwrap();
    super::served(&live, &mut pair.live, &frames, STAYING).await;
    pair.exchange(STAYING, &frames, 1).await;
    pair.same();
}
