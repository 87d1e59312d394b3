//! Mappings to types that storing alone does not cast to: the functions do.

use crate::live::{Live, text};

const DDL: &str = r"
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE t (id int PRIMARY KEY, u text, m text, n text, b int, j text, v text, d text);
    CREATE TABLE t_v2 (id int PRIMARY KEY, u uuid, m mood, n numeric(6, 2), b bool, j jsonb,
        v varchar(5), d bit(3));
    INSERT INTO t SELECT i, '00000000-0000-0000-0000-00000000000' || i, 'ok', i || '.25', i % 2, '[1]',
        'v', '101' FROM generate_series(1, 5) AS i; ANALYZE";

const TOML: &str = r#"
[[migration]]
name = "t_v2"
source = "public.t"
shadow = "public.t_v2"
key = ["id"]
accepted = ["mutable way back public.t.m"]
[migration.columns]
id = "id"
u = "u"
m = "m"
n = "n"
b = "b"
j = "j"
v = "v"
d = "d"
"#;

#[tokio::test]
async fn a_mapping_is_cast_to_the_type_that_it_is_stored_in() {
    let live = Live::ready(DDL, TOML, &["t_v2"]).await;
    let client = live.client().await;
    let differing = "SELECT count(*) FROM t FULL JOIN t_v2 s USING (id) WHERE (t.u::uuid, t.m::mood, \
                     t.n::numeric(6, 2), t.b::bool, t.j::jsonb, t.v, t.d::bit(3)) IS DISTINCT FROM \
                     (s.u, s.m, s.n, s.b, s.j, s.v, s.d)";
    for sql in [
        "UPDATE t SET m = 'sad', n = '7.5', b = 0, j = '{\"a\": 2}', v = 'w', d = '011' WHERE id = 2",
        "UPDATE t SET m = 'ok', n = '1e1' WHERE id > 2",
        "INSERT INTO t VALUES (9, '10000000-0000-0000-0000-000000000000', 'sad', NULL, 1, '1', '', '000')",
        "DELETE FROM t WHERE id = 1",
    ] {
        client.batch_execute(sql).await.unwrap();
        // That '7.5' comes back as '7.50' is another matter.
        let keys: Vec<_> = live.dirty().await.into_iter().filter(|(key, _)| key != "all").collect();
        assert_eq!(keys, [], "{sql}");
        assert_eq!(text(&client, differing).await, "0", "{sql}");
    }
    // What does not fit is not cut: the key is on record.
    for (sql, reason) in [
        ("UPDATE t SET v = 'too long' WHERE id = 3", "22001 value too long for type character"),
        ("UPDATE t SET d = '1111' WHERE id = 4", "22026 bit string length 4 does not match"),
        ("UPDATE t SET m = 'angry' WHERE id = 5", "22P02 invalid input value for enum"),
    ] {
        client.batch_execute(sql).await.unwrap();
        let dirty = live.dirty().await;
        assert!(dirty.iter().any(|(_, why)| why.starts_with(reason)), "{sql}: {dirty:?}");
    }
}
