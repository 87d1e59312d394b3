//! A widened column behind its cast has no index, and a condition with a constant is not all that
//! needs one: joins, ORDER BY and min or max of it do, too. There the query speaks of the shadow's
//! own column, which the derived table has under a hidden name; both compare and sort alike, as the
//! values are the same. `*` is spelled out, so that nobody sees it.

use super::ident::Ident;
use super::read_visit::{Factor, flatten, folded, parts};
use super::target::{Functions, OldColumn, Target};
use super::twin::conjuncts;
use sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    Ident as AstIdent, JoinConstraint, JoinOperator, ObjectName, OrderByKind, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableFactor, Value,
};
use std::collections::HashSet;
use std::sync::Arc;

/// Line and column, as `sqlparser` counts.
pub(super) type Place = (u64, u64);

/// A name of PostgreSQL holds 63 bytes; longer ones would be cut, and said to be.
const NAME_BYTES_MAX: usize = 63;

/// A change of the client's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Edit {
    /// The tokens from the first place to the one that begins at the last.
    Replace(Place, Place, String),
    /// A cast of the function call whose name is there.
    CastCall(Place, String),
}

impl Edit {
    fn place(&self) -> Place {
        match self {
            Self::Replace(first, ..) | Self::CastCall(first, _) => *first,
        }
    }
}

/// A column as the query spells it.
#[derive(Debug)]
struct Reference {
    table: Option<Named>,
    name: String,
    first: Place,
    last: Place,
}

impl Reference {
    fn of(expr: &Expr) -> Option<Self> {
        let place = |i: &AstIdent| (i.span.start.line, i.span.start.column);
        match expr {
            Expr::Identifier(ident) => {
                let at = place(ident);
                let name = folded(ident);
                Some(Self { table: None, name, first: at, last: at })
            }
            Expr::CompoundIdentifier(parts) => {
                let (schema, table, name) = match parts.as_slice() {
                    [table, name] => (None, table, name),
                    [schema, table, name] => (Some(schema), table, name),
                    _ => return None,
                };
                let first = place(schema.unwrap_or(table));
                let table = Named { schema: schema.map(folded), table: folded(table) };
                Some(Self { table: Some(table), name: folded(name), first, last: place(name) })
            }
            Expr::Nested(inner) => Self::of(inner),
            _ => None,
        }
    }
}

/// A table of a FROM: its name there, and its index among the references to sources.
#[derive(Debug)]
struct Shown {
    refname: Option<String>,
    factor: Option<usize>,
}

#[derive(Debug)]
enum Star {
    All(Place),
    Of(Named, Place, Place),
}

/// `table` or `schema.table` before a column or `*`.
#[derive(Debug)]
struct Named {
    schema: Option<String>,
    table: String,
}

/// One SELECT.
#[derive(Debug)]
struct Scope {
    tables: Vec<Shown>,
    stars: Vec<Star>,
    /// Whether a hidden column in its FROM can be kept from being seen.
    may_hide: bool,
    /// Whether queries within it may only speak of what it groups by.
    groups: bool,
}

/// A query that the walk is in.
#[derive(Debug)]
struct Open {
    /// What its SELECT is ordered by, until that has been looked at.
    order: Vec<Reference>,
    /// Scopes that were open before it.
    before: usize,
    /// Whether it is one SELECT, whose tables its ORDER BY may name.
    is_select: bool,
}

/// What the walk collects.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    scopes: Vec<Scope>,
    open: Vec<usize>,
    queries: Vec<Open>,
    /// Where the columns of queries behind IN are spelled: they are compared, and seen by nobody.
    compared: Vec<Place>,
    edits: Vec<Edit>,
    /// `schema.table` before a column or `*`, where only `table` has a meaning on the shadow.
    unqualified: Vec<Edit>,
}

/// The hidden name of a column.
pub(super) fn hidden_name(column: &Ident) -> Ident {
    Ident::new(format!("pgsegue_{}", column.as_str()))
}

