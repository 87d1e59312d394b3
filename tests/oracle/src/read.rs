//! A read on the shadow: the tree that it must have, made from the client's.

use crate::ast::{Scope, each_reference, items, node, statement, string, table_name};
use crate::tables::{PUBLIC, SHADOWS, shadow_name};
use pgsegue::sql::ident::Ident;
use pgsegue::sql::mention::Spelling;
use pgsegue::sql::read::proof;
use pgsegue::sql::target::Target;
use serde_json::{Value, json};
use std::sync::Arc;

fn refname(range_var: &Value) -> String {
    match range_var["alias"].as_object() {
        Some(alias) => alias["aliasname"].as_str().unwrap_or_default().to_owned(),
        None => string(range_var, "relname").to_owned(),
    }
}

/// The client's tree with each reference replaced by a derived table of the old shape.
pub fn expected(tree: &Value, targets: &[Arc<Target>]) -> Result<Value, String> {
    let mut tree = tree.clone();
    let mut wrong = None;
    each_reference(&mut tree, &Scope::default(), &mut |reference| {
        let Some(target) = target_of(&reference["node"]["RangeVar"], targets) else { return };
        match derived(&reference["node"]["RangeVar"], target) {
            Ok(derived) => *reference = derived,
            Err(why) => wrong = Some(why),
        }
    });
    wrong.map_or(Ok(tree), Err)
}

/// The migration of a table.
pub fn target_of<'t>(range_var: &Value, targets: &'t [Arc<Target>]) -> Option<&'t Target> {
    let (schema, name) = table_name(range_var);
    let schema = if schema.is_empty() { PUBLIC.to_owned() } else { schema };
    let named =
        |t: &&Arc<Target>| t.source.schema.as_str() == schema && t.source.name.as_str() == name;
    targets.iter().find(named).map(Arc::as_ref)
}

