//! Valid and invalid files, and what each gets.

use super::error::Source;
use super::*;
use crate::manifest::{DualWrite, Levers, Migration, Percent, Scans, Sticky, Unclassified};
use crate::sql::ident::{Ident, QualifiedName};
use std::time::Duration;

const VALID: &str = r#"[server]
address = "127.0.0.1:5432"
[control]
url = "postgres://pgsegue@127.0.0.1:5432/app"
[[migration]]
name = "orders_v2"
source = "public.orders"
shadow = "public.orders_v2"
key = ["id"]
[migration.columns]
id = "id"
total = "total::bigint * 100"
[migration.routing]
reads = 10
"#;

fn parsed(text: &str) -> Result<Settings, Error> {
    let path = Path::new("p.toml");
    let source = Source { path, text };
    match toml::from_str(text) {
        Ok(raw) => settings::validate(&source, raw, None),
        Err(_) => parse(path, text),
    }
}

fn message(text: &str) -> String {
    match parsed(text) {
        Ok(settings) => format!("valid: {settings:?}"),
        Err(error) => error.to_string(),
    }
}

/// A text of the valid file, what it is replaced with, and all that is said about the result.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "reads = 10",
        "reads = 110",
        r#"
p.toml:14:9: must be between 0 and 100
   |
14 | reads = 110
   |         ^^^
