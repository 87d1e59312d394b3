//! What sessions do beside single reads and writes: transactions, settings, prepared statements,
//! cursors, COPY, texts of several statements, pipelines, cancels.

use crate::case::{Author, Step};
use crate::frames::{self, Exchange, Until};
use crate::pen::{Constants, Format, Order, Pen, Sql, literal};
use crate::schema::{Column, Fill, Table, quoted};
use crate::sql::statement;
use crate::{copy, forms, packets, reads, writes};

/// What a prepared transaction is called in a case; a run gives each database's its own name of
/// this length, as the names are the whole server's.
pub const TRANSACTION: &str = "twin.transaction";

pub fn something(author: &mut Author, session: usize) {
    let in_transaction = author.sessions[session].left > 0;
    let what = author.random.below(100);
    match what {
        0..=24 if !in_transaction => begin(author, session),
        0..=24 => savepoint(author, session),
        25..=36 => prepared(author, session),
        37..=46 if in_transaction => cursor(author, session),
        37..=52 => several(author, session),
        53..=64 => copy::copy(author, session),
        65..=74 => named(author, session),
        75..=78 => pipeline(author, session),
        79..=82 => packets::packet(author, session),
        83..=91 => setting(author, session),
        92..=93 => odd_frames(author, session),
        94..=95 => cancel(author, session),
        96 => made(author, session),
        97 if !in_transaction => two_phases(author, session),
        98 if !author.calm => {
            let mut pen = Pen::new(&mut author.random, &author.schema, Constants::Inline);
            let text = forms::at_once(&mut pen);
            author.plain(session, &text);
        }
        _ => hide(author, session),
    }
}

fn begin(author: &mut Author, session: usize) {
    let text = match author.random.below(10) {
        0 => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        1 => "START TRANSACTION READ ONLY",
        2 => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        3 => "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE",
        4 => "begin work",
        _ => "BEGIN",
    };
    let long = author.random.chance(3);
    author.sessions[session].left = if long { 90 } else { author.random.between(2, 7) };
    author.plain(session, text);
}

fn savepoint(author: &mut Author, session: usize) {
    let open = author.sessions[session].savepoints;
    if open == 0 || author.random.chance(40) {
        author.sessions[session].savepoints += 1;
        return author.plain(session, "SAVEPOINT a");
    }
    if author.random.chance(70) {
        return author.plain(session, "ROLLBACK TO a");
    }
    author.sessions[session].savepoints -= 1;
    author.plain(session, "RELEASE SAVEPOINT a");
}

/// PREPARE, EXECUTE, DEALLOCATE.
fn prepared(author: &mut Author, session: usize) {
    let known = author.sessions[session].prepared.clone();
    if known.is_empty() || author.random.chance(35) {
        let name = format!("p{}", known.len());
        let constants = author.constants();
        let sql = statement(&mut author.random, &author.schema, constants);
        if !author.may(&sql) {
            return;
        }
        author.sessions[session].prepared.push((name.clone(), sql.clone()));
        return author.plain(session, &format!("PREPARE {name} AS {}", sql.text));
    }
    let (name, sql) = author.random.pick(&known).clone();
    if author.random.chance(12) {
        author.sessions[session].prepared.retain(|(n, _)| *n != name);
        return author.plain(session, &format!("DEALLOCATE {name}"));
    }
    let given = sql.given();
    let execute = match author.random.below(20) {
        // With values, its plan hangs on how often it ran in which form.
        0 if given.is_empty() => format!("EXPLAIN (COSTS OFF) EXECUTE {name}"),
        1 => {
            return author
                .made(session, format!("CREATE TEMP TABLE made AS EXECUTE {name}{given}"));
        }
        2 => format!("execute \"{name}\" {given};"),
        _ => format!("EXECUTE {name}{given}"),
    };
    let mut execute = Sql::plain(execute);
    execute.order = Order::Any;
    execute.binary = sql.binary;
    author.say(session, &execute);
}

/// A table that a write makes.
fn made(author: &mut Author, session: usize) {
    let mut pen = Pen::new(&mut author.random, &author.schema, Constants::Inline);
    let text = forms::made(&mut pen);
    author.made(session, text);
}

/// A transaction that is prepared, and ends by its name.
fn two_phases(author: &mut Author, session: usize) {
    author.plain(session, "BEGIN");
    for _ in 0..author.random.between(1, 3) {
        let constants = author.constants();
        let sql = writes::write(&mut author.random, &author.schema, constants);
        if author.may(&sql) {
            author.say(session, &sql);
        }
    }
    author.plain(session, &format!("PREPARE TRANSACTION '{TRANSACTION}'"));
    if author.random.chance(30) && author.sessions.len() == 1 {
        let sql = author.random_read();
        author.say(session, &sql);
    }
    let end = *author.random.pick(&["COMMIT", "COMMIT", "ROLLBACK"]);
    author.plain(session, &format!("{end} PREPARED '{TRANSACTION}'"));
}

