//! `[proxy]` and `[server]`: what bounds client sessions.

use super::file;
use super::settings::Check;
use crate::proxy::{Keepalive, Limits};
use std::time::Duration;
use toml::Spanned;

/// More than a Postgres has connections for; it bounds what a mistake can cost.
const CLIENTS_MAX: u64 = 10_000;
/// As the server's authentication_timeout.
const STARTUP_TIMEOUT_MS: u64 = 60_000;
const DRAIN_TIMEOUT_MS: u64 = 30_000;
const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// A dead peer is noticed after two minutes.
const KEEPALIVES_IDLE_S: u64 = 60;
const KEEPALIVES_INTERVAL_S: u64 = 10;
const KEEPALIVES_COUNT: u64 = 6;
/// A day.
const TIMEOUT_MS_MAX: u64 = 86_400_000;
/// What Linux takes.
const KEEPALIVE_S_MAX: u64 = 32_767;

pub(super) fn limits(check: &mut Check<'_>, raw: &file::File) -> Option<Limits> {
    let proxy = &raw.proxy;
    let clients = check.number(proxy.clients_max.as_ref(), CLIENTS_MAX, 1..=1_000_000);
    let mut time = |value: Option<&Spanned<u64>>, default, least| {
        check.number(value, default, least..=TIMEOUT_MS_MAX).map(Duration::from_millis)
    };
    let startup = time(proxy.startup_timeout_ms.as_ref(), STARTUP_TIMEOUT_MS, 1);
    let idle = time(proxy.idle_timeout_ms.as_ref(), 0, 0);
    let drain = time(proxy.drain_timeout_ms.as_ref(), DRAIN_TIMEOUT_MS, 0);
    let connect = raw.server.as_ref().and_then(|server| server.connect_timeout_ms.as_ref());
    let connect = time(connect, CONNECT_TIMEOUT_MS, 1);
    Some(Limits {
        clients_max: usize::try_from(clients?).ok()?,
        startup_timeout: startup?,
        idle_timeout: Some(idle?).filter(|idle| !idle.is_zero()),
        drain_timeout: drain?,
        connect_timeout: connect?,
        keepalive: keepalive(check, proxy)?,
    })
}

fn keepalive(check: &mut Check<'_>, proxy: &file::Proxy) -> Option<Keepalive> {
    let mut time = |value: Option<&Spanned<u64>>, default, least| {
        check.number(value, default, least..=KEEPALIVE_S_MAX).map(Duration::from_secs)
    };
    let idle = time(proxy.tcp_keepalives_idle_s.as_ref(), KEEPALIVES_IDLE_S, 0);
    let interval = time(proxy.tcp_keepalives_interval_s.as_ref(), KEEPALIVES_INTERVAL_S, 1);
    let count = check.number(proxy.tcp_keepalives_count.as_ref(), KEEPALIVES_COUNT, 1..=127);
    Some(Keepalive { idle: idle?, interval: interval?, count: u32::try_from(count?).ok()? })
}