impl Hidden {
    pub(super) fn enter_query(&mut self, query: &Query) {
        let is_select = matches!(*query.body, SetExpr::Select(_));
        let order = match query.order_by.as_ref().filter(|_| is_select).map(|o| &o.kind) {
            Some(OrderByKind::Expressions(all)) => {
                all.iter().filter_map(|e| Reference::of(&e.expr)).collect()
            }
            _ => Vec::new(),
        };
        self.queries.push(Open { order, before: self.open.len(), is_select });
    }

    pub(super) fn leave_query(&mut self) {
        if let Some(query) = self.queries.pop() {
            self.open.truncate(query.before);
        }
    }

    pub(super) fn leave_select(&mut self) {
        if !self.queries.last().is_some_and(|q| q.is_select) {
            self.open.pop();
        }
    }

    /// Leaves the schema out before a column or `*` of a source: the derived table has none. `None`
    /// where without it another table of that name may be meant.
    pub(super) fn unqualify(
        &mut self,
        (schema, table): (&AstIdent, &AstIdent),
        (factors, targets): (&[Factor], &[Arc<Target>]),
    ) -> Option<()> {
        let named = Named { schema: Some(folded(schema)), table: folded(table) };
        let open = self.open.iter().filter_map(|i| self.scopes.get(*i)).flat_map(|s| &s.tables);
        let mut of_the_name = open.filter(|t| t.refname.as_ref() == Some(&named.table)).peekable();
        of_the_name.peek()?;
        if !of_the_name.all(|t| t.is(&named, factors, targets)) {
            return None;
        }
        let place = |i: &AstIdent| (i.span.start.line, i.span.start.column);
        let spelled = Ident::new(named.table).quoted();
        self.unqualified.push(Edit::Replace(place(schema), place(table), spelled));
        Some(())
    }

    /// Looks at one SELECT, whose references to sources are those of `factors` from `first` on.
    pub(super) fn enter_select(
        &mut self,
        select: &Select,
        (factors, first): (&mut [Factor], usize),
        (targets, functions): (&[Arc<Target>], &Functions),
    ) {
        let order = self.queries.last_mut().map(|q| std::mem::take(&mut q.order));
        let order = order.unwrap_or_default();
        let scope = Scope::new(select, factors.get(first..).unwrap_or_default(), first);
        self.open.push(self.scopes.len());
        self.scopes.push(scope);
        let mut finder = Finder { hidden: self, factors, targets };
        let joins = select.from.iter().flat_map(|f| &f.joins);
        for condition in joins.filter_map(|j| on(&j.join_operator)) {
            finder.conjuncts(condition, Constants::Too);
        }
        if let Some(condition) = &select.selection {
            finder.conjuncts(condition, Constants::No);
        }
        if let Some(reference) = listed_alone(select)
            && finder.hidden.compared.contains(&reference.first)
        {
            finder.replace(&reference);
        }
        if groups(select) {
            return;
        }
        if select.distinct.is_none() {
            for reference in order.iter().filter(|r| orders_by_column(select, r)) {
                finder.replace(reference);
            }
        }
        for item in &select.projection {
            let (SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. }) = item
            else {
                continue;
            };
            if let Expr::Function(function) = e {
                finder.extreme(function, functions);
            }
        }
    }

    /// The changes, once all is seen: with them every `*` that would show a hidden column.
    pub(super) fn edits(mut self, factors: &[Factor], targets: &[Arc<Target>]) -> Vec<Edit> {
        let mut edits = std::mem::take(&mut self.edits);
        for scope in &self.scopes {
            let hides = |t: &Shown| {
                t.factor.and_then(|f| factors.get(f)).is_some_and(|f| !f.hidden.is_empty())
            };
            for star in &scope.stars {
                match star {
                    Star::All(at) if scope.tables.iter().any(hides) => {
                        let all = scope.tables.iter().map(|t| t.spelled_out(factors, targets));
                        let all = all.collect::<Vec<_>>().join(", ");
                        edits.push(Edit::Replace(*at, *at, all));
                    }
                    Star::Of(named, first, last) => {
                        let mut tables = scope.tables.iter();
                        let table = tables.find(|t| t.is(named, factors, targets));
                        if let Some(table) = table.filter(|t| hides(t)) {
                            let all = table.spelled_out(factors, targets);
                            edits.push(Edit::Replace(*first, *last, all));
                        }
                    }
                    Star::All(_) => {}
                }
            }
        }
        let known: HashSet<Place> = edits.iter().map(Edit::place).collect();
        edits.extend(self.unqualified.into_iter().filter(|e| !known.contains(&e.place())));
        edits.sort_by_key(Edit::place);
        edits.dedup();
        edits
    }
}

