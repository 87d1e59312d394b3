//! A statement as the frames of a protocol, and what there is beside statements.

use crate::pen::{Order, Param, Sql};
use crate::raw::{describe, execute, frame, query, sync};

/// What goes to the server at once, and what comes back for it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// For who reads a failure.
    pub label: String,
    pub frames: Vec<u8>,
    /// ReadyForQuery messages that answer it.
    pub readies: usize,
    pub order: Order,
}

/// How a statement is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    Simple,
    /// Name of the statement, format of the reply, rows per Execute (0: all).
    Extended {
        name: String,
        format: u16,
        rows: u32,
    },
}

pub fn simple(sql: &Sql) -> Exchange {
    Exchange {
        label: format!("simple: {}", sql.text),
        frames: query(&sql.text),
        readies: 1,
        order: sql.order,
    }
}

/// Parse, Describe, Bind, Describe, Execute, Sync.
pub fn extended(sql: &Sql, name: &str, format: u16, rows: u32) -> Exchange {
    let format = if sql.binary { format } else { 0 };
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
    let label = format!(
        "extended {name:?} format {format} rows {rows}: {} [{}]",
        sql.text,
        values.join(", ")
    );
    Exchange { label, frames, readies: 1, order: sql.order }
}

pub fn prepare(sql: &Sql, name: &str) -> Vec<u8> {
    let mut body = [name.as_bytes(), b"\0", sql.text.as_bytes(), b"\0"].concat();
    body.extend(u16::try_from(sql.params.len()).unwrap().to_be_bytes());
    sql.params.iter().for_each(|p| body.extend(p.oid.to_be_bytes()));
    [frame(b'P', &body), describe(b'S', name)].concat()
}

/// Bind, Describe and Execute, as often as it takes for some rows at a time.
pub fn bound(sql: &Sql, name: &str, format: u16, rows: u32) -> Vec<u8> {
    let mut frames = bind(name, &sql.params, format);
    frames.extend(describe(b'P', ""));
    frames.extend(execute("", rows));
    if rows > 0 {
        frames.extend(execute("", rows));
        frames.extend(execute("", 0));
    }
    frames
}

fn bind(name: &str, params: &[Param], format: u16) -> Vec<u8> {
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
    body.extend(1u16.to_be_bytes());
    body.extend(format.to_be_bytes());
    frame(b'B', &body)
}

/// Several statements before one Sync.
pub fn pipeline(statements: &[Sql]) -> Exchange {
    let mut frames = Vec::new();
    let mut label = "pipeline:".to_owned();
    let mut order = Order::Exact;
    for sql in statements {
        frames.extend(prepare(sql, ""));
        frames.extend(bound(sql, "", 0, 0));
        label += &format!("\n      {}", sql.text);
        if sql.order == Order::Any {
            order = Order::Any;
        }
    }
    frames.extend(sync());
    Exchange { label, frames, readies: 1, order }
}

/// COPY FROM STDIN with its data, or with a CopyFail.
pub fn copy_in(sql: &str, data: &[Vec<u8>], fail: bool) -> Exchange {
    let mut frames = query(sql);
    data.iter().for_each(|piece| frames.extend(frame(b'd', piece)));
    frames.extend(if fail { frame(b'f', b"no more\0") } else { frame(b'c', b"") });
    let shown: Vec<String> =
        data.iter().map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
    let label = format!("copy: {sql} {shown:?}{}", if fail { " and fails" } else { "" });
    Exchange { label, frames, readies: 1, order: Order::Exact }
}
