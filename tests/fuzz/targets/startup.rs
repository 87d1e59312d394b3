//! Packets without a type byte, by `pgwire`.

use super::asked;
use bytes::BytesMut;
use pgsegue::wire::startup::{self, LENGTH_BYTES, PACKET_BYTES_MAX, Packet};
use pgwire::messages::startup::SecretKey;
use pgwire::messages::{
    DecodeContext, PgWireFrontendMessage, ProtocolVersion, SslNegotiationMetaMessage,
};
use std::collections::BTreeMap;

/// The data are a packet without its length.
pub fn run(data: &[u8]) {
    if data.len() > PACKET_BYTES_MAX {
        return;
    }
    let length = u32::try_from(data.len() + LENGTH_BYTES).expect("small").to_be_bytes();
    let packet = [&length[..], data].concat();
    let ours = startup::read(&packet);
    let bytes = startup::packet_bytes(length);
    assert!(ours.is_err() || bytes == Ok(packet.len()));
    for cut in 0..packet.len().min(64) {
        assert!(startup::read(&packet[..cut]).is_err(), "a part of a packet is none");
    }
    match &ours {
        Ok(Packet::Startup(s)) => {
            let _names = (s.user(), s.database(), s.is_replication());
            assert!(s.database().len() < 64 && s.user().len() < 64);
        }
        Ok(Packet::Cancel(_) | Packet::SslRequest | Packet::GssencRequest) | Err(_) => {}
    }
    match theirs(&packet) {
        Some(PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::PostgresSsl(_))) => {
            assert_eq!(ours, Ok(Packet::SslRequest));
        }
        Some(PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::PostgresGss(_))) => {
            assert_eq!(ours, Ok(Packet::GssencRequest));
        }
        Some(PgWireFrontendMessage::CancelRequest(theirs)) => {
            let Ok(Packet::Cancel(cancel)) = ours else { panic!("{ours:?} is a CancelRequest") };
            let secret = match theirs.secret_key {
                SecretKey::I32(key) => key.to_be_bytes().to_vec(),
                SecretKey::Bytes(key) => key.to_vec(),
            };
            assert_eq!((cancel.process, cancel.secret), (theirs.pid, &secret[..]));
        }
        Some(PgWireFrontendMessage::Startup(theirs)) => {
            let Ok(Packet::Startup(startup)) = ours else { panic!("{ours:?} is a StartupMessage") };
            let version = (theirs.protocol_number_major, theirs.protocol_number_minor);
            assert_eq!((startup.major, startup.minor), version);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let parameters: BTreeMap<_, _> =
                startup.parameters.iter().map(|(n, v)| (text(n), text(v))).collect();
            assert_eq!(parameters, theirs.parameters);
        }
        _ => {}
    }
}

/// What `pgwire` reads, if it is what the bytes say.
fn theirs(packet: &[u8]) -> Option<PgWireFrontendMessage> {
    let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_2);
    let mut decode = || {
        let mut buffer = BytesMut::from(packet);
        let message = PgWireFrontendMessage::decode(&mut buffer, &context).ok()??;
        if matches!(message, PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::None))
        {
            context.awaiting_frontend_ssl = false;
            return PgWireFrontendMessage::decode(&mut buffer, &context).ok()?;
        }
        Some(message)
    };
    let message = asked(&mut decode)??;
    let mut again = BytesMut::new();
    message.encode(&mut again).ok()?;
    (again[..] == *packet).then_some(message)
}
