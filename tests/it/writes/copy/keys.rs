//! The keys that are read along in a COPY's data are those that Postgres finds in them: random
//! data in every format, with random options, cut anywhere.

use crate::live::Raw;
use crate::live::raw::{execute, frame, parse, query, sync};
use crate::support::database;
use pgsegue::sql::copy::{Dialect, Keys};
use pgsegue::sql::ident::{Ident, QualifiedName};
use pgsegue::sql::reason::Reason;
use pgsegue::sql::statement::{Class, understand};
use pgsegue::sql::target::{Copyable, Functions, KeyType, Privileges, Target};
use std::sync::Arc;

/// Tries per run; a longer run takes `COPY_TRIES` of them.
const TRIES: u64 = 3_000;

/// Columns of the table: the key is `k1, k2`.
const COLUMNS: [&str; 4] = ["k1", "v", "k2", "w"];

/// Numbers that look random (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

fn target() -> Arc<Target> {
    let text = || KeyType { sql: "text".to_owned(), oid: 25 };
    Arc::new(Target {
        migration: "m".to_owned(),
        source: QualifiedName::parse("public.copied").unwrap(),
        shadow: QualifiedName::parse("public.copied_v2").unwrap(),
        source_oid: 1,
        shadow_oid: 2,
        key: vec![Ident::new("k1"), Ident::new("k2")],
        columns: Vec::new(),
        parts: std::collections::BTreeMap::new(),
        old_shape: Err(String::new()),
        sync_function: "pg_catalog.sync".to_owned(),
        follow_function: None,
        mark_function: "mark".to_owned(),
        truncate_function: None,
        whole_function: None,
        hold: None,
        update_changes_key: false,
        runs_before_update: false,
        server_version: 15,
        copy: Ok(Copyable {
            columns: COLUMNS.iter().map(|c| Ident::new(*c)).collect(),
            key_types: vec![text(), text()],
        }),
        counted: None,
        privileges: Privileges::default(),
    })
}

/// A statement, and what its data are made of.
struct Case {
    sql: String,
    columns: usize,
    delimiter: &'static str,
    quote: Option<&'static str>,
    escape: &'static str,
    null: &'static str,
}

fn case(random: &mut Random) -> Case {
    let mut columns = COLUMNS.to_vec();
    // The order of a list; the key always in it.
    for at in (1..4).rev() {
        columns.swap(at, random.below(at + 1));
    }
    if random.one_in(2) {
        columns.retain(|c| c.starts_with('k') || *c == "v");
    }
    if random.one_in(3) {
        columns.retain(|c| c.starts_with('k'));
    }
    let list = match random.one_in(4) {
        true => {
            columns = COLUMNS.to_vec();
            String::new()
        }
        false => format!(" ({})", columns.join(", ")),
    };
    let csv = random.one_in(2);
    let mut options = Vec::new();
    let mut delimiter = if csv { "," } else { "\t" };
    if random.one_in(3) {
        delimiter = random.of(&["|", ";", "\t", ",", " "]);
        options.push(format!("DELIMITER E'{}'", delimiter.replace('\t', "\\t")));
    }
    let mut null = if csv { "" } else { "\\N" };
    if random.one_in(3) {
        null = random.of(&["", "\\N", "NULL", "x", "\\x", "1\\2"]);
        options.push(format!("NULL '{null}'"));
    }
    if random.one_in(4) {
        options.push("HEADER".to_owned());
    }
    let (mut quote, mut escape) = ("\"", "\"");
    if csv {
        if random.one_in(3) {
            quote = random.of(&["'", "\"", "q"]);
            options.push(format!("QUOTE '{}'", quote.replace('\'', "''")));
            escape = quote;
        }
        if random.one_in(3) {
            escape = random.of(&["\\", "\"", "e"]);
            options.push(format!("ESCAPE '{escape}'"));
        }
        for force in ["FORCE_NULL", "FORCE_NOT_NULL"] {
            if random.one_in(6) {
                options.push(format!("{force} ({})", random.of(&["k1", "k2", "k1, k2"])));
            }
        }
        options.push("FORMAT csv".to_owned());
    }
    let options = match options.is_empty() {
        true => String::new(),
        false => format!(" WITH ({})", options.join(", ")),
    };
    let sql = format!("COPY copied{list} FROM STDIN{options}");
    let columns = columns.len();
    Case { sql, columns, delimiter, quote: csv.then_some(quote), escape, null }
}

const ATOMS: [&str; 34] = [
    "a", "b", "1", "0", "7", "12", "x", "e", "q", "n", "N", "\\N", "\\.", ".", " ", "é", "𝄞",
    "\\n", "\\t", "\\\\", "\\1", "\\101", "\\1011", "\\x4", "\\x41", "\\x41b", "\\xg", "\\x",
    "\\b", "\"", "'", "\\", "NULL", "\u{7f}",
];

