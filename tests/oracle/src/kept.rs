//! Why a read stays on the source, by the tree: what it has that the shadow cannot answer, in the
//! words that pgsegue has for it. A read that is called fit must have none of it, and one that is
//! kept must have what it is said to be kept for.

use crate::ast::{Scope, each_reference, items, node, placed, string};
use crate::read::target_of;
use pg_query::protobuf::{CoercionForm, GroupingSetKind, Token, XmlExprOp};
use pgsegue::sql::target::Target;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

const SYSTEM: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];
/// Functions of the suite's statements that are volatile; the others count as stable here, so that
/// what calls them has a shadow form to judge.
pub const VOLATILE: [&str; 6] =
    ["random", "nextval", "setval", "pg_sleep", "clock_timestamp", "lo_create"];
/// What the grammar has of SQL/JSON that is spelled as a function.
const JSON: [&str; 10] = [
    "JsonArrayAgg",
    "JsonArrayConstructor",
    "JsonArrayQueryConstructor",
    "JsonFuncExpr",
    "JsonObjectAgg",
    "JsonObjectConstructor",
    "JsonParseExpr",
    "JsonScalarExpr",
    "JsonSerializeExpr",
    "JsonTable",
];

pub const SYSTEM_COLUMN: &str = "a system column";
pub const WHOLE_ROW: &str = "a whole-row reference";
pub const RENAMES: &str = "an alias that renames columns";
pub const ONLY: &str = "ONLY";
pub const LOCKS: &str = "a locking clause";
pub const SAMPLE: &str = "TABLESAMPLE";
pub const INTO: &str = "SELECT INTO";
pub const XML_SYNTAX: &str = "an XML function with a syntax of its own";
pub const JSON_SYNTAX: &str = "an SQL/JSON function with a syntax of its own";
pub const NAMED_JOIN: &str = "a join with a name";
pub const NESTED_SETS: &str = "GROUPING SETS within GROUPING SETS";
pub const TABLE_FUNCTION: &str = "a table function";
pub const WITH_NAME: &str = "a WITH query of the table's name";
pub const STAR: &str = "a table with * behind its name";
pub const UNICODE: &str = "an identifier with Unicode escapes";
/// No tree says how deep the other parser goes.
const UNCHECKED: [&str; 1] = ["it is nested too deeply"];

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Of {
    /// Of something else than a migrated table, or of its columns one by one: a closer look could
    /// do without the reason.
    Other,
    /// Of a migrated table, or of the statement as a whole.
    Source,
}

/// What the tree says of the reason for which a read is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Borne {
    /// It has that.
    Out,
    /// It has that, but not of a migrated table.
    OfAnother,
    /// Nothing.
    Unknown,
    /// It has no such thing, or nothing is said here of how it would look.
    No,
}

/// Whether a statement has what it is said to be kept for.
pub fn borne(why: &str, sql: &str, tree: &Value, targets: &[Arc<Target>]) -> Borne {
    let spelled = match why {
        STAR => Some(has_star(sql)),
        UNICODE => Some(has_unicode(sql)),
        _ => None,
    };
    match (spelled, all(tree, targets).get(why)) {
        _ if UNCHECKED.contains(&why) => Borne::Unknown,
        (Some(true), _) | (None, Some(Of::Source)) => Borne::Out,
        (None, Some(Of::Other)) => Borne::OfAnother,
        (Some(false), _) | (None, None) => Borne::No,
    }
}

/// All that keeps a statement on the source, as far as the tree tells.
pub fn all(tree: &Value, targets: &[Arc<Target>]) -> BTreeMap<String, Of> {
    let mut tree = tree.clone();
    each_reference(&mut tree, &Scope::default(), &mut |reference| {
        let range_var = &mut reference["node"]["RangeVar"];
        if let Some(target) = target_of(range_var, targets) {
            range_var[MIGRATED] = columns_of(target);
        }
    });
    let mut walk = Walk { targets, froms: Vec::new(), found: BTreeMap::new() };
    walk.value(&tree);
    walk.found
}

/// The field that a reference to a migrated table is given: the names of its columns.
const MIGRATED: &str = "migrated";

fn columns_of(target: &Target) -> Value {
    target.columns.iter().map(|c| Value::from(c.as_str())).collect()
}

/// An item of FROM: the name that columns go by, and its columns if it is a migrated table.
struct Item {
    name: String,
    columns: Option<Vec<String>>,
}

struct Walk<'a> {
    targets: &'a [Arc<Target>],
    /// The items of the queries around a place; the innermost is the last.
    froms: Vec<Vec<Item>>,
    found: BTreeMap<String, Of>,
}

