//! Shadow forms as text, and reasons for none; what they answer is tested on a real server.

use super::super::statement::{Class, understand};
use super::super::target::{OldColumn, Privileges};
use super::*;
use crate::sql::ident::QualifiedName;

fn column(name: &str, type_sql: &str, reverse: Reverse, widened: Option<&str>) -> OldColumn {
    OldColumn {
        name: Ident::new(name),
        type_sql: type_sql.into(),
        collation_sql: None,
        reverse,
        widened_as: widened.map(Ident::new),
    }
}

fn targets() -> Vec<Arc<Target>> {
    vec![Arc::new(Target {
        migration: "m".into(),
        source: QualifiedName::parse("public.orders").unwrap(),
        shadow: QualifiedName::parse("public.orders_v2").unwrap(),
        source_oid: 1,
        shadow_oid: 2,
        parts: Default::default(),
        key: vec![Ident::new("id")],
        columns: Vec::new(),
        old_shape: Ok(vec![
            column("id", "integer", Reverse::Expression("\"id\"".into()), Some("id")),
            column("user_id", "integer", Reverse::Bare(Ident::new("customer_id")), None),
        ]),
        sync_function: "s".into(),
        follow_function: None,
        truncate_function: None,
        whole_function: None,
        hold: None,
        mark_function: "m".into(),
        server_version: 15,
        copy: Err(crate::sql::reason::Reason::CopyOption),
        update_changes_key: false,
        runs_before_update: false,
        counted: None,
        privileges: Privileges::default(),
    })]
}

fn functions() -> Functions {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    Functions {
        non_volatile: names(&["count", "lower", "now", "max", "unnest"]),
        deterministic: names(&["count", "lower", "max"]),
        ..Functions::default()
    }
}

fn fit_of(sql: &str) -> Result<Fit, String> {
    let mut statements = understand(sql, &targets(), &functions()).statements;
    match statements.remove(0).class {
        Class::Read(read) => read.fit,
        other => panic!("{other:?}"),
    }
}

fn shadow(sql: &str) -> String {
    declared(sql, 0)
}

/// The form on the shadow for a parameter of this type, without the proof that each reference has whose
/// schema is spelled.
fn declared(sql: &str, oid: u32) -> String {
    let fit = fit_of(sql).unwrap();
    let form = fit.on_shadow(sql, 0..sql.len(), &targets(), |_| oid).unwrap();
    let proof = proof(&targets()[0], Spelling::Qualified);
    let bare = form.text().replace(&format!(" AND {proof}"), "");
    bare.replace(&format!(" WHERE {proof}"), "")
}

const OLD: &str = "(SELECT CAST((\"id\") AS integer) AS \"id\", \"customer_id\" AS \"user_id\" \
                   FROM \"public\".\"orders_v2\"";

/// How a bare name proves what it means.
fn proved() -> String {
    proof(&targets()[0], Spelling::Unqualified)
}

#[test]
fn the_reference_becomes_a_derived_table_of_the_old_shape() {
    for (sql, expected) in [
        ("SELECT * FROM orders", format!("SELECT * FROM {OLD} WHERE {}) AS \"orders\"", proved())),
        ("select 'é', o.* from public.orders o", format!("select 'é', o.* from {OLD}) o")),
        (
            "SELECT 1 FROM x\n JOIN Orders AS o ON true, public.orders WHERE orders.user_id = 1",
            format!(
                "SELECT 1 FROM x\n JOIN {OLD} WHERE {}) AS o ON true, {OLD}) AS \"orders\" \
                 WHERE orders.user_id = 1",
                proved()
            ),
        ),
    ] {
        assert_eq!(shadow(sql), expected);
    }
}

#[test]
fn every_reference_proves_that_its_role_may_read_the_source() {
    let proof = proof(&targets()[0], Spelling::Qualified);
    for (sql, references) in [
        ("SELECT 1 FROM public.orders", 1),
        ("SELECT 1 FROM public.orders a, public.orders b WHERE a.id = 1", 2),
        ("SELECT EXISTS (TABLE public.orders)", 1),
    ] {
        let form = fit_of(sql).unwrap().on_shadow(sql, 0..sql.len(), &targets(), |_| 0).unwrap();
        assert_eq!(form.text().matches(&proof).count(), references, "{}", form.text());
    }
}