fn data(random: &mut Random, case: &Case) -> Vec<u8> {
    let end = random.of(&["\n", "\n", "\r\n", "\r"]);
    let mut out = String::new();
    for _ in 0..random.below(6) {
        let fields: Vec<String> = (0..case.columns).map(|_| field(random, case)).collect();
        out.push_str(&fields.join(case.delimiter));
        // The end of the data need not be that of a line.
        out.push_str(end);
    }
    if random.one_in(4) {
        out.push_str(random.of(&["\\.", "\\.\n", "\\.\r\n", "\\.x\n", "x\\.\n"]));
        if random.one_in(2) {
            out.push_str(random.of(&[end, "rest", "a\tb\n", "\n\n"]));
        }
    } else if random.one_in(3) {
        out.truncate(out.trim_end_matches(end).len());
    }
    let mut bytes = out.into_bytes();
    if random.one_in(4) && !bytes.is_empty() {
        let at = random.below(bytes.len());
        let other = b"\n\r\\\"',\t.xN1|";
        match random.below(3) {
            0 => bytes[at] = other[random.below(other.len())],
            1 => bytes.insert(at, other[random.below(other.len())]),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

fn field(random: &mut Random, case: &Case) -> String {
    if random.one_in(12) {
        return case.null.to_owned();
    }
    let mut value = String::new();
    for _ in 0..random.below(4) {
        value.push_str(random.of(&ATOMS));
    }
    let Some(quote) = case.quote else {
        return match random.one_in(8) {
            true => format!("{value}\\{}", random.of(&[case.delimiter, "\n", "\r", "z"])),
            false => value.replace(case.delimiter, ""),
        };
    };
    let plain = |text: String| {
        let text = text.replace(quote, "").replace(case.delimiter, "");
        text.replace(case.escape, "")
    };
    if random.one_in(2) {
        return plain(value);
    }
    if random.one_in(3) {
        value.push_str(random.of(&["\n", "\r\n", case.delimiter, quote, case.escape, "\\.\n"]));
    }
    let inner = match case.escape == quote {
        true => value.replace(quote, &quote.repeat(2)),
        false => value
            .replace(case.escape, &case.escape.repeat(2))
            .replace(quote, &format!("{}{quote}", case.escape)),
    };
    let around = if random.one_in(6) { "z" } else { "" };
    format!("{around}{quote}{inner}{quote}{around}")
}

/// The keys as Postgres reads them.
async fn sent(raw: &mut Raw, keys: &Keys) -> Vec<Vec<Option<String>>> {
    let (format, values) = keys.parameters();
    let mut body = b"\0\0\0\x01".to_vec();
    body.extend(format.to_be_bytes());
    body.extend(2u16.to_be_bytes());
    body.extend(values);
    body.extend([0, 0]);
    let sql = "SELECT * FROM unnest($1::text[], $2::text[]) AS u (k1, k2) ORDER BY 1, 2";
    let frames = [parse("", sql, &[]), frame(b'B', &body), execute("", 0), sync()];
    raw.send(&frames.concat()).await;
    let mut rows = Vec::new();
    for message in raw.until_ready(1).await {
        assert_ne!(message.tag, b'E', "{}", raw.show(&message));
        if message.tag == b'D' {
            let values = crate::live::raw::values(&message.body);
            let text = |v: Option<&[u8]>| v.map(|v| String::from_utf8(v.to_vec()).unwrap());
            rows.push(values.into_iter().map(text).collect());
        }
    }
    rows
}

/// Reads the data in pieces.
fn read(random: &mut Random, sql: &str, version: u32, data: &[u8]) -> Result<Keys, Reason> {
    let target = target();
    let understood = understand(sql, &[Arc::clone(&target)], &Functions::default());
    let Class::CopyFrom(_, copy) = &understood.statements[0].class else {
        panic!("{sql}: {understood:?}")
    };
    let dialect = Dialect { client_encoding: "UTF8", server_version: version };
    let mut reader = copy.reader(&target, dialect).unwrap();
    let mut rest = data;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(1 + random.below(rest.len().min(7)));
        reader.feed(piece);
        rest = after;
    }
    reader.finish()
}

#[tokio::test]
async fn the_keys_read_along_are_those_that_postgres_reads() {
    let db = database().await;
    let ddl = "CREATE TABLE copied (k1 text COLLATE \"C\", v text, k2 text COLLATE \"C\", w text)";
    db.client.batch_execute(ddl).await.unwrap();
    let mut raw = Raw::connect(db.port, "postgres", &db.name).await;
    let version = raw.rows("SHOW server_version_num").await[0][0].clone().unwrap();
    let version: u32 = version.parse::<u32>().unwrap() / 10_000;
    let tries = std::env::var("COPY_TRIES").map_or(TRIES, |tries| tries.parse().unwrap());
    let (mut succeeded, mut known, mut rows) = (0, 0, 0);
    for seed in 0..tries {
        let random = &mut Random(seed);
        let case = case(random);
        if version < 15 && case.quote.is_none() && case.sql.contains("HEADER") {
            continue;
        }
        let data = data(random, &case);
        let frames = [query(&case.sql), frame(b'd', &data), frame(b'c', b"")].concat();
        raw.send(&frames).await;
        let said = raw.until_ready(1).await;
        if said.iter().any(|m| m.tag == b'E') {
            continue;
        }
        succeeded += 1;
        let stored = "SELECT k1, k2 FROM copied ORDER BY 1, 2";
        let stored = raw.rows(stored).await;
        raw.run("TRUNCATE copied").await;
        let what = format!("seed {seed}: {}\n{}", case.sql, data.escape_ascii());
        match read(random, &case.sql, version, &data) {
            Ok(keys) => {
                known += 1;
                rows += stored.len();
                assert_eq!(sent(&mut raw, &keys).await, stored, "{what}");
            }
            Err(why) => {
                let null = stored.iter().flatten().any(Option::is_none);
                let escaped = why == Reason::CopyKeyEscaped && data.contains(&b'\\');
                let right = why == Reason::CopyKeyNull && null || escaped;
                assert!(right, "{why}: {what}\n{stored:?}");
            }
        }
    }
    let enough = succeeded > tries / 4 && known > succeeded / 2 && rows > 1000;
    assert!(enough, "{succeeded} of {tries} succeed, {known} with known keys, {rows} rows");
}
