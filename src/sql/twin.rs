//! A condition on a widened column has an exact twin on the shadow's column, which keeps its index:
//! the derived table hides the column behind a cast, and a cast has none.

use super::ident::{Ident, literal};
use super::read_visit::folded;
use super::target::Target;
use sqlparser::ast::{ArrayElemTypeDef, BinaryOperator, DataType, Expr, UnaryOperator, Value};

/// `column op constant` on the shadow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Twin {
    column: Ident,
    operator: &'static str,
    constants: Vec<Constant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Constant {
    /// SQL of our own that reads the same next to a wider column.
    Sql(String),
    /// A parameter, and the type that the client's own condition gives it.
    Param(u16, String),
}

const INTEGERS: [u32; 3] = [20, 21, 23];
const INTEGER_ARRAYS: [u32; 3] = [1016, 1005, 1007];
const TEXTS: [u32; 2] = [25, 1043];
const TEXT_ARRAYS: [u32; 2] = [1009, 1015];

/// What a text is compared as, whatever its column's type.
const TEXT: &str = "pg_catalog.text";

/// Whether a declared type is compared with a column of this one, or an array of it, as it is.
fn fits(declared: u32, column_type: &str) -> bool {
    let types: &[u32] = match (column_type.starts_with(TEXT), column_type.ends_with("[]")) {
        (false, false) => &INTEGERS,
        (false, true) => &INTEGER_ARRAYS,
        (true, false) => &TEXTS,
        (true, true) => &TEXT_ARRAYS,
    };
    types.contains(&declared)
}

impl Twin {
    /// The condition, for parameters declared with these types. Undeclared ones get the type of
    /// the client's own condition: next to a wider column they would be inferred wider, and the
    /// client binds what it always bound. Declared integers compare as they are.
    pub(super) fn sql(&self, declared: impl Fn(u16) -> u32) -> Option<String> {
        let constant = |c: &Constant| match c {
            Constant::Sql(sql) => Some(sql.clone()),
            Constant::Param(n, column_type) => match declared(*n) {
                0 => Some(format!("CAST(${n} AS {column_type})")),
                oid if fits(oid, column_type) => Some(format!("${n}")),
                _ => None,
            },
        };
        let constants = self.constants.iter().map(constant).collect::<Option<Vec<_>>>()?;
        let constants = constants.join(", ");
        let column = self.column.quoted();
        Some(match self.operator {
            "in" => format!("{column} IN ({constants})"),
            "any" => format!("{column} = ANY ({constants})"),
            operator => format!("{column} {operator} {constants}"),
        })
    }
}

/// The twins of the conjuncts of a WHERE, for the table known as `refname`, which may be its own
/// name. A bare column name counts only when the table is alone in its FROM.
pub(super) fn twins(
    selection: &Expr,
    (refname, is_own_name): (&str, bool),
    alone: bool,
    target: &Target,
) -> Vec<Twin> {
    let schema = is_own_name.then(|| target.source.schema.as_str());
    let reader = Conjuncts { refname, schema, alone, target };
    let mut found = Vec::new();
    conjuncts(selection, |expr| reader.conjunct(expr, &mut found));
    found
}

/// Calls `each` with what a condition is put together from by AND, brackets taken off. A loop: chains
/// of conditions may be long.
pub(super) fn conjuncts<'e>(condition: &'e Expr, mut each: impl FnMut(&'e Expr)) {
    let mut open = vec![condition];
    while let Some(expr) = open.pop() {
        match expr {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                open.push(left);
                open.push(right);
            }
            Expr::Nested(inner) => open.push(inner),
            _ => each(expr),
        }
    }
}

struct Conjuncts<'a> {
    refname: &'a str,
    /// What may stand before it.
    schema: Option<&'a str>,
    alone: bool,
    target: &'a Target,
}