impl Walk<'_> {
    fn found(&mut self, why: &str, of: Of) {
        let known = self.found.entry(why.to_owned()).or_insert(of);
        *known = of.max(*known);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|i| self.value(i)),
            Value::Object(fields) => self.fields(fields),
            _ => {}
        }
    }

    fn fields(&mut self, fields: &Map<String, Value>) {
        let from = fields.get("from_clause").map(items);
        if let Some(from) = from {
            let mut all = Vec::new();
            from.iter().for_each(|item| items_of(item, &mut all));
            self.froms.push(all);
        }
        for (name, inner) in fields {
            if inner.is_null() {
                continue;
            }
            match name.as_str() {
                "into_clause" => self.found(INTO, Of::Source),
                "locking_clause" if !items(inner).is_empty() => self.found(LOCKS, Of::Source),
                "target_list" => items(inner).iter().for_each(|i| self.listed(i)),
                "values_lists" => {
                    let rows = items(inner).iter().filter_map(|row| node(row, "List"));
                    rows.for_each(|row| self.row(&row["items"]));
                    continue;
                }
                "RowExpr" => {
                    self.row(&inner["args"]);
                    continue;
                }
                _ if name.starts_with(|c: char| c.is_ascii_uppercase()) => self.node(name, inner),
                _ => {}
            }
            if name != "target_list" {
                self.value(inner);
            }
        }
        if from.is_some() {
            self.froms.pop();
        }
    }

    /// An item of a list of columns, where `t.*` are all of them.
    fn listed(&mut self, item: &Value) {
        if node(item, "ResTarget").is_none_or(|t| !is_star(&t["val"])) {
            self.value(item);
        }
    }

    /// A row that is spelled out: `t.*` in it are all columns, but not where the proxy spells them.
    fn row(&mut self, columns: &Value) {
        for column in items(columns) {
            match is_star(column) {
                true => self.found(WHOLE_ROW, Of::Other),
                false => self.value(column),
            }
        }
    }

    fn node(&mut self, kind: &str, fields: &Value) {
        match kind {
            "RangeVar" => self.table(fields),
            "RangeTableSample" => self.found(SAMPLE, whose(&fields["relation"])),
            "JoinExpr" if fields["alias"].is_object() => {
                self.found(NAMED_JOIN, whose(fields));
            }
            "RangeTableFunc" => {
                self.found(TABLE_FUNCTION, Of::Source);
                self.found(XML_SYNTAX, Of::Source);
            }
            "XmlExpr" if !is(fields, "op", XmlExprOp::IsDocument as i64) => {
                self.found(XML_SYNTAX, Of::Source);
            }
            "XmlSerialize" => self.found(XML_SYNTAX, Of::Source),
            "GroupingSet" if is_sets(fields) && items(&fields["content"]).iter().any(has_sets) => {
                self.found(NESTED_SETS, Of::Source);
            }
            "CommonTableExpr" => {
                let name = string(fields, "ctename");
                if self.targets.iter().any(|t| t.source.name.as_str() == name) {
                    self.found(WITH_NAME, Of::Source);
                }
            }
            "FuncCall" => self.call(fields),
            "ColumnRef" => self.column(fields),
            "AIndirection" => {
                let last = items(&fields["indirection"]).last().and_then(|i| node(i, "String"));
                if last.is_some_and(|name| SYSTEM.contains(&string(name, "sval"))) {
                    self.found(SYSTEM_COLUMN, Of::Other);
                }
            }
            _ => {}
        }
        if JSON.contains(&kind) {
            self.found(JSON_SYNTAX, Of::Source);
        }
        if kind == "JsonTable" {
            self.found(TABLE_FUNCTION, Of::Source);
        }
    }

    fn table(&mut self, fields: &Value) {
        let is_source = !fields[MIGRATED].is_null();
        if fields["inh"].as_bool() != Some(true) {
            self.found(ONLY, if is_source { Of::Source } else { Of::Other });
        }
        if is_source && !items(&fields["alias"]["colnames"]).is_empty() {
            self.found(RENAMES, Of::Source);
        }
    }

    fn call(&mut self, fields: &Value) {
        let name = items(&fields["funcname"]).last().and_then(|n| node(n, "String"));
        let name = name.map(|n| string(n, "sval")).unwrap_or_default();
        if VOLATILE.contains(&name) {
            self.found(&format!("it calls {name}(), which may be volatile"), Of::Source);
        }
        let own = is(fields, "funcformat", CoercionForm::CoerceSqlSyntax as i64);
        if own && name == "xmlexists" {
            self.found(XML_SYNTAX, Of::Source);
        }
    }

    fn column(&mut self, fields: &Value) {
        let parts = items(&fields["fields"]);
        let names: Vec<_> =
            parts.iter().filter_map(|p| node(p, "String")).map(|n| string(n, "sval")).collect();
        let star = parts.last().is_some_and(|p| node(p, "AStar").is_some());
        match (names.as_slice(), star) {
            ([.., table], true) => self.found(WHOLE_ROW, self.whose_name(table)),
            ([.., table, column], false) if SYSTEM.contains(column) => {
                self.found(SYSTEM_COLUMN, self.whose_name(table));
            }
            ([column], false) if SYSTEM.contains(column) => {
                self.found(SYSTEM_COLUMN, Of::Source);
            }
            ([name], false) if self.is_whole_row(name) => self.found(WHOLE_ROW, Of::Source),
            _ => {}
        }
    }

    /// Whether a bare name is that of a migrated table here, and none of a column of one.
    fn is_whole_row(&self, name: &str) -> bool {
        let sources = || self.froms.iter().flatten().filter_map(|i| Some((i, i.columns.as_ref()?)));
        sources().any(|(item, _)| item.name == name)
            && !sources().any(|(_, columns)| columns.iter().any(|c| c == name))
    }

    /// Whose columns go by a name here; of a name that is none of FROM it is not known.
    fn whose_name(&self, name: &str) -> Of {
        let mut around = self.froms.iter().rev();
        match around.find_map(|items| items.iter().find(|i| i.name == name)) {
            Some(Item { columns: None, .. }) => Of::Other,
            _ => Of::Source,
        }
    }
}

