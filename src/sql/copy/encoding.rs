//! In which encodings the bytes of ASCII mean nothing else.

use crate::sql::reason::Reason;
/// Which bytes a key may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// Any: they are in the client's encoding.
    Client,
    /// Those that are the same in every encoding: the data are in another one.
    Ascii,
}

/// As the server spells them when it compares. Left out are those with bytes of ASCII within other
/// characters (BIG5, GBK, GB18030, JOHAB, SJIS, UHC), and whatever is new.
const SAFE: [&str; 38] = [
    "utf8",
    "unicode",
    "sqlascii",
    "euccn",
    "eucjp",
    "eucjis2004",
    "euckr",
    "euctw",
    "latin1",
    "latin2",
    "latin3",
    "latin4",
    "latin5",
    "latin6",
    "latin7",
    "latin8",
    "latin9",
    "latin10",
    "iso88591",
    "iso885915",
    "iso88595",
    "iso88596",
    "iso88597",
    "iso88598",
    "koi8",
    "koi8r",
    "koi8u",
    "win866",
    "win874",
    "win1250",
    "win1251",
    "win1252",
    "win1253",
    "win1254",
    "win1255",
    "win1256",
    "win1257",
    "win1258",
];

/// Which bytes keys may have.
///
/// # Errors
/// When the data cannot be read as they are.
pub(super) fn alphabet(option: Option<&str>, client: &str) -> Result<Alphabet, Reason> {
    let client = folded(client);
    let data = option.map_or_else(|| client.clone(), folded);
    if !SAFE.contains(&data.as_str()) {
        return Err(Reason::CopyEncoding);
    }
    Ok(if data == client { Alphabet::Client } else { Alphabet::Ascii })
}

fn folded(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}
