//! The admin server of the running process, and the life of the process around it.

use crate::support::{Proxy, database};
use std::net::TcpStream;

#[tokio::test]
async fn answers_health_metrics_and_unknown_paths() {
    let db = database().await;
    let proxy = Proxy::start(&db, "").await;
    assert_eq!(proxy.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(proxy.get("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(proxy.metric("pgsegue_config_rejected"), Some(0.0));
    assert_eq!(proxy.get("/migrations"), (200, "[]".to_owned()));
    assert_eq!(proxy.get("/migrations/"), (200, "[]".to_owned()));
    let unknown = r#"{"error":"there is nothing at this path","hint":"GET /healthz, /readyz, /metrics, /migrations, /migrations/{name}/status, /migrations/{name}/workload or /migrations/{name}/events; POST /explain"}"#;
    assert_eq!(proxy.get("/nothing"), (404, unknown.to_owned()));
    for path in ["/migrations/orders/status", "/migrations/orders/events"] {
        let missing =
            r#"{"error":"there is no migration \"orders\"","hint":"GET /migrations lists them"}"#;
        assert_eq!(proxy.get(path), (404, missing.to_owned()));
    }
}

#[tokio::test]
async fn a_plain_proxy_has_no_migrations() {
    let db = database().await;
    let mut proxy = Proxy::prepare(&db, "");
    let plain = format!(
        "[proxy]\nlisten = \"127.0.0.1:{}\"\n[server]\naddress = \"127.0.0.1:{}\"\n\
         [admin]\nlisten = \"127.0.0.1:{}\"\n",
        proxy.port, db.port, proxy.admin_port
    );
    proxy.write_config(&plain);
    proxy.start_again().await;
    assert_eq!(proxy.get("/migrations"), (200, "[]".to_owned()));
    let (status, body) = proxy.get("/migrations/orders/status");
    let expected = r#"{"error":"this process is a plain proxy without migrations","hint":"add [control] to the config file and restart"}"#;
    assert_eq!((status, body.as_str()), (404, expected));
}

#[tokio::test]
async fn sigterm_ends_it_in_order_and_it_can_start_again() {
    let db = database().await;
    let mut proxy = Proxy::start(&db, "").await;
    proxy.restart().await;
    proxy.kill_9();
    proxy.start_again().await;
    proxy.signal("INT");
    assert_eq!(proxy.ended().await, Some(0));
    assert!(TcpStream::connect(("127.0.0.1", proxy.admin_port)).is_err());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let db = database().await;
    let running = Proxy::start(&db, "").await;
    let taken = format!("[admin]\nlisten = \"127.0.0.1:{}\"", running.admin_port);
    let second = Proxy::prepare(&db, &taken);
    let output = second.pgsegue(&["serve"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = error.lines().filter(|line| !line.contains("INFO")).collect();
    let expected = format!("error: cannot listen on 127.0.0.1:{}: Address", running.admin_port);
    assert!(lines[0].starts_with(&expected), "{error}");
    assert_eq!(
        lines[1..],
        ["hint: another process has the address; change `listen` in the config file"]
    );
}