hint: it is a share of reads in percent"#,
    ),
    (
        "reads = 10",
        "reads = \"ten\"",
        r#"
p.toml:14:9: invalid type: string "ten", expected a number
   |
14 | reads = "ten"
   |         ^^^^^"#,
    ),
    (
        "reads = 10",
        "reeds = 10",
        r#"
p.toml:14:1: unknown field `reeds`, expected one of `dual_write`, `reads`, `dark_reads`, `sticky`, `scans`
   |
14 | reeds = 10
   | ^^^^^"#,
    ),
    (
        "reads = 10",
        "reads = 10\nsticky = \"sessions\"",
        r#"
p.toml:15:10: unknown value "sessions", expected one of "session", "statement", "application_name", "user"
   |
15 | sticky = "sessions"
   |          ^^^^^^^^^^"#,
    ),
    (
        "reads = 10",
        "reads = ",
        r#"
p.toml:14:9: string values must be quoted, expected literal string
   |
14 | reads = 
   |         ^"#,
    ),
    (
        "name = \"orders_v2\"",
        "name = \"Orders-v2\"",
        r#"
p.toml:6:8: "Orders-v2" cannot name a migration
  |
6 | name = "Orders-v2"
  |        ^^^^^^^^^^^
hint: at most 40 of a-z, 0-9 and _, starting with a letter, for example orders_v2"#,
    ),
    (
        "name = \"orders_v2\"\n",
        "",
        r#"
p.toml:5:1: missing field `name`
  |
5 | [[migration]]
  | ^^^^^^^^^^^^^"#,
    ),
    (
        "source = \"public.orders\"",
        "source = \"orders\"",
        r#"
p.toml:7:10: "orders" names no schema; write it as schema.table, for example public.orders
  |
7 | source = "orders"
  |          ^^^^^^^^"#,
    ),
    (
        "shadow = \"public.orders_v2\"",
        "shadow = \"public.Orders\"",
        r#"
p.toml:8:10: the shadow is the source itself: public.orders
  |
8 | shadow = "public.Orders"
  |          ^^^^^^^^^^^^^^^
hint: several migrations may have one source; a shadow is of one, and no source"#,
    ),
    (
        "key = [\"id\"]",
        "key = []",
        r#"
p.toml:9:7: the key has no column
  |
9 | key = []
  |       ^^
hint: name the source columns that are unique and not null together, for example key = ["id"]"#,
    ),
    (
        "key = [\"id\"]",
        "key = [\"id\", \"id\"]",
        r#"
p.toml:9:14: "id" is in the key twice
  |
9 | key = ["id", "id"]
  |              ^^^^"#,
    ),
    (
        "key = [\"id\"]",
        "key = [\"id\"]\nlock_budget_ms = -1",
        r#"
p.toml:10:18: invalid value: integer `-1`, expected a whole number, 0 or more
   |
10 | lock_budget_ms = -1
   |                  ^^"#,
    ),
    (
        "[migration.columns]",
        "[migration.columns]\n\"\" = \"1\"",
        r#"
p.toml:11:1: "" cannot be a column
   |
11 | "" = "1"
   | ^^
hint: a column is written as Postgres stores it, without quotes, 1 to 63 bytes"#,
    ),
    (
        "\nkey = ",
        "\nkey = \"id\"\nold_key = ",
        r#"
p.toml:9:7: invalid type: string "id", expected a sequence
  |
9 | key = "id"
  |       ^^^^"#,
    ),
    (
        "key = [\"id\"]",
        "key = [\"id\", \"tenant\"]",
        r#"
p.toml:9:14: no column of the shadow is made from the key column "tenant"
  |
9 | key = ["id", "tenant"]
  |              ^^^^^^^^
hint: add tenant = "tenant" to [migration.columns]"#,
    ),
    (
        "key = [\"id\"]",
        "key = [\"id\"]\nlock_budget_ms = 0",
        r#"
p.toml:10:18: must be between 1 and 900
   |
10 | lock_budget_ms = 0
   |                  ^
hint: the default is 100"#,
    ),
    (
        "key = [\"id\"]",
        "key = [\"id\"]\nbackfill_rows_per_second = 0",
        r#"
p.toml:10:28: must be between 1 and 4294967295
   |
10 | backfill_rows_per_second = 0
   |                            ^
hint: leave the key out for no limit; to hold the backfill, use pgsegue migration pause"#,
    ),
    (
        "key = [\"id\"]",
        "key = [\"id\"]\nunclassified = \"ignore\"",
        r#"
p.toml:10:16: unknown value "ignore", expected one of "record", "refuse"
   |
10 | unclassified = "ignore"
   |                ^^^^^^^^"#,
    ),
    (
        "total = \"total::bigint * 100\"",
        "total = \" \"",
        r#"
p.toml:12:9: the expression is empty
   |
12 | total = " "
   |         ^^^
hint: write SQL, for example "total * 100", or "NULL""#,
    ),
    (
        "total = \"total::bigint * 100\"",
        "total = 5",
        r#"
p.toml:12:9: invalid type: integer `5`, expected a string
   |
12 | total = 5
   |         ^"#,
    ),
    (
        "\"127.0.0.1:5432\"",
        "\"127.0.0.1\"",
        r#"
p.toml:2:11: must be a host and a port, or a folder
  |
2 | address = "127.0.0.1"
  |           ^^^^^^^^^^^
hint: for example address = "127.0.0.1:5432", or "/run/postgresql" for the Unix socket in there"#,
    ),
    (
        "[server]\naddress = \"127.0.0.1:5432\"\n",
        "",
        r#"
p.toml:1:1: the section [server] is missing
  |
1 | [control]
  | ^
hint: add [server] with address = "127.0.0.1:5432", the Postgres behind the proxy"#,
    ),
    (
        "[control]\nurl = \"postgres://pgsegue@127.0.0.1:5432/app\"\n",
        "",
        r#"
p.toml:4:8: a migration needs the proxy's own connection to the database
  |
4 | name = "orders_v2"
  |        ^^^^^^^^^^^
hint: add [control] with url = "postgres://pgsegue@127.0.0.1:5432/app""#,
    ),
    (
        "pgsegue@127.0.0.1:5432/app",
        "u:Top:Sec@ret#x@127.0.0.1:5432/app",
        r#"
p.toml:4:7: the url has more than one @
hint: write an @ of the password, or of another part, as %40; or leave the password to PGPASSWORD or password_file"#,
    ),
    (
        "pgsegue@127.0.0.1:5432/app",
        "u:hunter2@h:port/app",
        r#"
p.toml:4:7: not a connection string: invalid value for option `port`
hint: for example url = "postgres://pgsegue@127.0.0.1:5432/app""#,
    ),
    (
        "url = \"postgres://pgsegue@127.0.0.1:5432/app\"",
        "url = \"host=h password=hunter2",
        r#"
p.toml:4:31: invalid basic string, expected `"`"#,
    ),
    (
        "url = \"postgres://pgsegue@127.0.0.1:5432/app\"",
        "url = \"host=h sslmode=require\"",
        r#"
p.toml:4:7: the url names no user
hint: for example url = "postgres://pgsegue@127.0.0.1:5432/app"
p.toml:4:7: the url names no database
hint: for example url = "postgres://pgsegue@127.0.0.1:5432/app""#,
    ),
    (
        "[control]",
        "[proxy.tls]\ncertificate = \"nowhere.crt\"\nkey = \"nowhere.key\"\n[control]",
        r#"
p.toml:4:15: cannot read the file nowhere.crt: No such file or directory (os error 2)
  |
4 | certificate = "nowhere.crt"
  |               ^^^^^^^^^^^^^
hint: a relative path starts at the config file's folder
p.toml:5:7: cannot read the file nowhere.key: No such file or directory (os error 2)
  |
5 | key = "nowhere.key"
  |       ^^^^^^^^^^^^^
hint: a relative path starts at the config file's folder"#,
    ),
    (
        "[control]",
        "[server.tls]\nmode = \"verify-full\"\n[control]",
        r#"
p.toml:4:8: nobody vouches for the server's certificate
  |
4 | mode = "verify-full"
  |        ^^^^^^^^^^^^^
hint: add root_certificate: a PEM file, or "system""#,
    ),
    (
        "[control]",
        "[server.tls]\nmode = \"verify-ca\"\nroot_certificate = \"system\"\n[control]",
        r#"
p.toml:5:20: the system's authorities need the host to be checked
  |
5 | root_certificate = "system"
  |                    ^^^^^^^^
hint: use mode = "verify-full", or the file of your own authority"#,
    ),
    (
        "[control]",
        "[server.tls]\nmode = \"prefer\"\nnegotiation = \"direct\"\nkey = \"k\"\n[control]",
        r#"
p.toml:5:15: direct negotiation needs a mode that insists on TLS
  |
5 | negotiation = "direct"
  |               ^^^^^^^^
hint: a server that is asked directly cannot say no; use mode = "require" or more
p.toml:6:7: certificate and key are needed together
  |
6 | key = "k"
  |       ^^^"#,
    ),
    (
        "url = \"postgres://pgsegue@127.0.0.1:5432/app\"",
        "url = \"host=h sslmode=verify-full\"",
        r#"
p.toml:4:7: not a connection string: invalid value for option `sslmode`
hint: use sslmode=require; how the certificate is checked is [server.tls] mode"#,
    ),
    (
        "[control]",
        "[control]\npassword_file = \"nowhere\"",
        r#"
p.toml:4:17: cannot read the file nowhere: No such file or directory (os error 2)
hint: a relative path starts at the config file's folder"#,
    ),
    (
        "[control]",
        "[admin]\nlisten = \"0.0.0.0:9632\"\n[control]",
        r#"
p.toml:4:10: the admin server may only listen on a loopback address, not 0.0.0.0
  |
4 | listen = "0.0.0.0:9632"
  |          ^^^^^^^^^^^^^^
hint: it asks for no password; use 127.0.0.1 or [::1] and reach it through ssh or a sidecar"#,
    ),
    (
        "[control]",
        "[proxy]\nlisten = \"localhost\"\nsql_bytes_max = 1\n[control]",
        r#"
p.toml:4:10: must be an IP address and a port
  |
4 | listen = "localhost"
  |          ^^^^^^^^^^^
hint: for example listen = "127.0.0.1:6432"
p.toml:5:17: must be between 1024 and 67108864
  |
5 | sql_bytes_max = 1
  |                 ^
hint: the default is 1048576"#,
    ),
];