/// The items within an item of FROM whose names can be said around it.
fn items_of(item: &Value, all: &mut Vec<Item>) {
    let Some((kind, fields)) = item.get("node").map(crate::ast::kind) else { return };
    let alias = fields["alias"]["aliasname"].as_str();
    let named = |name: &str, columns| Item { name: name.to_owned(), columns };
    match kind {
        "RangeVar" => {
            let columns = fields[MIGRATED].as_array().map(|columns| {
                columns.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            });
            all.push(named(alias.unwrap_or_else(|| string(fields, "relname")), columns));
            return;
        }
        "RangeTableSample" => return items_of(&fields["relation"], all),
        "JoinExpr" => {
            items_of(&fields["larg"], all);
            items_of(&fields["rarg"], all);
            let using = fields["join_using_alias"]["aliasname"].as_str();
            all.extend(using.map(|name| named(name, None)));
        }
        _ => {}
    }
    all.extend(alias.map(|name| named(name, None)));
}

/// Whether there is a migrated table in it.
fn whose(value: &Value) -> Of {
    let within = match value {
        Value::Array(items) => items.iter().map(whose).max(),
        Value::Object(fields) if fields.contains_key(MIGRATED) => Some(Of::Source),
        Value::Object(fields) => fields.values().map(whose).max(),
        _ => None,
    };
    within.unwrap_or(Of::Other)
}

fn is(fields: &Value, field: &str, value: i64) -> bool {
    fields[field].as_i64() == Some(value)
}

fn is_star(value: &Value) -> bool {
    let last = node(value, "ColumnRef").and_then(|c| items(&c["fields"]).last());
    last.is_some_and(|p| node(p, "AStar").is_some())
}

fn is_sets(fields: &Value) -> bool {
    is(fields, "kind", GroupingSetKind::GroupingSetSets as i64)
}

fn has_sets(value: &Value) -> bool {
    node(value, "GroupingSet").is_some_and(is_sets)
}

/// Whether `*` follows the name of a table of FROM. The tree has no trace of it, its place has.
fn has_star(sql: &str) -> bool {
    let (Ok(tree), Ok(tokens)) = (placed(sql), pg_query::scan_tokens(sql)) else { return false };
    let comments = [Token::SqlComment as i32, Token::CComment as i32];
    let tokens: Vec<_> = tokens.iter().filter(|t| !comments.contains(&t.token)).collect();
    let (dot, star) = (Token::Ascii46 as i32, Token::Ascii42 as i32);
    let mut found = false;
    crate::ast::each_node(&tree, &mut |kind, fields| {
        let at = fields["location"].as_i64();
        let first = tokens.iter().position(|t| kind == "RangeVar" && Some(t.start.into()) == at);
        let Some(mut last) = first else { return };
        while tokens.get(last + 1).is_some_and(|t| t.token == dot) {
            last += 2;
        }
        found |= tokens.get(last + 1).is_some_and(|t| t.token == star);
    });
    found
}

fn has_unicode(sql: &str) -> bool {
    let tokens = pg_query::scan_tokens(sql).unwrap_or_default();
    tokens.iter().any(|t| t.token == Token::Uident as i32)
}