fn derived(range_var: &Value, target: &Target) -> Result<Value, String> {
    let columns = target.old_shape.as_ref()?.iter().map(|c| {
        let shadow = Ident::new(shadow_name(c.name.as_str())).quoted();
        match c.widened_as {
            Some(_) => format!("({shadow})::{} AS {}", c.type_sql, c.name.quoted()),
            None => format!("{shadow} AS {}", c.name.quoted()),
        }
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let alias = Ident::new(refname(range_var)).quoted();
    let spelling = match string(range_var, "schemaname") {
        "" => Spelling::Unqualified,
        _ => Spelling::Qualified,
    };
    let proof = format!("WHERE {}", proof(target, spelling));
    let text = format!(
        "SELECT FROM (SELECT {columns} FROM {}.{} {proof}) AS {alias}",
        Ident::new(SHADOWS).quoted(),
        target.shadow.name.quoted(),
    );
    let mut item = statement(&text)?["SelectStmt"]["from_clause"][0].clone();
    if range_var["alias"].is_object() {
        item["node"]["RangeSubselect"]["alias"] = range_var["alias"].clone();
    }
    Ok(item)
}

/// Takes the conditions that the derived tables repeat out of a tree; each must be one of the
/// client's own, said of the shadow's column.
pub fn without_twins(tree: &mut Value, around: &Value) -> Result<usize, String> {
    match tree {
        Value::Array(items) => {
            items.iter_mut().try_fold(0, |sum, i| Ok(sum + without_twins(i, around)?))
        }
        Value::Object(fields) => {
            let mut sum = 0;
            if let Some(alias) = derived_alias(fields) {
                let inner = &mut fields["subquery"]["node"]["SelectStmt"]["where_clause"];
                let conditions = std::mem::take(inner);
                for twin in conjuncts(&conditions) {
                    if node(&twin, "CaseExpr").is_some() && inner.is_null() {
                        // The proof of what the name means: part of what is expected.
                        *inner = twin;
                        continue;
                    }
                    sum += 1;
                    let outer = conjuncts(&around["where_clause"]);
                    let alone = items(&around["from_clause"]).len() == 1
                        && node(&around["from_clause"][0], "RangeSubselect").is_some();
                    if !outer.iter().any(|c| is_twin(&twin, c, &alias, alone)) {
                        return Err(format!("a condition that is not the client's: {twin}"));
                    }
                }
            }
            let own = fields.contains_key("from_clause") && fields.contains_key("where_clause");
            let own = own.then(|| {
                let copied = |name: &str| fields.get(name).cloned().unwrap_or_default();
                json!({"from_clause": copied("from_clause"), "where_clause": copied("where_clause")})
            });
            for value in fields.values_mut() {
                sum += without_twins(value, own.as_ref().unwrap_or(around))?;
            }
            Ok(sum)
        }
        _ => Ok(0),
    }
}

fn derived_alias(fields: &serde_json::Map<String, Value>) -> Option<String> {
    let inner = node(fields.get("subquery")?, "SelectStmt")?;
    let table = node(inner["from_clause"].get(0)?, "RangeVar")?;
    (string(table, "schemaname") == SHADOWS)
        .then(|| string(&fields["alias"], "aliasname").to_owned())
}

fn conjuncts(condition: &Value) -> Vec<Value> {
    const AND: i64 = pg_query::protobuf::BoolExprType::AndExpr as i64;
    match node(condition, "BoolExpr") {
        Some(all) if all["boolop"].as_i64() == Some(AND) => {
            items(&all["args"]).iter().flat_map(conjuncts).collect()
        }
        _ if condition.is_null() => Vec::new(),
        _ => vec![condition.clone()],
    }
}

/// `(column, operator, constants)` of each reading of a comparison; casts are left out.
fn readings(condition: &Value) -> Vec<(Vec<String>, String, Value)> {
    let mut condition = condition.clone();
    without_casts(&mut condition);
    let Some(e) = node(&condition, "AExpr") else { return Vec::new() };
    use pg_query::protobuf::AExprKind;
    let operator = items(&e["name"]).last().and_then(|n| node(n, "String"));
    let operator = operator.map(|n| string(n, "sval").to_owned()).unwrap_or_default();
    let kind = e["kind"].as_i64().and_then(|k| i32::try_from(k).ok()).unwrap_or_default();
    let left = |op: &str, right: &Value| (column(&e["lexpr"]), op.to_owned(), right.clone());
    match AExprKind::try_from(kind) {
        Ok(AExprKind::AexprOp) => {
            let turned = match operator.as_str() {
                "<" => ">",
                ">" => "<",
                "<=" => ">=",
                ">=" => "<=",
                same => same,
            };
            vec![
                left(&operator, &e["rexpr"]),
                (column(&e["rexpr"]), turned.to_owned(), e["lexpr"].clone()),
            ]
        }
        Ok(AExprKind::AexprBetween) => {
            let bounds = &e["rexpr"]["node"]["List"]["items"];
            vec![left(">=", &bounds[0]), left("<=", &bounds[1])]
        }
        Ok(AExprKind::AexprIn) => vec![left(&format!("in {operator}"), &e["rexpr"])],
        Ok(AExprKind::AexprOpAny) => vec![left(&format!("any {operator}"), &e["rexpr"])],
        _ => Vec::new(),
    }
}

fn column(expr: &Value) -> Vec<String> {
    let Some(reference) = node(expr, "ColumnRef") else { return Vec::new() };
    let parts = items(&reference["fields"]).iter().filter_map(|p| node(p, "String"));
    parts.map(|p| string(p, "sval").to_owned()).collect()
}

fn without_casts(tree: &mut Value) {
    while let Some(inner) = node(tree, "TypeCast").map(|c| c["arg"].clone()) {
        *tree = inner;
    }
    match tree {
        Value::Object(fields) => fields.values_mut().for_each(without_casts),
        Value::Array(items) => items.iter_mut().for_each(without_casts),
        _ => {}
    }
}

fn is_twin(twin: &Value, clients: &Value, alias: &str, alone: bool) -> bool {
    let clients = readings(clients);
    readings(twin).iter().any(|(inner, operator, constants)| {
        let [inner] = inner.as_slice() else { return false };
        clients.iter().any(|(outer, o, c)| {
            let named = match outer.as_slice() {
                [column] => alone && *inner == shadow_name(column),
                [table, column] => table == alias && *inner == shadow_name(column),
                _ => false,
            };
            named && o == operator && c == constants
        })
    })
}
