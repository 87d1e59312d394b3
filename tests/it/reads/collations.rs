//! Columns whose type or collation changes: order, equality and description stay the source's.

use crate::live::raw::query;
use crate::live::{Live, Pair};

const NAMES: &str = r#"
    CREATE TABLE names (id int PRIMARY KEY, c text COLLATE "C", d text, v varchar(10) COLLATE "C");
    INSERT INTO names VALUES (1, 'b', 'b', 'b'), (2, 'A', 'A', 'A'), (3, 'a', 'a', 'a'),
        (4, 'B', 'B', 'B'), (5, 'é', 'é', 'é'), (6, '_', '_', '_'), (7, NULL, NULL, NULL);
    ANALYZE"#;
const NAMES_V2: &str = r#"
    CREATE TABLE names_v2 (id bigint PRIMARY KEY, c text COLLATE "und-x-icu",
        d text COLLATE "C", v text COLLATE "und-x-icu")"#;
const TOML: &str = r#"
[[migration]]
name = "names_v2"
source = "public.names"
shadow = "public.names_v2"
key = ["id"]
[migration.columns]
id = "id"
c = "c"
d = "d"
v = "v"
[migration.routing]
reads = 100
"#;

#[tokio::test]
async fn a_shadow_with_other_collations_sorts_and_compares_as_the_source_does() {
    let live = Live::ready(&format!("{NAMES};{NAMES_V2}"), TOML, &["names_v2"]).await;
    let mut pair = Pair::new(&live, NAMES).await;
    for sql in [
        "SELECT c FROM names ORDER BY c",
        "SELECT d FROM names ORDER BY d",
        "SELECT v FROM names ORDER BY v DESC",
        "SELECT id FROM names WHERE c > 'B' ORDER BY id",
        "SELECT min(c), max(c), min(d), max(d), min(v), max(v) FROM names",
        "SELECT c, row_number() OVER (ORDER BY c) FROM names ORDER BY v",
        "SELECT a.id, b.id FROM names a JOIN names b ON a.c < b.c ORDER BY 1, 2",
        "SELECT id FROM names WHERE v BETWEEN 'A' AND 'a' ORDER BY id",
        "SELECT c COLLATE \"und-x-icu\" FROM names ORDER BY 1",
    ] {
        super::served(&live, &mut pair.live, &query(sql), sql).await;
        let before = live.shadow_reads();
        pair.simple(sql).await;
        pair.extended(sql, &[], 1).await;
        assert!(live.shadow_reads() > before + 1.5, "not on the shadow: {sql}");
    }
    // Two collations in one comparison: the source has nothing to choose by, nor has the shadow.
    pair.simple("SELECT id FROM names WHERE c < d").await;
    pair.same();
}
