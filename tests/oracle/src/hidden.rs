//! Forms that speak of the shadow's own column under a hidden name: the same tree as expected but
//! for that name, `*` spelled out where it would be shown, and min and max of it cast back.

use crate::ast::{items, node, string};
use crate::tables::{SHADOWS, shadow_name};
use serde_json::Value;

const PREFIX: &str = "pgsegue_";

/// Whether a form's tree is the expected one in this sense.
pub fn is_same(actual: &Value, expected: &Value) -> bool {
    if let Some((table, column)) = hidden(actual) {
        return match column_of(expected).as_deref() {
            Some([own]) => *own == column,
            Some([of, own]) => (of, own) == (&table, &column),
            _ => false,
        };
    }
    if let Some(call) = extreme(actual)
        && node(expected, "FuncCall").is_some()
    {
        return fields_are_same(call, expected);
    }
    fields_are_same(actual, expected)
}

fn fields_are_same(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Array(a), Value::Array(e)) => {
            a.len() == e.len() && a.iter().zip(e).all(|(a, e)| is_same(a, e))
        }
        (Value::Object(a), Value::Object(e)) => {
            let from = a.get("from_clause");
            a.len() == e.len()
                && a.iter().all(|(key, value)| match (e.get(key), from) {
                    (Some(e), Some(from)) if key == "target_list" => {
                        targets_are_same(items(value), items(e), items(from))
                    }
                    (Some(e), _) => is_same(value, e),
                    (None, _) => false,
                })
        }
        _ => actual == expected,
    }
}

/// The lists of what two SELECTs give.
fn targets_are_same(actual: &[Value], expected: &[Value], from: &[Value]) -> bool {
    let of_shadow = matches!(from, [only] if node(only, "RangeVar").is_some_and(is_shadow));
    let shown: Vec<&Value> = actual.iter().filter(|t| !(of_shadow && is_hidden(t))).collect();
    let mut rest = shown.as_slice();
    for target in expected {
        let as_it_is = rest.first().is_some_and(|a| is_same(a, target));
        let columns = match as_it_is {
            true => 1,
            false => match spelled_out(target, from) {
                Some(all) if starts_with(rest, &all) => all.len(),
                _ => return false,
            },
        };
        rest = rest.get(columns..).unwrap_or_default();
    }
    rest.is_empty()
}

fn starts_with(rest: &[&Value], all: &[Vec<String>]) -> bool {
    rest.len() >= all.len()
        && rest.iter().zip(all).all(|(target, column)| {
            let fields = node(target, "ResTarget").filter(|t| string(t, "name").is_empty());
            fields.and_then(|t| column_of(&t["val"])).as_ref() == Some(column)
        })
}

/// The columns that a `*` stands for: of a derived table of ours one by one, else as `t.*`.
fn spelled_out(target: &Value, from: &[Value]) -> Option<Vec<Vec<String>>> {
    let star = column_of(&node(target, "ResTarget")?["val"])?;
    let mut tables = Vec::new();
    from.iter().for_each(|item| flatten(item, &mut tables));
    let all = match star.as_slice() {
        [all] if all == "*" => tables,
        [table, all] if all == "*" => tables.into_iter().filter(|(t, _)| t == table).collect(),
        _ => return None,
    };
    let columns = all.into_iter().flat_map(|(table, columns)| {
        let columns = columns.unwrap_or_else(|| vec!["*".to_owned()]);
        columns.into_iter().map(move |c| vec![table.clone(), c])
    });
    Some(columns.collect())
}

type Table = (String, Option<Vec<String>>);

fn flatten(item: &Value, tables: &mut Vec<Table>) {
    if let Some(join) = node(item, "JoinExpr") {
        flatten(&join["larg"], tables);
        flatten(&join["rarg"], tables);
        return;
    }
    let kinds = ["RangeVar", "RangeSubselect", "RangeFunction"];
    let Some(fields) = kinds.iter().find_map(|kind| node(item, kind)) else { return };
    let name = match string(&fields["alias"], "aliasname") {
        "" => string(fields, "relname"),
        alias => alias,
    };
    let select = node(&fields["subquery"], "SelectStmt");
    let ours = select.filter(|s| node(&s["from_clause"][0], "RangeVar").is_some_and(is_shadow));
    let columns = ours.map(|select| {
        let listed = items(&select["target_list"]).iter().filter(|t| !is_hidden(t));
        listed.filter_map(|t| Some(string(node(t, "ResTarget")?, "name").to_owned())).collect()
    });
    tables.push((name.to_owned(), columns));
}

fn is_shadow(range_var: &Value) -> bool {
    string(range_var, "schemaname") == SHADOWS
}

/// `"c v2" AS "pgsegue_c"`
fn is_hidden(target: &Value) -> bool {
    let Some(fields) = node(target, "ResTarget") else { return false };
    let Some(column) = string(fields, "name").strip_prefix(PREFIX) else { return false };
    column_of(&fields["val"]) == Some(vec![shadow_name(column)])
}

/// The table and the column that a hidden name stands for.
fn hidden(value: &Value) -> Option<(String, String)> {
    let [table, name] = <[String; 2]>::try_from(column_of(value)?).ok()?;
    Some((table, name.strip_prefix(PREFIX)?.to_owned()))
}

/// The call within `CAST(max(t.pgsegue_c) AS …)`.
fn extreme(value: &Value) -> Option<&Value> {
    let argument = &node(value, "TypeCast")?["arg"];
    let call = node(argument, "FuncCall")?;
    let of_hidden = matches!(items(&call["args"]), [only] if hidden(only).is_some());
    let name = node(items(&call["funcname"]).last()?, "String")?;
    (of_hidden && ["min", "max"].contains(&string(name, "sval"))).then_some(argument)
}

/// The parts of a reference to a column, `*` among them.
fn column_of(value: &Value) -> Option<Vec<String>> {
    let part = |p: &Value| match (node(p, "String"), node(p, "AStar")) {
        (Some(name), _) => Some(string(name, "sval").to_owned()),
        (None, Some(_)) => Some("*".to_owned()),
        (None, None) => None,
    };
    items(&node(value, "ColumnRef")?["fields"]).iter().map(part).collect()
}
