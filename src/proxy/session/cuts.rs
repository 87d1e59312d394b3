//! Where reads end changes nothing: real sessions, replayed with their bytes cut anywhere and both
//! directions in any order that cause and effect allow, give the same bytes to both sides.
//!
//! `recorded/` holds what a client and a Postgres said to a session, in its order. After a change
//! of what the session itself asks of a server, they are recorded anew, on a throwaway Postgres:
//! `PGSEGUE_RECORD=1 cargo test --lib session::cuts`.

mod record;
mod script;

use super::stand::{context, routes};
use super::*;
use crate::manifest::Unclassified;
use crate::routing::Mirror;
use crate::sql::target::SyncMode;
use crate::wire::frame::Header;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use std::fs;
use std::path::PathBuf;

/// Ways to cut each recording.
const CASES: u32 = 150;

/// What came from one side at once.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Client(Vec<u8>),
    Server(Vec<u8>),
}

/// A recorded session: the object ids of source and shadow, and what came.
#[derive(Debug)]
struct Recording {
    oids: (u32, u32),
    events: Vec<Event>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/proxy/session/recorded")
}

impl Recording {
    fn write(&self, name: &str) {
        let mut text = format!("{} {}\n", self.oids.0, self.oids.1);
        for event in &self.events {
            let (mark, bytes) = match event {
                Event::Client(bytes) => ('>', bytes),
                Event::Server(bytes) => ('<', bytes),
            };
            text.push_str(&format!("{mark} {}\n", bytes.escape_ascii()));
        }
        fs::create_dir_all(folder()).unwrap();
        fs::write(folder().join(name), text).unwrap();
    }

    fn read(name: &str) -> Self {
        let text = fs::read_to_string(folder().join(name)).unwrap();
        let mut lines = text.lines();
        let (source, shadow) = lines.next().unwrap().split_once(' ').unwrap();
        let event = |line: &str| match line.split_at(2) {
            ("> ", bytes) => Event::Client(unescaped(bytes)),
            (_, bytes) => Event::Server(unescaped(bytes)),
        };
        Self {
            oids: (source.parse().unwrap(), shadow.parse().unwrap()),
            events: lines.map(event).collect(),
        }
    }
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let mut digit = || char::from(bytes.next().unwrap()).to_digit(16).unwrap();
                    u8::try_from(16 * digit() + digit()).unwrap()
                }
                same => same,
            },
            byte => byte,
        });
    }
    out
}

/// A session with what it has said so far and what it has not taken yet.
struct Replay {
    session: Session,
    out: Out,
    from_client: Vec<u8>,
    from_server: Vec<u8>,
}

impl Replay {
    fn new(oids: (u32, u32)) -> Self {
        let mut routes = routes(Mirror::On(SyncMode::Sync), Unclassified::Record);
        let route = Arc::make_mut(&mut routes.routes[0]);
        let target = Arc::make_mut(&mut route.target);
        (target.source_oid, target.shadow_oid) = oids;
        target.sync_function = "pgsegue.sync_m".into();
        target.mark_function = "pgsegue.mark_m".into();
        let (context, _handle) = context(routes);
        let session = Session::new(context, "postgres".into(), "postgres".into());
        Self { session, out: Out::default(), from_client: Vec::new(), from_server: Vec::new() }
    }

    fn client(&mut self, bytes: &[u8]) {
        self.from_client.extend_from_slice(bytes);
        let taken = self.session.on_client(&self.from_client, &mut self.out).unwrap();
        self.from_client.drain(..taken);
    }

    fn server(&mut self, bytes: &[u8]) {
        self.from_server.extend_from_slice(bytes);
        let taken = self.session.on_server(&self.from_server, &mut self.out).unwrap();
        self.from_server.drain(..taken);
        // As the driver does: what waited may go on.
        self.client(&[]);
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Client(bytes) => self.client(bytes),
            Event::Server(bytes) => self.server(bytes),
        }
    }

    /// Frames that the server has whole. Those of a Flush do not count: whether a Bind waits for
    /// earlier groups, and asks for their answers, hangs on what has been answered.
    fn at_server(&self) -> Vec<&[u8]> {
        let mut rest = &self.out.to_server[..];
        let mut frames = Vec::new();
        while let Ok(Some(header)) = Header::read(rest) {
            let Some((frame, after)) = rest.split_at_checked(header.frame_bytes) else { break };
            if header.tag != b'H' {
                frames.push(frame);
            }
            rest = after;
        }
        frames
    }
}

/// What a stretch of one side's bytes waits for.
struct Due {
    /// Where it ends in the bytes of its side.
    end: usize,
    /// Of a client: bytes that it has from the session by then. Of a server: frames.
    after: usize,
}

/// One side's bytes, and what each of them waits for.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    due: Vec<Due>,
    at: usize,
}

impl Stream {
    fn push(&mut self, bytes: &[u8], after: usize) {
        self.bytes.extend_from_slice(bytes);
        self.due.push(Due { end: self.bytes.len(), after });
    }

