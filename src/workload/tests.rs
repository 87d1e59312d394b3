//! What is counted, and its bounds; what sessions count is tested on a real server.

use super::*;
use crate::sql::ident::{Ident, QualifiedName};
use crate::sql::statement::understand;
use crate::sql::target::{Functions, Part, Privileges, Target, by_name};

fn target() -> Arc<Target> {
    Arc::new(Target {
        migration: "m".into(),
        source: QualifiedName::parse("public.orders").unwrap(),
        shadow: QualifiedName::parse("public.orders_v2").unwrap(),
        source_oid: 1,
        shadow_oid: 0,
        parts: by_name(&[Part {
            oid: 2,
            name: QualifiedName::parse("public.orders_eu").unwrap(),
            columns: Vec::new(),
        }]),
        key: vec![Ident::new("id")],
        old_shape: Err("there is no shadow".to_owned()),
        sync_function: "sync".into(),
        follow_function: None,
        truncate_function: None,
        whole_function: None,
        hold: None,
        mark_function: "mark".into(),
        server_version: 15,
        copy: Err(crate::sql::reason::Reason::CopyOption),
        update_changes_key: false,
        runs_before_update: false,
        counted: None,
        privileges: Privileges::default(),
        columns: vec![Ident::new("id")],
    })
}

fn count(observed: &Observed, sql: &str, generation: u64) -> Option<Arc<Tally>> {
    let understanding = understand(sql, &[target()], &Functions::default());
    let place = understanding.place();
    let tallies: Vec<_> = understanding
        .statements
        .iter()
        .filter_map(|statement| {
            let tally = observed.tally(0, sql, (statement, place), generation)?;
            tally.answered(Taken::Source, Ended::Well, Duration::from_millis(1));
            Some(tally)
        })
        .collect();
    tallies.into_iter().next()
}

#[test]
fn memory_has_a_bound_and_sums_stay_right_whatever_is_sent() {
    const TEXTS: u64 = 100_000;
    let workload = Workload::default();
    let name =
        |n: u64| format!("SELECT column_{n:06} FROM orders WHERE {}", "a = 'b' OR ".repeat(50));
    let understanding = understand(&name(0), &[target()], &Functions::default());
    let used = allocation_counter::measure(|| {
        let observed = workload.of("m");
        for n in 0..TEXTS {
            let tally = observed
                .tally(0, &name(n), (&understanding.statements[0], Place::Alone), 1)
                .unwrap();
            tally.answered(Taken::Source, Ended::Well, Duration::from_millis(1));
        }
    });
    assert!((0..4 << 20).contains(&used.bytes_current), "{used:?}");
    let report = workload.report("m").unwrap();
    assert_eq!((report.calls, report.unfit_reads.calls), (TEXTS, TEXTS));
    let kept = KINDS_MAX - NOT_UNDERSTOOD_ROOM;
    assert_eq!(report.calls_not_kept, TEXTS - u64::try_from(kept).unwrap());
    assert_eq!(report.kinds, kept + 1);
    let others: Vec<_> = report.statements.iter().filter(|s| s.text.starts_with('(')).collect();
    assert_eq!(others.len(), 1);
    assert_eq!((others[0].calls, others[0].why.as_deref()), (99_200, Some("several reasons")));
    let longest = report.statements.iter().map(|s| s.text.len()).max().unwrap();
    assert!(longest <= TEXT_BYTES_MAX + " …".len(), "{longest}");
}

#[test]
fn statements_of_other_tables_are_not_counted_and_those_that_may_write_any_are() {
    let workload = Workload::default();
    let observed = workload.of("m");
    for sql in ["SELECT * FROM elsewhere.orders", "SET search_path = a", "BEGIN"] {
        assert!(count(&observed, sql, 1).is_none(), "{sql}");
    }
    for sql in ["DO 'BEGIN DELETE FROM orders; END'", "SELECT 'orders"] {
        assert!(count(&observed, sql, 1).is_some(), "{sql}");
    }
    let report = workload.report("m").unwrap();
    assert_eq!((report.calls, report.coverage), (2, Some(0.0)));
    let reasons: Vec<_> = report.statements.iter().map(|s| s.why.as_deref().unwrap()).collect();
    assert_eq!(reasons, [Reason::NotSql.text(), Reason::Code.text()]);
}

#[test]
fn what_is_read_by_no_query_counts_as_a_read_that_stays() {
    let observed = Observed::new();
    for sql in [
        "DECLARE c CURSOR FOR SELECT * FROM orders",
        "COPY orders TO STDOUT",
        "INSERT INTO users SELECT id FROM orders",
        "CREATE TABLE filled AS SELECT id FROM orders",
    ] {
        count(&observed, sql, 1).unwrap();
    }
    for sql in
        ["LOCK TABLE orders", "CREATE INDEX ON orders (id)", "COMMENT ON TABLE orders IS 'x'"]
    {
        count(&observed, sql, 1).unwrap();
    }
    let report = observed.report("m");
    assert_eq!(
        (report.unfit_reads.calls, report.other.calls, report.coverage),
        (4, 3, Some(100.0))
    );
    let cursor = report.statements.iter().find(|s| s.text.starts_with("declare")).unwrap();
    assert_eq!(cursor.why.as_deref(), Some("it is read by a cursor"));
}

