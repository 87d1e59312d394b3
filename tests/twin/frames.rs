//! A statement as the frames of a protocol, and what there is beside statements.

use crate::pen::{Format, Order, Param, Sql};
use crate::random::Random;
use crate::raw::{describe, execute, flush, frame, query, sync};

/// What the last message of an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The n-th ReadyForQuery.
    Readies(usize),
    /// The one after a row that says `over`: how many there are before hangs on what fails where.
    Over,
}

/// What goes to the server at once, and what comes back for it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// For who reads a failure.
    pub label: String,
    pub frames: Vec<u8>,
    pub until: Until,
    pub order: Order,
}

pub fn simple(sql: &Sql) -> Exchange {
    Exchange {
        label: format!("simple: {}", sql.text),
        frames: query(&sql.text),
        until: Until::Readies(1),
        order: sql.order,
    }
}

/// Parse, Describe, Bind, Describe, Execute, Sync.
pub fn extended(sql: &Sql, name: &str, format: Format, rows: u32) -> Exchange {
    let mut frames = prepare(sql, name);
    frames.extend(bound(sql, name, format, rows));
    frames.extend(sync());
    let values: Vec<String> = sql
        .params
        .iter()
        .map(|p| match &p.image {
            Some(image) => format!("{image:?}{}", if p.binary.is_some() { " binary" } else { "" }),
            None => "null".to_owned(),
        })
        .collect();
    let label =
        format!("extended {name:?} {format:?} rows {rows}: {} [{}]", sql.text, values.join(", "));
    Exchange { label, frames, until: Until::Readies(1), order: sql.order }
}

pub fn prepare(sql: &Sql, name: &str) -> Vec<u8> {
    let mut body = [name.as_bytes(), b"\0", sql.text.as_bytes(), b"\0"].concat();
    body.extend(u16::try_from(sql.params.len()).unwrap().to_be_bytes());
    sql.params.iter().for_each(|p| body.extend(p.oid.to_be_bytes()));
    [frame(b'P', &body), describe(b'S', name)].concat()
}

/// Bind, Describe and Execute, as often as it takes for some rows at a time.
pub fn bound(sql: &Sql, name: &str, format: Format, rows: u32) -> Vec<u8> {
    let mut frames = bind(name, &sql.params, &sql.formats(format));
    frames.extend(describe(b'P', ""));
    frames.extend(execute("", rows));
    if rows > 0 {
        frames.extend(execute("", rows));
        frames.extend(execute("", 0));
    }
    frames
}

fn bind(name: &str, params: &[Param], formats: &[u16]) -> Vec<u8> {
    let mut body = [b"\0", name.as_bytes(), b"\0"].concat();
    let count = u16::try_from(params.len()).unwrap().to_be_bytes();
    body.extend(count);
    params.iter().for_each(|p| body.extend(u16::from(p.binary.is_some()).to_be_bytes()));
    body.extend(count);
    for param in params {
        let bytes = param.binary.as_deref().or_else(|| param.image.as_deref().map(str::as_bytes));
        match bytes {
            None => body.extend((-1i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend_from_slice(bytes);
            }
        }
    }
    body.extend(u16::try_from(formats.len()).unwrap().to_be_bytes());
    formats.iter().for_each(|format| body.extend(format.to_be_bytes()));
    frame(b'B', &body)
}

/// Several statements before one Sync, or with some in between.
pub fn pipeline(random: &mut Random, statements: &[Sql]) -> Exchange {
    let mut frames = Vec::new();
    let mut label = "pipeline:".to_owned();
    let mut order = Order::Exact;
    let mut readies = 1;
    let syncs = random.chance(25);
    for sql in statements {
        let format = *random.pick(&[Format::Text, Format::Binary, Format::Mixed]);
        frames.extend(prepare(sql, ""));
        frames.extend(bound(sql, "", format, *random.pick(&[0, 0, 0, 1])));
        label += &format!("\n      {}", sql.text);
        if syncs && random.chance(40) {
            frames.extend(sync());
            readies += 1;
            label += " [Sync]";
        } else if random.chance(10) {
            frames.extend(flush());
        }
        if sql.order == Order::Any {
            order = Order::Any;
        }
    }
    frames.extend(sync());
    Exchange { label, frames, until: Until::Readies(readies), order }
}

/// How a COPY is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyWay {
    Simple,
    /// Its data before the Sync.
    Extended,
    /// A Sync before its data, as libpq does.
    Early,
}

/// COPY FROM STDIN with its data, or with a CopyFail.
pub fn copy_in(way: CopyWay, sql: &str, data: &[Vec<u8>], fail: bool) -> Exchange {
    let mut frames = match way {
        CopyWay::Simple => query(sql),
        CopyWay::Extended | CopyWay::Early => {
            let sql = Sql::plain(sql);
            [prepare(&sql, ""), bound(&sql, "", Format::Text, 0)].concat()
        }
    };
    frames.extend(match way {
        CopyWay::Simple => Vec::new(),
        CopyWay::Extended => flush(),
        CopyWay::Early => sync(),
    });
    data.iter().for_each(|piece| frames.extend(frame(b'd', piece)));
    frames.extend(if fail { frame(b'f', b"no more\0") } else { frame(b'c', b"") });
    let until = match way {
        CopyWay::Simple => Until::Readies(1),
        CopyWay::Extended => {
            frames.extend(sync());
            Until::Readies(1)
        }
        CopyWay::Early => {
            frames.extend(sync());
            frames.extend(query("SELECT 'over'"));
            Until::Over
        }
    };
    let shown: Vec<String> = data.iter().map(|p| p.escape_ascii().to_string()).collect();
    let end = if fail { " and fails" } else { "" };
    let label = format!("copy {way:?}: {sql} {shown:?}{end}");
    Exchange { label, frames, until, order: Order::Exact }
}