#[test]
fn a_condition_on_a_widened_column_gets_its_twin() {
    for (condition, twin) in [
        ("id = 5", "\"id\" = 5"),
        ("(id) = 5", "\"id\" = 5"),
        ("id = $2", "\"id\" = CAST($2 AS integer)"),
        ("7 < orders.id AND user_id = 1", "\"id\" > 7"),
        ("id IN (1, $1)", "\"id\" IN (1, CAST($1 AS integer))"),
        ("id BETWEEN 1 AND 2", "\"id\" >= 1 AND \"id\" <= 2"),
        ("id = '5'", "\"id\" = '5'"),
        ("id = -5", "\"id\" = (-5)"),
        ("id IN (1, - 5)", "\"id\" IN (1, (-5))"),
        ("id = $1::bigint", "\"id\" = CAST($1 AS bigint)"),
        ("id = ANY($1)", "\"id\" = ANY (CAST($1 AS integer[]))"),
        ("id = ANY('{1,2}')", "\"id\" = ANY ('{1,2}')"),
        ("id = ANY('{1,2}'::int[])", "\"id\" = ANY (CAST('{1,2}' AS integer[]))"),
        ("id = ANY(ARRAY[1, 2])", "\"id\" = ANY (ARRAY[1, 2])"),
        ("id = ANY(ARRAY['1', '2']::int8[])", "\"id\" = ANY (CAST(ARRAY['1', '2'] AS bigint[]))"),
        ("id = ANY($1::int[])", "\"id\" = ANY (CAST($1 AS integer[]))"),
    ] {
        let sql = format!("SELECT user_id FROM public.orders WHERE {condition}");
        assert_eq!(
            shadow(&sql),
            format!("SELECT user_id FROM {OLD} WHERE {twin}) AS \"orders\" WHERE {condition}")
        );
    }
    let declared = |oid| declared("SELECT 1 FROM public.orders WHERE id = $1", oid);
    for integer in [20, 21, 23] {
        assert!(declared(integer).contains("WHERE \"id\" = $1)"));
    }
    assert!(!declared(1700).contains("orders_v2\" WHERE"), "numeric: no twin");
    for without in ["id = 5 OR user_id = 1", "id + 1 = 5", "id = 5.5", "NOT id = 5", "id <> 5"] {
        let sql = format!("SELECT 1 FROM public.orders WHERE {without}");
        assert!(!shadow(&sql).contains("orders_v2\" WHERE"), "{sql}");
    }
}

#[test]
fn a_table_as_a_query_becomes_one() {
    let query = format!("SELECT * FROM {OLD}) AS \"orders\"");
    for (sql, expected) in [
        ("TABLE public.orders", query.clone()),
        ("table public.orders ORDER BY 1", format!("{query} ORDER BY 1")),
        ("SELECT 1, 2 UNION ALL TABLE public.orders", format!("SELECT 1, 2 UNION ALL {query}")),
        (
            "SELECT * FROM (TABLE public.orders) AS s (a, b)",
            format!("SELECT * FROM ({query}) AS s (a, b)"),
        ),
        ("WITH x AS (SELECT 1) TABLE public.orders", format!("WITH x AS (SELECT 1) {query}")),
    ] {
        assert_eq!(shadow(sql), expected);
    }
}

