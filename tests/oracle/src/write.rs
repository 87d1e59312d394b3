//! A mirrored write: what was added to the client's statement is taken out of its tree again, piece
//! by piece, and each piece is looked at. What is left must be the client's tree.

use crate::ast::{each_node, items, kind, node, string, table_name};
use crate::read::target_of;
use pg_query::protobuf::CmdType;
use pgsegue::sql::target::Target;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The first version whose MERGE returns; before, its keys are noted.
const MERGE_RETURNS: u32 = 17;
const VERBS: [&str; 4] = ["InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"];

/// Says what is wrong with the mirrored form of `original`.
pub fn compare(original: &Value, form: &Value, targets: &[Arc<Target>]) -> Result<(), String> {
    let mut undo = Undo { targets, calls: BTreeMap::new() };
    let undone = undo.statement(form.clone())?;
    if undone != *original {
        return Err("it does something else".to_owned());
    }
    let mut writes = BTreeMap::new();
    for_each_write(original, &mut |write| {
        if let Some(target) = target_of(&write["relation"], targets) {
            *writes.entry(target.migration.clone()).or_insert(0) += 1;
        }
    });
    if undo.calls != writes {
        return Err(format!("it calls {:?} for {writes:?}", undo.calls));
    }
    Ok(())
}

fn for_each_write(tree: &Value, see: &mut dyn FnMut(&Value)) {
    let (verb, fields) = kind(tree);
    if VERBS.contains(&verb) {
        see(fields);
    }
    each_node(fields, &mut |kind, fields| {
        if VERBS.contains(&kind) {
            see(fields);
        }
    });
}

fn is_ours(name: &str) -> bool {
    name.starts_with("pgsegue ")
}

/// What a query of ours says, as far as it is ours.
#[derive(Default)]
struct Ours {
    /// Migrations whose function is called, and how often.
    calls: BTreeMap<String, usize>,
    /// Tables and queries that it reads or writes.
    tables: Vec<String>,
}

struct Undo<'t> {
    targets: &'t [Arc<Target>],
    /// How often the functions of a migration are called.
    calls: BTreeMap<String, usize>,
}

