//! Several groups in one packet, about a few names that the protocol and SQL share: what is parsed by one
//! is executed by the other, dropped, described in a group of its own, and parsed anew.

use crate::case::Author;
use crate::frames::{self, Exchange, Until};
use crate::pen::{Format, Order, Sql};
use crate::raw::{close, describe, flush, query, sync};
use crate::sql::statement;

/// The unnamed statement is one of them, for the protocol.
const NAMES: [&str; 4] = ["n1", "n2", "n3", ""];

/// A packet while it is written.
struct Packet {
    frames: Vec<u8>,
    label: String,
    order: Order,
    readies: usize,
    /// Whether frames wait for a Sync: a query behind an error among them would be skipped.
    in_group: bool,
    /// Whether it has parsed the unnamed statement. Before that, the server has one or not by what a
    /// query has become.
    has_unnamed: bool,
}

impl Packet {
    fn push(&mut self, what: &str, frames: &[u8]) {
        self.frames.extend(frames);
        self.label += &format!("\n      {what}");
        self.in_group = true;
    }

    fn sync(&mut self) {
        self.push("Sync", &sync());
        self.readies += 1;
        self.in_group = false;
    }

    /// SQL by a query, or in frames of the group.
    fn sql(&mut self, simple: bool, text: &str) {
        if !simple {
            let sql = Sql::plain(text);
            let bytes = [frames::prepare(&sql, ""), frames::bound(&sql, "", Format::Text, 0)];
            return self.push(text, &bytes.concat());
        }
        if self.in_group {
            self.sync();
        }
        self.push(&format!("query {text}"), &query(text));
        self.readies += 1;
        self.in_group = false;
    }
}

pub fn packet(author: &mut Author, session: usize) {
    let mut packet = Packet {
        frames: Vec::new(),
        label: "packet:".to_owned(),
        order: Order::Exact,
        readies: 0,
        in_group: false,
        has_unnamed: false,
    };
    let block = author.sessions[session].left == 0 && author.random.chance(25);
    if block {
        packet.sql(author.random.chance(50), "BEGIN");
    }
    for _ in 0..author.random.between(2, 8) {
        one(author, session, &mut packet);
        if packet.in_group && author.random.chance(30) {
            packet.sync();
        }
    }
    if block {
        let end = *author.random.pick(&["COMMIT", "ROLLBACK"]);
        let simple = author.random.chance(50);
        packet.sql(simple, end);
        if !simple {
            // Behind an error of its group it was skipped.
            packet.sync();
            packet.sql(true, end);
        }
    }
    if packet.in_group {
        packet.sync();
    }
    let Packet { frames, label, order, readies, .. } = packet;
    author.send(session, Exchange { label, frames, until: Until::Readies(readies), order });
}

fn one(author: &mut Author, session: usize, packet: &mut Packet) {
    let name = *author.random.pick(&NAMES);
    let simple = author.random.chance(30);
    let known = author.sessions[session].shared.get(name);
    let known = known.filter(|_| !name.is_empty() || packet.has_unnamed).cloned();
    match (author.random.below(100), known) {
        (0..=24, _) | (_, None) => {
            let constants = author.constants();
            let sql = statement(&mut author.random, &author.schema, constants);
            if author.may(&sql) {
                parse(author, session, packet, name, &sql);
            }
        }
        (25..=59, Some(sql)) => {
            let format = *author.random.pick(&[Format::Text, Format::Binary, Format::Mixed]);
            let rows = *author.random.pick(&[0, 0, 0, 1]);
            let bound = frames::bound(&sql, name, format, rows);
            packet.order = Order::Any;
            packet.push(&format!("Bind {name:?} {format:?} rows {rows}"), &bound);
        }
        (60..=71, Some(sql)) if !name.is_empty() => {
            packet.order = Order::Any;
            packet.sql(simple, &format!("EXECUTE {name}{}", sql.given()));
        }
        // Skipped with its Parse, if that is.
        (72..=79, _) if !name.is_empty() => {
            packet.push(&format!("Describe {name:?}"), &describe(b'S', name))
        }
        (80..=84, _) => {
            author.sessions[session].shared.remove(name);
            packet.push(&format!("Close {name:?}"), &close(b'S', name));
        }
        (85..=88, _) if !name.is_empty() => {
            author.sessions[session].shared.remove(name);
            packet.sql(simple, &format!("DEALLOCATE {name}"));
        }
        (89..=91, _) => packet.sql(simple, "SELECT 1 / (n - 1) FROM plain"),
        (92..=93, _) => packet.push("Flush", &flush()),
        _ => {
            let sql = author.random_read();
            packet.order = Order::Any;
            let frames = [frames::prepare(&sql, ""), frames::bound(&sql, "", Format::Text, 0)];
            packet.push(&sql.text, &frames.concat());
        }
    }
}

/// Gives a name to a statement: by Parse, with or without a Describe, or by PREPARE.
fn parse(author: &mut Author, session: usize, packet: &mut Packet, name: &str, sql: &Sql) {
    if !name.is_empty() && author.random.chance(20) {
        packet.push("Close", &close(b'S', name));
    }
    author.sessions[session].shared.insert(name.to_owned(), sql.clone());
    packet.has_unnamed |= name.is_empty();
    if !name.is_empty() && author.random.chance(35) {
        return packet.sql(author.random.chance(50), &format!("PREPARE {name} AS {}", sql.text));
    }
    let frames = frames::prepare(sql, name);
    packet.push(&format!("Parse {name:?} {}", sql.text), &frames);
}
