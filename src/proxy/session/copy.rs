//! COPY … FROM STDIN into a migrated table. It goes to the source as it is, and so do its data,
//! whose keys are read along. When the client has ended them, what feeds the keys to the sync
//! function goes right behind: in the same transaction, and skipped by the server if the COPY has
//! failed. The completion waits for the outcome.
//!
//! A simple query would end its transaction with the COPY. So it goes by the extended protocol,
//! which leaves that to a Sync: of ours, behind the keys, or at once if the COPY fails. Tag, errors
//! and their context are the same.
//!
//! From the COPY up to the server's answer the client's frames wait: whether what follows is data
//! is known only then.

use super::decide::{Case, Decision, mark_or_refuse};
use super::expect::{Expect, Reply, Rows};
use super::inject::{MARK, REFUSED_SQL, mark_alone};
use super::prepared::Marks;
use super::watch::Watch;
use super::{Flow, Hold, Out, Protocol, Session};
use crate::routing::{Mirror, Route};
use crate::sql::copy::{CopyFrom, Dialect, Keys, Reader};
use crate::sql::reason::Reason;
use crate::sql::statement::Name;
use crate::sql::target::SyncMode;
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
    feeds: Vec<(Arc<Route>, SyncMode)>,
}

/// One in flight, up to the end of its data.
#[derive(Debug)]
pub(super) struct Copying {
    copied: Copied,
    protocol: Protocol,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The server has not answered yet.
    Asked,
    /// The client sends data.
    Data {
        /// One per feed.
        readers: Vec<Result<Reader, Reason>>,
        /// Bytes of the client's current frame that are none of them.
        skip: usize,
    },
}

/// What runs behind a COPY: the sync function of a migration, or a mark.
#[derive(Debug)]
pub(super) struct Behind {
    route: Arc<Route>,
    /// What it records, if it is a mark.
    marks: Option<Marks>,
    /// The completion of the COPY, which waits for it.
    completion: Vec<u8>,
}

impl Copied {
    /// The migrations that its keys are fed to.
    pub(super) fn routes(&self) -> Vec<Arc<Route>> {
        self.feeds.iter().map(|(route, _)| Arc::clone(route)).collect()
    }
}