impl Undo<'_> {
    /// `{"SelectStmt": {…}}` and the like.
    fn statement(&mut self, mut tree: Value) -> Result<Value, String> {
        let (verb, _) = kind(&tree);
        let verb = verb.to_owned();
        if verb == "CopyStmt" {
            let query = tree[&verb]["query"]["node"].take();
            tree[&verb]["query"]["node"] = self.statement(query)?;
            return Ok(tree);
        }
        let fields = &mut tree[&verb];
        let main = self.with_list(fields)?;
        if let Some((name, write)) = main {
            // The rest is a query of ours, over nothing but the write.
            let clients = fields["with_clause"].take();
            let rest = self.ours(fields)?;
            if let Some(other) = rest.tables.iter().find(|t| **t != name && !is_ours(t)) {
                return Err(format!("the query around the write reads {other}"));
            }
            self.add(rest.calls);
            let (verb, mut inner) = match write.as_object().and_then(|o| o.iter().next()) {
                Some((verb, inner)) => (verb.clone(), inner.clone()),
                None => return Err("no write".to_owned()),
            };
            if !inner["with_clause"].is_null() {
                return Err("a WITH list within the write".to_owned());
            }
            inner["with_clause"] = clients;
            return Ok(json!({ verb: inner }));
        }
        match target_of(&fields["relation"], self.targets) {
            Some(target) if verb == "MergeStmt" && target.server_version < MERGE_RETURNS => {
                self.noted(fields, target)?;
            }
            _ if VERBS.contains(&verb.as_str()) => drop(self.write(fields, None)?),
            _ => {}
        }
        Ok(tree)
    }

    /// Takes the conditions that note keys out of a MERGE: each WHEN that acts has one.
    fn noted(&mut self, merge: &mut Value, target: &Target) -> Result<(), String> {
        let refname = refname(&merge["relation"]);
        let Some(clauses) = merge["merge_when_clauses"].as_array_mut() else {
            return Err("a MERGE without WHEN".to_owned());
        };
        for clause in clauses {
            let clause = &mut clause["node"]["MergeWhenClause"];
            if clause["command_type"].as_i64() == Some(CmdType::CmdNothing as i64) {
                continue;
            }
            let condition = clause["condition"].take();
            let (clients, note) = match node(&condition, "CaseExpr") {
                Some(case) => {
                    let when = &case["args"][0]["node"]["CaseWhen"];
                    (when["expr"].clone(), when["result"].clone())
                }
                None => (Value::Null, condition),
            };
            is_note(&note, clause, (target, &refname))?;
            clause["condition"] = clients;
        }
        self.add(BTreeMap::from([(target.migration.clone(), 1)]));
        Ok(())
    }

    /// Takes what is ours out of a WITH list. The write that is the statement itself, if it has
    /// become an item: its name and its tree.
    fn with_list(&mut self, fields: &mut Value) -> Result<Option<(String, Value)>, String> {
        let mut kept = Vec::new();
        let (mut main, mut split) = (None, None::<(String, Value)>);
        let (mut old_keys, mut fed) = (None, None::<(String, String)>);
        let list = fields["with_clause"]["ctes"].take();
        for mut item in list.as_array().cloned().unwrap_or_default() {
            let cte = &mut item["node"]["CommonTableExpr"];
            let name = string(cte, "ctename").to_owned();
            let query = cte["ctequery"]["node"].take();
            if name.starts_with("pgsegue k") {
                old_keys = Some(query);
            } else if name.starts_with("pgsegue w") {
                let (verb, mut write) = opened(query)?;
                let migration = self.write(&mut write, old_keys.take())?;
                fed = Some((name.clone(), migration));
                let write = json!({ verb: write });
                // Behind the last item of the client's it is the statement itself.
                if name == "pgsegue w" {
                    main = Some((name, write));
                } else {
                    split = Some((name, write));
                }
            } else if name.starts_with("pgsegue d") {
                self.sink(&query, fed.as_ref())?;
            } else if let Some((source, write)) = split.take() {
                picks(&query, &source, &write)?;
                cte["ctequery"]["node"] = write;
                kept.push(item);
            } else {
                let (verb, mut inner) = opened(query)?;
                if VERBS.contains(&verb.as_str()) {
                    let migration = self.write(&mut inner, old_keys.take())?;
                    fed = Some((name, migration));
                }
                cte["ctequery"]["node"] = json!({ verb: inner });
                kept.push(item);
            }
        }
        if split.is_some() || old_keys.is_some() {
            return Err("a part of a write that nothing follows".to_owned());
        }
        if kept.is_empty() {
            fields["with_clause"] = Value::Null;
        } else {
            fields["with_clause"]["ctes"] = Value::Array(kept);
        }
        Ok(main)
    }

    /// Takes what is ours out of a write; the migration of its table.
    fn write(&mut self, write: &mut Value, old_keys: Option<Value>) -> Result<String, String> {
        let Some(target) = target_of(&write["relation"], self.targets) else {
            return Ok(String::new());
        };
        let relation = &write["relation"];
        let refname = refname(relation);
        let mut expected: Vec<_> =
            target.key.iter().map(|k| vec![refname.clone(), k.as_str().to_owned()]).collect();
        let returned = write["returning_clause"]["exprs"].as_array().cloned().unwrap_or_default();
        let mut clients = Vec::new();
        for item in returned {
            let (name, value) =
                (string(&item["node"]["ResTarget"], "name"), &item["node"]["ResTarget"]["val"]);
            if !is_ours(name) {
                clients.push(item);
            } else if name == "pgsegue d" {
                let arguments = items(&value["node"]["FuncCall"]["args"]);
                let keys: Vec<_> = arguments.iter().take(expected.len()).map(column).collect();
                let function = function_name(&value["node"]["FuncCall"]);
                if keys != expected || Some(&function) != target.follow_function.as_ref() {
                    return Err(format!("{function} is called for {keys:?}, not {expected:?}"));
                }
                expected.clear();
                self.add(BTreeMap::from([(target.migration.clone(), 1)]));
            } else if name.starts_with("pgsegue o") {
                continue;
            } else {
                if expected.is_empty() || column(value) != expected.remove(0) {
                    return Err(format!("{name} is another column than the key's"));
                }
            }
        }
        if !expected.is_empty() {
            return Err(format!("the key columns {expected:?} are not returned"));
        }
        let returning = &mut write["returning_clause"];
        returning["exprs"] = Value::Array(clients);
        if let Some(options) = returning["options"].as_array_mut() {
            options.retain(|o| !is_ours(string(&o["node"]["ReturningOption"], "value")));
        }
        if items(&returning["exprs"]).is_empty() {
            *returning = Value::Null;
        }
        if let Some(keys) = old_keys {
            let condition = without_last(write["where_clause"].take());
            write["where_clause"] = condition;
            is_of_old_keys(&keys, write)?;
        }
        Ok(target.migration.clone())
    }

    /// An INSERT of nothing that calls the function for the write before.
    fn sink(&mut self, query: &Value, fed: Option<&(String, String)>) -> Result<(), String> {
        let (verb, fields) = kind(query);
        let sink = table_name(&fields["relation"]);
        if verb != "InsertStmt" || sink != ("pgsegue".to_owned(), "sink".to_owned()) {
            return Err("a sink that stores something".to_owned());
        }
        let ours = self.ours(fields)?;
        let (name, migration) = fed.ok_or("a sink before any write")?;
        let tables = |t: &String| t == name || t == "sink" || t.starts_with("pgsegue k");
        if !ours.tables.iter().all(tables) || ours.calls.keys().ne([migration]) {
            return Err(format!("a sink of {:?} and {:?}", ours.tables, ours.calls));
        }
        self.add(ours.calls);
        Ok(())
    }

    /// A query that is all ours: what it calls and reads.
    fn ours(&self, query: &Value) -> Result<Ours, String> {
        let mut ours = Ours::default();
        let mut foreign = None;
        each_node(query, &mut |kind, fields| match kind {
            "FuncCall" => {
                let function = function_name(fields);
                if let Some(t) = self.targets.iter().find(|t| t.sync_function == function) {
                    *ours.calls.entry(t.migration.clone()).or_insert(0) += 1;
                } else if !function.starts_with("\"pg") {
                    foreign = Some(function);
                }
            }
            "RangeVar" => ours.tables.push(string(fields, "relname").to_owned()),
            _ => {}
        });
        foreign.map_or(Ok(ours), |f| Err(format!("a query of ours calls {f}")))
    }

    fn add(&mut self, calls: BTreeMap<String, usize>) {
        for (migration, count) in calls {
            *self.calls.entry(migration).or_insert(0) += count;
        }
    }
}