impl Conjuncts<'_> {
    fn conjunct(&self, expr: &Expr, found: &mut Vec<Twin>) {
        match expr {
            Expr::BinaryOp { left, op, right } => {
                if let Some(operator) = operator(op) {
                    found.extend(self.twin(left, operator, [&**right]));
                    found.extend(self.twin(right, turned(operator), [&**left]));
                }
            }
            Expr::InList { expr, list, negated: false } => {
                found.extend(self.twin(expr, "in", list));
            }
            Expr::Between { expr, negated: false, low, high } => {
                found.extend(self.twin(expr, ">=", [&**low]));
                found.extend(self.twin(expr, "<=", [&**high]));
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                found.extend(self.twin(left, "any", [&**right]));
            }
            _ => {}
        }
    }

    fn twin<'e>(
        &self,
        column: &Expr,
        operator: &'static str,
        constants: impl IntoIterator<Item = &'e Expr>,
    ) -> Option<Twin> {
        let name = self.column(column)?;
        let columns = self.target.old_shape.as_ref().ok()?;
        let column = columns.iter().find(|c| c.name.as_str() == name)?;
        let widened = column.widened_as.clone()?;
        let array = if operator == "any" { "[]" } else { "" };
        let type_sql = format!("{}{array}", column.compared_as());
        let constants = constants.into_iter().map(|e| constant(e, &type_sql));
        Some(Twin { column: widened, operator, constants: constants.collect::<Option<_>>()? })
    }

    fn column(&self, expr: &Expr) -> Option<String> {
        match expr {
            Expr::Identifier(ident) if self.alone => Some(folded(ident)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [table, column] if folded(table) == self.refname => Some(folded(column)),
                [schema, table, column]
                    if folded(table) == self.refname
                        && Some(folded(schema).as_str()) == self.schema =>
                {
                    Some(folded(column))
                }
                _ => None,
            },
            Expr::Nested(inner) => self.column(inner),
            _ => None,
        }
    }
}

fn operator(op: &BinaryOperator) -> Option<&'static str> {
    Some(match op {
        BinaryOperator::Eq => "=",
        BinaryOperator::Lt => "<",
        BinaryOperator::LtEq => "<=",
        BinaryOperator::Gt => ">",
        BinaryOperator::GtEq => ">=",
        _ => return None,
    })
}

fn turned(operator: &'static str) -> &'static str {
    match operator {
        "<" => ">",
        "<=" => ">=",
        ">" => "<",
        ">=" => "<=",
        same => same,
    }
}

/// A constant whose value next to a wider column is the same.
fn constant(expr: &Expr, column_type: &str) -> Option<Constant> {
    match expr {
        Expr::Value(value) => value_of(&value.value, column_type),
        Expr::Array(list) => {
            let element = column_type.strip_suffix("[]")?;
            let all = list.elem.iter().map(|e| match constant(e, element)? {
                Constant::Sql(sql) => Some(sql),
                // Its type would be that of the elements beside it.
                Constant::Param(..) => None,
            });
            let all = all.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())?.join(", ");
            Some(Constant::Sql(format!("ARRAY[{all}]")))
        }
        Expr::Nested(inner) => constant(inner, column_type),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match (&**expr, column_type) {
            (Expr::Value(value), column_type) if !column_type.starts_with(TEXT) => {
                let Value::Number(..) = &value.value else { return None };
                let Constant::Sql(digits) = value_of(&value.value, column_type)? else {
                    return None;
                };
                Some(Constant::Sql(format!("(-{digits})")))
            }
            _ => None,
        },
        Expr::Cast { expr, data_type, format: None, .. } => {
            let type_sql = match data_type {
                DataType::Array(ArrayElemTypeDef::SquareBracket(element, None)) => {
                    format!("{}[]", named(element)?)
                }
                other => named(other)?.to_owned(),
            };
            if type_sql.starts_with(TEXT) != column_type.starts_with(TEXT) {
                return None;
            }
            match constant(expr, &type_sql)? {
                Constant::Sql(sql) => Some(Constant::Sql(format!("CAST({sql} AS {type_sql})"))),
                Constant::Param(n, _) => Some(Constant::Sql(format!("CAST(${n} AS {type_sql})"))),
            }
        }
        _ => None,
    }
}

/// A type that changes no constant which it is cast to, as far as these go.
fn named(data_type: &DataType) -> Option<&'static str> {
    Some(match data_type {
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) => TEXT,
        DataType::Int(None) | DataType::Integer(None) | DataType::Int4(None) => "integer",
        DataType::BigInt(None) | DataType::Int8(None) => "bigint",
        DataType::SmallInt(None) | DataType::Int2(None) => "smallint",
        _ => return None,
    })
}

fn value_of(value: &Value, column_type: &str) -> Option<Constant> {
    match value {
        // Next to a text it is an error, for whom else.
        Value::Number(..) if column_type.starts_with(TEXT) => None,
        Value::Number(digits, false) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(Constant::Sql(digits.clone()))
        }
        Value::SingleQuotedString(raw) if !raw.contains('\\') => {
            Some(Constant::Sql(literal(&raw.replace("''", "'"))))
        }
        Value::Placeholder(name) => {
            let number = name.strip_prefix('$')?.parse::<u16>().ok().filter(|n| *n > 0)?;
            Some(Constant::Param(number, column_type.to_owned()))
        }
        _ => None,
    }
}
