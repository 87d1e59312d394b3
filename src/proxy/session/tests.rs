//! The session as bytes in, bytes out: what the server gets, what the client gets, whatever the
//! cuts between reads are. What the forms do is tested on a real server.

use super::stand::{context, routes};
use super::*;
use crate::manifest::Unclassified;
use crate::routing::{Handle, Mirror};
use crate::sql::target::SyncMode;
use crate::wire::backend::push_frame;
use crate::wire::build;

struct Peer {
    session: Session,
    handle: Arc<Handle>,
    out: Out,
    waiting: Vec<u8>,
}

impl Peer {
    fn new(routes: Routes) -> Self {
        let (context, handle) = context(routes);
        let mut session = Session::new(context, "app".into(), "db".into());
        let mut out = Out::default();
        let mut hello = Vec::new();
        push_frame(&mut hello, b'S', |o| o.extend_from_slice(b"client_encoding\0UTF8\0"));
        build::ready_for_query(&mut hello, b'I');
        assert_eq!(session.on_server(&hello, &mut out).unwrap(), hello.len());
        Self { session, handle, out: Out::default(), waiting: Vec::new() }
    }

    fn mirrored() -> Self {
        Self::new(routes(Mirror::On(SyncMode::Sync), Unclassified::Record))
    }

    /// What the server gets for these bytes of the client.
    fn client(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.waiting.extend_from_slice(bytes);
        self.pump();
        std::mem::take(&mut self.out.to_server)
    }

    fn pump(&mut self) {
        let n = self.session.on_client(&self.waiting, &mut self.out).unwrap();
        self.waiting.drain(..n);
    }

    /// What the client gets for these bytes of the server.
    fn server(&mut self, bytes: &[u8]) -> Vec<u8> {
        assert_eq!(self.session.on_server(bytes, &mut self.out).unwrap(), bytes.len());
        self.pump();
        std::mem::take(&mut self.out.to_client)
    }
}

pub(super) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_frame(&mut out, tag, |o| o.extend_from_slice(body));
    out
}

pub(super) fn frames(parts: &[(u8, &[u8])]) -> Vec<u8> {
    parts.iter().flat_map(|(tag, body)| frame(*tag, body)).collect()
}

const SYNC: (u8, &[u8]) = (b'S', b"");
const BIND: (u8, &[u8]) = (b'B', b"\0s\0\0\0\0\0\0\0");
/// The same of the unnamed statement.
const UNNAMED: (u8, &[u8]) = (b'B', b"\0\0\0\0\0\0\0\0");
const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\x01");
const READY: (u8, &[u8]) = (b'Z', b"I");
/// A RowDescription of these columns, all else 0.
fn described(names: &[&str]) -> Vec<u8> {
    let count = u16::try_from(names.len()).unwrap().to_be_bytes();
    let fields = names.iter().flat_map(|name| [name.as_bytes(), &[0; 19]].concat());
    count.into_iter().chain(fields).collect()
}

/// Two columns: rows 3, outcome as given.
fn batch(outcome: u8) -> Vec<u8> {
    vec![0, 2, 0, 0, 0, 1, b'3', 0, 0, 0, 1, outcome]
}

pub(super) fn prepare(sql: &str) -> Vec<u8> {
    parse(b"s", sql)
}

fn parse(name: &[u8], sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    build::parse(&mut out, name, sql, &[]);
    out
}

/// Without where its statement is made.
fn bound_once(sent: &[u8]) -> &[u8] {
    let at = sent.windows(5).position(|w| w.starts_with(b"B\0\0") && w[4] < 64);
    at.map_or(sent, |at| &sent[at..])
}

