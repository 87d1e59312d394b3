//! Records what a Postgres says to the scripts.

use super::script::{ALL, DDL};
use super::{Event, Recording, Replay};
use crate::throwaway::{Options, Postgres};
use crate::wire::frame::Header;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// Records every script on a Postgres of its own.
pub(super) fn all() {
    let postgres = Postgres::start(&Options::default()).unwrap_or_else(|e| panic!("{e}"));
    for (name, batches) in ALL {
        let mut direct = connect(&postgres);
        until_ready(&mut direct);
        run(&mut direct, DDL);
        let oid = |table: &str| format!("'{table}'::regclass::oid::text");
        let answer =
            run(&mut direct, &format!("SELECT {} || ' ' || {}", oid("orders"), oid("orders_v2")));
        record(connect(&postgres), oids(&answer), batches()).write(name);
    }
}

fn connect(postgres: &Postgres) -> TcpStream {
    let mut stream = TcpStream::connect((postgres.host(), postgres.port())).unwrap();
    let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], body].concat()).unwrap();
    stream
}

/// Everything up to a ReadyForQuery.
fn until_ready(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let frame = next(stream);
        all.extend_from_slice(&frame);
        if frame[0] == b'Z' {
            return all;
        }
    }
}

fn next(stream: &mut TcpStream) -> Vec<u8> {
    let mut frame = vec![0; 5];
    stream.read_exact(&mut frame).unwrap();
    let header = Header::read(&frame).unwrap().unwrap();
    frame.resize(header.frame_bytes, 0);
    stream.read_exact(&mut frame[5..]).unwrap();
    frame
}

fn run(direct: &mut TcpStream, sql: &str) -> Vec<u8> {
    let body = [sql.as_bytes(), b"\0"].concat();
    direct.write_all(&super::super::tests::frame(b'Q', &body)).unwrap();
    let answer = until_ready(direct);
    assert_ne!(answer[0], b'E', "{}", answer.escape_ascii());
    answer
}

/// The two numbers of the only row.
fn oids(answer: &[u8]) -> (u32, u32) {
    let text = String::from_utf8_lossy(answer);
    let numbers: Vec<u32> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|n| n.len() >= 5)
        .map(|n| n.parse().unwrap())
        .collect();
    (numbers[0], numbers[1])
}

fn record(mut server: TcpStream, oids: (u32, u32), batches: Vec<Vec<u8>>) -> Recording {
    let mut replay = Replay::new(oids);
    let mut events = Vec::new();
    let mut sent = 0;
    let mut turn = |replay: &mut Replay, event: Event| {
        replay.event(&event);
        events.push(event);
    };
    let hello = until_ready(&mut server);
    turn(&mut replay, Event::Server(hello));
    for batch in batches {
        turn(&mut replay, Event::Client(batch));
        loop {
            server.write_all(&replay.out.to_server[sent..]).unwrap();
            sent = replay.out.to_server.len();
            if replay.session.replies.is_empty() && replay.from_client.is_empty() {
                break;
            }
            let frame = next(&mut server);
            let copies = frame[0] == b'G';
            turn(&mut replay, Event::Server(frame));
            // The data of a COPY may come in a batch of their own.
            if copies && replay.from_client.is_empty() && !replay.ends_copy() {
                server.write_all(&replay.out.to_server[sent..]).unwrap();
                sent = replay.out.to_server.len();
                break;
            }
        }
    }
    Recording { oids, events }
}

impl Replay {
    /// Whether the client has sent the end of the COPY that has just begun.
    fn ends_copy(&self) -> bool {
        let frames = self.at_server();
        let last = frames.iter().rev().find(|f| f[0] != b'S' && f[0] != b'C');
        last.is_some_and(|f| matches!(f[0], b'c' | b'f'))
    }
}
