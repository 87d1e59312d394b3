//! Cutting frames: `tag:u8 length:i32be body`, the length counting itself.

/// Bytes of a frame before its body.
pub const HEADER_BYTES: usize = 5;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message type.
    pub tag: u8,
    /// Bytes of the whole frame, header included.
    pub frame_bytes: usize,
}

/// A length below 4: whoever sent it does not speak the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length {length} of message type {tag:?}")]
pub struct BadLength {
    /// The message type.
    pub tag: char,
    /// The length field.
    pub length: i32,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` when there is not enough of it yet.
    ///
    /// # Errors
    /// When the length field is less than its own size.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, BadLength> {
        let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes([a, b, c, d]);
        match usize::try_from(length) {
            Ok(n) if n >= 4 => Ok(Some(Self { tag, frame_bytes: n + 1 })),
            _ => Err(BadLength { tag: char::from(tag), length }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        assert_eq!(Header::read(b"Q\0\0\0"), Ok(None));
        let sync = Header { tag: b'S', frame_bytes: 5 };
        assert_eq!(Header::read(b"S\0\0\0\x04rest"), Ok(Some(sync)));
        assert!(Header::read(b"Q\0\0\0\x03").is_err());
        assert!(Header::read(b"Q\xff\xff\xff\xff").is_err());
    }
}
