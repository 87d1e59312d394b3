//! SQL's EXECUTE of a statement that the protocol has prepared. Under the client's name the server has the
//! client's own text. A mirrored write is executed by a statement of ours, prepared by PREPARE.

use super::Session;
use super::named::Named;
use std::fmt::Write as _;
use std::sync::Arc;
use tokio_postgres::types::Type;

/// Forms that PREPARE has prepared are not those that Parse has: their numbers are others.
const BY_PREPARE: u64 = 1 << 63;

impl Session {
    /// What a name stands for that the protocol has given to a statement, if the server is sure to have
    /// it.
    pub(super) fn named_by_protocol(&self, name: &str) -> Option<Arc<Named>> {
        let statement = self.names.statement(name.as_bytes())?;
        let unsure = self.is_uncertain(name.as_bytes()) || self.may_be_hidden(name.as_bytes());
        if unsure || statement.readable != self.readable() {
            return None;
        }
        Some(Arc::new(Named {
            id: self.by_prepare(statement.id),
            name: name.to_owned(),
            sql: Arc::from(std::str::from_utf8(&statement.sql).ok()?),
            types: types(&statement.types)?,
            meant: statement.meant.clone(),
        }))
    }

    /// A statement of the protocol is gone: what EXECUTE has had prepared for it is of no use.
    pub(super) fn lose_executed(&mut self, id: u64) {
        let id = self.by_prepare(id);
        self.names.in_sql.lose_forms(id);
    }

    /// The number of what PREPARE prepares of it, another one each time that what was is forgotten.
    fn by_prepare(&self, id: u64) -> u64 {
        BY_PREPARE | (self.names.in_sql.times_forgotten & 0x3f_ffff) << 41 | id
    }
}

/// Parameter types as PREPARE lists them, of those that a Parse has declared.
fn types(declared: &[u8]) -> Option<String> {
    let oids: Vec<u32> = declared
        .get(2..)
        .unwrap_or_default()
        .chunks_exact(4)
        .map(|oid| oid.try_into().map_or(0, u32::from_be_bytes))
        .collect();
    if oids.iter().all(|oid| *oid == 0) {
        return Some(String::new());
    }
    let mut list = String::new();
    for oid in oids {
        list.push_str(if list.is_empty() { "(" } else { ", " });
        let _infallible = match oid {
            0 => write!(list, "unknown"),
            oid => write!(list, "pg_catalog.\"{}\"", Type::from_oid(oid)?.name()),
        };
    }
    Some(list + ")")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_are_listed_and_unknown_ones_are_not_guessed() {
        let declared = |oids: &[u32]| {
            let count = u16::try_from(oids.len()).unwrap().to_be_bytes();
            let oids = oids.iter().flat_map(|oid| oid.to_be_bytes());
            count.into_iter().chain(oids).collect::<Vec<u8>>()
        };
        for (oids, listed) in [
            (&[][..], Some("")),
            (&[0, 0], Some("")),
            (&[23, 0, 1009], Some("(pg_catalog.\"int4\", unknown, pg_catalog.\"_text\")")),
            (&[23, 99_999], None),
        ] {
            assert_eq!(types(&declared(oids)).as_deref(), listed);
        }
        assert_eq!(types(b"").as_deref(), Some(""));
    }
}