/// What a table is called in its statement.
fn refname(relation: &Value) -> String {
    match relation["alias"].is_object() {
        true => string(&relation["alias"], "aliasname").to_owned(),
        false => string(relation, "relname").to_owned(),
    }
}

/// `tell(migration, sync(ARRAY[key], …, 2)) IS NOT NULL`, of the key of the row that the clause
/// acts on.
fn is_note(note: &Value, clause: &Value, (target, refname): (&Target, &str)) -> Result<(), String> {
    let tell = &note["node"]["NullTest"]["arg"]["node"]["FuncCall"];
    let sync = &tell["args"][1]["node"]["FuncCall"];
    if function_name(tell) != "\"pgsegue\".\"tell\"" || function_name(sync) != target.sync_function
    {
        return Err("a WHEN that notes no key".to_owned());
    }
    let mut keys = items(&sync["args"])
        .iter()
        .filter_map(|a| node(a, "AArrayExpr"))
        .map(|array| &array["elements"][0]);
    let named: Vec<_> = items(&clause["target_list"])
        .iter()
        .filter_map(|item| node(item, "ResTarget"))
        .map(|item| string(item, "name"))
        .collect();
    let all: Vec<_> = target.columns.iter().map(|column| column.as_str()).collect();
    let columns = if named.is_empty() { all } else { named };
    let inserts = clause["command_type"].as_i64() == Some(CmdType::CmdInsert as i64);
    for key in &target.key {
        let noted = keys.next().ok_or("too few keys are noted")?;
        let is_it = if inserts {
            let at = columns.iter().position(|column| *column == key.as_str());
            let value = at.and_then(|at| items(&clause["values"]).get(at));
            node(noted, "TypeCast").map(|cast| &cast["arg"]) == value && value.is_some()
        } else {
            column(noted) == [refname.to_owned(), key.as_str().to_owned()]
        };
        if !is_it {
            return Err(format!("another value is noted for the key {}", key.as_str()));
        }
    }
    Ok(())
}

