//! Authentication, where it cannot just pass: SCRAM over a server connection with TLS.
//!
//! The server then offers channel binding to its own certificate, which the client does not see.
//! A client without TLS must not be offered it at all. For a client with TLS the proxy takes part:
//! it binds each leg to that leg's certificate, by the role's verifier (`wire::scram`). Whether the
//! client knows the password is still decided by the server, and in its words. Everything else
//! passes as it came.
//!
//! Invariant: frames are read one by one, so that what follows is left for the session.

use super::socket::{Leg, Socket};
use super::startup;
use super::verifiers::Verifiers;
use crate::wire::backend::push_frame;
use crate::wire::build::{Report, Severity};
use crate::wire::frame::{HEADER_BYTES, Header};
use crate::wire::scram::{self, Binding, Exchange, Keys};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// More than any message of an authentication has (`PG_MAX_AUTH_TOKEN_LENGTH`).
const FRAME_BYTES_MAX: usize = 65_535;

const AUTHENTICATION_SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// Whether there is a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// What comes next passes between the two ends.
    GoOn,
    /// One end is gone, or the client was refused.
    Ended,
}

/// The two ends, and how they are encrypted.
pub(super) struct Ends<'a> {
    pub(super) client: &'a mut Socket,
    pub(super) server: &'a mut Socket,
    pub(super) client_leg: &'a Leg,
    pub(super) server_leg: &'a Leg,
}

/// A frame of the server.
enum Reply {
    /// The message of an authentication that is due.
    Due(Vec<u8>),
    /// Another one, which was forwarded.
    Other,
}

/// Why it goes no further.
enum Stop {
    Gone,
    Refused(Report),
}

impl From<io::Error> for Stop {
    fn from(_gone: io::Error) -> Self {
        Self::Gone
    }
}

/// Stands between client and server until the proxy has no further part in it.
pub(super) async fn authenticate(
    mut ends: Ends<'_>,
    user: &str,
    verifiers: Option<&Verifiers>,
) -> io::Result<Outcome> {
    let Leg::Tls { end_point: server_end } = ends.server_leg.clone() else {
        return Ok(Outcome::GoOn);
    };
    match ends.negotiate(user, verifiers, server_end.as_deref()).await {
        Ok(()) => Ok(Outcome::GoOn),
        Err(Stop::Gone) => Ok(Outcome::Ended),
        Err(Stop::Refused(report)) => {
            startup::tell(ends.client, &report).await?;
            Ok(Outcome::Ended)
        }
    }
}

