//! What a client sends before frames begin: packets without a type byte, `length:i32be code:i32be …`,
//! read as the server reads them (`ProcessStartupPacket`). Pure: which packets are allowed when, and
//! what is answered, is the listener's business.

use super::reader::Reader;

/// Bytes of the length field, which counts itself.
pub const LENGTH_BYTES: usize = 4;
/// As in the server, whose limit of 10,000 does not count the length field.
pub const PACKET_BYTES_MAX: usize = 10_000 + LENGTH_BYTES;
/// Bytes of the length field and the code.
const PACKET_BYTES_MIN: usize = LENGTH_BYTES + 4;
/// Names of databases and roles end here (`NAMEDATALEN - 1`): the server cuts longer ones.
const NAME_BYTES_MAX: usize = 63;
/// What a secret key of a CancelRequest may have: 4 in protocol 3.0, up to 256 since 3.2.
const SECRET_BYTES_MAX: usize = 256;

const CANCEL_REQUEST: i32 = 80_877_102;
const SSL_REQUEST: i32 = 80_877_103;
const GSSENC_REQUEST: i32 = 80_877_104;

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Asks for TLS.
    SslRequest,
    /// Asks for encryption by GSSAPI.
    GssencRequest,
    /// Asks to cancel what another connection runs.
    Cancel(Cancel<'a>),
    /// Begins a session.
    Startup(Startup<'a>),
}

/// A CancelRequest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancel<'a> {
    /// The process to signal.
    pub process: i32,
    /// The secret that goes with it.
    pub secret: &'a [u8],
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup<'a> {
    /// Major protocol version; other than 3 the server refuses.
    pub major: u16,
    /// Minor protocol version: 0, 2, or one that the server negotiates down.
    pub minor: u16,
    /// Names and values as they came. Where a name comes twice the last one counts.
    pub parameters: Vec<(&'a [u8], &'a [u8])>,
}

/// A packet that the server would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPacket {
    /// Too short or too long; nothing of it should be waited for.
    #[error("invalid length of startup packet")]
    Length,
    /// A request for encryption with something after it, or a bad CancelRequest.
    #[error("invalid length of request packet")]
    RequestLength,
    /// The list of parameters does not end where the packet does.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
}

/// Bytes of the whole packet that begins with this length field.
///
/// # Errors
/// When no packet can have this length.
pub fn packet_bytes(length: [u8; LENGTH_BYTES]) -> Result<usize, BadPacket> {
    let bytes = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
    match bytes {
        PACKET_BYTES_MIN..=PACKET_BYTES_MAX => Ok(bytes),
        _ => Err(BadPacket::Length),
    }
}

/// Reads one whole packet, its length field included.
///
/// # Errors
/// When the server would refuse it.
pub fn read(packet: &[u8]) -> Result<Packet<'_>, BadPacket> {
    let (length, body) = packet.split_first_chunk().ok_or(BadPacket::Length)?;
    if packet_bytes(*length)? != packet.len() {
        return Err(BadPacket::Length);
    }
    let mut r = Reader::new(body);
    match r.i32().ok_or(BadPacket::Length)? {
        SSL_REQUEST if r.rest().is_empty() => Ok(Packet::SslRequest),
        GSSENC_REQUEST if r.rest().is_empty() => Ok(Packet::GssencRequest),
        SSL_REQUEST | GSSENC_REQUEST => Err(BadPacket::RequestLength),
        CANCEL_REQUEST => cancel(r).map(Packet::Cancel),
        version => startup(version, r.rest()).map(Packet::Startup),
    }
}

fn cancel(mut r: Reader<'_>) -> Result<Cancel<'_>, BadPacket> {
    let process = r.i32().ok_or(BadPacket::RequestLength)?;
    match r.rest() {
        secret if (4..=SECRET_BYTES_MAX).contains(&secret.len()) => Ok(Cancel { process, secret }),
        _ => Err(BadPacket::RequestLength),
    }
}

fn startup(version: i32, body: &[u8]) -> Result<Startup<'_>, BadPacket> {
    let [a, b, c, d] = version.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if major != 3 {
        // How others are laid out is not known; the server answers them.
        return Ok(Startup { major, minor, parameters: Vec::new() });
    }
    let mut r = Reader::new(body);
    let mut parameters = Vec::new();
    loop {
        let name = r.cstr().ok_or(BadPacket::Layout)?;
        if name.is_empty() {
            break;
        }
        parameters.push((name, r.cstr().ok_or(BadPacket::Layout)?));
    }
    match r.rest() {
        [] => Ok(Startup { major, minor, parameters }),
        _ => Err(BadPacket::Layout),
    }
}

impl<'a> Startup<'a> {
    /// The value of a parameter.
    pub fn parameter(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.parameters.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    /// The role that logs in; empty where there is none (the server refuses).
    pub fn user(&self) -> &'a [u8] {
        cut(self.parameter(b"user").unwrap_or_default())
    }

