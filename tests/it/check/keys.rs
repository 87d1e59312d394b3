//! What a key may become, and what index it can have.

use super::{found, ids};
use crate::engine_support::*;

/// One that has room for every value, and no decimals, holds them as they are.
#[tokio::test]
async fn a_key_of_whole_numbers_may_become_a_numeric_that_holds_them() {
    for (source, shadow, fits) in [
        ("int8", "numeric(19)", true),
        ("int8", "numeric(18)", false),
        ("int4", "numeric(10, 0)", true),
        ("int4", "numeric(12, 2)", false),
        ("int2", "numeric(5)", true),
    ] {
        let db = database().await;
        let tables = format!(
            "CREATE TABLE orders (id {source} PRIMARY KEY); CREATE TABLE orders_v2 (id {shadow} PRIMARY KEY)"
        );
        db.client.batch_execute(&tables).await.unwrap();
        let findings = found(&db, &migration(&[("id", "id")])).await;
        let declaration = ids(&findings).contains(&"B declaration orders_v2".to_owned());
        assert_eq!(declaration, !fits, "{source} into {shadow}: {findings:?}");
    }
}

/// No unique index can be made there; the finding says so, and offers none.
#[tokio::test]
async fn a_shadow_that_is_partitioned_by_another_column_than_the_key_has_no_unique_index_to_offer()
{
    let db = database().await;
    let ddl = "CREATE TABLE orders (id int PRIMARY KEY, a int, b text); \
               CREATE TABLE orders_v2 (id int8, a int, b text) PARTITION BY RANGE (a, (b || 'x'))";
    db.client.batch_execute(ddl).await.unwrap();
    let found = found(&db, &migration(&[("id", "id"), ("a", "a"), ("b", "b")])).await;
    let unique = found.iter().find(|f| f.message.contains("unique index over")).unwrap();
    assert_eq!(unique.sql, Vec::<String>::new());
    assert!(
        unique
            .remedy
            .starts_with("it is partitioned by a, an expression, which every unique index"),
        "{unique:?}"
    );
}
