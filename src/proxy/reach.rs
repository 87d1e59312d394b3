//! How a plan reaches the rows of a table: by looking them up, by walking an index, or by reading
//! the whole table. Knows no migration.

use serde_json::Value;
use std::collections::HashSet;

/// The ways, from the cheapest to the dearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// By a condition on an index.
    LookedUp,
    /// An index from end to end, or until a LIMIT is satisfied.
    Walked,
    /// All of it.
    Whole,
}

/// A table with its partitions: schema and name of each.
pub(super) type Relations = HashSet<(String, String)>;

/// Whether `plan` reads one of its scans of `mine` in a dearer way than `other` reads `theirs`.
pub(super) fn is_dearer(
    (plan, mine): (&Value, &Relations),
    (other, theirs): (&Value, &Relations),
) -> bool {
    let ours = reaches(plan, mine);
    let natives = reaches(other, theirs);
    // One scan of a partitioned table is several of its partitions.
    let alike = mine.len() == 1 && theirs.len() == 1 && ours.len() == natives.len();
    match alike {
        true => ours.iter().zip(&natives).any(|(our, native)| our > native),
        false => {
            ours.first().is_some_and(|our| *our > *natives.first().unwrap_or(&Reach::LookedUp))
        }
    }
}

/// How the plan reaches these relations, the dearest first.
fn reaches(plan: &Value, relations: &Relations) -> Vec<Reach> {
    let mut found = Vec::new();
    collect(plan, relations, &mut found);
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

fn collect(plan: &Value, relations: &Relations, found: &mut Vec<Reach>) {
    match plan {
        Value::Array(items) => items.iter().for_each(|i| collect(i, relations, found)),
        Value::Object(node) => {
            let text = |key: &str| node.get(key).and_then(Value::as_str).unwrap_or_default();
            let relation = (text("Schema").to_owned(), text("Relation Name").to_owned());
            if relations.contains(&relation) {
                found.push(match text("Node Type") {
                    "Seq Scan" => Reach::Whole,
                    "Index Scan" | "Index Only Scan" if !node.contains_key("Index Cond") => {
                        Reach::Walked
                    }
                    _ => Reach::LookedUp,
                });
            }
            node.values().for_each(|v| collect(v, relations, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tables(names: &[&str]) -> Relations {
        names.iter().map(|n| ("s".to_owned(), (*n).to_owned())).collect()
    }

    fn scan(table: &str, kind: &str, condition: bool) -> Value {
        let mut node = json!({"Node Type": kind, "Schema": "s", "Relation Name": table});
        if condition {
            node["Index Cond"] = json!("(id = 5)");
        }
        node
    }

    #[test]
    fn a_scan_is_compared_with_its_like() {
        let join =
            |a: Value, b: Value| json!([{"Plan": {"Node Type": "Hash Join", "Plans": [a, b]}}]);
        let (t, v) = (tables(&["t"]), tables(&["v"]));
        let whole = |n| scan(n, "Seq Scan", false);
        let walked = |n| scan(n, "Index Only Scan", false);
        let looked = |n| scan(n, "Index Scan", true);
        for (source, shadow, dearer) in [
            (looked("t"), looked("v"), false),
            (looked("t"), walked("v"), true),
            (walked("t"), whole("v"), true),
            (whole("t"), walked("v"), false),
            (join(looked("t"), whole("t")), join(whole("v"), whole("v")), true),
            (join(looked("t"), whole("t")), join(whole("v"), looked("v")), false),
            (whole("x"), whole("v"), true),
            (whole("t"), whole("x"), false),
        ] {
            assert_eq!(is_dearer((&shadow, &v), (&source, &t)), dearer, "{source} {shadow}");
        }
    }

    #[test]
    fn partitions_count_as_their_table() {
        let source = json!([scan("t1", "Seq Scan", false), scan("t2", "Index Scan", true)]);
        let (t, v) = (tables(&["t", "t1", "t2"]), tables(&["v"]));
        assert!(!is_dearer((&scan("v", "Seq Scan", false), &v), (&source, &t)));
        let pruned = json!([scan("t2", "Index Scan", true)]);
        assert!(is_dearer((&scan("v", "Seq Scan", false), &v), (&pruned, &t)));
    }
}