impl Ends<'_> {
    async fn negotiate(
        &mut self,
        user: &str,
        verifiers: Option<&Verifiers>,
        server_end: Option<&[u8]>,
    ) -> Result<(), Stop> {
        let Some(list) = self.mechanisms().await? else { return Ok(()) };
        let client_end = match self.client_leg {
            Leg::Tls { end_point } => end_point.clone(),
            Leg::Plain => None,
        };
        // Where it was not offered a client with TLS says that it misses it.
        let to_client = client_end.as_deref().map_or(Binding::NotOffered, Binding::EndPoint);
        self.offer(&list, client_end.is_some()).await?;
        let first = self.of_client().await?;
        let body = first.get(HEADER_BYTES..).unwrap_or_default();
        let Some(bare) = scram::client_first(body, to_client).filter(|_| is_response(&first))
        else {
            send(self.server, &first).await?;
            return Ok(());
        };
        let keys = keys(user, verifiers).await?;
        let to_server = server_end.map_or(Binding::None, Binding::EndPoint);
        let mut out = Vec::new();
        push_frame(&mut out, b'p', |o| o.extend(scram::initial_response(to_server, bare)));
        send(self.server, &out).await?;
        let Reply::Due(server_first) = self.of_server(SASL_CONTINUE).await? else {
            return Ok(());
        };
        out.clear();
        push_authentication(&mut out, SASL_CONTINUE, &server_first);
        send(self.client, &out).await?;
        let exchange = Exchange::new(keys, to_client, to_server, bare, &server_first);
        self.finish(exchange).await
    }

    /// Takes everything up to an AuthenticationSASL; `None` when it is another method that passes.
    async fn mechanisms(&mut self) -> Result<Option<Vec<u8>>, Stop> {
        let Reply::Due(list) = self.of_server(AUTHENTICATION_SASL).await? else {
            return Ok(None);
        };
        let names = scram::mechanisms(&list);
        if names.is_some_and(|names| names.contains(&scram::PLUS)) {
            return Ok(Some(list));
        }
        let mut out = Vec::new();
        push_authentication(&mut out, AUTHENTICATION_SASL, &list);
        send(self.client, &out).await?;
        Ok(None)
    }

    /// Offers the server's mechanisms, with channel binding only if this leg can be bound.
    async fn offer(&mut self, list: &[u8], bound: bool) -> Result<(), Stop> {
        let names = scram::mechanisms(list).unwrap_or_default();
        let mut offered = Vec::new();
        for name in names.into_iter().filter(|name| bound || *name != scram::PLUS) {
            offered.extend_from_slice(name);
            offered.push(0);
        }
        offered.push(0);
        let mut out = Vec::new();
        push_authentication(&mut out, AUTHENTICATION_SASL, &offered);
        Ok(send(self.client, &out).await?)
    }

    async fn finish(&mut self, mut exchange: Exchange<'_>) -> Result<(), Stop> {
        let last = self.of_client().await?;
        if !is_response(&last) {
            send(self.server, &last).await?;
            return Ok(());
        }
        let message = last.get(HEADER_BYTES..).unwrap_or_default();
        let message = exchange.client_final(message).map_err(|refused| {
            let code = match refused {
                scram::Refused::Malformed => "08P01",
                scram::Refused::Binding => "28000",
            };
            Stop::Refused(fatal(code, refused.to_string(), ""))
        })?;
        let mut out = Vec::new();
        push_frame(&mut out, b'p', |o| o.extend_from_slice(&message));
        send(self.server, &out).await?;
        let Reply::Due(message) = self.of_server(SASL_FINAL).await? else { return Ok(()) };
        let Some(message) = exchange.server_final(&message) else {
            let message = "the server does not prove that it knows this role's verifier";
            let hint = "Is [server] address in the proxy's config the right server?";
            return Err(Stop::Refused(fatal("28000", message.to_owned(), hint)));
        };
        out.clear();
        push_authentication(&mut out, SASL_FINAL, &message);
        Ok(send(self.client, &out).await?)
    }

    /// A whole frame of the client.
    async fn of_client(&mut self) -> Result<Vec<u8>, Stop> {
        let frame = read(self.client).await?;
        frame.ok_or_else(|| Stop::Refused(fatal("08P01", "invalid message length".into(), "")))
    }

    /// The next message of an authentication, after its code, if it is the one that is due. What
    /// else may come is forwarded; an error, and another method, leave the proxy no part.
    async fn of_server(&mut self, due: i32) -> Result<Reply, Stop> {
        loop {
            let frame = read(self.server).await?.ok_or(Stop::Gone)?;
            if let Some((&[b'R', _, _, _, _, a, b, c, d], data)) = frame.split_first_chunk()
                && i32::from_be_bytes([a, b, c, d]) == due
            {
                return Ok(Reply::Due(data.to_vec()));
            }
            send(self.client, &frame).await?;
            if matches!(frame.first(), Some(b'R' | b'E')) {
                return Ok(Reply::Other);
            }
        }
    }
}

fn is_response(frame: &[u8]) -> bool {
    frame.first() == Some(&b'p')
}

/// One frame; `None` when it is longer than any of an authentication.
async fn read(socket: &mut Socket) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; HEADER_BYTES];
    socket.read_exact(&mut frame).await?;
    let bytes = match Header::read(&frame) {
        Ok(Some(header)) if header.frame_bytes <= FRAME_BYTES_MAX => header.frame_bytes,
        _ => return Ok(None),
    };
    frame.resize(bytes, 0);
    socket.read_exact(frame.get_mut(HEADER_BYTES..).unwrap_or_default()).await?;
    Ok(Some(frame))
}

async fn send(socket: &mut Socket, frame: &[u8]) -> io::Result<()> {
    socket.write_all(frame).await?;
    socket.flush().await
}

fn push_authentication(out: &mut Vec<u8>, code: i32, data: &[u8]) {
    push_frame(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// The verifier's keys. A role that has none takes the same way, up to the server's own refusal.
async fn keys(user: &str, verifiers: Option<&Verifiers>) -> Result<Keys, Stop> {
    let found = match verifiers {
        Some(verifiers) => verifiers.get(user).await,
        None => None,
    };
    found.map(|keys| keys.unwrap_or_else(Keys::of_nobody)).ok_or_else(|| {
        let message = "the proxy has no SCRAM verifiers, so it cannot offer channel binding";
        let hint = "Connect with channel_binding=disable, or let the role of [control] in the \
                    proxy's config read verifiers (verifier_query).";
        Stop::Refused(fatal("28000", message.to_owned(), hint))
    })
}

fn fatal(code: &'static str, message: String, hint: &str) -> Report {
    Report { severity: Severity::Fatal, code, message, hint: hint.to_owned() }
}