fn opened(statement: Value) -> Result<(String, Value), String> {
    let Value::Object(fields) = statement else { return Err("no statement".to_owned()) };
    fields.into_iter().next().ok_or_else(|| "no statement".to_owned())
}

fn column(value: &Value) -> Vec<String> {
    let Some(reference) = node(value, "ColumnRef") else { return Vec::new() };
    let parts = items(&reference["fields"]).iter().filter_map(|p| node(p, "String"));
    parts.map(|p| string(p, "sval").to_owned()).collect()
}

fn function_name(call: &Value) -> String {
    let parts = items(&call["funcname"]).iter().filter_map(|p| node(p, "String"));
    parts.map(|p| format!("\"{}\"", string(p, "sval"))).collect::<Vec<_>>().join(".")
}

/// The condition without `AND (SELECT count(*) FROM "pgsegue k") >= 0`.
fn without_last(condition: Value) -> Value {
    let mut condition = condition;
    let Some(arguments) = condition["node"]["BoolExpr"]["args"].as_array_mut() else {
        return Value::Null;
    };
    arguments.pop();
    if arguments.len() == 1 { arguments.remove(0) } else { condition }
}

/// `SELECT key FROM the table, the client's FROM WHERE the client's condition FOR UPDATE OF it`.
fn is_of_old_keys(keys: &Value, write: &Value) -> Result<(), String> {
    let (verb, query) = kind(keys);
    let mut from = vec![json!({"node": {"RangeVar": write["relation"]}})];
    from.extend(items(&write["from_clause"]).iter().cloned());
    let locks = items(&query["locking_clause"]).len();
    if verb != "SelectStmt" || locks != 1 {
        return Err("the old keys are not locked".to_owned());
    }
    if query["from_clause"] != Value::Array(from) || query["where_clause"] != write["where_clause"]
    {
        return Err("the old keys are those of other rows".to_owned());
    }
    Ok(())
}

/// `SELECT "pgsegue c1" AS a, … FROM "pgsegue w0"`: what the client's RETURNING gives.
fn picks(query: &Value, source: &str, write: &Value) -> Result<(), String> {
    let (verb, fields) = kind(query);
    let from = items(&fields["from_clause"]);
    let table = from.first().and_then(|f| node(f, "RangeVar")).map(|r| string(r, "relname"));
    if verb != "SelectStmt" || from.len() != 1 || table != Some(source) {
        return Err("an item that is not its write".to_owned());
    }
    let (_, write) = kind(write);
    // What the server calls other expressions is seen on a real one.
    let returned: Vec<_> = items(&write["returning_clause"]["exprs"])
        .iter()
        .map(|item| {
            let target = &item["node"]["ResTarget"];
            match string(target, "name") {
                "" => column(&target["val"]).pop(),
                name => Some(name.to_owned()),
            }
        })
        .collect();
    let mut names = Vec::new();
    for (n, item) in items(&fields["target_list"]).iter().enumerate() {
        let target = &item["node"]["ResTarget"];
        if column(&target["val"]) != [format!("pgsegue c{}", n + 1)] {
            return Err("an item with other columns than its write".to_owned());
        }
        names.push(string(target, "name").to_owned());
    }
    let is_star = |item: &Value| {
        let value = &item["node"]["ResTarget"]["val"];
        items(&value["node"]["ColumnRef"]["fields"]).iter().any(|f| node(f, "AStar").is_some())
    };
    let stars = items(&write["returning_clause"]["exprs"]).iter().any(is_star);
    let same =
        |(name, returned): (&String, &Option<String>)| returned.as_ref().is_none_or(|r| r == name);
    let all = names.len() == returned.len() && names.iter().zip(&returned).all(same);
    if !stars && !all {
        return Err(format!("an item with the columns {names:?}, not {returned:?}"));
    }
    Ok(())
}