/// `sqlparser` does not read them; found in Postgres's regression suite.
#[test]
fn what_the_parser_does_not_read_is_fit_all_the_same() {
    for sql in [
        "SELECT user_id FROM orders ORDER BY user_id::text COLLATE \"C\"",
        "SELECT 1 FROM orders WHERE user_id::character varying(10) COLLATE \"C\" = 'x'",
        "SELECT max(id) OVER (ORDER BY id ROWS 2 PRECEDING EXCLUDE TIES) FROM orders",
        "SELECT max(id) OVER (ORDER BY id RANGE BETWEEN '1 day'::interval PRECEDING AND CURRENT ROW \
         EXCLUDE CURRENT ROW) FROM orders",
        "SELECT lower(VARIADIC ARRAY[user_id, 1]) FROM orders",
        "SELECT (lower(user_id)).* FROM orders",
        "SELECT 1 FROM x JOIN orders USING (id, user_id) AS j WHERE j.id = 1",
        "SELECT 1 FROM orders WHERE user_id BETWEEN SYMMETRIC 3 AND 1",
        "SELECT 1 FROM orders WHERE user_id ISNULL OR (id NOTNULL)",
        "SELECT 1 FROM orders WHERE user_id @@ ANY ('{wr,qh}')",
        "SELECT collation for (user_id), lower(trim(TRAILING FROM 'x')) FROM orders",
        "SELECT grouping(user_id), row(user_id, 1), array(SELECT 1) FROM orders GROUP BY user_id",
        "WITH RECURSIVE t AS (SELECT id FROM orders UNION ALL SELECT id FROM t) SEARCH DEPTH FIRST BY \
         id SET ordercol CYCLE id SET is_cycle TO 'Y' DEFAULT 'N' USING path SELECT * FROM t",
        "SELECT 1 FROM x LEFT JOIN (orders o JOIN y ON true) ON o.id = x.id",
    ] {
        let text = shadow(sql);
        assert_eq!(text.matches("orders_v2").count(), 1, "{sql}: {text}");
    }
}

#[test]
fn joins_order_and_extremes_of_a_widened_column_speak_of_the_shadows_own() {
    const HIDING: &str = "(SELECT CAST((\"id\") AS integer) AS \"id\", \"customer_id\" AS \
                          \"user_id\", \"id\" AS \"pgsegue_id\" FROM \"public\".\"orders_v2\")";
    const K: &str = "\"o\".\"pgsegue_id\"";
    const ALL: &str = "\"o\".\"id\", \"o\".\"user_id\"";
    for (sql, expected) in [
        (
            "SELECT o.id FROM x JOIN public.orders o ON x.o = o.id AND x.y",
            format!("SELECT o.id FROM x JOIN {HIDING} o ON x.o = {K} AND x.y"),
        ),
        (
            "SELECT * FROM public.orders o ORDER BY id, user_id LIMIT 1",
            format!("SELECT {ALL} FROM {HIDING} o ORDER BY {K}, user_id LIMIT 1"),
        ),
        (
            "SELECT x.*, o.* FROM public.orders o, x WHERE (o.id = x.a) ORDER BY o.user_id",
            format!("SELECT x.*, {ALL} FROM {HIDING} o, x WHERE ({K} = x.a) ORDER BY o.user_id"),
        ),
        (
            "SELECT * FROM x y LEFT JOIN public.orders o ON o.id = 5",
            format!("SELECT \"y\".*, {ALL} FROM x y LEFT JOIN {HIDING} o ON {K} = 5"),
        ),
        (
            "SELECT max( id ), count(*) FROM public.orders o",
            format!("SELECT CAST(max( {K} ) AS integer), count(*) FROM {HIDING} o"),
        ),
        (
            "SELECT 1 FROM public.orders o WHERE EXISTS (SELECT FROM x WHERE x.a = o.id)",
            format!("SELECT 1 FROM {HIDING} o WHERE EXISTS (SELECT FROM x WHERE x.a = {K})"),
        ),
        (
            "SELECT 1 FROM public.orders o WHERE id IS NULL AND (o.id) IS NOT NULL",
            format!("SELECT 1 FROM {HIDING} o WHERE {K} IS NULL AND ({K}) IS NOT NULL"),
        ),
        (
            "SELECT 1 FROM public.orders o WHERE o.id IN (SELECT a FROM x)",
            format!("SELECT 1 FROM {HIDING} o WHERE {K} IN (SELECT a FROM x)"),
        ),
        (
            "SELECT 1 FROM x WHERE x.a IN (SELECT o.id FROM public.orders o WHERE o.user_id = 1)",
            format!(
                "SELECT 1 FROM x WHERE x.a IN (SELECT {K} FROM {HIDING} o WHERE o.user_id = 1)"
            ),
        ),
    ] {
        assert_eq!(shadow(sql), expected);
    }
    for without in [
        "SELECT user_id AS id FROM public.orders o ORDER BY id",
        "SELECT id::text FROM public.orders o ORDER BY id",
        "SELECT DISTINCT id FROM public.orders o ORDER BY id",
        "SELECT id FROM public.orders o GROUP BY id ORDER BY id",
        "SELECT * FROM public.orders o NATURAL JOIN x WHERE o.id = x.a",
        "SELECT * FROM public.orders o JOIN x USING (user_id) WHERE o.id = x.a",
        "SELECT id FROM public.orders o UNION SELECT 1 ORDER BY id",
        "SELECT max(DISTINCT id), max(id) FILTER (WHERE user_id = 1) FROM public.orders o",
        "SELECT o.id, (SELECT 1 FROM x WHERE x.a = o.id) FROM public.orders o GROUP BY o.id",
        "SELECT 1 FROM public.orders o, x WHERE o.id = x.a OR x.b",
        "SELECT 1 FROM public.orders o, x WHERE o.user_id = x.a",
    ] {
        assert!(!shadow(without).contains("pgsegue_id"), "{without}");
    }
}

