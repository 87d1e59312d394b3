//! COPY … FROM STDIN into a migrated table. It goes to the source as it is, and so do its data,
//! whose keys are read along. When the server has taken them, what feeds the keys to the sync
//! function goes behind, in the same transaction; the completion waits for the outcome. Where a
//! sequence makes up the keys, it is asked before the COPY what that stands at, and the function
//! behind it finds the rows.
//!
//! A simple query would end its transaction with the COPY. So it goes by the extended protocol,
//! which leaves that to a Sync of ours. Tag, errors and their context are the same.
//!
//! The client's frames wait twice: from the COPY up to the server's answer, since whether what
//! follows is data is known only then; and from the end of the data up to the number of rows.

use super::decide::{Case, Decision, mark_or_refuse};
use super::expect::{Expect, Reply, Rows};
use super::inject::{MARK, REFUSED_SQL, mark_alone};
use super::server::Fate;
use super::watch::Watch;
use super::{Flow, Hold, Out, Protocol, Said, Session, Takes};
use crate::routing::{Mirror, Route};
use crate::sql::copy::{CopyFrom, Dialect, Reader, Way};
use crate::sql::reason::Reason;
use crate::sql::statement::Name;
use crate::sql::target::{CountedFunctions, SyncMode};
use crate::wire::frame::{HEADER_BYTES, Header};
use crate::wire::{backend, build};
use std::sync::Arc;

const COPY: &str = "pgsegue copy";
const KEYS: &str = "pgsegue keys";

/// A COPY that is mirrored.
#[derive(Debug, Clone)]
pub(super) struct Copied {
    copy: Arc<CopyFrom>,
    /// The migrations that its keys are fed to.
    feeds: Vec<Feed>,
}

#[derive(Debug, Clone)]
struct Feed {
    route: Arc<Route>,
    mode: SyncMode,
    way: Way,
}

/// One in flight, up to its completion.
#[derive(Debug)]
pub(super) struct Copying {
    copied: Copied,
    /// What is known of the keys of each feed.
    known: Vec<Known>,
    protocol: Protocol,
    stage: Stage,
}

#[derive(Debug)]
enum Known {
    Nothing,
    /// As far as the data have been read.
    Read(Box<Reader>),
    /// What the sequence stood at before.
    Counted(Vec<u8>),
    Unsure(Reason),
}

#[derive(Debug)]
enum Stage {
    /// The server has not answered yet.
    Asked,
    /// The client sends data; bytes of its current frame that are none of them.
    Data { skip: usize },
    /// It has ended them.
    Ended,
}

/// What runs behind a COPY: what feeds the keys of a migration, or a mark.
#[derive(Debug)]
pub(super) struct Behind {
    route: Arc<Route>,
    /// The completion of the COPY, which waits for it.
    completion: Vec<u8>,
}

impl Copied {
    /// The migrations that its keys are fed to.
    pub(super) fn routes(&self) -> Vec<Arc<Route>> {
        self.feeds.iter().map(|feed| Arc::clone(&feed.route)).collect()
    }
}

impl Feed {
    fn functions(&self) -> Option<&CountedFunctions> {
        self.route.target.counted.as_ref()?.functions.as_ref()
    }

    /// What finds that many rows: its SQL, the format of its parameters, their number and values.
    fn found(&self, between: &[u8], rows: u64) -> Result<(String, i16, u16, Vec<u8>), Reason> {
        let function = &self.functions().ok_or(Reason::CopyWithoutKey)?.after;
        let mode = self.mode().as_sql();
        let sql = format!("SELECT {function}($1::pg_catalog.text, {rows}, {mode})");
        let length = i32::try_from(between.len()).unwrap_or(i32::MAX).to_be_bytes();
        Ok((sql, 0, 1, [&length[..], between].concat()))
    }

    /// How its keys are synced: those that were not inserted after all are none.
    fn mode(&self) -> SyncMode {
        match self.mode {
            SyncMode::Sync | SyncMode::SyncRecordDeletes => SyncMode::Inserted,
            other => other,
        }
    }
}

