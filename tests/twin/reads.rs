//! Statements that read.

use crate::pen::{Constants, Order, Pen, Sql};
use crate::random::Random;
use crate::schema::{Column, Schema, Table, quoted};

/// One statement that reads.
pub fn read(random: &mut Random, schema: &Schema, constants: Constants) -> Sql {
    let mut pen = Pen::new(random, schema, constants);
    let text = match pen.random.below(100) {
        0..=19 => point(&mut pen),
        20..=34 => ordered(&mut pen),
        35..=41 => unordered(&mut pen),
        42..=50 => aggregate(&mut pen),
        51..=55 => grouped(&mut pen),
        56..=67 => joined(&mut pen),
        68..=74 => nested(&mut pen),
        75..=79 => combined(&mut pen),
        80..=85 => windowed(&mut pen),
        86..=88 => distinct(&mut pen),
        89..=92 => with(&mut pen),
        93..=94 => locking(&mut pen),
        95..=96 => wrong(&mut pen),
        _ => special(&mut pen),
    };
    pen.finish(text)
}

/// `FROM`'s item of one table and the prefix of its columns.
fn from(pen: &mut Pen<'_>, table: &Table) -> (String, String) {
    let name = pen.name(table);
    let (alias, prefix) = pen.alias(table);
    (format!("{name}{alias}"), prefix)
}

fn exact(table: &Table) -> Vec<&Column> {
    table.printable().into_iter().filter(|c| c.kind.is_exact()).collect()
}

fn point(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let (item, prefix) = from(pen, table);
    let outputs = pen.outputs(&prefix, table);
    let parts: Vec<String> = table
        .keys()
        .iter()
        .map(|c| format!("{} = {}", pen.column(&prefix, c), pen.of_kind(c.kind)))
        .collect();
    format!("SELECT {outputs} FROM {item} WHERE {}", parts.join(" AND "))
}

fn ordered(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let (item, prefix) = from(pen, table);
    let outputs = pen.outputs(&prefix, table);
    let condition = match pen.random.chance(70) {
        true => format!(" WHERE {}", pen.condition(&prefix, table)),
        false => String::new(),
    };
    let order = pen.order_by_key(&prefix, table);
    let limit =
        *pen.random.pick(&["", "", " LIMIT 3", " LIMIT 2 OFFSET 1", " FETCH FIRST ROW ONLY"]);
    format!("SELECT {outputs} FROM {item}{condition} ORDER BY {order}{limit}")
}

fn unordered(pen: &mut Pen<'_>) -> String {
    pen.order = Order::Any;
    let table = pen.table();
    let (item, prefix) = from(pen, table);
    let outputs = pen.outputs(&prefix, table);
    let condition = pen.condition(&prefix, table);
    format!("SELECT ALL {outputs} FROM {item} WHERE {condition}")
}

fn aggregate(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let (item, prefix) = from(pen, table);
    let mut parts = vec!["count(*)".to_owned()];
    let order = pen.order_by_key(&prefix, table);
    for column in pen.random.some(&exact(table)) {
        let name = pen.column(&prefix, column);
        parts.push(match pen.random.below(5) {
            0 if column.kind.is_summable() => format!("sum({name}) AS \"sum %\""),
            1 if column.kind.is_ordered() => format!("max({name}), min({name})"),
            2 => format!("array_agg({name}::text ORDER BY {order})"),
            3 => format!("count({name}) FILTER (WHERE {name} IS NOT NULL)"),
            _ => format!("count(DISTINCT {name})"),
        });
    }
    let condition = pen.condition(&prefix, table);
    format!("SELECT {} FROM {item} WHERE {condition}", parts.join(", "))
}

fn grouped(pen: &mut Pen<'_>) -> String {
    pen.order = Order::Any;
    let table = pen.table();
    let (item, prefix) = from(pen, table);
    let column = *pen.random.pick(&exact(table));
    let name = pen.column(&prefix, column);
    let key = pen.column(&prefix, &table.columns[0]);
    match pen.random.below(5) {
        0 => format!("SELECT {name}, count(*) FROM {item} GROUP BY ROLLUP ({name})"),
        1 => format!("SELECT {name}, count(*) FROM {item} GROUP BY {name} HAVING count(*) > 1"),
        2 => format!("SELECT {name} AS g, max({key}::text) FROM {item} GROUP BY g"),
        // By the key alone: the other column follows from it.
        3 if table.key == 1 => format!("SELECT {key}, {name} FROM {item} GROUP BY {key}"),
        _ => format!("SELECT {name}, count(*), min({key}::text) FROM {item} GROUP BY 1"),
    }
}

