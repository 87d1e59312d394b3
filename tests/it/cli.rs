//! The commands as an operator runs them.

use crate::support::{Proxy, database, pgsegue};
use std::path::Path;
use std::process::Output;

const MIGRATION: &str = r#"
[[migration]]
name = "orders_v2"
source = "public.orders"
shadow = "public.orders_v2"
key = ["id"]
[migration.columns]
id = "id"
"#;

/// Exit code and standard error.
fn refused(output: &Output) -> (Option<i32>, String) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_missing_config_file_is_named_by_every_command() {
    let expected = "error: there is no config file /nowhere/p.toml\n\
                    hint: config/pgsegue.toml in the source tree explains every key; name your \
                    file with --config\n";
    let commands: [&[&str]; 10] = [
        &["serve"],
        &["check"],
        &["route", "m", "--reads", "1", "--why", "x"],
        &["migration", "list"],
        &["migration", "status", "m"],
        &["migration", "start", "m"],
        &["migration", "pause", "m"],
        &["migration", "abort", "m", "--why", "x"],
        &["migration", "rollback", "m", "--why", "x"],
        &["migration", "events", "m"],
    ];
    for arguments in commands {
        let output = pgsegue(Path::new("/nowhere/p.toml"), arguments);
        assert_eq!(refused(&output), (Some(2), expected.to_owned()), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_mistake_in_the_config_file_is_shown_with_its_place() {
    let proxy = Proxy::prepare(&database().await, "");
    proxy.write_config("[server]\naddress = \"localhost\"\n");
    let path = proxy.config_path();
    let expected = format!(
        "error: {}:2:11: must be a host and a port, or a folder\n  |\n2 | address = \
         \"localhost\"\n  |           ^^^^^^^^^^^\nhint: for example address = \"127.0.0.1:5432\", \
         or \"/run/postgresql\" for the Unix socket in there\n",
        path.display()
    );
    assert_eq!(refused(&proxy.pgsegue(&["check"])), (Some(2), expected));
}

#[tokio::test]
async fn commands_of_a_plain_proxy_say_what_is_missing() {
    let proxy = Proxy::prepare(&database().await, "");
    proxy.write_config("[server]\naddress = \"localhost:5432\"\n");
    let expected = "error: the config file has no [control]\n\
                    hint: add [control] with url = \"postgres://pgsegue@127.0.0.1:5432/app\"\n";
    let output = proxy.pgsegue(&["migration", "list"]);
    assert_eq!(refused(&output), (Some(2), expected.to_owned()));
    let expected = "error: the config file declares no migration\n\
                    hint: config/pgsegue.toml in the source tree shows a [[migration]]\n";
    assert_eq!(refused(&proxy.pgsegue(&["check"])), (Some(2), expected.to_owned()));
}

#[tokio::test]
async fn check_names_a_database_that_it_cannot_reach_and_migrations_that_are_not_declared() {
    let proxy = Proxy::prepare(&database().await, MIGRATION);
    let expected = "error: the config file declares no migration \"other\"\n\
                    hint: it declares: orders_v2\n";
    assert_eq!(refused(&proxy.pgsegue(&["check", "other"])), (Some(2), expected.to_owned()));
    let nowhere = "control.url = \"postgres://someone@127.0.0.1:1/app\"";
    proxy.rewrite_config(&format!("{nowhere}\n{MIGRATION}"));
    let (code, error) = refused(&proxy.pgsegue(&["check"]));
    let expected = "error: error connecting to server: Connection refused";
    assert!(code == Some(2) && error.starts_with(expected), "{code:?} {error}");
    let hint = "hint: [control] in the config file names 127.0.0.1:1 as user someone\n";
    assert!(error.ends_with(hint), "{error}");
}

#[tokio::test]
async fn route_wants_something_to_change_and_a_reason() {
    let proxy = Proxy::prepare(&database().await, MIGRATION);
    let expected = "error: nothing to change\nhint: add --reads, --dark or --dual-write\n";
    let output = proxy.pgsegue(&["route", "orders_v2", "--why", "x"]);
    assert_eq!(refused(&output), (Some(2), expected.to_owned()));
    for arguments in [
        ["route", "orders_v2", "--reads", "101", "--why", "x"].as_slice(),
        &["route", "orders_v2", "--reads", "10"],
        &["route", "orders_v2", "--dual-write", "maybe", "--why", "x"],
        &["migration", "abort", "orders_v2"],
    ] {
        let (code, error) = refused(&proxy.pgsegue(arguments));
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(error.starts_with("error: "), "{error}");
    }
}

#[test]
fn help_teaches_the_way_through_a_migration() {
    let output = pgsegue(Path::new("unused"), &["--help"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "pgsegue check",
        "pgsegue serve",
        "pgsegue migration start orders_v2",
        "pgsegue route orders_v2 --reads 10 --why 'canary'",
        "pgsegue migration rollback orders_v2 --why 'p99 went up'",
        "config/pgsegue.toml",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}