impl Copying {
    /// Reads along in what the client sends.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        if let Stage::Data { skip } = &mut self.stage {
            let skipped = bytes.len().min(*skip);
            *skip -= skipped;
            for known in &mut self.known {
                if let Known::Read(reader) = known {
                    reader.feed(bytes.get(skipped..).unwrap_or_default());
                }
            }
        }
    }
}

impl Session {
    fn dialect(&self) -> Dialect<'_> {
        Dialect {
            client_encoding: &self.parameters.client_encoding,
            server_version: self.parameters.server_version,
        }
    }

    pub(super) fn decide_copy(
        &mut self,
        case: &Case<'_>,
        names: &[Name],
        copy: &Arc<CopyFrom>,
    ) -> Decision {
        let meant = names.iter().filter(|name| self.facts_mean(**name));
        let routes: Vec<_> = meant
            .filter_map(|name| case.route(name.target))
            .filter(|route| route.mirror != Mirror::Off)
            .cloned()
            .collect();
        let ways: Result<Vec<_>, _> =
            routes.iter().map(|route| copy.way(&route.target, self.dialect())).collect();
        let ways = match ways {
            Ok(ways) => ways,
            Err(why) => return mark_or_refuse(routes, why),
        };
        let mut feeds = Vec::new();
        for (route, way) in routes.iter().zip(ways) {
            let Mirror::On(mode) = route.mirror else { continue };
            let mode = self.mode_now(route, mode);
            feeds.push(Feed { route: Arc::clone(route), mode, way });
        }
        if feeds.iter().any(|feed| feed.way == Way::Counted && feed.functions().is_none()) {
            return mark_or_refuse(routes, Reason::CopyWithoutKey);
        }
        match feeds.is_empty() {
            true => Decision::Original(None),
            false => Decision::Copied(Copied { copy: Arc::clone(copy), feeds }),
        }
    }

    /// Whether a group of frames has ended with what was sent last.
    pub(super) fn is_between_groups(&self) -> bool {
        let last = self.replies.iter().rev().find(|e| !matches!(e, Expect::CopyEnd));
        match last {
            None => true,
            Some(
                Expect::Startup
                | Expect::Sync(_)
                | Expect::Commit
                | Expect::Query(_)
                | Expect::Completion(_),
            ) => true,
            Some(_) => false,
        }
    }

    /// Sends a COPY that came as a simple query.
    pub(super) fn copy_by_query(
        &mut self,
        sql: &[u8],
        (copied, watch): (Copied, Option<Watch>),
        out: &mut Out,
    ) -> Flow {
        self.ask_before(&copied, out);
        build::run(&mut out.to_server, COPY, sql);
        for _ in 0..2 {
            self.replies.push_back(Expect::Close(Reply::Swallow, None));
        }
        self.replies.push_back(Expect::Parse(Reply::Swallow, None));
        self.replies.push_back(Expect::Bind(Reply::Swallow, None));
        let rows = Rows::Copied(Box::new(copied.clone())).watched(watch);
        self.replies.push_back(Expect::Execute(Reply::Forward, rows));
        self.count("mirrored", "write");
        self.in_group = false;
        self.copy_is_asked(copied, Protocol::Simple);
        Flow::Done
    }

    /// Asks what the sequences stand at that make up its keys; the Execute of the COPY is next.
    pub(super) fn ask_before(&mut self, copied: &Copied, out: &mut Out) {
        for (n, feed) in copied.feeds.iter().enumerate() {
            if let (Way::Counted, Some(functions)) = (feed.way, feed.functions()) {
                let sql = format!("SELECT {}()", functions.before);
                build::run_once(&mut out.to_server, KEYS, &sql);
                self.expect_run_once(Expect::Before(n));
            }
        }
    }

    /// A reply to that.
    pub(super) fn before_reply(&mut self, feed: usize, tag: u8, body: &[u8]) {
        let value = backend::Values::of(body).next().flatten().filter(|_| tag == b'D');
        let known = self.copying.as_mut().and_then(|copying| copying.known.get_mut(feed));
        if let (Some(value), Some(known)) = (value, known) {
            *known = Known::Counted(value.to_vec());
        }
    }

    /// The Execute of a COPY is sent.
    pub(super) fn copy_is_asked(&mut self, copied: Copied, protocol: Protocol) {
        let known = copied.feeds.iter().map(|_| Known::Nothing).collect();
        self.copying = Some(Box::new(Copying { copied, known, protocol, stage: Stage::Asked }));
        self.hold = Some(Hold::Copy);
    }

    /// The server waits for the data.
    pub(super) fn copy_is_answered(&mut self, body: &[u8]) {
        let Some(mut copying) = self.copying.take() else { return };
        let Copied { copy, feeds } = &copying.copied;
        for (feed, known) in feeds.iter().zip(&mut copying.known) {
            if feed.way == Way::Read {
                let reader = copy.reader(&feed.route.target, self.dialect());
                *known = match reader {
                    Ok(reader) if backend::copy_in(body) == Some(reader.expects()) => {
                        Known::Read(Box::new(reader))
                    }
                    Ok(_) => Known::Unsure(Reason::CopyColumns),
                    Err(why) => Known::Unsure(why),
                };
            }
        }
        copying.stage = Stage::Data { skip: 0 };
        self.copying = Some(copying);
        self.hold = None;
    }

    /// Whether a frame passes as part of a COPY's data; `None`: there is no such COPY.
    pub(super) fn passes_in_copy(&mut self, header: Header) -> Option<bool> {
        let Stage::Data { skip } = &mut self.copying.as_mut()?.stage else { return None };
        *skip = match header.tag {
            b'd' => HEADER_BYTES,
            b'c' | b'f' => return Some(false),
            // The server ignores a Sync or Flush.
            _ => header.frame_bytes,
        };
        if header.tag == b'S' {
            self.syncs_in_copy();
        }
        Some(true)
    }

    /// CopyDone, or CopyFail: both are answered before anything else is sent. The answer of a COPY
    /// by the extended protocol would be kept by the server up to a Sync.
    pub(super) fn on_copy_end(&mut self, frame: &[u8], out: &mut Out) -> Flow {
        out.to_server.extend_from_slice(frame);
        build::flush(&mut out.to_server);
        if let Some(copying) = &mut self.copying {
            copying.stage = Stage::Ended;
            self.hold = Some(Hold::Copy);
        }
        Flow::Done
    }

    /// The server has taken the data: what feeds the keys is next.
    pub(super) fn is_copied(&mut self, body: &[u8], out: &mut Out) -> Fate {
        let Some(copying) = self.copying.take() else { return Fate::Forward };
        let Copying { copied, known, protocol, .. } = *copying;
        self.hold = None;
        let rows = backend::command_rows(body).unwrap_or(0);
        for (feed, known) in copied.feeds.into_iter().zip(known) {
            let migration = [feed.route.target.migration.as_str()];
            self.context.metrics.mirrored_rows.with_label_values(&migration).inc_by(rows);
            if rows > 0 {
                self.send_keys(feed, known, rows, out);
            }
        }
        if protocol == Protocol::Simple {
            build::close_portal(&mut out.to_server, COPY.as_bytes());
            build::close_statement(&mut out.to_server, COPY.as_bytes());
            self.replies.push_back(Expect::Close(Reply::Swallow, None));
            self.replies.push_back(Expect::Close(Reply::Swallow, None));
            self.end_copy(out);
        }
        self.keep_copied(body)
    }

    fn send_keys(&mut self, feed: Feed, known: Known, rows: u64, out: &mut Out) {
        let known = match known {
            Known::Nothing => Err(Reason::CopyColumns),
            Known::Unsure(why) => Err(why),
            Known::Read(reader) => reader.finish().and_then(|keys| match keys.span() {
                Some((low, high)) => feed.found(format!("{low} {high}").as_bytes(), rows),
                None => {
                    let sql = keys.statement(&feed.route.target, feed.mode());
                    let (format, values) = keys.parameters();
                    let count = u16::try_from(feed.route.target.key.len()).unwrap_or(u16::MAX);
                    Ok((sql, format, count, values))
                }
            }),
            Known::Counted(before) => feed.found(&before, rows),
        };
        match known {
            Ok((sql, format, count, values)) => {
                build::run_once_with(&mut out.to_server, KEYS, &sql, (format, count, &values));
                self.expect_behind(feed.route);
            }
            Err(why) => self.mark_copy(feed.route, why, out),
        }
    }

    /// Its keys are not known: as for a statement that is not understood.
    fn mark_copy(&mut self, route: Arc<Route>, why: Reason, out: &mut Out) {
        match mark_or_refuse(vec![Arc::clone(&route)], why) {
            Decision::Marked(marks) => {
                build::run_once(&mut out.to_server, MARK, &mark_alone(&marks));
                self.close_gates(&marks);
                self.expect_behind(route);
            }
            Decision::Refused(report) => {
                build::parse(&mut out.to_server, b"pgsegue refused", REFUSED_SQL, &[]);
                self.replies.push_back(Expect::Refusal(report));
            }
            _ => {}
        }
    }

    fn expect_behind(&mut self, route: Arc<Route>) {
        let behind = Behind { route, completion: Vec::new() };
        self.expect_run_once(Expect::Behind(Box::new(behind)));
    }

    /// Ends the group of a COPY that came as a simple query.
    fn end_copy(&mut self, out: &mut Out) {
        build::sync(&mut out.to_server);
        self.replies.push_back(Expect::Completion(Vec::new()));
    }

    /// The server skips to the next Sync, and none was sent. Whether that is because a COPY has
    /// failed, and the client need not be waited for.
    pub(super) fn copy_has_failed(&mut self, synced: bool, out: &mut Out) -> bool {
        let Some(copying) = self.copying.take() else { return false };
        if self.hold == Some(Hold::Copy) {
            self.hold = None;
        }
        match copying.protocol {
            Protocol::Simple => self.end_copy(out),
            Protocol::Extended => {
                self.hold = self.hold.filter(|hold| *hold != Hold::CopyFails);
                self.skips(synced);
            }
        }
        true
    }

    /// Whether this ReadyForQuery is that of a Sync that was sent with a COPY: the COPY has failed before the
    /// server read any data, a Sync among them. It ends nothing of what was sent since; one that is taken for
    /// another's is the same, and that one's comes then.
    pub(super) fn answers_sync_of_copy(&mut self) -> bool {
        let said = std::mem::take(&mut self.said);
        match self.replies.front() {
            Some(Expect::Startup | Expect::Sync(_) | Expect::Commit | Expect::Completion(_)) => {
                false
            }
            Some(Expect::Query(_)) => said == Said::Nothing,
            None if self.skipping => {
                // The group that failed ends with it, and what comes next is executed.
                self.skipping = false;
                self.in_group = false;
                self.takes = Takes::Frames;
                false
            }
            None | Some(_) => true,
        }
    }

    /// Keeps a completion for what waits for it, if anything does.
    fn keep_copied(&mut self, body: &[u8]) -> Fate {
        if self.replies.iter().any(|e| matches!(e, Expect::Refusal(_))) {
            return Fate::Swallow;
        }
        match self.waiting() {
            Some(kept) => {
                backend::push_frame(kept, b'C', |out| out.extend_from_slice(body));
                Fate::Swallow
            }
            None => Fate::Forward,
        }
    }

    /// Where the completion of a COPY waits for what comes next.
    fn waiting(&mut self) -> Option<&mut Vec<u8>> {
        self.replies.iter_mut().find_map(|expect| match expect {
            Expect::Behind(behind) => Some(&mut behind.completion),
            Expect::Completion(completion) => Some(completion),
            _ => None,
        })
    }

    /// A reply of what runs behind a COPY.
    pub(super) fn behind_reply(
        &mut self,
        behind: &mut Behind,
        tag: u8,
        body: &[u8],
        out: &mut Out,
    ) {
        match tag {
            b'D' => {
                let outcome = backend::outcome(backend::Values::of(body).next().flatten());
                self.outcome(&behind.route, outcome);
            }
            b'C' => match self.waiting() {
                Some(waiting) => waiting.append(&mut behind.completion),
                None => out.to_client.append(&mut behind.completion),
            },
            _ => {}
        }
    }
}
