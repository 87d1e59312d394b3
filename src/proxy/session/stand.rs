//! What the tests of sessions stand on: one migration, and no server.

use super::super::limits::{Keepalive, Limits};
use super::super::{Address, Options, Server};
use super::*;
use crate::manifest::{Percent, Scans, Sticky, Unclassified};
use crate::routing::{Gate, Handle, Mirror, Route};
use crate::sql::ident::{Ident, QualifiedName};
use crate::sql::target::{self, Functions, Privileges, Target};
use crate::telemetry::Metrics;
use crate::tls::Dialer;
use std::time::Duration;

const LIMITS: Limits = Limits {
    clients_max: 1,
    startup_timeout: Duration::from_secs(1),
    idle_timeout: None,
    drain_timeout: Duration::from_secs(1),
    connect_timeout: Duration::from_secs(1),
    keepalive: Keepalive { idle: Duration::ZERO, interval: Duration::ZERO, count: 0 },
};

pub(super) fn routes(mirror: Mirror, unclassified: Unclassified) -> Routes {
    let target = Target {
        migration: "m".into(),
        source: QualifiedName::parse("public.orders").unwrap(),
        shadow: QualifiedName::parse("public.orders_v2").unwrap(),
        source_oid: 1,
        shadow_oid: 2,
        parts: Default::default(),
        key: vec![Ident::new("id")],
        columns: Vec::new(),
        old_shape: Err(String::new()),
        sync_function: "sync".into(),
        follow_function: None,
        truncate_function: Some("truncated".into()),
        whole_function: Some("whole".into()),
        hold: Some(target::Hold { function: "hold".into(), release: "release".into() }),
        mark_function: "mark".into(),
        server_version: 15,
        copy: Err(crate::sql::reason::Reason::CopyOption),
        update_changes_key: false,
        runs_before_update: false,
        counted: None,
        privileges: Privileges::default(),
    };
    let route = Route {
        target: Arc::new(target),
        mirror,
        reads: Percent::ZERO,
        dark_reads: Percent::ZERO,
        sticky: Sticky::Session,
        scans: Scans::Source,
        unclassified,
        gate: Arc::new(Gate::default()),
    };
    let functions = Arc::new(Functions::default());
    Routes { epoch: 1, generation: 1, routes: vec![Arc::new(route)], functions }
}

/// What a session by these routes shares, and how they change.
pub(super) fn context(routes: Routes) -> (Arc<Context>, Arc<Handle>) {
    let options = Options {
        server: Server { address: Address::Unix("nowhere".into()), tls: Dialer::disabled() },
        clients: Arc::default(),
        verifier_query: String::new(),
        control: None,
        dark_reads_max: 1,
        workers: 1,
        sql_bytes_max: 1 << 20,
        sql_buffer_bytes_max: 1 << 26,
        limits: Arc::new(arc_swap::ArcSwap::from_pointee(LIMITS)),
        workload: Arc::default(),
    };
    let handle = Handle::new(routes);
    let metrics = Metrics::new().unwrap();
    (Context::new(Arc::new(options), Arc::clone(&handle), metrics), handle)
}
