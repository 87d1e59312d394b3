//! What the SQL layer has to know of one migration: names, key, old shape. Built by the engine
//! from the manifest and the catalog; immutable.

use super::ident::{Ident, QualifiedName};
use super::reason::Reason;
use super::ways::Ways;
use std::collections::{BTreeMap, HashSet};

/// One migration, as far as statements are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The migration's name, for metrics and logs.
    pub migration: String,
    /// The table that the apps name.
    pub source: QualifiedName,
    /// The table of the new shape.
    pub shadow: QualifiedName,
    /// The source's `pg_class.oid`.
    pub source_oid: u32,
    /// The shadow's `pg_class.oid`.
    pub shadow_oid: u32,
    /// What holds rows of the source besides itself, by unqualified name: partitions at every level,
    /// and what inherits from it.
    pub parts: BTreeMap<String, Vec<Part>>,
    /// Key columns of the source, in the order of the sync function's array arguments.
    pub key: Vec<Ident>,
    /// All live columns of the source in attnum order.
    pub columns: Vec<Ident>,
    /// The same, each with the way back from the shadow.
    /// `Err` holds why the migration cannot serve reads (a column without a reverse mapping).
    pub old_shape: Result<Vec<OldColumn>, String>,
    /// `"pgsegue"."sync_…"`: `(key arrays…, mode int4) → int4`.
    pub sync_function: String,
    /// `"pgsegue"."follow_…"`: `(key…, mode int4) → int4`, for one row that the calling statement has
    /// written; none before it is installed.
    pub follow_function: Option<String>,
    /// `"pgsegue"."truncated_…"`: `(mode int4) → int4`, the step behind a TRUNCATE; none before it is
    /// installed.
    pub truncate_function: Option<String>,
    /// `"pgsegue"."whole_…"`: `() → int4`, fails where the calling transaction has taken away one of the
    /// tables, or a column of one; none before it is installed.
    pub whole_function: Option<String>,
    /// `"pgsegue"."mark_…"`: `(reason text) → void`, records that any row may be stale.
    pub mark_function: String,
    /// What marks for as long as a statement runs; none before it is installed.
    pub hold: Option<Hold>,
    /// The server's major version: what its SQL can say.
    pub server_version: u32,
    /// What reading along with COPY … FROM STDIN needs. `Err` holds why it cannot be.
    pub copy: Result<Copyable, Reason>,
    /// Whether an UPDATE may change the key without naming it: by a trigger before each row, or
    /// because the key is generated from other columns.
    pub update_changes_key: bool,
    /// A trigger runs before each updated row, whatever it does.
    pub runs_before_update: bool,
    /// An integer column of the key by which the rows of a COPY can be found.
    pub counted: Option<Counted>,
    /// Who may do what, as far as statements are decided by it.
    pub privileges: Privileges,
}

/// Functions around a statement that may commit on its way and go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// `"pgsegue"."hold_…"`: `(reason text) → void`, records that any row may be stale; that is not worked
    /// off before the session has released it, or is gone.
    pub function: String,
    /// `"pgsegue"."release_…"`: `() → void`; marks if there was nothing to release.
    pub release: String,
}

/// The tables that some role may write without seeing what it wrote, as a mirrored form does: by object
/// id, of the source and its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Some role may write these and not read their key.
    pub keyless: Vec<u32>,
    /// Policies of these may hide a row from the role that wrote it.
    pub hiding: Vec<u32>,
    /// Whether everything that a mirrored form calls is there, for whoever may write the source.
    pub callable: bool,
    /// Changes when what some role may do with the source, its parts or the shadow may have.
    pub fingerprint: String,
}

/// An integer column of the key by which the rows of a COPY can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The column.
    pub column: Ident,
    /// What fills it.
    pub filled: Filled,
    /// What finds the rows; none before it is installed.
    pub functions: Option<CountedFunctions>,
}

/// What fills an integer column of the key that a COPY leaves out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// A sequence.
    BySequence,
    /// Anything else.
    Otherwise,
}

/// What runs around a COPY whose rows are found by such a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedFunctions {
    /// `"pgsegue"."before_copy_…"`: `() → text`, what the sequence stands at.
    pub before: String,
    /// `"pgsegue"."after_copy_…"`: `(borders text, rows int8, mode int4) → int4`, feeds the keys
    /// of the rows that have come to the sync function: since what `before` has said, or between
    /// two keys.
    pub after: String,
}