impl Named {
    fn of(name: &ObjectName) -> Option<(Self, Place)> {
        let parts = parts(name)?;
        let (schema, table) = match parts.as_slice() {
            [table] => (None, *table),
            [schema, table] => (Some(*schema), *table),
            _ => return None,
        };
        let first = schema.unwrap_or(table).span.start;
        let named = Self { schema: schema.map(folded), table: folded(table) };
        Some((named, (first.line, first.column)))
    }
}

impl Shown {
    /// Whether a name means this table. With a schema Postgres goes by tables without an alias, and
    /// passes over all else; of these only the sources are known here.
    fn is(&self, named: &Named, factors: &[Factor], targets: &[Arc<Target>]) -> bool {
        let factor = || self.factor.and_then(|f| factors.get(f)).filter(|f| f.alias.is_none());
        let schema = || Some(&targets.get(factor()?.target)?.source.schema);
        self.refname.as_ref() == Some(&named.table)
            && named.schema.as_ref().is_none_or(|s| schema().is_some_and(|o| o.as_str() == s))
    }

    fn spelled_out(&self, factors: &[Factor], targets: &[Arc<Target>]) -> String {
        let name = Ident::new(self.refname.clone().unwrap_or_default()).quoted();
        let target = self.factor.and_then(|f| targets.get(factors.get(f)?.target));
        match target.map(|t| &t.old_shape) {
            Some(Ok(columns)) => {
                let all = columns.iter().map(|c| format!("{name}.{}", c.name.quoted()));
                all.collect::<Vec<_>>().join(", ")
            }
            _ => format!("{name}.*"),
        }
    }
}

impl Scope {
    fn new(select: &Select, factors: &[Factor], first: usize) -> Self {
        let mut all = Vec::new();
        select.from.iter().for_each(|from| flatten(from, &mut all));
        let place = |i: &AstIdent| (i.span.start.line, i.span.start.column);
        let mut tables = Vec::new();
        for table in all {
            let (name, alias) = match table {
                TableFactor::Table { name, alias, .. }
                | TableFactor::Function { name, alias, .. } => {
                    (name.0.last().and_then(|p| p.as_ident()), alias)
                }
                TableFactor::Derived { alias, .. } => (None, alias),
                _ => (None, &None),
            };
            let at = name.map(place);
            let factor = factors.iter().position(|f| Some(f.last_part) == at).map(|i| first + i);
            let refname = alias.as_ref().map(|a| &a.name).or(name).map(folded);
            tables.push(Shown { refname, factor });
        }
        let mut merges = false;
        let mut all_known = true;
        for join in select.from.iter().flat_map(|f| &f.joins) {
            match constraint(&join.join_operator) {
                Some(JoinConstraint::Natural) | None => all_known = false,
                Some(JoinConstraint::Using(_)) => merges = true,
                Some(JoinConstraint::On(_) | JoinConstraint::None) => {}
            }
            // What is joined within parentheses is not looked at.
            all_known &= !matches!(join.relation, TableFactor::NestedJoin { .. });
        }
        let nested = |f: &TableFactor| matches!(f, TableFactor::NestedJoin { .. });
        all_known &= !select.from.iter().any(|f| nested(&f.relation));
        let stars = stars(select);
        let unnamed = tables.iter().any(|t| t.refname.is_none());
        let star = stars.iter().any(|s| matches!(s, Star::All(_)));
        // `TABLE t` has no list of columns, and shows all of them.
        let listed = !select.projection.is_empty();
        let may_hide = all_known && listed && !(star && (merges || unnamed));
        Self { tables, stars, may_hide, groups: groups(select) }
    }
}

