//! The walk over a query's tree: references to migrated sources, reasons why the shadow cannot
//! answer, and predicates that have an exact twin on the shadow.

use super::ident::Ident;
use super::read::{LeansOn, own_syntax};
use super::read_hidden::{Edit, Hidden};
use super::target::{Functions, Target};
use super::twin::{Twin, twins};
use sqlparser::ast::{
    AccessExpr, DataType, Distinct, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArguments, GroupByExpr, Ident as AstIdent, ObjectName, OrderByKind, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind as Kind, SetExpr, TableFactor, TableWithJoins,
    Visitor,
};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Tables in one FROM, at most, for conditions to be repeated on the shadow: each reference gets its
/// own copy, so the text could grow with the square of its length.
const TWIN_TABLES_MAX: usize = 64;

const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];
/// Spelled like functions, in no catalog; none is volatile.
const SYNTAX: [&str; 19] = [
    "values",
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "row",
    "array",
    "grouping",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "current_user",
    "session_user",
    "user",
    "current_role",
    "current_catalog",
    "current_schema",
];
/// Those of `SYNTAX` whose value does not hang on when and where they run.
/// Not ARRAY(SELECT …): it is in the order of its rows.
const SYNTAX_FIXED: [&str; 6] = ["coalesce", "nullif", "greatest", "least", "row", "grouping"];

/// One reference to a migrated source.
#[derive(Debug)]
pub(super) struct Factor {
    pub(super) target: usize,
    pub(super) qualified: bool,
    pub(super) alias: Option<String>,
    /// What the query calls it.
    pub(super) refname: String,
    /// Line and column of the first part of the name, and of the last.
    pub(super) start: (u64, u64),
    pub(super) last_part: (u64, u64),
    pub(super) twins: Vec<Twin>,
    /// Columns of the shadow that the derived table has, too, under hidden names.
    pub(super) hidden: Vec<(String, Ident)>,
}

/// What the walk has found.
pub(super) struct Found<'a> {
    targets: &'a [Arc<Target>],
    functions: &'a Functions,
    pub(super) factors: Vec<Factor>,
    /// Where something is given the name of a migrated source, as line and column.
    pub(super) given: Vec<(u64, u64)>,
    /// Where ROLLUP and CUBE within GROUPING SETS are, which the tree shows as functions.
    groupings: HashSet<(u64, u64)>,
    /// Where the parts of a column's name are that the tree shows as names of their own.
    parts: HashSet<(u64, u64)>,
    hidden: Hidden,
    selects: usize,
    incomparable: Option<&'static str>,
    pub(super) leans_on: LeansOn,
}

type Unfit = ControlFlow<String>;

fn unfit(why: &str) -> Unfit {
    ControlFlow::Break(why.to_owned())
}

fn may_be_volatile(name: &str) -> Unfit {
    ControlFlow::Break(format!("it calls {name}(), which may be volatile"))
}

/// Line and column.
fn place(ident: &AstIdent) -> (u64, u64) {
    (ident.span.start.line, ident.span.start.column)
}

pub(super) fn folded(ident: &AstIdent) -> String {
    match ident.quote_style {
        None => ident.value.to_ascii_lowercase(),
        // with_unescape(false): inner quotes are still doubled.
        Some(_) => ident.value.replace("\"\"", "\""),
    }
}

pub(super) fn parts(name: &ObjectName) -> Option<Vec<&AstIdent>> {
    name.0.iter().map(|p| p.as_ident()).collect()
}

impl<'a> Found<'a> {
    pub(super) fn new(targets: &'a [Arc<Target>], functions: &'a Functions) -> Self {
        Self {
            targets,
            functions,
            factors: Vec::new(),
            given: Vec::new(),
            groupings: HashSet::new(),
            parts: HashSet::new(),
            hidden: Hidden::default(),
            selects: 0,
            incomparable: None,
            leans_on: LeansOn::default(),
        }
    }

    /// The references, and what else has to change in the text for them.
    pub(super) fn into_edits(self) -> (Vec<Factor>, Vec<Edit>) {
        let edits = self.hidden.edits(&self.factors, self.targets);
        (self.factors, edits)
    }

