//! A client that speaks the protocol frame by frame and keeps everything the server says, so that
//! a session through the proxy and a direct one can be compared to the byte.

use std::collections::HashMap;
use std::fmt::Write as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub tag: u8,
    pub body: Vec<u8>,
}

/// A connection.
pub struct Raw {
    pub stream: TcpStream,
    /// What BackendKeyData said.
    pub key: (u32, u32),
    /// User tables and types by object id, so that two databases compare.
    names: HashMap<u32, String>,
}

/// The frame of a simple query.
pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

pub fn parse(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0"].concat();
    body.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    types.iter().for_each(|t| body.extend(t.to_be_bytes()));
    frame(b'P', &body)
}

/// A Bind with values as text, or, where `format` is 1, as the bytes given.
pub fn bind(portal: &str, name: &str, format: u16, values: &[Option<&[u8]>], rows: u16) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0"].concat();
    body.extend(1u16.to_be_bytes());
    body.extend(format.to_be_bytes());
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            None => body.extend((-1i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend_from_slice(bytes);
            }
        }
    }
    body.extend(1u16.to_be_bytes());
    body.extend(rows.to_be_bytes());
    frame(b'B', &body)
}

/// Describe of a statement (`S`) or portal (`P`).
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    frame(b'D', &[&[kind], name.as_bytes(), b"\0"].concat())
}

pub fn close(kind: u8, name: &str) -> Vec<u8> {
    frame(b'C', &[&[kind], name.as_bytes(), b"\0"].concat())
}

pub fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    frame(b'E', &[portal.as_bytes(), b"\0", &rows_max.to_be_bytes()].concat())
}

/// One statement without parameters, and without a Sync.
pub fn one(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", 0, &[], 0), execute("", 0)].concat()
}

pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    frame(b'H', b"")
}

/// A FunctionCall with its arguments as text.
pub fn call(function: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = function.to_be_bytes().to_vec();
    body.extend(0u16.to_be_bytes());
    body.extend(u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend(u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument.as_bytes());
    }
    body.extend(0u16.to_be_bytes());
    frame(b'F', &body)
}

pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// The startup message.
pub fn startup(user: &str, database: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608u32.to_be_bytes().to_vec();
    for (name, value) in [("user", user), ("database", database)].iter().chain(options) {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let mut out = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    out.extend(body);
    out
}

impl Raw {
    /// Connects and learns the names of the tables and types that exist now.
    pub async fn connect(port: u16, user: &str, database: &str) -> Self {
        Self::connect_with(port, user, database, &[]).await
    }

    /// The same with startup parameters.
    pub async fn connect_with(
        port: u16,
        user: &str,
        database: &str,
        options: &[(&str, &str)],
    ) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Self::of(stream);
        raw.send(&startup(user, database, options)).await;
        for message in raw.until_ready(1).await {
            if message.tag == b'K' {
                raw.key = (u32_at(&message.body, 0), u32_at(&message.body, 4));
            }
            assert_ne!(message.tag, b'E', "{}", raw.show(&message));
        }
        let names = "SELECT oid, relname FROM pg_class WHERE oid >= 16384 UNION ALL \
                     SELECT oid, typname FROM pg_type WHERE oid >= 16384";
        for row in raw.rows(names).await {
            raw.names.insert(row[0].clone().unwrap().parse().unwrap(), row[1].clone().unwrap());
        }
        raw
    }

    /// A client on a connection whose startup message is sent already.
    pub fn of(stream: TcpStream) -> Self {
        Self { stream, key: (0, 0), names: HashMap::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Message> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).await.ok()?;
        let mut body = vec![0; u32_at(&head, 1) as usize - 4];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Message { tag: head[0], body })
    }

    /// Sends frames while what comes is read, up to the n-th ReadyForQuery.
    pub async fn pipeline(&mut self, frames: &[u8], mut readies: usize) -> Vec<Message> {
        let (read, mut write) = self.stream.split();
        let mut read = tokio::io::BufReader::new(read);
        let reading = async {
            let mut messages = Vec::new();
            while readies > 0 {
                let mut head = [0; 5];
                read.read_exact(&mut head).await.unwrap();
                let mut body = vec![0; u32_at(&head, 1) as usize - 4];
                read.read_exact(&mut body).await.unwrap();
                readies -= usize::from(head[0] == b'Z');
                messages.push(Message { tag: head[0], body });
            }
            messages
        };
        let (sent, messages) = tokio::join!(write.write_all(frames), reading);
        sent.unwrap();
        messages
    }

    /// Everything up to the n-th ReadyForQuery.
    pub async fn until_ready(&mut self, mut readies: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        while readies > 0 {
            let Some(message) = self.next().await else {
                panic!("the server closed the connection after {:?}", self.shown(&messages))
            };
            readies -= usize::from(message.tag == b'Z');
            messages.push(message);
        }
        messages
    }

    /// Sends frames and returns what comes up to the n-th ReadyForQuery, one line per message.
    pub async fn exchange(&mut self, frames: &[u8], readies: usize) -> Vec<String> {
        self.send(frames).await;
        let messages = self.until_ready(readies).await;
        self.shown(&messages)
    }

    /// Sends frames where nobody knows how often the server will be ready: what comes up to the answer to an empty
    /// query behind them.
    pub async fn exchange_all(&mut self, frames: &[u8]) -> Vec<String> {
        self.send(&[frames, &query("")].concat()).await;
        let mut messages = Vec::new();
        while messages.last().is_none_or(|m: &Message| m.tag != b'I') {
            messages.push(self.next().await.expect("the server closed the connection"));
        }
        messages.extend(self.until_ready(1).await);
        self.shown(&messages)
    }

    /// A simple query's messages, one line each.
    pub async fn query(&mut self, sql: &str) -> Vec<String> {
        self.exchange(&query(sql), 1).await
    }

    /// A simple query that must not fail; its rows as text.
    pub async fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.send(&query(sql)).await;
        let messages = self.until_ready(1).await;
        let mut rows = Vec::new();
        for message in &messages {
            assert_ne!(message.tag, b'E', "{sql}: {}", self.show(message));
            if message.tag == b'D' {
                let text = |v: Option<&[u8]>| v.map(|v| String::from_utf8(v.to_vec()).unwrap());
                rows.push(values(&message.body).into_iter().map(text).collect());
            }
        }
        rows
    }

    /// A simple query that must not fail.
    pub async fn run(&mut self, sql: &str) {
        self.rows(sql).await;
    }

    pub fn shown(&self, messages: &[Message]) -> Vec<String> {
        messages.iter().map(|m| self.show(m)).collect()
    }

    /// One message in words. Object ids of the database's own are names; places in the server's
    /// source are left out.
    pub fn show(&self, message: &Message) -> String {
        self.show_without(message, b"FLR")
    }

    /// The same, and an error or a notice has all but these fields.
    pub fn show_without(&self, message: &Message, fields: &[u8]) -> String {
        let (body, left_out) = (&message.body, fields);
        match message.tag {
            b'T' => format!("T {}", self.show_description(body)),
            b'D' => {
                let value = |v: Option<&[u8]>| v.map_or_else(|| "∅".to_owned(), readable);
                let values: Vec<_> = values(body).into_iter().map(value).collect();
                format!("D {}", values.join(" | "))
            }
            b'E' | b'N' => {
                let mut fields: Vec<String> = body
                    .split(|b| *b == 0)
                    .filter(|f| !f.is_empty() && !left_out.contains(&f[0]))
                    .map(|f| String::from_utf8_lossy(f).into_owned())
                    .collect();
                fields.sort();
                format!("{} {}", char::from(message.tag), fields.join(" / "))
            }
            b't' => {
                let types = body[2..].chunks(4).map(|c| self.name(u32_at(c, 0)));
                format!("t {}", types.collect::<Vec<_>>().join(","))
            }
            tag => format!("{} {}", char::from(tag), readable(body)).trim_end().to_owned(),
        }
    }

    fn show_description(&self, body: &[u8]) -> String {
        let mut rest = &body[2..];
        let mut out = String::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|b| *b == 0).unwrap();
            let name = String::from_utf8_lossy(&rest[..end]);
            let f = &rest[end + 1..];
            let (table, kind) = (self.name(u32_at(f, 0)), self.name(u32_at(f, 6)));
            let (column, size) = (u16_at(f, 4), u16_at(f, 10));
            let (modifier, format) = (u32_at(f, 12), u16_at(f, 16));
            write!(out, "[{name} {table}.{column} {kind} {size} {modifier} f{format}]").unwrap();
            rest = &f[18..];
        }
        out
    }

    fn name(&self, oid: u32) -> String {
        match self.names.get(&oid) {
            Some(name) => name.clone(),
            None if oid >= 16_384 => "later".to_owned(),
            None => oid.to_string(),
        }
    }
}

/// The values of a DataRow.
pub fn values(body: &[u8]) -> Vec<Option<&[u8]>> {
    let mut rest = &body[2..];
    let mut values = Vec::new();
    while !rest.is_empty() {
        let length = u32_at(rest, 0);
        rest = &rest[4..];
        if length == u32::MAX {
            values.push(None);
            continue;
        }
        let (value, after) = rest.split_at(length as usize);
        values.push(Some(value));
        rest = after;
    }
    values
}

fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\0' && c != '\n') => {
            text.trim_end_matches('\0').to_owned()
        }
        _ => bytes.iter().fold("x".to_owned(), |mut hex, b| {
            write!(hex, "{b:02x}").unwrap();
            hex
        }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}
