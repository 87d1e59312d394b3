//! From the TOML form to what the parts of the process take: everything is checked here, once.

use super::error::{Error, Problem, Source};
use super::{file, limits, migration, tls};
use crate::engine::Declared;
use crate::pg::Database;
use crate::proxy::{Address, Limits, Local, ReusePort, Server};
use crate::tls::{Acceptor, Dialer};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6432);
const ADMIN_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9632);
/// A statement of a mebibyte is bulk data; parsing it would cost milliseconds.
const SQL_BYTES_MAX: u64 = 1 << 20;
/// What one session may hold of one statement.
const SQL_BUFFER_BYTES_MAX: u64 = 1 << 26;
/// Bounds what dark reads can hold: statements waiting with their parameters, and connections.
const DARK_READS_MAX: u64 = 64;
/// As `unix_socket_permissions` of the server.
const LISTEN_UNIX_MODE: u32 = 0o777;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where a superuser finds a role's SCRAM verifier.
const VERIFIER_QUERY: &str = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1";

/// A valid config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The part that a running process does not change.
    pub process: Process,
    /// What clients are offered by way of TLS: hot.
    pub clients: Option<Acceptor>,
    /// What bounds client sessions: hot.
    pub limits: Limits,
    /// The migrations and their levers: hot.
    pub migrations: Vec<Declared>,
    /// The files beside the config file that are hot.
    pub files: Vec<PathBuf>,
}

/// The part that needs a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where clients on this machine connect.
    pub local: Option<Local>,
    /// The Postgres behind it.
    pub server: Server,
    /// Whether other processes may listen there as well.
    pub reuse_port: ReusePort,
    /// The proxy's own connections; needed as soon as a migration is declared.
    pub control: Option<Database>,
    /// On a control connection: the SCRAM verifier of the role `$1`.
    pub verifier_query: String,
    /// Where the admin server listens: loopback.
    pub admin: SocketAddr,
    /// Threads that sessions run on.
    pub workers: usize,
    /// Statements longer than this many bytes are not parsed.
    pub sql_bytes_max: usize,
    /// Statements, and values of statements on migrated tables, longer than this are not held.
    pub sql_buffer_bytes_max: usize,
    /// Dark reads that may be queued or running.
    pub dark_reads_max: usize,
}

/// Checks everything, and collects every problem rather than the first.
pub(super) fn validate(
    source: &Source<'_>,
    raw: file::File,
    env_password: Option<String>,
) -> Result<Settings, Error> {
    let mut check = Check { source, problems: Vec::new() };
    let has_control = raw.control.is_some();
    let process = process(&mut check, &raw, env_password);
    if let (false, Some(first)) = (has_control, raw.migration.first()) {
        check.wrong(
            &first.name.span(),
            "a migration needs the proxy's own connection to the database",
            "add [control] with url = \"postgres://pgsegue@127.0.0.1:5432/app\"",
        );
    }
    let clients = tls::clients(&mut check, raw.proxy.tls.as_ref());
    let files = tls::files(raw.proxy.tls.as_ref(), check.folder());
    let limits = limits::limits(&mut check, &raw);
    let migrations = migration::all(&mut check, raw.migration);
    match (process, clients, limits) {
        (Some(process), Some(clients), Some(limits)) if check.problems.is_empty() => {
            Ok(Settings { process, clients, limits, migrations, files })
        }
        _ => {
            check.problems.sort_by_key(|problem| (problem.line, problem.column));
            Err(Error::Invalid(check.problems))
        }
    }
}

/// The problems found so far.
pub(super) struct Check<'a> {
    source: &'a Source<'a>,
    problems: Vec<Problem>,
}