#[test]
fn a_mistake_gets_its_place_and_what_to_write_instead() {
    for (text, with, expected) in MISTAKES {
        assert!(VALID.contains(text), "{text}");
        assert_eq!(message(&VALID.replacen(text, with, 1)), expected.trim_start(), "{with}");
    }
}

#[test]
fn two_migrations_share_neither_name_nor_shadow_and_perhaps_the_source() {
    let second = VALID.split_once("[[migration]]").unwrap().1;
    let found = message(&format!("{VALID}[[migration]]{second}"));
    assert_eq!(
        found,
        r#"p.toml:16:8: two migrations are named "orders_v2"
   |
16 | name = "orders_v2"
   |        ^^^^^^^^^^^
p.toml:18:10: public.orders_v2 is a table of the migration "orders_v2" already
   |
18 | shadow = "public.orders_v2"
   |          ^^^^^^^^^^^^^^^^^^
hint: several migrations may have one source; a shadow is of one, and no source"#
    );
    let chained = second
        .replace("\"orders_v2\"", "\"orders_v3\"")
        .replace("\"public.orders_v2\"", "\"public.orders_v3\"")
        .replace("\"public.orders\"", "\"public.orders_v2\"");
    let found = message(&format!("{VALID}[[migration]]{chained}"));
    assert!(
        found.starts_with("p.toml:17:10: public.orders_v2 is a table of the migration"),
        "{found}"
    );
    let third = chained.replace("source = \"public.orders_v2\"", "source = \"public.orders\"");
    assert_eq!(parsed(&format!("{VALID}[[migration]]{third}")).unwrap().migrations.len(), 2);
}

