//! Data of a COPY: they are read without a panic, in pieces as in one, within the memory that is
//! meant for their keys, and what is sent has a value per key. What the keys are is compared with
//! Postgres itself (`writes::copy::keys`).

use pgsegue::sql::copy::{CopyFrom, Dialect, KEYS_BYTES_MAX, Keys};
use pgsegue::sql::ident::Ident;
use pgsegue::sql::reason::Reason;
use pgsegue::sql::statement::{Class, understand};
use pgsegue::sql::target::{Copyable, Functions, KeyType, Target};
use std::sync::{Arc, LazyLock};

const STATEMENTS: [&str; 10] = [
    "COPY orders FROM STDIN",
    "COPY orders (v, id) FROM STDIN (DELIMITER '|', NULL '', HEADER)",
    "COPY orders (id, k) FROM STDIN (NULL 'x', DEFAULT 'd')",
    "COPY orders (id) FROM STDIN (ENCODING 'latin1')",
    "COPY orders FROM STDIN CSV",
    "COPY orders (v, id) FROM STDIN (FORMAT csv, QUOTE '''', HEADER match, FORCE_NULL *)",
    "COPY orders (id) FROM STDIN CSV QUOTE 'q' ESCAPE '\\' FORCE NOT NULL id",
    "COPY orders (id) FROM STDIN (FORMAT csv, ESCAPE 'e', ON_ERROR ignore)",
    "COPY orders FROM STDIN BINARY",
    "COPY orders (v, id) FROM STDIN (FORMAT binary)",
];

static TARGETS: LazyLock<Vec<Arc<Target>>> = LazyLock::new(|| {
    let mut targets = super::sql::targets();
    let target = Arc::make_mut(&mut targets[0]);
    target.copy = Ok(Copyable {
        columns: ["id", "v"].map(Ident::new).to_vec(),
        key_types: vec![KeyType { sql: "text".to_owned(), oid: 25 }],
    });
    targets
});

static COPIES: LazyLock<Vec<Arc<CopyFrom>>> = LazyLock::new(|| {
    let copy = |sql: &&str| {
        let understood = understand(sql, &TARGETS, &Functions::default());
        match &understood.statements[0].class {
            Class::CopyFrom(_, copy) => Arc::clone(copy),
            other => panic!("{sql}: {other:?}"),
        }
    };
    STATEMENTS.iter().map(copy).collect()
});

/// The first byte chooses the statement, the second the version and the size of pieces.
pub fn run(data: &[u8]) {
    let [statement, how, data @ ..] = data else { return };
    let copy = &COPIES[usize::from(*statement) % COPIES.len()];
    let dialect =
        Dialect { client_encoding: "UTF8", server_version: [0, 15, 18][usize::from(*how) % 3] };
    let whole = read(copy, dialect, data, data.len().max(1));
    let pieces = read(copy, dialect, data, usize::from(how / 3) % 9 + 1);
    match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            let (format, values) = whole.parameters();
            assert_eq!((format, &values), (pieces.parameters().0, &pieces.parameters().1));
            assert_eq!(whole.rows(), pieces.rows());
            is_one_array(format, &values, whole.rows());
        }
        (Err(whole), Err(pieces)) => assert_eq!(whole, pieces),
        (whole, pieces) => panic!("{whole:?} in one, {pieces:?} in pieces"),
    }
}

fn read(copy: &CopyFrom, dialect: Dialect<'_>, data: &[u8], piece: usize) -> Result<Keys, Reason> {
    let mut reader = copy.reader(&TARGETS[0], dialect).expect("a readable COPY");
    data.chunks(piece).for_each(|piece| reader.feed(piece));
    reader.finish()
}

fn is_one_array(format: i16, values: &[u8], rows: u64) {
    let (length, array) = values.split_first_chunk().expect("a length");
    assert_eq!(usize::try_from(i32::from_be_bytes(*length)), Ok(array.len()));
    assert!(array.len() <= KEYS_BYTES_MAX + 32);
    if format == 1 {
        return;
    }
    let inner = array.strip_prefix(b"{").and_then(|a| a.strip_suffix(b"}")).expect("braces");
    let (mut elements, mut quoted, mut escaped) = (u64::from(!inner.is_empty()), false, false);
    for byte in inner {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => elements += 1,
            _ => {}
        }
    }
    assert_eq!((elements, quoted, escaped), (rows, false, false));
}
