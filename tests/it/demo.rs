//! The demo as a newcomer runs it, shortened: it must end well, and say what it measured.

use serde_json::Value;
use std::process::Command;

#[test]
fn the_demo_ends_with_no_failed_statement_and_no_divergent_row() {
    let output = Command::new(env!("CARGO_BIN_EXE_pgsegue"))
        .args(["demo", "--seconds", "7", "--json"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["failed"], 0);
    assert_eq!(result["divergent"], 0);
    for measured in
        ["statements", "detect_ms", "rollback_ms", "backfill_rows_per_s", "verify_rows_per_s"]
    {
        let figure = result[measured].as_f64();
        assert!(figure.is_some_and(|f| f > 0.0), "{measured}: {result}");
    }
    let phases = result["phases"].as_array().unwrap();
    assert!(phases.len() >= 8, "{result}");
    for phase in phases {
        assert!(phase["name"].is_string(), "{phase}");
        assert!(phase["p50_us"].is_number() && phase["p99_us"].is_number(), "{phase}");
    }
}
