//! Postgres's syntax tree as a JSON value, without the places in the text, and what it says of
//! tables.

use serde_json::Value;
use std::collections::BTreeSet;

/// A table by the name that a statement gives it; an empty schema is none.
pub type TableName = (String, String);

/// The tree of a text that is one statement: `{"SelectStmt": {…}}`.
pub fn statement(sql: &str) -> Result<Value, String> {
    let mut tree = placed(sql)?;
    without_places(&mut tree);
    Ok(tree)
}

/// The same, with the places in the text.
pub fn placed(sql: &str) -> Result<Value, String> {
    let parsed = pg_query::parse(sql, 0).map_err(|e| e.to_string())?;
    let [only] = parsed.protobuf.stmts.as_slice() else {
        return Err(format!("{} statements", parsed.protobuf.stmts.len()));
    };
    let node = only.stmt.as_ref().and_then(|s| s.node.as_ref()).ok_or("no statement")?;
    serde_json::to_value(node).map_err(|e| e.to_string())
}

const PLACES: [&str; 9] = [
    "location",
    "stmt_location",
    "stmt_len",
    "name_location",
    "list_start",
    "list_end",
    "rexpr_list_start",
    "rexpr_list_end",
    "cycle_location",
];

fn without_places(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            fields.retain(|name, _| !PLACES.contains(&name.as_str()));
            fields.values_mut().for_each(without_places);
        }
        Value::Array(items) => items.iter_mut().for_each(without_places),
        _ => {}
    }
}

/// The kind of a statement and its fields.
pub fn kind(tree: &Value) -> (&str, &Value) {
    let first = tree.as_object().and_then(|o| o.iter().next());
    first.map_or(("", &Value::Null), |(kind, fields)| (kind.as_str(), fields))
}

/// A node of this kind within `{"node": {…}}`.
pub fn node<'v>(value: &'v Value, kind: &str) -> Option<&'v Value> {
    value.get("node")?.get(kind)
}

pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn string<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

pub fn table_name(range_var: &Value) -> TableName {
    (string(range_var, "schemaname").to_owned(), string(range_var, "relname").to_owned())
}

/// The names of the WITH list of a statement that a reference in it may mean.
fn common_tables(fields: &Value) -> impl Iterator<Item = &Value> {
    let list = fields.get("with_clause").and_then(|w| w.get("ctes"));
    list.map(items).unwrap_or_default().iter().filter_map(|c| node(c, "CommonTableExpr"))
}

/// The queries of the WITH lists around a place.
#[derive(Clone, Default)]
pub struct Scope(Vec<String>);

impl Scope {
    pub fn hides(&self, range_var: &Value) -> bool {
        let (schema, name) = table_name(range_var);
        schema.is_empty() && self.0.contains(&name)
    }

    fn with(&self, name: &str) -> Self {
        let mut names = self.0.clone();
        names.push(name.to_owned());
        Self(names)
    }
}

/// Calls `see` for each FROM item that is a table of its own, not a query of a WITH list, with the
/// place to change it.
pub fn each_reference(tree: &mut Value, scope: &Scope, see: &mut dyn FnMut(&mut Value)) {
    let fields = match tree {
        Value::Array(items) => return items.iter_mut().for_each(|i| each_reference(i, scope, see)),
        Value::Object(fields) => fields,
        _ => return,
    };
    if let Some(range_var) = fields.get("node").and_then(|n| n.get("RangeVar")) {
        if !scope.hides(range_var) {
            see(tree);
        }
        return;
    }
    let mut inner = scope.clone();
    if let Some(with) = fields.get_mut("with_clause").filter(|w| !w.is_null()) {
        let recursive = with.get("recursive").and_then(Value::as_bool) == Some(true);
        let names: Vec<String> = items(&with["ctes"])
            .iter()
            .filter_map(|c| node(c, "CommonTableExpr"))
            .map(|c| string(c, "ctename").to_owned())
            .collect();
        if recursive {
            inner = names.iter().fold(inner, |s, n| s.with(n));
        }
        let ctes = with.get_mut("ctes").and_then(Value::as_array_mut).into_iter().flatten();
        for (cte, name) in ctes.zip(&names) {
            each_reference(cte, &inner, see);
            inner = inner.with(name);
        }
    }
    for (name, value) in fields.iter_mut() {
        // Their RangeVars are aliases, or tables that are not read.
        if !matches!(name.as_str(), "with_clause" | "locked_rels" | "into_clause" | "relations") {
            each_reference(value, &inner, see);
        }
    }
}

/// Calls `see` for each object of the tree, with its kind if it is a node.
pub fn each_node<'v>(tree: &'v Value, see: &mut dyn FnMut(&'v str, &'v Value)) {
    match tree {
        Value::Object(fields) => {
            for (name, value) in fields {
                if value.is_object() && name.starts_with(|c: char| c.is_ascii_uppercase()) {
                    see(name, value);
                }
                each_node(value, see);
            }
        }
        Value::Array(items) => items.iter().for_each(|i| each_node(i, see)),
        _ => {}
    }
}

/// What a statement does to which tables.
#[derive(Debug, Default)]
pub struct Facts {
    pub reads: BTreeSet<TableName>,
    pub writes: BTreeSet<TableName>,
    pub functions: BTreeSet<String>,
    pub with_names: BTreeSet<String>,
}

pub fn facts(tree: &Value) -> Facts {
    let mut facts = Facts::default();
    each_reference(&mut tree.clone(), &Scope::default(), &mut |reference| {
        facts.reads.insert(table_name(&reference["node"]["RangeVar"]));
    });
    each_node(tree, &mut |kind, fields| match kind {
        "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" => {
            facts.writes.insert(table_name(&fields["relation"]));
        }
        "CopyStmt" if fields["relation"].is_object() => {
            let table = table_name(&fields["relation"]);
            let is_from = fields["is_from"].as_bool() == Some(true);
            let tables = if is_from { &mut facts.writes } else { &mut facts.reads };
            tables.insert(table);
        }
        "TruncateStmt" => {
            let tables = items(&fields["relations"]).iter().filter_map(|r| node(r, "RangeVar"));
            facts.writes.extend(tables.map(table_name));
        }
        "FuncCall" => {
            if let Some(name) = items(&fields["funcname"]).last().and_then(|n| node(n, "String")) {
                facts.functions.insert(string(name, "sval").to_owned());
            }
        }
        _ => {}
    });
    each_node(tree, &mut |_, fields| {
        facts.with_names.extend(common_tables(fields).map(|c| string(c, "ctename").to_owned()));
    });
    facts
}