fn texts(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_mirrored_write_looks_like_the_write_itself() {
    let mut peer = Peer::mirrored();
    let update = "UPDATE public.orders SET a = 1";
    let sent = peer.client(&parse(b"", update));
    assert!(
        texts(&sent).contains("WITH \"pgsegue w\" AS (UPDATE public.orders SET a = 1 RETURNING")
    );
    let rest = peer.client(&frames(&[(b'D', b"S\0"), UNNAMED, EXECUTE, SYNC]));
    // Some drivers ask a write for one row: the mirrored form is asked for all.
    let unlimited: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
    assert_eq!(rest, frames(&[(b'D', b"S\0"), UNNAMED, unlimited, SYNC]));
    let described = frames(&[(b'1', b""), (b't', b"\0\0"), (b'T', b"\0\0")]);
    assert_eq!(peer.server(&described), frames(&[(b'1', b""), (b't', b"\0\0"), (b'n', b"")]));
    let replies = [frame(b'2', b""), frame(b'D', &batch(b'0')), frame(b'D', &batch(b'0'))];
    assert_eq!(peer.server(&replies.concat()), frame(b'2', b""));
    let done = frames(&[(b'C', b"SELECT 2\0"), READY]);
    assert_eq!(peer.server(&done), frames(&[(b'C', b"UPDATE 6\0"), READY]));
    assert!(peer.session.is_idle());
}

#[test]
fn a_flip_reaches_a_statement_that_was_prepared_before() {
    let mut peer = Peer::new(routes(Mirror::Off, Unclassified::Record));
    let delete = "DELETE FROM public.orders";
    assert_eq!(peer.client(&prepare(delete)), prepare(delete), "as it is");
    let group = frames(&[BIND, EXECUTE, SYNC]);
    assert_eq!(peer.client(&group), group);
    let ready = frames(&[(b'1', b""), (b'2', b""), (b'C', b"DELETE 1\0"), READY]);
    assert_eq!(peer.server(&ready), ready);

    peer.handle.publish(|_, epoch| Routes {
        epoch,
        ..routes(Mirror::On(SyncMode::SyncRecordDeletes), Unclassified::Record)
    });
    let sent = texts(&peer.client(&group));
    assert!(sent.contains("DELETE FROM public.orders RETURNING") && sent.contains(", 1) AS d"));
    let replies = [
        frames(&[(b'3', b""), (b'1', b""), (b'2', b"")]),
        frame(b'D', &batch(b'0')),
        frames(&[(b'C', b"SELECT 1\0"), READY]),
    ];
    let seen = peer.server(&replies.concat());
    assert_eq!(seen, frames(&[(b'2', b""), (b'C', b"DELETE 3\0"), READY]));
    let again = texts(&peer.client(&group));
    assert!(!again.contains("DELETE"), "prepared once: {again}");
}

#[test]
fn dirty_keys_close_the_gate_until_the_transaction_has_ended() {
    let mut peer = Peer::mirrored();
    let gate = Arc::clone(&peer.handle.load().routes[0].gate);
    gate.open_if(gate.ticket());
    peer.client(&frame(b'Q', b"BEGIN\0"));
    peer.server(&frames(&[(b'C', b"BEGIN\0"), (b'Z', b"T")]));
    peer.client(&frame(b'Q', b"DELETE FROM public.orders\0"));
    assert!(gate.is_open());
    let replies = [frame(b'T', b"\0\0"), frame(b'D', &batch(b'1'))];
    let done = frames(&[(b'C', b"SELECT 1\0"), (b'Z', b"T")]);
    assert_eq!(
        peer.server(&[replies.concat(), done].concat()),
        frames(&[(b'C', b"DELETE 3\0"), (b'Z', b"T")])
    );
    gate.open_if(gate.ticket());
    assert!(!gate.is_open(), "its dirty key is not visible yet");
    peer.client(&frame(b'Q', b"COMMIT\0"));
    peer.server(&frames(&[(b'C', b"COMMIT\0"), READY]));
    gate.open_if(gate.ticket());
    assert!(gate.is_open());
}

#[test]
fn a_lock_timeout_makes_the_rest_of_the_transaction_only_record() {
    let mut peer = Peer::mirrored();
    peer.client(&frame(b'Q', b"BEGIN\0"));
    peer.server(&frames(&[(b'C', b"BEGIN\0"), (b'Z', b"T")]));
    let delete = frame(b'Q', b"DELETE FROM public.orders WHERE id = 1\0");
    assert!(texts(&peer.client(&delete)).contains(", 0) AS d"));
    let replies = [frame(b'T', b"\0\0"), frame(b'D', &batch(b'2'))];
    let done = frames(&[(b'C', b"SELECT 1\0"), (b'Z', b"T")]);
    peer.server(&[replies.concat(), done].concat());
    assert!(texts(&peer.client(&delete)).contains(", 2) AS d"));
}

#[test]
fn an_error_in_a_pipeline_skips_to_its_sync() {
    let mut peer = Peer::mirrored();
    let update = "UPDATE public.orders SET a = 1";
    let group = [parse(b"", update), frames(&[UNNAMED, EXECUTE, SYNC])].concat();
    peer.client(&group);
    peer.client(&frame(b'Q', b"SELECT 1\0"));
    let error = frames(&[(b'E', b"SERROR\0C42P01\0P34\0\0"), READY]);
    // P34 is in the rewritten text: 21 characters of ours come first.
    assert_eq!(peer.server(&error), frames(&[(b'E', b"SERROR\0C42P01\0P13\0\0"), READY]),);
    let row = frames(&[(b'T', b"\0\0"), (b'D', b"\0\0"), (b'C', b"SELECT 1\0"), READY]);
    assert_eq!(peer.server(&row), row);
    // The failed Parse has left no statement: the next Bind passes, and the server says so.
    assert_eq!(peer.client(&frames(&[UNNAMED])), frames(&[UNNAMED]));
}

#[test]
fn under_a_name_the_server_has_the_clients_own_text() {
    let mut peer = Peer::mirrored();
    let asked = [prepare("UPDATE public.orders SET a = 1"), frames(&[(b'D', b"Ss\0"), SYNC])];
    assert_eq!(peer.client(&asked.concat()), asked.concat());
    let described = frames(&[(b'1', b""), (b't', b"\0\0"), (b'n', b""), READY]);
    assert_eq!(peer.server(&described), described);
    let sent = peer.client(&frames(&[BIND, EXECUTE, SYNC]));
    let bound = frame(b'B', b"\0pgsegue 1 mirrored 1 1\0\0\0\0\0\0\0");
    assert_eq!(bound_once(&sent), [bound, frames(&[(b'E', b"\0\0\0\0\0"), SYNC])].concat());
}

#[test]
fn an_error_before_the_sync_makes_the_rest_of_the_group_pass_unseen() {
    let mut peer = Peer::mirrored();
    peer.client(&prepare("UPDATE public.orders SET a = 1"));
    peer.server(&frame(b'E', b"SERROR\0C42P01\0\0"));
    let rest = frames(&[BIND, EXECUTE]);
    assert_eq!(peer.client(&rest), rest);
    assert_eq!(peer.client(&frames(&[SYNC])), frames(&[SYNC]));
    assert_eq!(peer.server(&frames(&[READY])), frames(&[READY]));
    assert!(peer.session.is_idle());
}

#[test]
fn a_statement_that_is_not_understood_is_marked_in_its_transaction() {
    let mut peer = Peer::mirrored();
    let truncate = frame(b'Q', b"TRUNCATE public.orders_v2\0");
    let sent = peer.client(&truncate);
    assert!(texts(&sent).contains("SELECT mark('a write on the shadow')"));
    assert!(!texts(&sent).contains("TRUNCATE public"), "it waits for the mark");
    let marked = [
        frames(&[(b'1', b""), (b'2', b""), (b'D', b"\0\0"), (b'C', b"SELECT 1\0")]),
        frames(&[(b'3', b""), (b'3', b"")]),
    ];
    assert_eq!(peer.server(&marked.concat()), b"");
    assert_eq!(std::mem::take(&mut peer.out.to_server), truncate);
    let done = frames(&[(b'C', b"TRUNCATE TABLE\0"), READY]);
    assert_eq!(peer.server(&done), done);
}

#[test]
fn a_truncate_is_complete_when_its_step_is() {
    let mut peer = Peer::mirrored();
    let sent = peer.client(&frame(b'Q', b"TRUNCATE public.orders -- all\0"));
    assert_eq!(sent, frame(b'Q', b"TRUNCATE public.orders; SELECT truncated(0) -- all\0"));
    let tag = frames(&[(b'C', b"TRUNCATE TABLE\0")]);
    assert_eq!(peer.server(&tag), b"");
    let row = frames(&[(b'T', b"\0\0"), (b'D', b"\0\x01\0\0\0\x010"), (b'C', b"SELECT 1\0")]);
    assert_eq!(peer.server(&row), tag);
    assert_eq!(peer.server(&frames(&[READY])), frames(&[READY]));
    assert!(peer.session.is_idle());

    peer.client(&frame(b'Q', b"TRUNCATE public.orders\0"));
    assert_eq!(peer.server(&tag), b"");
    let cancelled = frames(&[(b'E', b"SERROR\0C57014\0\0"), READY]);
    assert_eq!(peer.server(&cancelled), cancelled);
    assert!(peer.session.is_idle());
}

#[test]
fn a_failing_mark_is_the_error_of_its_statement() {
    let mut peer = Peer::mirrored();
    peer.client(&frame(b'Q', b"TRUNCATE public.orders_v2\0"));
    let error = frame(b'E', b"SERROR\0C42501\0\0");
    assert_eq!(peer.server(&error), error);
    assert_eq!(std::mem::take(&mut peer.out.to_server), frames(&[SYNC]));
    assert_eq!(peer.server(&frames(&[READY])), frames(&[READY]));
    assert!(peer.session.is_idle());
    let next = frame(b'Q', b"SELECT 1\0");
    assert_eq!(peer.client(&next), next);
}

#[test]
fn refuses_by_an_error_of_the_servers_own_making() {
    let mut peer = Peer::new(routes(Mirror::On(SyncMode::Sync), Unclassified::Refuse));
    let sent = peer.client(&frame(b'Q', b"TRUNCATE public.orders_v2\0"));
    assert_eq!(sent, frame(b'Q', b"refused by pgsegue\0"));
    let seen = texts(&peer.server(&frames(&[(b'E', b"SERROR\0C42601\0\0"), READY])));
    assert!(
        seen.contains("C0A000")
            && seen.contains("a write on the shadow")
            && !seen.contains("42601")
    );
    assert!(peer.session.is_idle());
}

#[test]
fn a_bind_waits_until_a_parse_of_its_name_in_an_earlier_group_is_answered() {
    let mut peer = Peer::mirrored();
    peer.client(&[prepare("UPDATE public.orders SET a = 1"), frames(&[SYNC])].concat());
    peer.server(&frames(&[(b'1', b""), READY]));
    // The name is taken: the server will reject this, and keep the UPDATE.
    let rejected = [prepare("SELECT 1"), frames(&[SYNC])].concat();
    let group = frames(&[BIND, EXECUTE, SYNC]);
    let sent = peer.client(&[rejected.clone(), group].concat());
    assert_eq!(sent, [rejected, frames(&[(b'H', b"")])].concat(), "it waits");
    peer.server(&frames(&[(b'E', b"SERROR\0C42P05\0\0"), READY]));
    let sent = std::mem::take(&mut peer.out.to_server);
    assert!(texts(&sent).contains("UPDATE public.orders SET a = 1 RETURNING"));
    let replies = [frames(&[(b'3', b""), (b'1', b""), (b'2', b"")]), frame(b'D', &batch(b'0'))];
    let done = frames(&[(b'C', b"SELECT 1\0"), READY]);
    let seen = peer.server(&[replies.concat(), done].concat());
    assert_eq!(seen, frames(&[(b'2', b""), (b'C', b"UPDATE 3\0"), READY]));
}

#[test]
fn a_name_means_what_it_meant_before_several_parses_of_it_were_rejected() {
    let mut peer = Peer::mirrored();
    peer.client(&[prepare("UPDATE public.orders SET a = 1"), frames(&[SYNC])].concat());
    peer.server(&frames(&[(b'1', b""), READY]));
    let rejected = [prepare("SELECT 1"), frames(&[SYNC])].concat();
    peer.client(&rejected.repeat(3));
    for _ in 0..3 {
        peer.server(&frames(&[(b'E', b"SERROR\0C42P05\0\0"), READY]));
    }
    // The server runs the UPDATE: it is mirrored.
    let sent = peer.client(&frames(&[BIND, EXECUTE, SYNC]));
    assert!(texts(&sent).contains("UPDATE public.orders SET a = 1 RETURNING"));
}

#[test]
fn a_parse_in_the_same_group_leaves_no_doubt_about_its_name() {
    let mut peer = Peer::mirrored();
    let group = [prepare("SELECT 1"), frames(&[BIND, EXECUTE, SYNC])].concat();
    assert_eq!(peer.client(&group.repeat(3)), group.repeat(3), "nothing waits");
    let reply = frames(&[(b'1', b""), (b'2', b""), (b'C', b"SELECT 1\0"), READY]);
    assert_eq!(peer.server(&reply.repeat(3)), reply.repeat(3));
    assert!(peer.session.is_idle());
}

#[test]
fn long_pipelines_of_one_statement_are_no_more_work_per_bind_than_short_ones() {
    let mut peer = Peer::mirrored();
    peer.client(&[prepare("SELECT 1"), frames(&[SYNC])].concat());
    peer.server(&frames(&[(b'1', b""), READY]));
    // With a look at every open reply for every Bind this would not end.
    let group = frames(&[BIND, EXECUTE, SYNC]);
    let many = group.repeat(100_000);
    assert!(peer.client(&many) == many);
}

#[test]
fn a_sync_before_the_data_of_a_copy_has_no_answer() {
    let mut peer = Peer::mirrored();
    peer.client(&[prepare("COPY x FROM STDIN"), frames(&[BIND, EXECUTE, SYNC])].concat());
    let begins = frames(&[(b'1', b""), (b'2', b""), (b'G', b"\0\0\0")]);
    assert_eq!(peer.server(&begins), begins);
    peer.client(&frames(&[(b'd', b"1\n"), (b'c', b""), SYNC]));
    let done = frame(b'C', b"COPY 1\0");
    assert_eq!(peer.server(&done), done);
    // What is behind the data has waited for that.
    assert_eq!(peer.client(&[]), frames(&[SYNC]));
    assert_eq!(peer.server(&frames(&[READY])), frames(&[READY]));
    assert!(peer.session.is_idle());
}

#[test]
fn ends_of_copies_that_nobody_waits_for_do_not_pile_up() {
    let mut peer = Peer::mirrored();
    let stray = frames(&[(b'c', b""), (b'f', b"x\0")]).repeat(1_000);
    assert_eq!(peer.client(&stray), stray);
    assert!(peer.session.replies.len() < 2);
    assert!(!texts(&peer.client(&frames(&[SYNC]))).is_empty());
    assert_eq!(peer.server(&frames(&[READY])), frames(&[READY]));
    assert!(peer.session.is_idle());
}

#[test]
fn names_of_statements_count_to_their_63rd_byte() {
    let mut peer = Peer::mirrored();
    let name = |end: &str| [&[b'n'; 63], end.as_bytes(), b"\0"].concat();
    let parse = [&name("one")[..], b"UPDATE public.orders SET a = 1\0\0\0"].concat();
    peer.client(&frame(b'P', &parse));
    let bind = [b"\0", &name("two")[..], &[0; 6]].concat();
    let sent = peer.client(&[frame(b'B', &bind), frames(&[EXECUTE, SYNC])].concat());
    assert!(sent.windows(10).any(|w| w == frames(&[(b'E', b"\0\0\0\0\0")])), "mirrored");
}

#[test]
fn what_comes_before_the_server_is_ready_waits() {
    let context = Peer::mirrored().session.context;
    let mut session = Session::new(context, "app".into(), "db".into());
    let mut out = Out::default();
    let password = frame(b'p', b"secret\0");
    let query = frame(b'Q', b"DELETE FROM public.orders\0");
    let both = [password.clone(), query].concat();
    assert_eq!(session.on_client(&both, &mut out).unwrap(), password.len());
    assert_eq!(out.to_server, password);
    assert!(session.is_held());
}

#[test]
fn refuses_a_length_that_makes_no_sense() {
    let mut peer = Peer::mirrored();
    let error = peer.session.on_client(b"Q\0\0\0\x01", &mut peer.out).unwrap_err();
    assert_eq!(error.code, "08P01");
}

#[test]
fn the_cuts_between_reads_change_nothing() {
    let client = [
        frame(b'Q', b"UPDATE public.orders SET a = 1 WHERE id = 1 RETURNING a\0"),
        prepare("DELETE FROM public.orders"),
        frames(&[(b'D', b"Ss\0"), BIND, EXECUTE, (b'C', b"Ss\0"), SYNC]),
        frame(b'Q', b"SELECT 1; INSERT INTO public.orders VALUES (1)\0"),
        frame(b'!', b"unknown"),
    ]
    .concat();
    let server = [
        frames(&[(b'T', &described(&["pgsegue d", "pgsegue 1", "a"])), (b'N', b"SNOTICE\0\0")]),
        frame(b'D', &[0, 3, 0, 0, 0, 1, b'0', 0, 0, 0, 1, b'9', 0, 0, 0, 1, b'x']),
        frames(&[(b'C', b"SELECT 1\0"), READY]),
        frames(&[(b'1', b""), (b't', b"\0\0"), (b'n', b"")]),
        frames(&[(b'3', b""), (b'1', b""), (b'2', b"")]),
        frame(b'D', &batch(b'0')),
        frames(&[(b'C', b"SELECT 1\0"), (b'3', b""), (b'3', b""), READY]),
        frames(&[(b'T', b"\0\0"), (b'D', b"\0\0"), (b'C', b"SELECT 1\0"), (b'T', b"\0\0")]),
        frame(b'D', &batch(b'0')),
        frames(&[(b'C', b"SELECT 1\0"), READY]),
    ]
    .concat();
    let run = |step: usize| {
        let mut peer = Peer::mirrored();
        let to_server: Vec<u8> = client.chunks(step).flat_map(|c| peer.client(c)).collect();
        let mut to_client = Vec::new();
        let mut waiting = Vec::new();
        for chunk in server.chunks(step) {
            waiting.extend_from_slice(chunk);
            let n = peer.session.on_server(&waiting, &mut peer.out).unwrap();
            waiting.drain(..n);
            to_client.append(&mut peer.out.to_client);
        }
        assert!(waiting.is_empty() && peer.session.is_idle());
        (to_server, to_client)
    };
    let whole = run(usize::MAX);
    assert!(texts(&whole.1).contains("UPDATE 1") && texts(&whole.1).contains("INSERT 0 3"));
    for step in 1..80 {
        assert_eq!(run(step), whole, "chunks of {step}");
    }
}

#[test]
fn no_bytes_of_a_client_panic() {
    // A small generator of hostile frames: every tag, lengths right and wrong, bodies of noise.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2_000 {
        let mut peer = Peer::mirrored();
        for _ in 0..8 {
            let tags = b"QPBDECSFHdcfpX\0\xff";
            let tag = tags[usize::try_from(next()).unwrap() % tags.len()];
            let noise: Vec<u8> = (0..next() % 40)
                .map(|_| {
                    b"\0\0\x01S public.orders;'\"UPDATE"[usize::try_from(next() % 26).unwrap()]
                })
                .collect();
            let bytes = frame(tag, &noise);
            peer.waiting.extend_from_slice(&bytes);
            let taken = peer.session.on_client(&peer.waiting, &mut peer.out).unwrap();
            peer.waiting.drain(..taken);
            let reply = b"123nTtDCIsEZGHNSA"[usize::try_from(next() % 17).unwrap()];
            let bytes = frame(reply, &noise);
            assert_eq!(peer.session.on_server(&bytes, &mut peer.out).unwrap(), bytes.len());
        }
    }
}