    /// Up to `most` bytes that may come now.
    fn next(&mut self, most: usize, seen: usize) -> Vec<u8> {
        let waiting = self.due.iter().find(|d| d.after > seen);
        let before =
            |due: &Due| self.due.iter().rev().find(|d| d.end < due.end).map_or(0, |d| d.end);
        let end = waiting.map_or(self.bytes.len(), before).min(self.at + most);
        let next = self.bytes[self.at..end.max(self.at)].to_vec();
        self.at += next.len();
        next
    }

    fn is_over(&self) -> bool {
        self.at == self.bytes.len()
    }
}

/// Splits what the server said at its ReadyForQuery frames: the n-th of them answers the n-th frame
/// that asks for one, and may come as soon as that has been sent.
fn answers(
    whole: &Replay,
    bytes: &[u8],
    ready: &mut usize,
    recorded: usize,
) -> Vec<(Vec<u8>, usize)> {
    let frames = whole.at_server();
    let asking: Vec<_> = frames
        .iter()
        .enumerate()
        .filter(|(_, f)| matches!(f[0], b'S' | b'Q' | b'F'))
        .map(|(i, _)| i + 1)
        .collect();
    let mut parts = Vec::new();
    let mut rest = bytes;
    let mut part = Vec::new();
    while let Ok(Some(header)) = Header::read(rest) {
        let Some((frame, after)) = rest.split_at_checked(header.frame_bytes) else { break };
        part.extend_from_slice(frame);
        rest = after;
        if header.tag == b'Z' {
            // The first one ends the startup.
            let asked = ready.checked_sub(1).and_then(|n| asking.get(n)).copied().unwrap_or(0);
            *ready += 1;
            parts.push((std::mem::take(&mut part), asked.min(recorded)));
        }
    }
    part.extend_from_slice(rest);
    parts.push((part, recorded));
    parts.retain(|(part, _)| !part.is_empty());
    parts
}

fn replayed_whole(recording: &Recording) -> (Replay, Stream, Stream) {
    let mut whole = Replay::new(recording.oids);
    let (mut client, mut server) = (Stream::default(), Stream::default());
    let mut ready = 0;
    for event in &recording.events {
        match event {
            Event::Client(bytes) => client.push(bytes, whole.out.to_client.len()),
            Event::Server(bytes) => {
                let recorded = whole.at_server().len();
                for (part, after) in answers(&whole, bytes, &mut ready, recorded) {
                    server.push(&part, after);
                }
            }
        }
        whole.event(event);
    }
    assert!(whole.session.is_idle() && whole.from_client.is_empty(), "it has an end");
    let ours = |w: &[u8]| matches!(w, b"pgsegue 1" | b"pgsegue d" | b"pgsegue w");
    assert!(!whole.out.to_client.windows(9).any(ours), "the client sees names of ours");
    (whole, client, server)
}

/// Replays a recording by these choices: a side, and how many bytes of it.
fn replayed_cut(recording: &Recording, choices: &[(bool, usize)]) -> Result<(), TestCaseError> {
    let (whole, mut client, mut server) = replayed_whole(recording);
    let mut cut = Replay::new(recording.oids);
    for (from_client, most) in choices.iter().cycle() {
        if client.is_over() && server.is_over() {
            break;
        }
        let mut step = |from_client: bool| {
            if from_client {
                if cut.session.is_held() {
                    return false;
                }
                let bytes = client.next(*most, cut.out.to_client.len());
                cut.client(&bytes);
                !bytes.is_empty()
            } else {
                let bytes = server.next(*most, cut.at_server().len());
                cut.server(&bytes);
                !bytes.is_empty()
            }
        };
        prop_assert!(step(*from_client) || step(!*from_client), "both sides wait for each other");
    }
    prop_assert!(cut.session.is_idle() && cut.from_client.is_empty());
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    prop_assert_eq!(text(&cut.out.to_client), text(&whole.out.to_client));
    let frames = |replay: &Replay| replay.at_server().iter().map(|f| text(f)).collect::<Vec<_>>();
    prop_assert_eq!(frames(&cut), frames(&whole));
    Ok(())
}

#[test]
fn recorded_sessions_give_the_same_bytes_wherever_they_are_cut() {
    if std::env::var_os("PGSEGUE_RECORD").is_some() {
        record::all();
    }
    let bytes = prop_oneof![Just(1_usize), 1..8_usize, 1..100_usize, 1..5_000_usize];
    let choices = proptest::collection::vec((any::<bool>(), bytes), 1..100);
    for (name, _) in script::ALL {
        let recording = Recording::read(name);
        replayed_cut(&recording, &[(true, 1)]).unwrap();
        replayed_cut(&recording, &[(false, 1)]).unwrap();
        let mut config = ProptestConfig::with_cases(CASES);
        config.rng_seed = RngSeed::Fixed(3);
        config.source_file = Some(file!());
        let mut runner = TestRunner::new(config);
        let done = runner.run(&choices, |choices| replayed_cut(&recording, &choices));
        assert!(done.is_ok(), "{name}: {}", done.unwrap_err());
    }
}

#[test]
fn recordings_are_written_so_that_they_can_be_read() {
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(unescaped(&bytes.escape_ascii().to_string()), bytes);
}