#[test]
fn a_schema_before_the_table_of_a_column_is_left_out() {
    const HIDING: &str = "(SELECT CAST((\"id\") AS integer) AS \"id\", \"customer_id\" AS \
                          \"user_id\", \"id\" AS \"pgsegue_id\" FROM \"public\".\"orders_v2\") \
                          AS \"orders\"";
    const K: &str = "\"orders\".\"pgsegue_id\"";
    for (sql, expected) in [
        (
            "SELECT public . Orders.id, public.orders.* FROM public.orders WHERE public.orders.id = 1 \
             AND (\"public\".orders.\"user_id\" = 2)",
            format!(
                "SELECT \"orders\".id, \"orders\".* FROM {OLD} WHERE \"id\" = 1) AS \"orders\" WHERE \
                 \"orders\".id = 1 AND (\"orders\".\"user_id\" = 2)"
            ),
        ),
        (
            "SELECT public.orders.* FROM public.orders ORDER BY public.orders.id, public.orders.user_id",
            format!(
                "SELECT \"orders\".\"id\", \"orders\".\"user_id\" FROM {HIDING} ORDER BY {K}, \
                 \"orders\".user_id"
            ),
        ),
        (
            "SELECT max(public.orders.id), x.orders.id FROM public.orders JOIN y ON public.orders.id = y.o",
            format!(
                "SELECT CAST(max({K}) AS integer), x.orders.id FROM {HIDING} JOIN y ON {K} = y.o"
            ),
        ),
        (
            "SELECT 1 FROM other.orders WHERE EXISTS (SELECT FROM public.orders WHERE \
             other.orders.id = 1)",
            format!(
                "SELECT 1 FROM other.orders WHERE EXISTS (SELECT FROM {OLD}) AS \"orders\" WHERE \
                 other.orders.id = 1)"
            ),
        ),
        (
            "SELECT public.orders.a[1], public.orders.a[2:3].b FROM public.orders",
            format!("SELECT \"orders\".a[1], \"orders\".a[2:3].b FROM {OLD}) AS \"orders\""),
        ),
        (
            "SELECT 1 FROM x ORDER BY (SELECT public.orders.id FROM public.orders LIMIT 1)",
            format!(
                "SELECT 1 FROM x ORDER BY (SELECT \"orders\".id FROM {OLD}) AS \"orders\" LIMIT 1)"
            ),
        ),
        (
            "SELECT public.orders.a[1], public.orders.a[2:3].b FROM public.orders",
            format!("SELECT \"orders\".a[1], \"orders\".a[2:3].b FROM {OLD}) AS \"orders\""),
        ),
        (
            "SELECT user_id FROM public.orders GROUP BY public.orders.user_id ORDER BY \
             (SELECT max(y) FROM x WHERE x.a = public.orders.user_id)",
            format!(
                "SELECT user_id FROM {OLD}) AS \"orders\" GROUP BY \"orders\".user_id ORDER BY \
                 (SELECT max(y) FROM x WHERE x.a = \"orders\".user_id)"
            ),
        ),
    ] {
        assert_eq!(shadow(sql), expected);
    }
}