/// Runs a round trip until nothing grows any more, then counts what one more allocates.
fn allocations(peer: &mut Peer, client: &[u8], server: &[u8]) -> u64 {
    let mut round = || {
        for (bytes, of_client) in [(client, true), (server, false)] {
            let session = &mut peer.session;
            let taken = match of_client {
                true => session.on_client(bytes, &mut peer.out).unwrap(),
                false => session.on_server(bytes, &mut peer.out).unwrap(),
            };
            assert_eq!(taken, bytes.len());
        }
        assert_eq!((&*peer.out.to_server, &*peer.out.to_client), (client, server));
        peer.out.to_server.clear();
        peer.out.to_client.clear();
    };
    for _ in 0..8 {
        round();
    }
    allocation_counter::measure(round).count_total
}

#[test]
fn a_relayed_frame_allocates_nothing() {
    let mut peer = Peer::mirrored();
    let row = || frame(b'D', b"\0\x01\0\0\0\x011");
    let rows: Vec<u8> = (0..1_000).flat_map(|_| row()).collect();
    let query = frame(b'Q', b"SELECT abalance FROM accounts WHERE aid = 5\0");
    let described = frame(b'T', b"\0\0");
    let done = frames(&[(b'C', b"SELECT 1\0"), READY]);
    assert_eq!(
        allocations(&mut peer, &query, &[described.clone(), rows.clone(), done.clone()].concat()),
        0
    );

    let mut parse = Vec::new();
    build::parse(&mut parse, b"", "SELECT abalance FROM accounts WHERE aid = $1", &[]);
    let bind = frame(b'B', b"\0\0\0\0\0\x01\0\0\0\x015\0\0");
    let describe_execute = frames(&[(b'D', b"P\0"), (b'E', b"\0\0\0\0\0")]);
    let one = [parse, bind, describe_execute.clone()].concat();
    let answer =
        [frames(&[(b'1', b""), (b'2', b"")]), described.clone(), row(), frame(b'C', b"SELECT 1\0")]
            .concat();
    let sync = frames(&[SYNC]);
    let ready = frames(&[READY]);
    for queries in [1, 10, 100] {
        let client = [one.repeat(queries), sync.clone()].concat();
        let server = [answer.repeat(queries), ready.clone()].concat();
        assert_eq!(allocations(&mut peer, &client, &server), 0, "{queries} in a pipeline");
    }

    let prepared = [prepare("SELECT abalance FROM accounts WHERE aid = $1"), sync.clone()].concat();
    peer.client(&prepared);
    peer.server(&frames(&[(b'1', b""), READY]));
    peer.out = Out::default();
    let again = [frame(b'B', b"\0s\0\0\0\0\x01\0\0\0\x015\0\0"), describe_execute, sync].concat();
    let answer = [frame(b'2', b""), described, rows, done].concat();
    assert_eq!(allocations(&mut peer, &again, &answer), 0);

    let copy = frame(b'Q', b"COPY accounts FROM STDIN\0");
    peer.client(&copy);
    peer.server(&frame(b'G', b"\0\0\0"));
    peer.out = Out::default();
    let data = frame(b'd', &[b'x'; 1_000]);
    assert_eq!(allocations(&mut peer, &data.repeat(100), b""), 0);
}

#[test]
fn portals_that_a_failed_transaction_refuses_are_not_kept() {
    let mut peer = Peer::mirrored();
    peer.client(&frames(&[(b'Q', b"BEGIN\0")]));
    peer.server(&frames(&[(b'C', b"BEGIN\0"), (b'Z', b"T")]));
    peer.client(&frames(&[(b'B', b"kept\0s\0\0\0\0\0\0\0"), SYNC]));
    peer.server(&frames(&[(b'2', b""), (b'Z', b"T")]));
    for n in 0..100 {
        let name = |of: &str| format!("{of}{n}\0s\0\0\0\0\0\0\0").into_bytes();
        let sent = [frame(b'B', &name("p")), frame(b'B', &name("q")), frame(b'S', b"")];
        assert_eq!(peer.client(&sent.concat()), sent.concat());
        let error = frames(&[(b'E', b"C25P02\0\0"), (b'Z', b"E")]);
        assert_eq!(peer.server(&error), error);
    }
    assert_eq!(peer.session.names.portals(), 1);
}
