//! Texts that are deep, long or many: read in time that grows with their length, on the stack that
//! a session has. A text that took the square of its length would not end here.

use super::targets::{run, sql_targets};
use pgsegue::sql::statement::{Class, understand};
use pgsegue::sql::target::{Functions, SyncMode};
use pgsegue::sql::write::Modes;

/// What a thread gets that asks for nothing, as those of sessions do.
const STACK_BYTES: usize = 2 << 20;

fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn(work).unwrap().join().unwrap();
}

fn is_read(text: String) {
    on_a_small_stack(move || run("sql", text.as_bytes()));
}

#[test]
fn long_chains_of_conditions() {
    for operator in ["OR", "AND", "||", "+", "=", "::int8", "COLLATE \"C\""] {
        let n = if operator == "OR" { 100_000 } else { 20_000 };
        let terms = format!(" {operator} id = 2").repeat(n);
        for start in ["SELECT 1 FROM orders WHERE id = 1", "UPDATE orders SET id = 2 WHERE id = 1"]
        {
            is_read(format!("{start}{terms}"));
        }
    }
}

#[test]
fn many_branches_of_a_union() {
    for n in [1_000, 10_000] {
        is_read(format!("SELECT id FROM orders{}", " UNION ALL SELECT id FROM orders".repeat(n)));
    }
}

#[test]
fn deep_brackets() {
    for (open, close) in
        [("(", ")"), ("(SELECT ", ")"), ("[", "]"), ("lower(", ")"), ("CASE ", " END")]
    {
        for n in [40, 60, 100, 2_000, 10_000, 50_000] {
            let inside = format!("{}1{}", open.repeat(n), close.repeat(n));
            is_read(format!("SELECT {inside} FROM orders WHERE id = {inside}"));
            is_read(format!("DELETE FROM orders WHERE id = {inside}"));
            is_read(format!("{}SELECT 1 FROM orders{}", open.repeat(n), close.repeat(n)));
        }
    }
    is_read("/*".repeat(1_000_000));
    is_read(format!("SELECT 1 FROM orders {}{}", "/*".repeat(100_000), "*/".repeat(100_000)));
}

#[test]
fn deep_operators_and_joins() {
    for prefix in ["NOT ", "- ", "+ ", "~ "] {
        is_read(format!("SELECT 1 FROM orders WHERE {}id = 1", prefix.repeat(15_000)));
    }
    is_read(format!("SELECT 1 FROM orders{}", " CROSS JOIN orders".repeat(6_000)));
    is_read(format!("SELECT 1 FROM orders o{}", ", orders o".repeat(6_000)));
    let withs = (0..3_000).map(|n| format!("w{n} AS (SELECT id FROM orders)")).collect::<Vec<_>>();
    is_read(format!("WITH {} SELECT 1 FROM orders", withs.join(", ")));
}

#[test]
fn long_literals() {
    let (long, longest) = ("x".repeat(1 << 20), "x".repeat(16 << 20));
    for (open, close) in
        [("'", "'"), ("E'", "'"), ("$t$", "$t$"), ("\"", "\""), ("/*", "*/"), ("--", "\n")]
    {
        let literal = format!("{open}{long}{close}");
        for start in ["SELECT 1 FROM orders WHERE a = ", "UPDATE orders SET a = "] {
            is_read(format!("{start}{literal}"));
            is_read(format!("{start}{open}{long}"));
        }
    }
    is_read(format!("INSERT INTO orders VALUES (1, '{longest}')"));
    is_read(format!("SELECT {long} FROM orders"));
    is_read(format!("SELECT {} FROM orders", "1".repeat(1 << 20)));
    is_read(format!("SELECT $a{long}$ FROM orders"));
    is_read(format!("SELECT $a{long}$ FROM orders $a{long}$"));
}

/// Each reference is placed in the text, which is one long line here.
#[test]
fn many_references_behind_a_long_literal() {
    let literal = "é".repeat(400_000);
    is_read(format!("SELECT '{literal}' FROM orders{}", ", orders".repeat(6_000)));
}

/// Each reference gets the conditions on its columns.
#[test]
fn many_references_under_many_conditions() {
    let (from, condition) = (", orders o".repeat(3_000), " AND o.id = 1".repeat(1_500));
    let text = format!("SELECT 1 FROM orders o{from} WHERE o.id = 1{condition}");
    on_a_small_stack(move || {
        let targets = sql_targets();
        let understood = understand(&text, &targets, &Functions::default());
        let Class::Read(read) = &understood.statements[0].class else { panic!("not a query") };
        if let Ok(fit) = &read.fit {
            let form = fit.on_shadow(&text, 0..text.len(), &targets, |_| 0).unwrap();
            assert!(form.text().len() < 100 * text.len(), "{} bytes", form.text().len());
        }
    });
}

#[test]
fn many_statements_in_one_text() {
    for statement in [
        "DELETE FROM orders",
        "UPDATE orders SET id = 2 WHERE id = 1",
        "INSERT INTO orders VALUES (1) RETURNING id",
        "SELECT 1 FROM orders",
        "DROP TABLE x",
        "BEGIN",
        "",
        "WITH w AS (DELETE FROM orders RETURNING id) SELECT 1 FROM w",
    ] {
        let text = format!("{statement};").repeat(1_000_000 / (statement.len() + 1));
        on_a_small_stack(move || {
            let targets = sql_targets();
            let understood = understand(&text, &targets, &Functions::default());
            let mut bytes = 0;
            for statement in &understood.statements {
                if let Class::Write(write) = &statement.class {
                    let form = write.mirrored(&text, &targets, Modes::all(SyncMode::Sync));
                    bytes += form.text().len();
                }
            }
            assert!(bytes < 40 * text.len(), "{bytes}");
        });
    }
}

#[test]
fn many_writes_and_names_in_one_statement() {
    let n = 50_000;
    let nested = "(INSERT INTO x), ".repeat(n);
    let names = ", orders".repeat(n);
    is_read(format!("SELECT {nested} 1 FROM x{names}"));
    is_read(format!("WITH w AS (SELECT 1) SELECT {nested} 1 FROM x{names}"));
    is_read(format!("DROP TABLE x{}{names}", ", x".repeat(n)));
    is_read(format!("DROP TABLE {}x.orders", "x.orders, ".repeat(n)));
    is_read(format!("TRUNCATE x{names}"));
    is_read(format!("UPDATE orders SET {} a = 1", "(a, id) = (1, 2), ".repeat(n)));
    is_read(format!("INSERT INTO orders VALUES (1){}", ", (1, 2, 'x', $1)".repeat(n)));
    is_read(format!("SELECT 1 FROM orders WHERE id IN (1{})", ", 1".repeat(n)));
    is_read(format!("SELECT {} 1 FROM orders", "orders.id, ".repeat(6_000)));
    is_read(format!("SELECT {}x FROM orders", "orders.".repeat(n)));
    is_read(format!("SELECT 1 FROM orders {}", "ON CONFLICT DO UPDATE ".repeat(n)));
    is_read(format!("INSERT INTO orders SELECT 1 {}", "DO ".repeat(n)));
    is_read(format!("UPDATE orders SET a = 1 {}", "IS DISTINCT FROM ".repeat(n)));
    is_read(format!("DELETE FROM orders WHERE id = 1{}", " RETURNING id".repeat(n)));
}