fn cursor(author: &mut Author, session: usize) {
    if author.random.chance(25) {
        return cursor_of_read(author, session);
    }
    let table = author.schema.tables[0].clone();
    let (name, key) = (table.full(), quoted(&table.columns[0].name));
    let open = author.sessions[session].cursor;
    let text = if !open {
        author.sessions[session].cursor = true;
        let lock = if author.random.chance(60) { " FOR UPDATE" } else { "" };
        format!("DECLARE c CURSOR FOR SELECT {key} FROM {name} WHERE {key} IS NOT NULL{lock}")
    } else {
        let columns = writes::non_key(&table);
        let mut pen = Pen::new(&mut author.random, &author.schema, Constants::Inline);
        match (pen.random.below(7), columns.first()) {
            (0 | 1, Some(column)) => {
                let value = pen.value(column);
                format!("UPDATE {name} SET {} = {value} WHERE CURRENT OF c", quoted(&column.name))
            }
            (2, _) => format!("DELETE FROM {name} WHERE CURRENT OF c RETURNING {key}"),
            (3, _) => "FETCH FORWARD 2 FROM c".to_owned(),
            (4, _) => "MOVE c".to_owned(),
            (5, _) => {
                author.sessions[session].cursor = false;
                "CLOSE c".to_owned()
            }
            _ => "FETCH c".to_owned(),
        }
    };
    author.plain(session, &text);
}

/// A query that is read by a cursor, all of it.
fn cursor_of_read(author: &mut Author, session: usize) {
    let sql = reads::read(&mut author.random, &author.schema, Constants::Inline);
    let how = *author.random.pick(&["", "", " SCROLL", " NO SCROLL"]);
    let declare = format!("DECLARE every{how} CURSOR FOR {}", sql.text);
    let mut all = Sql::plain(format!("{declare}; FETCH ALL FROM every; CLOSE every"));
    all.order = Order::Any;
    author.send(session, frames::simple(&all));
}

/// A text of several statements.
fn several(author: &mut Author, session: usize) {
    let mut texts = Vec::new();
    let mut order = Order::Exact;
    for _ in 0..author.random.between(2, 4) {
        let sql = statement(&mut author.random, &author.schema, Constants::Inline);
        if !author.may(&sql) {
            continue;
        }
        if sql.order == Order::Any {
            order = Order::Any;
        }
        texts.push(sql.text);
    }
    if author.random.chance(25) && author.sessions[session].left == 0 {
        texts.insert(0, "BEGIN".to_owned());
        texts.push((*author.random.pick(&["COMMIT", "ROLLBACK"])).to_owned());
    }
    let glue = *author.random.pick(&["; ", ";", " ;\n", "; -- it's\n"]);
    let mut sql = Sql::plain(texts.join(glue));
    sql.order = order;
    author.send(session, frames::simple(&sql));
}

/// A statement that was prepared long ago.
fn named(author: &mut Author, session: usize) {
    let known = author.sessions[session].named.clone();
    if known.is_empty() {
        let sql = statement(&mut author.random, &author.schema, Constants::Parameters);
        return author.say(session, &sql);
    }
    let (name, sql) = author.random.pick(&known).clone();
    let format = *author.random.pick(&[Format::Text, Format::Binary, Format::Mixed]);
    let mut bytes = frames::bound(&sql, &name, format, *author.random.pick(&[0, 0, 1]));
    bytes.extend(crate::raw::sync());
    let label = format!("again {name} {format:?}: {}", sql.text);
    author.send(
        session,
        Exchange { label, frames: bytes, until: Until::Readies(1), order: sql.order },
    );
}

fn pipeline(author: &mut Author, session: usize) {
    let mut statements = Vec::new();
    for _ in 0..author.random.between(2, 5) {
        let constants = author.constants();
        let sql = statement(&mut author.random, &author.schema, constants);
        if author.may(&sql) {
            statements.push(sql);
        }
    }
    if author.random.chance(25) {
        let at = author.random.below(statements.len() + 1);
        statements.insert(at, Sql::plain("SELECT 1 / (n - 1) FROM plain"));
    }
    let exchange = frames::pipeline(&mut author.random, &statements);
    author.send(session, exchange);
}

/// Frames in an order that drivers do not have.
fn odd_frames(author: &mut Author, session: usize) {
    use crate::raw::{close, describe, execute, flush, sync};
    let constants = author.constants();
    let sql = statement(&mut author.random, &author.schema, constants);
    if !author.may(&sql) {
        return;
    }
    let parse = frames::prepare(&sql, "odd");
    let bound = frames::bound(&sql, "odd", Format::Mixed, 0);
    let (what, parts): (&str, Vec<Vec<u8>>) = match author.random.below(6) {
        0 => ("described only", vec![parse, flush(), close(b'S', "odd"), sync()]),
        1 => ("closed before", vec![parse, close(b'S', "odd"), bound, sync()]),
        2 => ("twice", vec![parse.clone(), parse, bound, sync()]),
        3 => ("executed again", vec![parse, bound, execute("", 0), close(b'S', "odd"), sync()]),
        4 => ("no portal", vec![describe(b'P', "none"), parse, bound, sync()]),
        _ => ("two syncs", vec![parse, bound.clone(), sync(), bound, close(b'S', "odd"), sync()]),
    };
    let readies = if what == "two syncs" { 2 } else { 1 };
    let label = format!("{what}: {}", sql.text);
    let frames = parts.concat();
    let until = Until::Readies(readies);
    author.send(session, Exchange { label, frames, until, order: sql.order });
    let frames = [close(b'S', "odd"), sync()].concat();
    let until = Until::Readies(1);
    let exchange = Exchange { label: "close".to_owned(), frames, until, order: Order::Exact };
    author.send(session, exchange);
}