#[test]
fn a_valid_file_says_everything_in_its_order_with_defaults() {
    let settings = parsed(VALID).unwrap();
    let name = |text| QualifiedName::parse(text).unwrap();
    let migration = Migration {
        name: "orders_v2".to_owned(),
        source: name("public.orders"),
        shadow: name("public.orders_v2"),
        key: vec![Ident::new("id")],
        columns: vec![
            (Ident::new("id"), "id".to_owned()),
            (Ident::new("total"), "total::bigint * 100".to_owned()),
        ],
        reverse: Vec::new(),
        unclassified: Unclassified::Record,
        lock_budget: Duration::from_millis(100),
        backfill_rows_per_second: None,
        accepted: Vec::new(),
    };
    let levers = Levers {
        dual_write: DualWrite::On,
        reads: Percent::new(10.0).unwrap(),
        dark_reads: Percent::ZERO,
        sticky: Sticky::Session,
        scans: Scans::Source,
    };
    assert_eq!(settings.migrations, [crate::engine::Declared { migration, levers }]);
    let process = settings.process;
    assert_eq!(process.listen.to_string(), "127.0.0.1:6432");
    assert_eq!(process.admin.to_string(), "127.0.0.1:9632");
    assert_eq!(process.server.address.to_string(), "127.0.0.1:5432");
    assert_eq!((process.sql_bytes_max, process.dark_reads_max), (1 << 20, 64));
    assert_eq!(process.control.unwrap().config().get_dbname(), Some("app"));
}

#[test]
fn columns_keep_the_order_of_the_file() {
    let columns = "zeta = \"id\"\nid = \"id\"\nalpha = \"id\"\nmid = \"id\"";
    let settings = parsed(&VALID.replacen("id = \"id\"", columns, 1)).unwrap();
    let names: Vec<String> =
        settings.migrations[0].migration.columns.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["zeta", "id", "alpha", "mid", "total"]);
}

#[test]
fn the_password_comes_from_url_file_or_environment_and_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.toml");
    std::fs::write(folder.path().join("secret"), "from file\n").unwrap();
    let in_url = VALID.replacen("pgsegue@", "pgsegue:from%20url@", 1);
    let with_at = VALID.replacen("pgsegue@", "pgsegue:from%20%40url@", 1);
    let in_file = VALID.replacen("[control]", "[control]\npassword_file = \"secret\"", 1);
    for (text, expected) in [
        (in_url.as_str(), "from url"),
        (with_at.as_str(), "from @url"),
        (in_file.as_str(), "from file"),
        (VALID, "from env"),
    ] {
        let source = Source { path: &path, text };
        let raw = toml::from_str(text).unwrap();
        let settings = settings::validate(&source, raw, Some("from env".to_owned())).unwrap();
        let control = settings.process.control.clone().unwrap();
        assert_eq!(control.config().get_password(), Some(expected.as_bytes()));
        let shown = format!("{settings:?}");
        assert!(!shown.contains("from "), "{shown}");
    }
}

#[test]
fn without_control_and_migrations_it_is_a_plain_proxy() {
    let settings = parsed("[server]\naddress = \"db:5432\"\n").unwrap();
    assert_eq!((settings.process.control, settings.migrations), (None, Vec::new()));
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = load(Path::new("/nowhere/p.toml")).unwrap_err().to_string();
    assert_eq!(
        error,
        "there is no config file /nowhere/p.toml\nhint: config/pgsegue.toml in the source tree \
         explains every key; name your file with --config"
    );
}

#[test]
fn every_file_that_is_shipped_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut seen = Vec::new();
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let valid = load(&path);
        assert!(valid.is_ok(), "{valid:?}");
        seen.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    seen.sort();
    assert_eq!(seen, ["docker.toml", "pgsegue.toml"]);
}

/// Every key of the TOML form, so that a new one cannot be left undocumented.
#[test]
fn the_documented_file_is_valid_and_names_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pgsegue.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let settings = parse(&path, &text).unwrap();
    assert_eq!(settings.migrations.len(), 1);
    let form = include_str!("file.rs");
    let keys = form.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub(super) ")?.split_once(':')?;
        Some(name)
    });
    let mut known = 0;
    for key in keys {
        let documented = text.lines().any(|line| {
            let line = line.trim_start_matches("# ").trim_start_matches('[');
            let line = ["migration.", "proxy.", "server."]
                .iter()
                .find_map(|section| line.strip_prefix(section))
                .unwrap_or(line);
            line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', ']']))
        });
        assert!(documented, "{key} is not in config/pgsegue.toml");
        known += 1;
    }
    assert_eq!(known, 54, "keys that were looked for");
}