    /// The database: named like the role where none is given.
    pub fn database(&self) -> &'a [u8] {
        cut(self.parameter(b"database").filter(|d| !d.is_empty()).unwrap_or_else(|| self.user()))
    }

    /// Whether this becomes a walsender, of a database or not.
    pub fn is_replication(&self) -> bool {
        self.parameter(b"replication").is_some_and(|value| !is_false(value))
    }
}

fn cut(name: &[u8]) -> &[u8] {
    name.get(..NAME_BYTES_MAX).unwrap_or(name)
}

/// Whether the server's `parse_bool` takes this for false: any unambiguous beginning of a word.
fn is_false(value: &[u8]) -> bool {
    let begins = |word: &[u8], least: usize| {
        value.len() >= least
            && word.get(..value.len()).is_some_and(|head| head.eq_ignore_ascii_case(value))
    };
    begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || value == b"0"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: i32, rest: &[u8]) -> Vec<u8> {
        let bytes = i32::try_from(rest.len() + 8).unwrap();
        [&bytes.to_be_bytes(), &code.to_be_bytes(), rest].concat()
    }

    fn session(rest: &[u8]) -> Vec<u8> {
        packet(3 << 16, rest)
    }

    #[test]
    fn requests() {
        assert_eq!(read(&packet(SSL_REQUEST, b"")), Ok(Packet::SslRequest));
        assert_eq!(read(&packet(GSSENC_REQUEST, b"")), Ok(Packet::GssencRequest));
        assert_eq!(read(&packet(SSL_REQUEST, b"x")), Err(BadPacket::RequestLength));
        let short = packet(CANCEL_REQUEST, &[0, 0, 0, 7, 1, 2, 3, 4]);
        let cancel = Cancel { process: 7, secret: &[1, 2, 3, 4] };
        assert_eq!(read(&short), Ok(Packet::Cancel(cancel)));
    }

    #[test]
    fn keys_of_cancel_requests_may_be_long() {
        for (bytes, ok) in
            [(0, false), (3, false), (4, true), (32, true), (256, true), (257, false)]
        {
            let body = [&[0, 0, 0, 7][..], &vec![9; bytes]].concat();
            assert_eq!(read(&packet(CANCEL_REQUEST, &body)).is_ok(), ok, "{bytes}");
        }
        assert_eq!(read(&packet(CANCEL_REQUEST, b"")), Err(BadPacket::RequestLength));
    }

    #[test]
    fn parameters_are_found_and_the_last_one_counts() {
        let bytes = packet((3 << 16) | 2, b"user\0a\0database\0x\0database\0y\0_pq_.z\0\0\0");
        let Ok(Packet::Startup(startup)) = read(&bytes) else { panic!("not a StartupMessage") };
        assert_eq!((startup.major, startup.minor), (3, 2));
        assert_eq!((startup.user(), startup.database()), (&b"a"[..], &b"y"[..]));
        assert_eq!(startup.parameter(b"_pq_.z"), Some(&b""[..]));
        assert_eq!(startup.parameter(b"options"), None);
    }

    #[test]
    fn database_is_the_user_by_default_and_names_are_cut_as_in_the_server() {
        let long = [b'd'; 70];
        for (rest, expected) in [
            (&b"user\0a\0\0"[..], &b"a"[..]),
            (b"user\0a\0database\0\0\0", b"a"),
            (&[b"user\0a\0database\0", &long[..], b"\0\0"].concat(), &long[..63]),
        ] {
            let bytes = session(rest);
            let Ok(Packet::Startup(startup)) = read(&bytes) else { panic!("not a StartupMessage") };
            assert_eq!(startup.database(), expected);
        }
    }

    #[test]
    fn replication_is_read_as_the_server_reads_it() {
        for (value, expected) in [
            ("database", true),
            ("true", true),
            ("on", true),
            ("1", true),
            ("o", true),
            ("", true),
            ("falsey", true),
            ("false", false),
            ("F", false),
            ("OFF", false),
            ("of", false),
            ("n", false),
            ("0", false),
        ] {
            let bytes = session(format!("user\0a\0replication\0{value}\0\0").as_bytes());
            let Ok(Packet::Startup(startup)) = read(&bytes) else { panic!("not a StartupMessage") };
            assert_eq!(startup.is_replication(), expected, "{value}");
        }
    }

    #[test]
    fn lengths_and_layouts_that_the_server_refuses() {
        for length in [i32::MIN, -1, 0, 7, 10_005, i32::MAX] {
            assert_eq!(packet_bytes(length.to_be_bytes()), Err(BadPacket::Length), "{length}");
        }
        assert_eq!(packet_bytes(10_004_i32.to_be_bytes()), Ok(10_004));
        for rest in
            [&b""[..], b"user", b"user\0", b"user\0a", b"user\0a\0", b"\0x", b"user\0a\0\0\0"]
        {
            assert_eq!(read(&session(rest)), Err(BadPacket::Layout), "{rest:?}");
        }
        assert_eq!(read(b"\0\0\0\x09\0\x03\0\0"), Err(BadPacket::Length));
        assert!(read(&packet(2 << 16, b"anything")).is_ok());
    }
}