impl Copying {
    /// Reads along in what the client sends.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        if let Stage::Data { readers, skip } = &mut self.stage {
            let skipped = bytes.len().min(*skip);
            *skip -= skipped;
            for reader in readers.iter_mut().flatten() {
                reader.feed(bytes.get(skipped..).unwrap_or_default());
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
        let readers = routes.iter().map(|route| copy.reader(&route.target, self.dialect()));
        if let Some(why) = readers.filter_map(Result::err).next() {
            return mark_or_refuse(routes, why);
        }
        let feeds: Vec<_> = routes
            .into_iter()
            .filter_map(|route| {
                let Mirror::On(mode) = route.mirror else { return None };
                let mode = self.mode_now(&route, mode);
                Some((route, mode))
            })
            .collect();
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

    /// The Execute of a COPY is sent.
    pub(super) fn copy_is_asked(&mut self, copied: Copied, protocol: Protocol) {
        self.copying = Some(Box::new(Copying { copied, protocol, stage: Stage::Asked }));
        self.hold = Some(Hold::Copy);
    }

    /// The server waits for the data.
    pub(super) fn copy_is_answered(&mut self, body: &[u8]) {
        let Some(mut copying) = self.copying.take() else { return };
        let Copied { copy, feeds } = &copying.copied;
        let readers = feeds.iter().map(|(route, _)| {
            let reader = copy.reader(&route.target, self.dialect())?;
            match backend::copy_in(body) == Some(reader.expects()) {
                true => Ok(reader),
                false => Err(Reason::CopyColumns),
            }
        });
        copying.stage = Stage::Data { readers: readers.collect(), skip: 0 };
        self.copying = Some(copying);
        self.hold = None;
    }

    /// Whether a frame passes as part of a COPY's data; `None`: there is no such COPY.
    pub(super) fn passes_in_copy(&mut self, header: Header) -> Option<bool> {
        let Stage::Data { skip, .. } = &mut self.copying.as_mut()?.stage else { return None };
        *skip = match header.tag {
            b'd' => HEADER_BYTES,
            b'c' | b'f' => return Some(false),
            // A Sync or Flush is ignored by the server, anything else ends the session.
            _ => header.frame_bytes,
        };
        Some(true)
    }

    /// CopyDone, or CopyFail.
    pub(super) fn on_copy_end(&mut self, tag: u8, frame: &[u8], out: &mut Out) -> Flow {
        out.to_server.extend_from_slice(frame);
        let Some(copying) = self.copying.take() else { return Flow::Done };
        let Copying { copied, protocol, stage } = *copying;
        if let (b'c', Stage::Data { readers, .. }) = (tag, stage) {
            for ((route, mode), reader) in copied.feeds.into_iter().zip(readers) {
                match reader.and_then(Reader::finish) {
                    Ok(keys) if keys.rows() == 0 => {}
                    Ok(keys) => self.send_keys(route, mode, &keys, out),
                    Err(why) => self.mark_copy(route, why, out),
                }
            }
        }
        if protocol == Protocol::Simple {
            build::close_portal(&mut out.to_server, COPY.as_bytes());
            build::close_statement(&mut out.to_server, COPY.as_bytes());
            self.replies.push_back(Expect::Close(Reply::Swallow, None));
            self.replies.push_back(Expect::Close(Reply::Swallow, None));
            self.end_copy(out);
        }
        Flow::Done
    }

    fn send_keys(&mut self, route: Arc<Route>, mode: SyncMode, keys: &Keys, out: &mut Out) {
        let mode = match mode {
            SyncMode::Sync | SyncMode::SyncRecordDeletes => SyncMode::Inserted,
            other => other,
        };
        let sql = keys.statement(&route.target, mode);
        let (format, values) = keys.parameters();
        let count = u16::try_from(route.target.key.len()).unwrap_or(u16::MAX);
        build::run_once_with(&mut out.to_server, KEYS, &sql, (format, count, &values));
        self.expect_behind(route, None);
    }

    /// Its keys are not known: as for a statement that is not understood.
    fn mark_copy(&mut self, route: Arc<Route>, why: Reason, out: &mut Out) {
        match mark_or_refuse(vec![Arc::clone(&route)], why) {
            Decision::Marked(marks) => {
                build::run_once(&mut out.to_server, MARK, &mark_alone(&marks));
                self.expect_behind(route, Some(marks));
            }
            Decision::Refused(report) => {
                build::parse(&mut out.to_server, b"pgsegue refused", REFUSED_SQL, &[]);
                self.replies.push_back(Expect::Refusal(report));
            }
            _ => {}
        }
    }

    fn expect_behind(&mut self, route: Arc<Route>, marks: Option<Marks>) {
        let behind = Behind { route, marks, completion: Vec::new() };
        self.expect_run_once(Expect::Behind(Box::new(behind)));
    }

    /// Ends the group of a COPY that came as a simple query.
    fn end_copy(&mut self, out: &mut Out) {
        build::sync(&mut out.to_server);
        self.replies.push_back(Expect::Completion(Vec::new()));
    }

    /// The server skips to the next Sync, and none was sent. Whether that is because a COPY has
    /// failed, and the client need not be waited for.
    pub(super) fn copy_has_failed(&mut self, out: &mut Out) -> bool {
        let Some(copying) = self.copying.take() else { return false };
        if self.hold == Some(Hold::Copy) {
            self.hold = None;
        }
        match copying.protocol {
            Protocol::Simple => self.end_copy(out),
            Protocol::Extended => self.skipping = true,
        }
        true
    }

    /// A COPY is complete, in its own transaction's eyes.
    pub(super) fn is_copied(&mut self, copied: &Copied, body: &[u8]) -> super::server::Fate {
        let rows = backend::command_rows(body).unwrap_or(0);
        for (route, _) in &copied.feeds {
            let migration = [route.target.migration.as_str()];
            self.context.metrics.mirrored_rows.with_label_values(&migration).inc_by(rows);
        }
        self.keep_copied(body)
    }

    /// Keeps a completion for what waits for it, if anything does.
    fn keep_copied(&mut self, body: &[u8]) -> super::server::Fate {
        use super::server::Fate;
        if self.replies.iter().any(|e| matches!(e, Expect::Refusal(_))) {
            return Fate::Swallow;
        }
        let mut marks = Vec::new();
        for expect in &mut self.replies {
            if let Expect::Behind(behind) = expect {
                marks.extend(behind.marks.take());
            }
        }
        let kept = self.waiting();
        let fate = match kept {
            Some(kept) => {
                backend::push_frame(kept, b'C', |out| out.extend_from_slice(body));
                Fate::Swallow
            }
            None => Fate::Forward,
        };
        // Not before: data that cannot be read are refused by the server, as a rule.
        marks.iter().for_each(|marks| self.close_gates(marks));
        fate
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