#[test]
fn what_is_read_of_a_partition_by_its_name_stays_and_is_no_write_of_another_table() {
    let observed = Observed::new();
    for sql in ["SELECT * FROM orders_eu WHERE id = 8", "TABLE orders_eu"] {
        count(&observed, sql, 1).unwrap();
    }
    let report = observed.report("m");
    assert_eq!((report.unfit_reads.calls, report.other.calls), (2, 0));
    let whys: Vec<_> = report.statements.iter().map(|s| s.why.as_deref().unwrap()).collect();
    assert_eq!(whys, ["partitions by their names are the source's"; 2]);
}

#[test]
fn a_truncate_of_the_whole_table_is_a_write_and_one_of_a_part_is_not_understood() {
    let observed = Observed::new();
    for sql in ["TRUNCATE orders", "TRUNCATE users CASCADE", "TRUNCATE ONLY orders"] {
        count(&observed, sql, 1).unwrap();
    }
    assert!(count(&observed, "TRUNCATE users", 1).is_none());
    let report = observed.report("m");
    assert_eq!((report.writes.calls, report.not_understood.calls), (2, 1));
}

#[test]
fn a_read_counts_as_what_it_is_now_and_nothing_else_does() {
    let observed = Observed::new();
    let read = |verdict, generation| {
        let tally = observed.find(Text::of(Some("select")), verdict, generation);
        tally.answered(Taken::Source, Ended::Well, Duration::from_millis(1));
    };
    read(Verdict::UnfitRead("there is no shadow".into()), 1);
    read(Verdict::NotUnderstood(Reason::Code), 1);
    read(Verdict::Read, 2);
    let report = observed.report("m");
    let calls = [report.reads.calls, report.unfit_reads.calls, report.not_understood.calls];
    assert_eq!(calls, [2, 0, 1]);
    assert_eq!(report.coverage, Some(66.66));
}

#[test]
fn a_read_among_others_stays_whatever_the_same_text_does_alone() {
    let observed = Observed::new();
    let (read, unfit) = ("SELECT id FROM orders", "SELECT ctid FROM orders");
    // There is no shadow: nothing is fit for the first set of tables.
    count(&observed, &format!("{read}; {read}"), 1);
    count(&observed, read, 1);
    let read_as_fit = |verdict, generation| {
        let tally = observed.find(Text::of(normal(read).as_deref()), verdict, generation);
        tally.answered(Taken::Source, Ended::Well, Duration::from_millis(1));
    };
    read_as_fit(Verdict::Read, 2);
    read_as_fit(Verdict::ReadAmong(None), 2);
    count(&observed, &format!("BEGIN; {unfit}; COMMIT"), 2);
    let report = observed.report("m");
    assert_eq!((report.reads.calls, report.unfit_reads.calls), (2, 4));
    let said = |text: &str, class| {
        let line = report.statements.iter().find(|s| s.text == text && s.class == class).unwrap();
        (line.calls, line.why.as_deref(), line.way_out.as_deref())
    };
    use super::Class::{Read, UnfitRead};
    assert_eq!(said("select id from orders", Read), (2, None, None));
    let among = (3, Some(indirect::AMONG), Some(indirect::AMONG_WAY_OUT));
    assert_eq!(said("select id from orders", UnfitRead), among);
    assert_eq!(said("select ctid from orders", UnfitRead).1, Some("a system column"));
}

#[test]
fn a_reason_quotes_no_value() {
    let observed = Observed::new();
    count(&observed, "SELECT * FROM orders WHERE a = ANY 'secret' 'secret'", 1).unwrap();
    let report = serde_json::to_string(&observed.report("m")).unwrap();
    assert!(!report.contains("secret"), "{report}");
}

#[test]
fn what_is_not_understood_is_kept_though_there_is_no_room_for_others() {
    let workload = Workload::default();
    let observed = workload.of("m");
    for n in 0..10_000 {
        count(&observed, &format!("SELECT c{n} FROM orders"), 1);
    }
    for n in 0..NOT_UNDERSTOOD_ROOM * 2 {
        count(&observed, &format!("MOVE IT c{n} orders"), 1);
        count(&observed, &format!("EXPLAIN ANALYZE DELETE FROM orders WHERE c{n} = 1"), 1);
    }
    let report = workload.report("m").unwrap();
    let unknown = report.statements.iter().filter(|s| s.class == super::Class::Unclassified);
    let (others, kept): (Vec<_>, Vec<_>) = unknown.partition(|s| s.text.starts_with('('));
    assert!(kept.len() >= NOT_UNDERSTOOD_ROOM - 2, "{}", kept.len());
    assert!(others.iter().all(|s| s.why.is_some() && s.way_out.is_some()), "{others:?}");
    let calls: u64 = others.iter().chain(&kept).map(|s| s.calls).sum();
    assert_eq!(calls, report.not_understood.calls);
}