    /// Whether the multiset of rows is one right answer.
    pub(super) fn comparable(
        &self,
        query: &Query,
        targets: &[Arc<Target>],
    ) -> Result<(), &'static str> {
        if let Some(why) = self.incomparable {
            return Err(why);
        }
        if query.limit_clause.is_none() && query.fetch.is_none() {
            return Ok(());
        }
        match self.factors.as_slice() {
            [only] if self.selects == 1 && orders_by_key(query, only, targets) => Ok(()),
            _ => Err("LIMIT without a total order"),
        }
    }

    fn target_of(&self, name: &ObjectName) -> Option<(usize, bool)> {
        let parts = parts(name)?;
        let (last, qualifiers) = parts.split_last()?;
        let last = folded(last);
        let schema = qualifiers.last().map(|q| folded(q));
        self.targets.iter().enumerate().find_map(|(index, t)| {
            let schema_fits = schema.as_ref().is_none_or(|s| *s == t.source.schema.as_str());
            (last == t.source.name.as_str() && schema_fits).then_some((index, schema.is_some()))
        })
    }

    fn given(&mut self, name: &AstIdent) {
        if self.targets.iter().any(|t| t.source.name.as_str() == folded(name)) {
            self.given.push(place(name));
        }
    }

    fn factor(&mut self, factor: &TableFactor, select: &Select, tables: usize) -> Unfit {
        let TableFactor::Table { name, alias, args, sample, with_ordinality, .. } = factor else {
            return ControlFlow::Continue(());
        };
        let Some((target, qualified)) = self.target_of(name) else {
            return ControlFlow::Continue(());
        };
        if args.is_some() {
            return ControlFlow::Continue(());
        }
        if sample.is_some() || *with_ordinality {
            return unfit("TABLESAMPLE");
        }
        let Some(parts) = parts(name).filter(|p| p.len() <= 2) else {
            return unfit("a name of three parts");
        };
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return unfit("a table without a name");
        };
        if alias.as_ref().is_some_and(|a| !a.columns.is_empty()) {
            return unfit("an alias that renames columns");
        }
        let alias = alias.as_ref().map(|a| folded(&a.name));
        let refname = alias.clone().unwrap_or_else(|| folded(last));
        let twins = match (&select.selection, self.targets.get(target)) {
            (Some(selection), Some(target)) if tables <= TWIN_TABLES_MAX => {
                twins(selection, (&refname, alias.is_none()), tables == 1, target)
            }
            _ => Vec::new(),
        };
        self.factors.push(Factor {
            target,
            qualified,
            alias,
            start: place(first),
            last_part: place(last),
            twins,
            refname,
            hidden: Vec::new(),
        });
        ControlFlow::Continue(())
    }

    fn function(&mut self, function: &Function) -> Unfit {
        let Some(ident) = function.name.0.last().and_then(|p| p.as_ident()) else {
            return unfit("a function without a name");
        };
        if self.groupings.contains(&place(ident)) {
            return ControlFlow::Continue(());
        }
        let name = folded(ident);
        let bare = ident.quote_style.is_none();
        let syntax = bare && SYNTAX.contains(&name.as_str());
        if !self.functions.non_volatile.contains(&name) && !syntax {
            return match own_syntax(&name).filter(|_| bare && function.name.0.len() == 1) {
                Some(why) => unfit(why),
                None => may_be_volatile(&name),
            };
        }
        if has_row_argument(function) {
            return unfit("a whole-row reference");
        }
        self.leans_on.sums |= ["sum", "avg"].contains(&name.as_str());
        self.leans_on.picks |= ["min", "max"].contains(&name.as_str());
        if function.over.is_some() {
            self.incomparable = Some("a window function");
        }
        let fixed = self.functions.deterministic.contains(&name)
            || (syntax && SYNTAX_FIXED.contains(&name.as_str()));
        if !fixed {
            self.incomparable = Some("a function that is not on the list of deterministic ones");
        }
        ControlFlow::Continue(())
    }

    fn column(&mut self, parts: &[&AstIdent]) -> Unfit {
        match parts {
            [_, .., last] if SYSTEM_COLUMNS.contains(&folded(last).as_str()) => {
                unfit("a system column")
            }
            [schema, table, _] => self.unqualify(schema, table),
            [_, _, _, ..] => unfit("a column name with a database"),
            _ => ControlFlow::Continue(()),
        }
    }

    /// `schema.table` before a column or `*`.
    fn unqualify(&mut self, schema: &AstIdent, table: &AstIdent) -> Unfit {
        let (schema_name, name) = (folded(schema), folded(table));
        let is_it = |t: &Arc<Target>| {
            t.source.name.as_str() == name && t.source.schema.as_str() == schema_name
        };
        if !self.targets.iter().any(is_it) {
            return ControlFlow::Continue(());
        }
        match self.hidden.unqualify((schema, table), (&self.factors, self.targets)) {
            Some(()) => ControlFlow::Continue(()),
            None => unfit("schema.table before a column, next to another table of that name"),
        }
    }

    /// A whole-row reference has another type on the derived table; system columns are not there.
    /// Postgres takes a bare name for a column if there is one, and for a row else.
    fn identifier(&mut self, ident: &AstIdent) -> Unfit {
        if self.parts.contains(&place(ident)) {
            return ControlFlow::Continue(());
        }
        let name = folded(ident);
        if SYSTEM_COLUMNS.contains(&name.as_str()) {
            return unfit("a system column");
        }
        let is_column = |f: &Factor| {
            let columns = self.targets.get(f.target).map(|t| t.columns.as_slice());
            columns.unwrap_or_default().iter().any(|c| c.as_str() == name)
        };
        if self.factors.iter().any(|f| f.refname == name && !is_column(f)) {
            return unfit("a whole-row reference");
        }
        self.given(ident);
        ControlFlow::Continue(())
    }

    fn function_in_from(&mut self, name: &str, bare: bool) -> Unfit {
        let syntax = bare && SYNTAX.contains(&name);
        if !self.functions.non_volatile.contains(name) && !syntax {
            return may_be_volatile(name);
        }
        self.incomparable = Some("a function in FROM");
        ControlFlow::Continue(())
    }
}