impl Check<'_> {
    pub(super) fn wrong(&mut self, span: &Range<usize>, message: &str, hint: &str) {
        self.problems.push(self.source.problem(span, message, hint));
    }

    /// Where relative paths start.
    fn folder(&self) -> &Path {
        self.source.path.parent().unwrap_or_else(|| Path::new(""))
    }

    /// A path as the config file writes it.
    pub(super) fn path_of(&self, file: &str) -> PathBuf {
        self.folder().join(file)
    }

    /// The number, or the default where there is none, or `None` with a problem.
    pub(super) fn number(
        &mut self,
        value: Option<&Spanned<u64>>,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Option<u64> {
        let Some(value) = value else { return Some(default) };
        if range.contains(value.get_ref()) {
            return Some(*value.get_ref());
        }
        let (least, most) = (range.start(), range.end());
        self.wrong(
            &value.span(),
            &format!("must be between {least} and {most}"),
            &format!("the default is {default}"),
        );
        None
    }

    /// One of a closed set of words, or the default.
    pub(super) fn word<T: Copy>(
        &mut self,
        value: Option<&Spanned<String>>,
        words: &[(&str, T)],
        default: T,
    ) -> Option<T> {
        let Some(value) = value else { return Some(default) };
        let found = words.iter().find(|(word, _)| word == value.get_ref());
        if found.is_none() {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let message = format!(
                "unknown value \"{}\", expected one of {}",
                value.get_ref(),
                known.join(", ")
            );
            self.wrong(&value.span(), &message, "");
        }
        found.map(|(_, meaning)| *meaning)
    }
}

fn process(
    check: &mut Check<'_>,
    raw: &file::File,
    env_password: Option<String>,
) -> Option<Process> {
    let listen = address(check, raw.proxy.listen.as_ref(), LISTEN);
    let local = local(check, &raw.proxy);
    let admin = admin(check, raw.admin.listen.as_ref());
    let server = server(check, raw.server.as_ref());
    let control = match (&raw.control, &server) {
        (Some(raw), server) => {
            let tls = server.as_ref().map_or_else(Dialer::disabled, |server| server.tls.clone());
            control(check, raw, env_password).map(|config| Some(Database::new(config, tls)))
        }
        (None, _) => Some(None),
    };
    let verifier_query = raw.control.as_ref().and_then(|control| control.verifier_query.as_ref());
    let sql = check.number(raw.proxy.sql_bytes_max.as_ref(), SQL_BYTES_MAX, 1_024..=1 << 26);
    let buffer = raw.proxy.sql_buffer_bytes_max.as_ref();
    let buffer = check.number(buffer, SQL_BUFFER_BYTES_MAX, 1 << 16..=1 << 30);
    let workers = check.number(raw.proxy.workers.as_ref(), workers_by_default(), 1..=1_024);
    let dark = check.number(raw.proxy.dark_reads_max.as_ref(), DARK_READS_MAX, 0..=10_000);
    Some(Process {
        listen: listen?,
        local: local?,
        reuse_port: match raw.proxy.reuse_port {
            Some(true) => ReusePort::Yes,
            Some(false) | None => ReusePort::No,
        },
        server: server?,
        control: control?,
        verifier_query: verifier_query.map_or(VERIFIER_QUERY, |query| query.get_ref()).to_owned(),
        admin: admin?,
        workers: usize::try_from(workers?).ok()?,
        sql_bytes_max: usize::try_from(sql?).ok()?,
        sql_buffer_bytes_max: usize::try_from(buffer?).ok()?,
        dark_reads_max: usize::try_from(dark?).ok()?,
    })
}

/// Half of the cores. One worker carries some 60,000 transactions a second; more of them than there
/// is work for wake up more often and cost a tenth more CPU time for each.
fn workers_by_default() -> u64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u64::try_from(cores.div_ceil(2)).unwrap_or(1)
}

fn address(
    check: &mut Check<'_>,
    value: Option<&Spanned<String>>,
    default: SocketAddr,
) -> Option<SocketAddr> {
    let Some(value) = value else { return Some(default) };
    let parsed = value.get_ref().parse().ok();
    if parsed.is_none() {
        let hint = format!("for example listen = \"{default}\"");
        check.wrong(&value.span(), "must be an IP address and a port", &hint);
    }
    parsed
}

/// The folder of the Unix socket; `Some(None)`: there is none.
fn local(check: &mut Check<'_>, raw: &file::Proxy) -> Option<Option<Local>> {
    let mode = match &raw.listen_unix_mode {
        None => Some(LISTEN_UNIX_MODE),
        Some(text) => {
            let mode = u32::from_str_radix(text.get_ref(), 8).ok().filter(|mode| *mode <= 0o777);
            if mode.is_none() {
                let hint = "for example listen_unix_mode = \"0770\"";
                check.wrong(&text.span(), "must be permission bits in octal", hint);
            }
            mode
        }
    };
    let Some(folder) = &raw.listen_unix else { return mode.map(|_| None) };
    let folder = check.path_of(folder.get_ref());
    mode.map(|mode| Some(Local { folder, mode }))
}