/// A source that COPY … FROM STDIN fills as its data say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copyable {
    /// The columns of a COPY that lists none: live, not generated, in attnum order.
    pub columns: Vec<Ident>,
    /// The types of the key columns.
    pub key_types: Vec<KeyType>,
}

/// The type of a key column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyType {
    /// As `format_type` prints it, typmod included, for any search_path.
    pub sql: String,
    /// `pg_type.oid`.
    pub oid: u32,
}

/// A table that holds rows of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// Its live columns in attnum order, which may be another than the source's.
    pub columns: Vec<Ident>,
}

/// Parts by their unqualified names.
pub fn by_name(parts: &[Part]) -> BTreeMap<String, Vec<Part>> {
    let mut named: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for part in parts {
        named.entry(part.name.name.as_str().to_owned()).or_default().push(part.clone());
    }
    named
}

impl Target {
    /// The functions that mirrored forms and marks call.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        let counted = self.counted.as_ref().and_then(|counted| counted.functions.as_ref());
        let counted = counted.into_iter().flat_map(|f| [f.before.as_str(), f.after.as_str()]);
        [self.sync_function.as_str(), self.mark_function.as_str()]
            .into_iter()
            .chain(self.follow_function.as_deref())
            .chain(self.truncate_function.as_deref())
            .chain(self.whole_function.as_deref())
            .chain(self.hold.iter().flat_map(|h| [h.function.as_str(), h.release.as_str()]))
            .chain(counted)
    }

    /// The names by which a statement may reach the tables of the migration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let tables = [self.source.name.as_str(), self.shadow.name.as_str()];
        tables.into_iter().chain(self.parts.keys().map(String::as_str))
    }
}

/// One column of the source, expressed over the shadow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldColumn {
    /// The source's column name.
    pub name: Ident,
    /// Its type as `format_type` prints it, typmod included, for any search_path.
    pub type_sql: String,
    /// Its collation, quoted; none where the type has none.
    pub collation_sql: Option<String>,
    /// How to get it from the shadow's columns.
    pub reverse: Reverse,
    /// The shadow column whose mapping is this column under an order-preserving widening cast:
    /// a predicate on the column then has an exact twin there.
    pub widened_as: Option<Ident>,
}

impl OldColumn {
    /// The type that constants next to it get, and that min and max of it have: a text has no length
    /// there.
    pub fn compared_as(&self) -> &str {
        match self.type_sql.starts_with("character varying") {
            true => "pg_catalog.text",
            false => &self.type_sql,
        }
    }

    /// The shadow's own column of the same values. Beside a `char(n)` a text is compared as another type
    /// than a `varchar`: it is made one of those again, which costs it no index.
    pub fn widened_own(&self) -> Option<String> {
        let column = self.widened_as.as_ref()?.quoted();
        Some(match self.type_sql.starts_with("character varying") {
            true => format!("CAST({column} AS pg_catalog.varchar)"),
            false => column,
        })
    }
}

/// The way back from the shadow for one source column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reverse {
    /// A shadow column of the same type, typmod and collation: flattens, indexes serve.
    Bare(Ident),
    /// SQL over the shadow's columns; it is cast to the old type and collation.
    Expression(String),
}

/// What the server's catalog says about functions, by unqualified lower-case name. A name counts
/// only if every overload in every schema qualifies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Functions {
    /// No overload is volatile.
    pub non_volatile: HashSet<String>,
    /// Every overload is immutable, or an aggregate whose result does not hang on input order.
    pub deterministic: HashSet<String>,
    /// How migrated tables may be written without being named.
    pub ways: Ways,
}

/// The `mode` argument of a sync function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyncMode {
    /// Bring the keys in step; record those that could not be.
    Sync = 0,
    /// As `Sync`, and record every deleted or vacated key: a chunk in flight may resurrect it.
    SyncRecordDeletes = 1,
    /// Only record the keys: the shadow is slow, the transaction has used up its budget, or statements of before
    /// dual write may run yet.
    RecordOnly = 2,
    /// For the repair worker: errors are raised, nothing is recorded.
    Repair = 3,
    /// As `Sync`, for keys that were inserted, if at all: those without a source row are none.
    Inserted = 4,
}

impl SyncMode {
    /// The number that the SQL function takes.
    pub fn as_sql(self) -> i32 {
        self as i32
    }
}
