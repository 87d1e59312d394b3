//! A migration for every table that a statement names: its columns as the suite creates it, or made
//! up where it does not say.

use crate::ast::{TableName, items, kind, node, string};
use pgsegue::sql::ident::{Ident, QualifiedName};
use pgsegue::sql::target::{Copyable, KeyType, OldColumn, Privileges, Reverse, Target};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The schema of the shadows; no statement of the suite names it.
pub const SHADOWS: &str = "oracle's shadows";
/// The schema of a table that is named without.
pub const PUBLIC: &str = "public";
const INTEGERS: [(&str, &str); 3] = [("int2", "smallint"), ("int4", "integer"), ("int8", "bigint")];

/// A table as CREATE TABLE has it.
#[derive(Clone, Default)]
pub struct Table {
    /// Name, and the type if it is a kind of integer.
    columns: Vec<(String, Option<&'static str>)>,
    key: Vec<String>,
}

/// The tables that were created so far: of this file, and of those before.
#[derive(Default)]
pub struct Catalog(HashMap<TableName, Table>);

impl Catalog {
    pub fn learn(&mut self, tree: &Value) {
        let ("CreateStmt", fields) = kind(tree) else { return };
        let mut table = Table::default();
        for element in items(&fields["table_elts"]) {
            if let Some(column) = node(element, "ColumnDef") {
                let name = string(column, "colname").to_owned();
                let keyed = items(&column["constraints"]).iter().any(is_primary);
                if keyed {
                    table.key.push(name.clone());
                }
                let type_name = items(&column["type_name"]["names"]).last();
                let type_name =
                    type_name.and_then(|n| node(n, "String")).map(|n| string(n, "sval"));
                let plain = items(&column["type_name"]["array_bounds"]).is_empty();
                let integer = INTEGERS.iter().find(|(n, _)| plain && Some(*n) == type_name);
                table.columns.push((name, integer.map(|(_, sql)| *sql)));
            } else if is_primary(element) {
                let keys = items(&element["node"]["Constraint"]["keys"]);
                let keys = keys.iter().filter_map(|k| node(k, "String"));
                table.key = keys.map(|k| string(k, "sval").to_owned()).collect();
            }
        }
        if !table.columns.is_empty() {
            self.0.insert(crate::ast::table_name(&fields["relation"]), table);
        }
    }

    /// The migration of a table.
    pub fn target(&self, name: &TableName) -> Arc<Target> {
        let made_up = || Table {
            columns: vec![("id".to_owned(), Some("integer")), ("f1".to_owned(), None)],
            key: vec!["id".to_owned()],
        };
        let table = self.0.get(name).cloned().unwrap_or_else(made_up);
        let first = table.columns.iter().take(1).map(|c| c.0.clone());
        let key = if table.key.is_empty() { first.collect() } else { table.key };
        let schema = if name.0.is_empty() { PUBLIC } else { &name.0 };
        let migration = format!("{schema} {}", name.1);
        let function = |what: &str| {
            let function = Ident::new(format!("{what}_{migration}"));
            format!("\"pgsegue\".{}", function.quoted())
        };
        let text = || KeyType { sql: "text".to_owned(), oid: 25 };
        let key_types = key.iter().map(|_| text()).collect();
        Arc::new(Target {
            migration: migration.clone(),
            source: QualifiedName { schema: Ident::new(schema), name: Ident::new(&name.1) },
            shadow: QualifiedName {
                schema: Ident::new(SHADOWS),
                name: Ident::new(shadow_name(&name.1)),
            },
            source_oid: 1,
            shadow_oid: 2,
            parts: std::collections::BTreeMap::new(),
            key: key.into_iter().map(Ident::new).collect(),
            old_shape: Ok(table.columns.iter().map(|(n, t)| old_column(n, *t)).collect()),
            sync_function: function("sync"),
            follow_function: Some(function("follow")),
            truncate_function: Some(function("truncated")),
            whole_function: Some(function("whole")),
            hold: None,
            mark_function: function("mark"),
            columns: table.columns.iter().map(|(n, _)| Ident::new(n)).collect(),
            server_version: 15,
            copy: Ok(Copyable {
                columns: table.columns.iter().map(|(n, _)| Ident::new(n)).collect(),
                key_types,
            }),
            update_changes_key: false,
            runs_before_update: false,
            counted: None,
            privileges: Privileges::default(),
        })
    }
}

/// The shadow of a table, or the column of it that holds a column of the source.
pub fn shadow_name(name: &str) -> String {
    format!("{name} v2")
}

fn old_column(name: &str, integer: Option<&str>) -> OldColumn {
    let shadow = Ident::new(shadow_name(name));
    let (type_sql, reverse, widened_as) = match integer {
        Some(sql) => (sql, Reverse::Expression(shadow.quoted()), Some(shadow)),
        None => ("text", Reverse::Bare(shadow), None),
    };
    OldColumn {
        name: Ident::new(name),
        type_sql: type_sql.to_owned(),
        collation_sql: None,
        reverse,
        widened_as,
    }
}

fn is_primary(constraint: &Value) -> bool {
    const CONSTR_PRIMARY: i64 = pg_query::protobuf::ConstrType::ConstrPrimary as i64;
    node(constraint, "Constraint").is_some_and(|c| c["contype"].as_i64() == Some(CONSTR_PRIMARY))
}