#[test]
fn what_the_parser_reads_in_another_way_gets_no_twin() {
    for condition in
        ["id BETWEEN SYMMETRIC 3 AND 1", "id NOT BETWEEN SYMMETRIC 3 AND 1", "id @@ ANY ($1)"]
    {
        let sql = format!("SELECT 1 FROM public.orders WHERE {condition}");
        assert!(!shadow(&sql).contains("orders_v2\" WHERE"), "{sql}");
    }
    assert!(
        shadow("SELECT 1 FROM (public.orders o CROSS JOIN y) WHERE o.id = 5")
            .contains("\"id\" = 5")
    );
    assert!(
        !shadow("SELECT 1 FROM (public.orders o CROSS JOIN y) WHERE id = 5").contains("\"id\" = 5")
    );
}

#[test]
fn an_alias_may_be_the_tables_own_name() {
    for sql in [
        "SELECT \"orders\".\"id\" FROM \"orders\" AS \"orders\" WHERE \"orders\".id = 1",
        "SELECT count(*) AS orders FROM orders",
        "SELECT orders.a FROM public.orders o JOIN (SELECT 1 AS a) orders ON true",
        "SELECT orders.a[1], o.a[1:2] FROM orders, public.orders AS o WHERE (o.a[1]).b = 1",
    ] {
        assert!(fit_of(sql).is_ok(), "{sql}");
    }
    assert!(fit_of("SELECT count(*) AS orders FROM orders ORDER BY orders").is_err());
}

#[test]
fn queries_that_differ_in_constants_of_one_type_share_a_fingerprint() {
    let of = |sql: &str| match understand(sql, &targets(), &functions()).statements.remove(0).class
    {
        Class::Read(read) => read.fingerprint,
        other => panic!("{other:?}"),
    };
    let same = of("SELECT user_id FROM orders WHERE id = 5 AND 'a' = 'b'");
    assert_eq!(same, of("SELECT user_id  FROM orders WHERE id = 123456789 AND '' = 'it''s'"));
    assert_ne!(same, of("SELECT user_id FROM orders WHERE id = 1234567890 AND 'a' = 'b'"));
    assert_ne!(same, of("SELECT user_id FROM orders WHERE id = 5.0 AND 'a' = 'b'"));
}

#[test]
fn refuses_reads_that_only_the_source_answers_right() {
    for sql in [
        "SELECT * FROM orders FOR UPDATE",
        "SELECT ctid FROM orders",
        "SELECT * FROM orders AS o(user_id, id) WHERE id = 8",
        "SELECT o.xmin FROM orders o",
        "SELECT o FROM orders o",
        "SELECT orders FROM orders",
        "SELECT pg_typeof(orders.*) FROM orders",
        "SELECT count((1, orders.*, 2)) FROM orders",
        "SELECT lower(1, orders.*, 2) FROM orders",
        "SELECT (orders.*)::text FROM orders",
        "SELECT random(), user_id FROM orders",
        "SELECT unknown_function(id) FROM orders",
        "SELECT * FROM orders TABLESAMPLE system (1)",
        "SELECT * FROM ONLY orders",
        "SELECT * FROM ONLY orders o",
        "TABLE ONLY orders",
        "SELECT (orders).* FROM orders",
        "SELECT id FROM orders FOR NO KEY UPDATE",
        "SELECT id FROM x UNION SELECT id FROM orders FOR KEY SHARE",
        "SELECT * INTO x FROM orders",
        "SELECT INTO x FROM orders",
        "WITH orders AS (SELECT 1) SELECT * FROM orders",
        "SELECT public.orders.id FROM public.orders o",
        "SELECT public.orders.id FROM public.orders AS orders",
        "SELECT d.public.orders.id FROM public.orders",
        "SELECT d.public.orders.* FROM public.orders",
        "SELECT public.orders.ctid FROM public.orders",
        "SELECT count((1, public.orders.*, 2)) FROM public.orders",
        "SELECT (public.orders.*) FROM public.orders",
        "SELECT lower(public.orders.*) FROM public.orders",
        "SELECT (public.orders).id FROM public.orders",
        "SELECT public.orders FROM public.orders",
        "SELECT 1 FROM public.orders WHERE EXISTS (SELECT FROM x orders WHERE public.orders.id = 1)",
        "SELECT 1 FROM public.orders JOIN LATERAL (SELECT public.orders.* FROM x AS orders) y ON true",
        "SELECT 1 FROM public.orders, other.orders WHERE public.orders.id = 1",
        "SELECT * FROM generate_series(1, 2) g, orders",
        "SELECT 1 FROM orders WHERE id IN (SELECT id FROM orders_v2)",
    ] {
        assert!(fit_of(sql).is_err(), "{sql}");
    }
}

