//! Runs the queries of a schema through the proxy and on a plain database, and compares every byte;
//! asserts who answered, and by which plan.

use crate::live::raw::query;
use crate::live::{Live, Pair, text};
use crate::support::eventually;
use serde_json::Value;

/// What is expected of one query.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    /// The shadows answer it.
    Shadow,
    /// And these of them only look rows up: by an index and a condition.
    Lookup(&'static [&'static str]),
    /// The source does, for this reason.
    Source(&'static str),
}

pub use Expected::{Lookup, Shadow, Source};

/// A query and who answers it.
pub type Report = (&'static str, Expected);

/// A database with its proxy, everything served by shadows, beside a plain database.
pub struct Proof {
    live: Live,
    pair: Pair,
}

impl Proof {
    /// `ddl` on both; `shadows` and the migrations of these names behind the proxy.
    pub async fn new(ddl: &str, shadows: &str, toml: &str, names: &[&str]) -> Self {
        let live = Live::ready(&format!("{ddl};{shadows}"), toml, names).await;
        live.db.client.batch_execute("VACUUM ANALYZE").await.unwrap();
        let pair = Pair::new(&live, ddl).await;
        Self { live, pair }
    }

    /// All of them; one failure names them all.
    pub async fn holds(mut self, reports: &[Report]) {
        let explained = self.explained(reports);
        let mut wrong = Vec::new();
        for ((sql, expected), explained) in reports.iter().zip(&explained) {
            if let Err(why) = self.one(sql, *expected, explained).await {
                wrong.push(format!("{sql}\n    {why}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), reports.len(), wrong.join("\n"));
        self.pair.same();
    }

    /// What `explain` says of each.
    fn explained(&self, reports: &[Report]) -> Vec<Value> {
        // Each by itself: queries of one text stay on the source.
        let one = |(sql, _): &Report| {
            let said = self.live.cli(&["explain", "--json", sql]);
            let mut said: Vec<Value> = serde_json::from_str(&said).unwrap();
            assert_eq!(said.len(), 1);
            said.remove(0)
        };
        reports.iter().map(one).collect()
    }

    async fn one(
        &mut self,
        sql: &str,
        expected: Expected,
        explained: &Value,
    ) -> Result<(), String> {
        match expected {
            Source(why) => self.stays(sql, why, explained).await?,
            Shadow => self.is_served(sql, explained, &[]).await?,
            Lookup(tables) => self.is_served(sql, explained, tables).await?,
        }
        let before = self.live.shadow_reads();
        self.pair.simple(sql).await;
        self.pair.extended(sql, &[], 0).await;
        self.pair.extended(sql, &[], 1).await;
        let served = self.live.shadow_reads() - before;
        let all = if matches!(expected, Source(_)) { 0.0 } else { 3.0 };
        if (served - all).abs() < 0.5 { Ok(()) } else { Err(format!("{served} by the shadow")) }
    }

    async fn is_served(
        &mut self,
        sql: &str,
        explained: &Value,
        tables: &[&str],
    ) -> Result<(), String> {
        let Some(form) = explained["sql"].as_str() else {
            return Err(format!("no shadow form: {}", explained["notes"]));
        };
        for _ in 0..400 {
            let before = self.live.shadow_reads();
            self.pair.live.exchange(&query(sql), 1).await;
            if self.live.shadow_reads() > before {
                return self.plan_is_good(sql, form, tables).await;
            }
            if let Some(line) = self.reason(sql) {
                return Err(line);
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Err("not served".to_owned())
    }

    async fn stays(&mut self, sql: &str, why: &str, explained: &Value) -> Result<(), String> {
        let notes = explained.to_string();
        if explained["sql"].is_null() {
            return if notes.contains(why) { Ok(()) } else { Err(notes) };
        }
        for _ in 0..400 {
            self.pair.live.exchange(&query(sql), 1).await;
            if let Some(line) = self.reason(sql) {
                return if line.contains(why) { Ok(()) } else { Err(line) };
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        Err("no reason is logged".to_owned())
    }

    /// Why the vetting keeps a query on the source.
    fn reason(&self, sql: &str) -> Option<String> {
        let spelled = format!("{:?}", pgsegue::sql::normal::normal(sql).unwrap());
        let log = self.live.proxy.log();
        log.lines()
            .find(|l| l.contains("stays on the source") && l.contains(&spelled))
            .map(str::to_owned)
    }

    /// The derived tables are flattened: the plan has no scan of a subquery that the source's has
    /// not; and these shadows' rows are looked up.
    async fn plan_is_good(&self, sql: &str, form: &str, tables: &[&str]) -> Result<(), String> {
        let shadow = self.plan(form).await;
        let source = self.plan(sql).await;
        let nested = |plan: &Value| nodes(plan).iter().filter(|n| is(n, "Subquery Scan")).count();
        if nested(&shadow) > nested(&source) {
            return Err(format!("not flattened: {}", shown(&shadow)));
        }
        for table in tables {
            let mut scans = nodes(&shadow);
            scans.retain(|n| n["Relation Name"] == **table);
            let looked_up =
                |n: &&Value| n.get("Index Cond").is_some() || n["Node Type"] == "Bitmap Heap Scan";
            if scans.is_empty() || !scans.iter().all(looked_up) {
                return Err(format!("{table} is not looked up: {}", shown(&shadow)));
            }
        }
        Ok(())
    }

    async fn plan(&self, sql: &str) -> Value {
        let plan = text(&self.live.db.client, &format!("EXPLAIN (FORMAT JSON) {sql}")).await;
        serde_json::from_str(&plan).unwrap()
    }
}

fn is(node: &Value, kind: &str) -> bool {
    node["Node Type"] == kind
}

/// The plan's nodes on one line.
fn shown(plan: &Value) -> String {
    let node = |n: &Value| {
        ["Node Type", "Relation Name", "Index Cond"]
            .iter()
            .filter_map(|key| n[*key].as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    nodes(plan).into_iter().map(node).collect::<Vec<_>>().join(" | ")
}

fn nodes(plan: &Value) -> Vec<&Value> {
    let mut found = Vec::new();
    let mut open = vec![plan];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(node) => {
                if node.contains_key("Node Type") {
                    found.push(value);
                }
                open.extend(node.values());
            }
            _ => {}
        }
    }
    found
}