fn joined(pen: &mut Pen<'_>) -> String {
    pen.order = Order::Any;
    let table = pen.table();
    let other = *pen.random.pick(&pen.schema.tables.iter().collect::<Vec<_>>());
    let (a, b) = (pen.name(table), pen.name(other));
    let (ka, kb) = (quoted(&table.columns[0].name), quoted(&other.columns[0].name));
    let one = *pen.random.pick(&table.printable());
    let two = *pen.random.pick(&other.printable());
    let (one, two) = (pen.column("x.", one), pen.column("y.", two));
    let on = if table.columns[0].kind == other.columns[0].kind && pen.random.chance(70) {
        format!("x.{ka} = y.{kb}")
    } else {
        format!("x.{ka}::text = y.{kb}::text")
    };
    let condition = pen.condition("x.", table);
    match pen.random.below(9) {
        0 => format!("SELECT {one}, {two} FROM {a} x JOIN {b} y ON {on}"),
        1 => format!(
            "SELECT {one}, {two} FROM {a} AS x LEFT JOIN {b} AS y ON {on} WHERE {condition}"
        ),
        2 => format!("SELECT {one}, {two} FROM {a} AS x RIGHT JOIN {b} AS y ON {on}"),
        3 => format!("SELECT {one}, {two} FROM {a} AS x FULL JOIN {b} AS y ON {on}"),
        4 => format!("SELECT {one}, p.s FROM {a} AS x, plain AS p WHERE x.{ka}::text = p.n::text"),
        5 => format!("SELECT count(*) FROM {a} x CROSS JOIN {b} y WHERE {condition}"),
        6 => format!("SELECT x.{ka}, z.{ka} FROM {a} AS x JOIN {a} AS z USING ({ka})"),
        7 if table.is_printable() && other.is_printable() => {
            format!("SELECT x.*, y.* FROM {a} AS x INNER JOIN {b} AS y ON {on}")
        }
        _ => format!(
            "SELECT {one}, {two}, p.s FROM ({a} x JOIN {b} y ON {on}) LEFT JOIN plain p ON p.n = 1"
        ),
    }
}

fn nested(pen: &mut Pen<'_>) -> String {
    pen.order = Order::Any;
    let table = pen.table();
    let name = pen.name(table);
    let again = pen.name(table);
    let key = quoted(&table.columns[0].name);
    let one = *pen.random.pick(&table.printable());
    let one = quoted(&one.name);
    let condition = pen.condition("", table);
    match pen.random.below(7) {
        0 => format!(
            "SELECT s FROM plain WHERE EXISTS (SELECT FROM {name} x WHERE x.{key}::text = n::text)"
        ),
        1 => format!(
            "SELECT {one} FROM {name} WHERE {key} IN (SELECT {key} FROM {again} WHERE {condition})"
        ),
        2 => format!("SELECT n, (SELECT count(*) FROM {name} WHERE {condition}) FROM plain"),
        3 => format!(
            "SELECT q.k, q.v FROM (SELECT {key} AS k, {one} AS v FROM {name} WHERE {condition}) AS q"
        ),
        4 => format!(
            "SELECT p.n, l.v FROM plain p, LATERAL (SELECT x.{one} AS v FROM {name} x WHERE x.{key}::text = p.n::text) l"
        ),
        5 => format!(
            "SELECT p.n, l.c FROM plain p LEFT JOIN LATERAL (SELECT count(*) AS c FROM {name} x WHERE x.{key}::text > p.n::text) l ON true"
        ),
        _ => {
            format!("SELECT array(SELECT {key}::text FROM {name} WHERE {condition} ORDER BY 1), 1")
        }
    }
}

fn combined(pen: &mut Pen<'_>) -> String {
    pen.order = Order::Any;
    let table = pen.table();
    let (a, b) = (pen.name(table), pen.name(table));
    let columns = pen.random.some(&exact(table));
    let (x, y) = (pen.columns("", &columns), pen.columns("", &columns));
    let (p, q) = (pen.condition("", table), pen.condition("", table));
    let word = *pen.random.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL"]);
    format!("SELECT {x} FROM {a} WHERE {p} {word} SELECT {y} FROM {b} WHERE {q}")
}