#[test]
fn a_bare_name_is_a_column_before_it_is_a_row() {
    let named = || {
        let mut target = targets().remove(0);
        let orders = Arc::make_mut(&mut target);
        orders.columns = vec![Ident::new("id"), Ident::new("orders"), Ident::new("o")];
        orders.old_shape = Ok(["orders", "o"]
            .map(|name| column(name, "text", Reverse::Bare(Ident::new(name)), None))
            .into());
        vec![target]
    };
    let fit_of = |sql: &str| {
        let mut statements = understand(sql, &named(), &functions()).statements;
        let Class::Read(read) = statements.remove(0).class else { panic!("{sql}") };
        read.fit.map(|fit| fit.on_shadow(sql, 0..sql.len(), &named(), |_| 0).unwrap())
    };
    for sql in [
        "SELECT orders FROM orders",
        "SELECT lower(orders) FROM orders WHERE orders > 'a' ORDER BY orders",
        "SELECT o FROM orders o",
        "SELECT (orders).* FROM orders",
        "SELECT x.id FROM orders x, y WHERE y.id = lower(orders)",
    ] {
        let form = fit_of(sql).unwrap();
        let (before, after) = sql.split_once("FROM orders").unwrap();
        assert!(form.text().starts_with(before) && form.text().ends_with(after), "{sql}");
    }
    for sql in [
        "SELECT x FROM orders x",
        "SELECT orders FROM x",
        "SELECT row_to_json(orders.*) FROM orders",
    ] {
        assert!(fit_of(sql).is_err(), "{sql}");
    }
}

#[test]
fn a_read_is_kept_for_what_it_has() {
    for (sql, why) in [
        ("SELECT status FROM orders, status AS orders(status)", None),
        ("SELECT id FROM x WHERE orders = 1", Some("a name of the table that is not understood")),
        ("SELECT 1 FROM orders GROUP BY GROUPING SETS (rollup (id, user_id), cube (id))", None),
        ("SELECT rollup(id) FROM orders", Some("it calls rollup(), which may be volatile")),
        ("SELECT 1 FROM orders, unnest(ARRAY[1]) WITH ORDINALITY AS u (x, n)", None),
        ("SELECT 1 FROM orders, coalesce(1) AS c", None),
        ("SELECT (VALUES (1)) FROM orders", None),
        ("SELECT xmlforest(id) FROM orders", Some(XML_SYNTAX)),
        ("SELECT xmlconcat(user_id) FROM orders", Some(XML_SYNTAX)),
        ("SELECT json_scalar(id) FROM orders", Some(JSON_SYNTAX)),
        (
            "SELECT x.json_scalar(id) FROM orders",
            Some("it calls json_scalar(), which may be volatile"),
        ),
    ] {
        assert_eq!(fit_of(sql).err().as_deref(), why, "{sql}");
    }
}

#[test]
fn only_reads_with_one_right_answer_are_comparable() {
    for (sql, comparable) in [
        ("SELECT * FROM orders WHERE id = 1", true),
        ("SELECT count(*), max(id) FROM orders GROUP BY user_id ORDER BY 1", true),
        ("SELECT id FROM orders ORDER BY user_id, id LIMIT 5", true),
        ("SELECT id FROM orders ORDER BY user_id LIMIT 5", false),
        ("SELECT user_id AS id FROM orders ORDER BY id LIMIT 5", false),
        ("SELECT o.id FROM orders o, x ORDER BY o.id LIMIT 5", false),
        ("SELECT 1 FROM (SELECT * FROM orders LIMIT 1) o", false),
        ("SELECT DISTINCT ON (user_id) id FROM orders", false),
        ("SELECT count(*) OVER () FROM orders", false),
        ("SELECT now() FROM orders", false),
        ("SELECT current_timestamp FROM orders", false),
        ("SELECT lower('A') FROM orders", true),
    ] {
        assert_eq!(fit_of(sql).unwrap().comparable.is_ok(), comparable, "{sql}");
    }
}
