//! The TOML form, key by key, with the place of every value that can be wrong. Meaning, units and
//! defaults are explained in `config/pgsegue.toml`; a test holds the two together.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::fmt;
use toml::Spanned;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) proxy: Proxy,
    pub(super) server: Option<Server>,
    pub(super) control: Option<Control>,
    #[serde(default)]
    pub(super) admin: Admin,
    #[serde(default)]
    pub(super) migration: Vec<Migration>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proxy {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) listen_unix: Option<Spanned<String>>,
    pub(super) listen_unix_mode: Option<Spanned<String>>,
    pub(super) workers: Option<Spanned<u64>>,
    pub(super) sql_bytes_max: Option<Spanned<u64>>,
    pub(super) sql_buffer_bytes_max: Option<Spanned<u64>>,
    pub(super) dark_reads_max: Option<Spanned<u64>>,
    pub(super) tls: Option<ProxyTls>,
    pub(super) reuse_port: Option<bool>,
    pub(super) clients_max: Option<Spanned<u64>>,
    pub(super) startup_timeout_ms: Option<Spanned<u64>>,
    pub(super) idle_timeout_ms: Option<Spanned<u64>>,
    pub(super) drain_timeout_ms: Option<Spanned<u64>>,
    pub(super) tcp_keepalives_idle_s: Option<Spanned<u64>>,
    pub(super) tcp_keepalives_interval_s: Option<Spanned<u64>>,
    pub(super) tcp_keepalives_count: Option<Spanned<u64>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyTls {
    pub(super) mode: Option<Spanned<String>>,
    pub(super) certificate: Spanned<String>,
    pub(super) key: Spanned<String>,
    pub(super) client_ca: Option<Spanned<String>>,
    pub(super) client_certificates: Option<Spanned<String>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    pub(super) address: Spanned<String>,
    pub(super) connect_timeout_ms: Option<Spanned<u64>>,
    pub(super) tls: Option<ServerTls>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerTls {
    pub(super) mode: Spanned<String>,
    pub(super) negotiation: Option<Spanned<String>>,
    pub(super) root_certificate: Option<Spanned<String>>,
    pub(super) certificate: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    pub(super) url: Spanned<String>,
    pub(super) password_file: Option<Spanned<String>>,
    pub(super) verifier_query: Option<Spanned<String>>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) listen: Option<Spanned<String>>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Migration {
    pub(super) name: Spanned<String>,
    pub(super) source: Spanned<String>,
    pub(super) shadow: Spanned<String>,
    pub(super) key: Spanned<Vec<Spanned<String>>>,
    pub(super) columns: Spanned<Expressions>,
    #[serde(default)]
    pub(super) reverse: Expressions,
    pub(super) unclassified: Option<Spanned<String>>,
    pub(super) lock_budget_ms: Option<Spanned<u64>>,
    pub(super) backfill_rows_per_second: Option<Spanned<u64>>,
    #[serde(default)]
    pub(super) accepted: Vec<String>,
    #[serde(default)]
    pub(super) routing: Routing,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Routing {
    pub(super) dual_write: Option<bool>,
    pub(super) reads: Option<Spanned<f64>>,
    pub(super) dark_reads: Option<Spanned<f64>>,
    pub(super) sticky: Option<Spanned<String>>,
    pub(super) scans: Option<Spanned<String>>,
}

/// `column = "SQL"`, in the file's order.
#[derive(Debug, Default)]
pub(super) struct Expressions(pub(super) Vec<(Spanned<String>, Spanned<String>)>);

impl<'de> Deserialize<'de> for Expressions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ExpressionsVisitor)
    }
}

struct ExpressionsVisitor;

impl<'de> Visitor<'de> for ExpressionsVisitor {
    type Value = Expressions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of columns with SQL expressions")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Expressions(entries))
    }
}
