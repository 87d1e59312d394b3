//! Cutting a stream into frames: as `postgres-protocol` cuts it, wherever reads end.

use pgsegue::wire::frame::{HEADER_BYTES, Header};
use postgres_protocol::message::backend;

pub fn run(data: &[u8]) {
    let mut at = 0;
    while at < data.len() {
        let rest = &data[at..];
        let theirs = backend::Header::parse(rest);
        match Header::read(rest) {
            Ok(None) => {
                assert!(rest.len() < HEADER_BYTES && matches!(theirs, Ok(None)));
                return;
            }
            Ok(Some(header)) => {
                let theirs = theirs.expect("agrees").expect("agrees");
                let bytes = usize::try_from(theirs.len()).expect("positive") + 1;
                assert_eq!((header.tag, header.frame_bytes), (theirs.tag(), bytes));
                // What follows the header changes nothing; less than it is no header yet.
                assert_eq!(Header::read(&rest[..HEADER_BYTES]), Ok(Some(header)));
                for short in 0..HEADER_BYTES {
                    assert_eq!(Header::read(&rest[..short]), Ok(None));
                }
                at += header.frame_bytes;
            }
            Err(bad) => {
                assert!(bad.length < 4 && theirs.is_err());
                return;
            }
        }
    }
}
