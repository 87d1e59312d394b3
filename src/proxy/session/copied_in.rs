//! While the server takes the data of a COPY, of whichever table: what it then makes of the client's frames.
//!
//! It ignores a Sync among the data, and ends the session by anything that is none of them. But it may have
//! failed before it has read any: then a Sync that was on its way ends the group, and what comes behind is
//! executed. So frames behind a COPY wait for the server's answer, and what is not data waits until it is
//! known which of both it is. To find out, the COPY is made to fail: a server that takes no data ignores
//! that.

use super::expect::Expect;
use super::server::Fate;
use super::{Hold, Out, Session, Takes};
use crate::wire::frame::Header;
use crate::wire::{backend, build};

/// A statement that is not there: closing it is answered.
const PROBE: &[u8] = b"pgsegue synced";

/// Why a COPY fails that we have made to.
const FAILED: &str = "pgsegue: no data of COPY";

impl Session {
    /// What may be a COPY is sent: what follows waits.
    pub(super) fn may_take_data(&mut self, out: &mut Out) {
        if self.hold.is_none() {
            self.hold = Some(Hold::Copy);
            build::flush(&mut out.to_server);
        }
    }

    /// What was executed is done. If it was the last, it was no such COPY.
    pub(super) fn is_executed(&mut self) {
        self.has_taken_data();
        let runs = |reply: &Expect| matches!(reply, Expect::Execute(..) | Expect::Query(_));
        if self.waits_for_copy() && !self.replies.iter().any(runs) {
            self.hold = None;
        }
    }

    /// A statement is complete: if it was a COPY, the server has taken its data.
    pub(super) fn has_taken_data(&mut self) {
        if matches!(self.takes, Takes::Data { .. }) {
            self.takes = Takes::Frames;
            // Another COPY of the same text has an end of its own.
            if matches!(self.replies.get(1), Some(Expect::CopyEnd)) {
                self.replies.remove(1);
            }
        }
    }

    /// Whether it is a COPY that is not mirrored.
    fn waits_for_copy(&self) -> bool {
        self.hold == Some(Hold::Copy) && self.copying.is_none()
    }

    /// The server takes data. A Sync that the client sent before them, or among them, is ignored by the server,
    /// if it comes to read it there ([`Session::answers_sync_of_copy`]).
    pub(super) fn copy_begins(&mut self) {
        let mut synced = false;
        while matches!(self.replies.get(1), Some(Expect::Sync(_))) {
            self.replies.remove(1);
            self.group_answered();
            synced = true;
        }
        // Where the client has not ended them yet.
        if !matches!(self.replies.get(1), Some(Expect::CopyEnd)) {
            self.takes = Takes::Data { synced };
        }
        // What waits for another reason is no data, either.
        if self.waits_for_copy() || self.hold == Some(Hold::Drain) {
            self.hold = None;
        }
    }

    /// A Sync of the client's; whether it is one among data.
    pub(super) fn syncs_in_copy(&mut self) -> bool {
        match &mut self.takes {
            Takes::Data { synced } => {
                *synced = true;
                true
            }
            Takes::Frames | Takes::Nothing | Takes::Either | Takes::Sync => false,
        }
    }

    /// The end of the data passes. What follows waits for the answer: whether the server reads it, or skips it,
    /// is known then.
    pub(super) fn data_have_ended(&mut self) {
        if matches!(self.takes, Takes::Data { .. }) && self.hold.is_none() {
            self.hold = Some(Hold::Copy);
            build::flush(&mut self.behind_frame);
        }
    }

    /// The server skips what comes, up to a Sync; whether one among data was that.
    pub(super) fn skips(&mut self, synced: bool) {
        self.skipping = true;
        if synced {
            self.takes = Takes::Either;
        }
    }

    /// Whether a frame has to wait until it is known whether the server skips it, or goes nowhere since it
    /// would.
    pub(super) fn is_skipped_perhaps(&mut self, header: Header, out: &mut Out) -> bool {
        match (self.takes, header.tag) {
            (Takes::Either | Takes::Sync, b'S') => {
                self.takes = Takes::Frames;
                false
            }
            (Takes::Either, b'd' | b'c' | b'f' | b'H' | b'X') | (Takes::Sync, b'X') => false,
            // It is ready for this Sync, and before it, if it has been, for the client's.
            (Takes::Either, _) => {
                build::sync(&mut out.to_server);
                build::close_statement(&mut out.to_server, PROBE);
                build::flush(&mut out.to_server);
                self.hold = Some(Hold::CopySynced { ready: None });
                true
            }
            (Takes::Sync, _) => {
                self.client_drop = header.frame_bytes;
                true
            }
            (Takes::Frames | Takes::Data { .. } | Takes::Nothing, _) => false,
        }
    }

    /// A reply while the server is asked that; whether it is one to the question.
    pub(super) fn says_if_synced(&mut self, tag: u8, body: &[u8], out: &mut Out) -> bool {
        let Some(Hold::CopySynced { ready }) = self.hold else { return false };
        match (tag, ready) {
            (b'Z', None) => self.hold = Some(Hold::CopySynced { ready: body.first().copied() }),
            // The first was the client's, and this is ours.
            (b'Z', Some(status)) => {
                self.in_group = false;
                self.takes = Takes::Frames;
                self.skipping = false;
                if matches!(self.on_ready(&[status], out), Fate::Forward) {
                    build::ready_for_query(&mut out.to_client, status);
                }
            }
            (b'3', _) => {
                self.hold = None;
                if std::mem::take(&mut self.skipping) {
                    self.takes = Takes::Sync;
                }
            }
            _ => return false,
        }
        true
    }

    /// Whether a frame is none of the data that the server takes, and has to wait.
    pub(super) fn is_out_of_copy(&mut self, tag: u8, out: &mut Out) -> bool {
        let data = matches!(tag, b'd' | b'c' | b'f' | b'S' | b'H' | b'X');
        if data || !matches!(self.takes, Takes::Data { .. }) {
            return false;
        }
        build::copy_fail(&mut out.to_server, FAILED);
        self.hold = Some(Hold::CopyFails);
        true
    }

    /// The server takes no data any more; whether a Sync was sent among them.
    pub(super) fn copy_is_over(&mut self) -> bool {
        match std::mem::replace(&mut self.takes, Takes::Frames) {
            Takes::Data { synced } => synced,
            Takes::Nothing => {
                self.takes = Takes::Nothing;
                false
            }
            Takes::Frames | Takes::Either | Takes::Sync => false,
        }
    }

    /// Whether this error is of a COPY that we have made to fail: it did take data, which the client does not
    /// send. The next frame of it is its last.
    pub(super) fn copy_was_failed(&mut self, error: &[u8]) -> bool {
        if self.hold != Some(Hold::CopyFails) || !backend::contains(error, FAILED.as_bytes()) {
            return false;
        }
        self.hold = None;
        self.takes = Takes::Nothing;
        true
    }

    /// The server is ready.
    pub(super) fn copy_is_settled(&mut self) {
        self.ends_no_more();
        let waits = self.waits_for_copy() || self.hold == Some(Hold::CopyFails);
        if waits && self.replies.is_empty() {
            self.hold = None;
        }
    }
}