/// The column that a query gives, if that is all of it.
fn only_column(query: &Query) -> Option<Reference> {
    match query.body.as_ref() {
        SetExpr::Select(select) if query.order_by.is_none() => listed_alone(select),
        _ => None,
    }
}

fn listed_alone(select: &Select) -> Option<Reference> {
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(e)] if select.distinct.is_none() && !groups(select) => {
            Reference::of(e)
        }
        _ => None,
    }
}

fn groups(select: &Select) -> bool {
    let plain = matches!(&select.group_by, GroupByExpr::Expressions(all, _) if all.is_empty());
    !plain || select.having.is_some()
}

fn stars(select: &Select) -> Vec<Star> {
    let mut found = Vec::new();
    for item in &select.projection {
        match item {
            SelectItem::Wildcard(options) => {
                let at = options.wildcard_token.0.span.start;
                found.push(Star::All((at.line, at.column)));
            }
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) => {
                let last = options.wildcard_token.0.span.start;
                if let Some((named, first)) = Named::of(name) {
                    found.push(Star::Of(named, first, (last.line, last.column)));
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether ORDER BY of this name sorts by the column of that name. A bare name is that of an output
/// column first.
fn orders_by_column(select: &Select, reference: &Reference) -> bool {
    let is_it = |e: &Expr| Reference::of(e).is_some_and(|r| r.name == reference.name);
    reference.table.is_some()
        || select.projection.iter().all(|item| match item {
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => true,
            SelectItem::ExprWithAlias { expr, alias } => {
                folded(alias) != reference.name || is_it(expr)
            }
            SelectItem::UnnamedExpr(Expr::Function(function)) => {
                let last = function.name.0.last().and_then(|p| p.as_ident()).map(folded);
                last.is_some_and(|name| name != reference.name)
            }
            // The name of anything else is that of a part of it, perhaps.
            SelectItem::UnnamedExpr(e) => Reference::of(e).is_some() || matches!(e, Expr::Value(_)),
            SelectItem::ExprWithAliases { .. } => false,
        })
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c)
        | JoinOperator::FullOuter(c)
        | JoinOperator::CrossJoin(c) => Some(c),
        _ => None,
    }
}

fn on(operator: &JoinOperator) -> Option<&Expr> {
    match constraint(operator) {
        Some(JoinConstraint::On(condition)) => Some(condition),
        _ => None,
    }
}

/// Whether conditions with a constant are looked at: those of a WHERE have twins already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Constants {
    Too,
    No,
}

struct Finder<'a> {
    hidden: &'a mut Hidden,
    factors: &'a mut [Factor],
    targets: &'a [Arc<Target>],
}