fn windowed(pen: &mut Pen<'_>) -> String {
    pen.order = Order::Any;
    let table = pen.table();
    let (item, prefix) = from(pen, table);
    let order = pen.order_by_key(&prefix, table);
    let key = pen.column(&prefix, &table.columns[0]);
    let column = *pen.random.pick(&exact(table));
    let name = pen.column(&prefix, column);
    match pen.random.below(3) {
        0 => format!("SELECT {key}, row_number() OVER (ORDER BY {order}) FROM {item}"),
        1 => format!(
            "SELECT {key}, lag({name}) OVER (PARTITION BY {name} ORDER BY {order}) FROM {item}"
        ),
        _ => format!(
            "SELECT {key}, count(*) OVER w, rank() OVER w FROM {item} WINDOW w AS (ORDER BY {name})"
        ),
    }
}

fn distinct(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let (item, prefix) = from(pen, table);
    let column = *pen.random.pick(&exact(table));
    let name = pen.column(&prefix, column);
    let order = pen.order_by_key(&prefix, table);
    if pen.random.chance(50) {
        let key = pen.columns(&prefix, &table.keys().iter().collect::<Vec<_>>());
        return format!(
            "SELECT DISTINCT ON ({name}) {name}, {key} FROM {item} ORDER BY {name}, {order}"
        );
    }
    pen.order = Order::Any;
    format!("SELECT DISTINCT {name} FROM {item}")
}

fn with(pen: &mut Pen<'_>) -> String {
    pen.order = Order::Any;
    let table = pen.table();
    let name = pen.name(table);
    let key = quoted(&table.columns[0].name);
    let condition = pen.condition("", table);
    match pen.random.below(4) {
        // It hides the table.
        0 => format!("WITH {t} AS (SELECT 1 AS x) SELECT * FROM {t}", t = quoted(&table.name)),
        1 => format!(
            "WITH q AS (SELECT {key} FROM {name} WHERE {condition}) SELECT count(*) FROM q JOIN q r USING ({key})"
        ),
        2 => format!("WITH q AS MATERIALIZED (SELECT {key} FROM {name}) SELECT {key} FROM q"),
        _ => format!(
            "WITH RECURSIVE q(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM q WHERE n < (SELECT count(*) FROM {name})) SELECT max(n) FROM q"
        ),
    }
}

fn locking(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let (item, prefix) = from(pen, table);
    let outputs = pen.outputs(&prefix, table);
    let condition = pen.key_is(&prefix, table);
    let lock = *pen.random.pick(&[
        "FOR UPDATE",
        "FOR SHARE",
        "FOR NO KEY UPDATE",
        "FOR KEY SHARE",
        "FOR UPDATE NOWAIT",
    ]);
    let order = pen.order_by_key(&prefix, table);
    format!("SELECT {outputs} FROM {item} WHERE {condition} ORDER BY {order} {lock}")
}

fn wrong(pen: &mut Pen<'_>) -> String {
    let table = pen.table();
    let name = pen.name(table);
    let key = quoted(&table.columns[0].name);
    match pen.random.below(5) {
        0 => format!("SELECT 1 / (length({key}::text) * 0) FROM {name}"),
        1 => format!("SELECT nothing_like_it FROM {name}"),
        2 => format!("SELECT {key} FROM {name} WHERE"),
        3 => format!("SELECT {key} FROM {name} WHERE {key} = 'no such value'"),
        _ => format!("SELECT no_such_function({key}) FROM {name}"),
    }
}

fn special(pen: &mut Pen<'_>) -> String {
    pen.order = Order::Any;
    let table = pen.table();
    let name = pen.name(table);
    let key = quoted(&table.columns[0].name);
    match pen.random.below(9) {
        0 => "SELECT n, last FROM seen".to_owned(),
        1 if table.is_printable() => format!("TABLE {name}"),
        2 if table.is_printable() => {
            pen.binary = false;
            format!("SELECT x FROM {name} x")
        }
        3 => format!("SELECT (x).{key} FROM {name} AS x"),
        4 => format!("SELECT ctid IS NOT NULL, xmin IS NOT NULL, {key} FROM {name}"),
        5 => format!("SELECT tableoid::regclass::text, {key} FROM ONLY {name}"),
        6 => format!("SELECT {key}, now() IS NOT NULL FROM {name} TABLESAMPLE BERNOULLI (100)"),
        7 => format!("EXPLAIN (COSTS OFF) SELECT {key} FROM {name} WHERE {key} IS NULL"),
        _ => format!("SELECT CASE WHEN {key} IS NULL THEN 1 ELSE 2 END, {key} FROM {name}"),
    }
}