fn setting(author: &mut Author, session: usize) {
    let in_transaction = author.sessions[session].left > 0;
    let path = author.schema.search_path.clone();
    let texts = [
        "SET TimeZone = 'Asia/Tokyo'".to_owned(),
        "SET DateStyle = 'German'".to_owned(),
        "SET IntervalStyle = 'iso_8601'".to_owned(),
        "SET extra_float_digits = -5".to_owned(),
        "SET bytea_output = 'escape'".to_owned(),
        "SET search_path = public".to_owned(),
        "SET search_path = ''".to_owned(),
        format!("SET search_path = {path}"),
        format!("SELECT set_config('search_path', {}, true)", literal(&path)),
        "SET LOCAL search_path TO pg_catalog".to_owned(),
        "RESET search_path".to_owned(),
        "RESET ALL".to_owned(),
        "SET standard_conforming_strings = off".to_owned(),
        "SET standard_conforming_strings = on".to_owned(),
        "SET default_transaction_read_only = off".to_owned(),
        "SHOW search_path".to_owned(),
        "SET plan_cache_mode = force_generic_plan".to_owned(),
        "SELECT pg_backend_pid() IS NOT NULL".to_owned(),
        "LISTEN something".to_owned(),
        "SET ROLE twin_app".to_owned(),
        "RESET ROLE".to_owned(),
        "SET LOCAL ROLE twin_app".to_owned(),
        "SET SESSION AUTHORIZATION twin_app".to_owned(),
        "RESET SESSION AUTHORIZATION".to_owned(),
        "SET row_security = off".to_owned(),
        "RESET row_security".to_owned(),
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ".to_owned(),
        "SET default_transaction_isolation = 'read committed'".to_owned(),
        "SET TRANSACTION READ ONLY".to_owned(),
        "SET check_function_bodies = off".to_owned(),
        "SET lc_messages = 'C'".to_owned(),
        "SET client_encoding = 'LATIN1'".to_owned(),
        "RESET client_encoding".to_owned(),
        "SET default_tablespace = ''".to_owned(),
        "SET statement_timeout = '30s'".to_owned(),
        "SET CONSTRAINTS ALL IMMEDIATE".to_owned(),
        String::new(),
        "-- nothing\n;".to_owned(),
    ];
    if !in_transaction && author.random.chance(8) {
        let text = *author.random.pick(&["DISCARD ALL", "DISCARD PLANS", "DEALLOCATE ALL"]);
        if text != "DISCARD PLANS" {
            author.sessions[session].prepared.clear();
            author.sessions[session].named.clear();
            author.sessions[session].shared.clear();
        }
        if text == "DISCARD ALL" {
            author.sessions[session].hidden = None;
        }
        return author.plain(session, text);
    }
    let text = author.random.pick(&texts).clone();
    author.say(session, &Sql::plain(text));
}

fn cancel(author: &mut Author, session: usize) {
    let table = author.schema.tables[0].clone();
    let key = quoted(&table.columns[0].name);
    let sql = match author.random.below(3) {
        0 => format!("SELECT count(*), pg_sleep(30) FROM {}", table.full()),
        1 => format!("UPDATE {} SET {key} = {key} WHERE pg_sleep(30) IS NULL", table.full()),
        _ => format!(
            "WITH s AS MATERIALIZED (SELECT pg_sleep(30)::text AS x) \
             DELETE FROM {} USING s WHERE s.x IS NULL RETURNING 1",
            table.full()
        ),
    };
    // Without a row the condition would never be looked at.
    let sql = sql.replace("WHERE pg_sleep(30)", "WHERE (SELECT pg_sleep(30)::text)");
    author.push(Step::Cancel { session, sql });
}

/// A temporary table of the same name hides the migrated one, for a while.
fn hide(author: &mut Author, session: usize) {
    if let Some(name) = author.sessions[session].hidden.take() {
        return author.plain(session, &format!("DROP TABLE pg_temp.{name}"));
    }
    if author.sessions[session].left > 0 {
        return;
    }
    let table: &Table = &author.schema.tables[0];
    let (name, full) = (quoted(&table.name), table.full());
    author.sessions[session].hidden = Some(name.clone());
    author.plain(session, &format!("CREATE TEMP TABLE {name} (LIKE {full} INCLUDING ALL)"));
}

/// The columns that a COPY may give.
pub fn copied(table: &Table) -> Vec<&Column> {
    table
        .columns
        .iter()
        .filter(|c| !matches!(c.fill, Fill::Generated(_) | Fill::Volatile(_)))
        .collect()
}