impl Finder<'_> {
    fn conjuncts(&mut self, condition: &Expr, constants: Constants) {
        conjuncts(condition, |expr| match expr {
            Expr::BinaryOp { left, op, right } if compares(op) => {
                self.comparison(left, right, constants);
            }
            Expr::IsNull(expr) | Expr::IsNotNull(expr) => {
                if let Some(reference) = Reference::of(expr) {
                    self.replace(&reference);
                }
            }
            Expr::InSubquery { expr, subquery, negated: false } => {
                if let Some(reference) = Reference::of(expr) {
                    self.replace(&reference);
                    self.hidden.compared.extend(only_column(subquery).map(|r| r.first));
                }
            }
            _ => {}
        });
    }

    fn comparison(&mut self, left: &Expr, right: &Expr, constants: Constants) {
        let constant = |e: &Expr| {
            matches!(e, Expr::Value(v) if matches!(&v.value, Value::Number(digits, false)
                if digits.bytes().all(|b| b.is_ascii_digit())))
        };
        let sides = (Reference::of(left), Reference::of(right));
        match &sides {
            (Some(a), Some(b)) => {
                self.replace(a);
                self.replace(b);
            }
            (Some(a), None) if constants == Constants::Too && constant(right) => self.replace(a),
            (None, Some(b)) if constants == Constants::Too && constant(left) => self.replace(b),
            _ => {}
        }
    }

    /// `min(column)` or `max(column)`: by the shadow's column, and back to the old type.
    fn extreme(&mut self, function: &Function, functions: &Functions) {
        let [name] = function.name.0.as_slice() else { return };
        let Some(ident) = name.as_ident() else { return };
        let FunctionArguments::List(list) = &function.args else { return };
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = list.args.as_slice() else {
            return;
        };
        let plain = list.duplicate_treatment.is_none()
            && list.clauses.is_empty()
            && function.within_group.is_empty()
            && function.filter.is_none()
            && function.over.is_none();
        let called = folded(ident);
        let known =
            matches!(called.as_str(), "min" | "max") && functions.deterministic.contains(&called);
        let Some(reference) = Reference::of(argument).filter(|_| plain && known) else { return };
        if let Some(type_sql) = self.column(&reference).map(|(_, c)| c.compared_as().to_owned()) {
            self.replace(&reference);
            let at = (ident.span.start.line, ident.span.start.column);
            self.hidden.edits.push(Edit::CastCall(at, type_sql));
        }
    }

    /// Has the query speak of the shadow's own column, if this is a widened one.
    fn replace(&mut self, reference: &Reference) {
        let Some((factor, column)) = self.column(reference) else { return };
        let (Some(shadow), name) = (column.widened_own(), hidden_name(&column.name)) else {
            return;
        };
        let Some(factor) = self.factors.get_mut(factor) else { return };
        let spelled = format!("{}.{}", Ident::new(factor.refname.clone()).quoted(), name.quoted());
        if !factor.hidden.iter().any(|(_, known)| *known == name) {
            factor.hidden.push((shadow, name));
        }
        self.hidden.edits.push(Edit::Replace(reference.first, reference.last, spelled));
    }

    /// The reference to a source and its widened column that this means: by the innermost table of
    /// that name. Were Postgres to see another one there, the hidden name is the same column's.
    fn column(&self, reference: &Reference) -> Option<(usize, &OldColumn)> {
        let scopes = self.hidden.open.iter().rev().filter_map(|i| self.hidden.scopes.get(*i));
        let (scope, shown) = match &reference.table {
            None => {
                let scope = scopes.take(1).find(|s| s.tables.len() == 1)?;
                (scope, scope.tables.first()?)
            }
            Some(table) => scopes
                .flat_map(|s| s.tables.iter().map(move |t| (s, t)))
                .find(|(_, t)| t.is(table, self.factors, self.targets))?,
        };
        let innermost = self.hidden.open.last().and_then(|i| self.hidden.scopes.get(*i));
        let own = innermost.is_some_and(|s| std::ptr::eq(s, scope));
        let index = shown.factor.filter(|_| scope.may_hide && (own || !scope.groups))?;
        let target = self.targets.get(self.factors.get(index)?.target)?;
        let columns = target.old_shape.as_ref().ok()?;
        let column = columns.iter().find(|c| c.name.as_str() == reference.name)?;
        let fits = hidden_name(&column.name).as_str().len() <= NAME_BYTES_MAX;
        (column.widened_as.is_some() && fits).then_some((index, column))
    }
}

fn compares(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}