/// There is no authentication on the admin server, so nobody else may reach it.
fn admin(check: &mut Check<'_>, value: Option<&Spanned<String>>) -> Option<SocketAddr> {
    let listen = address(check, value, ADMIN_LISTEN)?;
    if listen.ip().is_loopback() {
        return Some(listen);
    }
    let message =
        format!("the admin server may only listen on a loopback address, not {}", listen.ip());
    let hint = "it asks for no password; use 127.0.0.1 or [::1] and reach it through ssh or a \
                sidecar";
    check.wrong(&value.map(Spanned::span).unwrap_or_default(), &message, hint);
    None
}

fn server(check: &mut Check<'_>, raw: Option<&file::Server>) -> Option<Server> {
    let Some(raw) = raw else {
        let hint = "add [server] with address = \"127.0.0.1:5432\", the Postgres behind the proxy";
        check.wrong(&(0..0), "the section [server] is missing", hint);
        return None;
    };
    let text = raw.address.get_ref();
    let address = match text.strip_prefix('/') {
        Some(_) => Address::in_folder(text),
        None => Address::of_host(text),
    };
    if address.is_none() {
        let hint = "for example address = \"127.0.0.1:5432\", or \"/run/postgresql\" for the \
                    Unix socket in there";
        check.wrong(&raw.address.span(), "must be a host and a port, or a folder", hint);
    }
    let tls = tls::server(check, raw.tls.as_ref());
    Some(Server { address: address?, tls: tls? })
}

fn control(
    check: &mut Check<'_>,
    raw: &file::Control,
    env_password: Option<String>,
) -> Option<tokio_postgres::Config> {
    if ends_early(raw.url.get_ref()) {
        let hint = "write an @ of the password, or of another part, as %40; or leave the password to \
                    PGPASSWORD or password_file";
        check.wrong(&raw.url.span(), "the url has more than one @", hint);
        return None;
    }
    let mut control: tokio_postgres::Config = match raw.url.get_ref().parse() {
        Ok(control) => control,
        Err(error) => {
            let hint = match raw.url.get_ref().contains("sslmode=verify") {
                true => "use sslmode=require; how the certificate is checked is [server.tls] mode",
                false => "for example url = \"postgres://pgsegue@127.0.0.1:5432/app\"",
            };
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let message =
                format!("not a connection string: {}", cause.unwrap_or_else(|| error.to_string()));
            check.wrong(&raw.url.span(), &message, hint);
            return None;
        }
    };
    for (missing, what) in [
        (control.get_hosts().is_empty(), "host"),
        (control.get_user().is_none(), "user"),
        (control.get_dbname().is_none(), "database"),
    ] {
        if missing {
            let hint = "for example url = \"postgres://pgsegue@127.0.0.1:5432/app\"";
            check.wrong(&raw.url.span(), &format!("the url names no {what}"), hint);
        }
    }
    if let Some(password) = password(check, raw.password_file.as_ref(), env_password)
        && control.get_password().is_none()
    {
        control.password(password);
    }
    if control.get_application_name().is_none() {
        control.application_name("pgsegue");
    }
    if control.get_connect_timeout().is_none() {
        control.connect_timeout(CONNECT_TIMEOUT);
    }
    Some(control)
}

/// Whether a url has another `@` than the one before its host: a part of the password would be taken
/// for the host, and shown.
fn ends_early(url: &str) -> bool {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    rest.is_some_and(|rest| rest.matches('@').count() > 1)
}

fn password(
    check: &mut Check<'_>,
    file: Option<&Spanned<String>>,
    env_password: Option<String>,
) -> Option<String> {
    let Some(file) = file else { return env_password };
    match std::fs::read_to_string(check.path_of(file.get_ref())) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
        Err(error) => {
            let message = format!("cannot read the file {}: {error}", file.get_ref());
            check.wrong(
                &file.span(),
                &message,
                "a relative path starts at the config file's folder",
            );
            None
        }
    }
}