impl Visitor for Found<'_> {
    type Break = String;

    fn pre_visit_query(&mut self, query: &Query) -> Unfit {
        if !query.locks.is_empty() {
            return unfit("a locking clause");
        }
        if let Some(with) = &query.with {
            for cte in &with.cte_tables {
                let name = folded(&cte.alias.name);
                if self.targets.iter().any(|t| t.source.name.as_str() == name) {
                    return unfit("a WITH query of the table's name");
                }
            }
        }
        if self.selects > 0 && (query.limit_clause.is_some() || query.fetch.is_some()) {
            self.incomparable = Some("LIMIT in a subquery");
        }
        self.hidden.enter_query(query);
        self.leans_on.picks |= matches!(*query.body, SetExpr::SetOperation { .. });
        match query.body.as_ref() {
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                unfit("a data-modifying WITH")
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> Unfit {
        self.selects += 1;
        if matches!(select.distinct, Some(Distinct::On(_))) {
            self.incomparable = Some("DISTINCT ON");
        }
        if !matches!(&select.group_by, GroupByExpr::Expressions(_, m) if m.is_empty()) {
            return unfit("a form of GROUP BY that is not understood");
        }
        for item in &select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item {
                self.given(alias);
            }
        }
        let mut tables = Vec::new();
        select.from.iter().for_each(|from| flatten(from, &mut tables));
        self.leans_on.picks |= select.distinct.is_some()
            || !matches!(&select.group_by, GroupByExpr::Expressions(all, _) if all.is_empty());
        let first = self.factors.len();
        for table in &tables {
            self.factor(table, select, tables.len())?;
        }
        let known = (self.targets, self.functions);
        self.hidden.enter_select(select, (&mut self.factors, first), known);
        for item in &select.projection {
            if let SelectItem::QualifiedWildcard(Kind::ObjectName(name), _) = item {
                match parts(name).as_deref() {
                    Some([schema, table]) => self.unqualify(schema, table)?,
                    Some([_]) => {}
                    _ => return unfit("a name before * that is not understood"),
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &Select) -> Unfit {
        self.hidden.leave_select();
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> Unfit {
        self.hidden.leave_query();
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> Unfit {
        match parts(relation) {
            Some(parts) => {
                let quoted = parts.iter().map(|p| Ident::new(folded(p)).quoted());
                self.leans_on.tables.push(quoted.collect::<Vec<_>>().join("."));
            }
            None => self.incomparable = Some("a table of a name that is not understood"),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Unfit {
        if let TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. } = factor
        {
            self.given(&alias.name);
        }
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                let last = name.0.last().and_then(|p| p.as_ident());
                let bare = name.0.len() == 1 && last.is_some_and(|i| i.quote_style.is_none());
                self.function_in_from(&last.map(folded).unwrap_or_default(), bare)
            }
            TableFactor::UNNEST { with_offset: false, .. } => self.function_in_from("unnest", true),
            TableFactor::NestedJoin { alias: Some(_), .. } => unfit("a join with a name"),
            TableFactor::Table { .. }
            | TableFactor::Derived { .. }
            | TableFactor::NestedJoin { .. } => ControlFlow::Continue(()),
            _ => unfit("a table function"),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Unfit {
        match expr {
            Expr::Function(function) => self.function(function),
            Expr::Cast {
                data_type:
                    DataType::Float(_)
                    | DataType::Float4
                    | DataType::Float8
                    | DataType::Real
                    | DataType::Double(_)
                    | DataType::DoublePrecision,
                ..
            } => {
                self.incomparable = Some("a floating-point number");
                ControlFlow::Continue(())
            }
            Expr::GroupingSets(sets) => {
                let names = sets.iter().flatten().filter_map(grouping);
                self.groupings.extend(names.map(place));
                ControlFlow::Continue(())
            }
            Expr::QualifiedWildcard(..) => unfit("a whole-row reference"),
            Expr::Identifier(ident) => self.identifier(ident),
            Expr::CompoundIdentifier(parts) => self.column(&parts.iter().collect::<Vec<_>>()),
            Expr::CompoundFieldAccess { root, access_chain } => {
                let parts = element_of(root, access_chain);
                self.parts.extend(parts.iter().map(|p| place(p)));
                self.column(&parts)
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// All tables of an item of FROM, those within parentheses, too.
pub(super) fn flatten<'a>(from: &'a TableWithJoins, tables: &mut Vec<&'a TableFactor>) {
    let relations = std::iter::once(&from.relation).chain(from.joins.iter().map(|j| &j.relation));
    for relation in relations {
        match relation {
            TableFactor::NestedJoin { table_with_joins, .. } => flatten(table_with_joins, tables),
            other => tables.push(other),
        }
    }
}

/// The parts of `table.column` in `table.column[…]`; none if it is anything else.
fn element_of<'e>(root: &'e Expr, chain: &'e [AccessExpr]) -> Vec<&'e AstIdent> {
    let Expr::Identifier(first) = root else { return Vec::new() };
    let mut parts = vec![first];
    for access in chain {
        match access {
            AccessExpr::Dot(Expr::Identifier(part)) => parts.push(part),
            AccessExpr::Subscript(_) if parts.len() > 1 => return parts,
            _ => break,
        }
    }
    Vec::new()
}

/// The name of `ROLLUP (…)` or `CUBE (…)`.
fn grouping(set: &Expr) -> Option<&AstIdent> {
    let Expr::Function(function) = set else { return None };
    let [name] = function.name.0.as_slice() else { return None };
    let ident = name.as_ident().filter(|i| i.quote_style.is_none())?;
    ["rollup", "cube"].contains(&folded(ident).as_str()).then_some(ident)
}

/// `f(…, t.*, …)`
fn has_row_argument(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    list.args.iter().any(|arg| {
        let (FunctionArg::Unnamed(value)
        | FunctionArg::Named { arg: value, .. }
        | FunctionArg::ExprNamed { arg: value, .. }) = arg;
        matches!(value, FunctionArgExpr::QualifiedWildcard(_))
    })
}

fn orders_by_key(query: &Query, factor: &Factor, targets: &[Arc<Target>]) -> bool {
    let Some(target) = targets.get(factor.target) else { return false };
    let Some(order) = &query.order_by else { return false };
    let OrderByKind::Expressions(expressions) = &order.kind else { return false };
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let alone = select.from.len() == 1 && select.from.iter().all(|f| f.joins.is_empty());
    let name = |i: &Ident| {
        expressions.iter().any(|e| match &e.expr {
            Expr::Identifier(ident) => folded(ident) == i.as_str(),
            Expr::CompoundIdentifier(parts) => {
                parts.last().map(folded).as_deref() == Some(i.as_str())
            }
            _ => false,
        })
    };
    // An output name of the key's spelling that is another expression would sort first.
    let renamed = select.projection.iter().any(|p| {
        matches!(p, SelectItem::ExprWithAlias { alias, .. }
            if target.key.iter().any(|k| *k.as_str() == folded(alias)))
    });
    alone && !renamed && target.key.iter().all(name)
}
