//! Why a statement that may write is not understood, and the way out of it: one table. A new
//! reason is one more entry; without a way out it does not compile.
//!
//! The text goes into the mark in the database, into errors, logs and the workload report; the way
//! out is for who writes the SQL. Both are whole without the statement: neither quotes it.

macro_rules! reasons {
    ($($name:ident: $text:literal, $way_out:literal;)*) => {
        /// Why a statement that may write a migrated table is not understood.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $(#[doc = $text] $name,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What stands in the way.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What to change in the SQL or in the settings so that it is understood.
            pub const fn way_out(self) -> &'static str {
                match self {
                    $(Self::$name => $way_out,)*
                }
            }
        }
    };
}

reasons! {
    // Texts.
    NotSql: "not understood as SQL",
        "the server refuses it as a rule; if it does not, send it as statements of their own";
    BodyAmongSeveral: "a function body among several statements",
        "send CREATE FUNCTION … BEGIN ATOMIC as a text of its own";
    UnicodeIdentifier: "an identifier with Unicode escapes",
        "write the identifier itself in double quotes instead of U&\"…\"";
    SqlBytesMax: "it is longer than sql_bytes_max",
        "send shorter statements, or raise sql_bytes_max in [proxy]";
    SqlBufferBytesMax: "it is longer than sql_buffer_bytes_max",
        "send shorter statements, or raise sql_buffer_bytes_max in [proxy]";
    LongValues: "its values are longer than sql_buffer_bytes_max",
        "send shorter values, or raise sql_buffer_bytes_max in [proxy]";
    Encoding: "client_encoding is not UTF8",
        "let the client set client_encoding to UTF8";
    StandardStrings: "standard_conforming_strings is off",
        "turn standard_conforming_strings on, and write E'…' where backslashes escape";
    NotUtf8: "it is not UTF-8",
        "send what client_encoding says: the bytes are not UTF-8";
    // Statements.
    UnknownKind: "a statement of a kind that is not understood",
        "write it as INSERT, UPDATE or DELETE";
    Code: "code that names a migrated table",
        "move its writes on the table out of DO or CALL, into statements of their own";
    CodeUnknown: "code that may write any table",
        "write the tables by name in statements of their own, outside of DO or CALL";
    Through: "it calls or writes what may write a migrated table",
        "write the table by its own name; declare functions that only read STABLE";
    Defines: "it defines something by which the table may be written",
        "nothing: the migration is verified again; define it before the migration begins";
    WithList: "a WITH list that is not understood",
        "drop SEARCH and CYCLE from the WITH list, or compute it in a statement before";
    DataModifyingWith: "a data-modifying WITH",
        "make the inner INSERT, UPDATE or DELETE a statement of its own in the same transaction";
    MergeBefore17: "MERGE before Postgres 17 whose new keys are not said by its INSERT",
        "let INSERT say the values of the key; or write INSERT … ON CONFLICT DO UPDATE";
    ReturningNames: "a column returned by WITH or COPY whose name is not plain",
        "write AS name behind it; name the columns instead of * where tables are joined";
    WithoutReturning: "a WITH item without RETURNING whose name occurs again",
        "give the item another name, or a RETURNING";
    WithItself: "a write in WITH RECURSIVE that says its own name",
        "give the item another name, or leave out RECURSIVE";
    CopyUnclear: "a COPY that is not understood",
        "write COPY table (columns) FROM STDIN";
    CopyFile: "COPY FROM a file or program",
        "send the data: COPY FROM STDIN, or psql's \\copy";
    CopyOption: "COPY FROM with an option that is not understood",
        "leave it out, or COPY into a temporary table and INSERT … SELECT from it";
    CopyWithoutKey: "COPY FROM without the key, which is not filled by a sequence",
        "list the key columns and send their values, or INSERT the rows";
    CopyEncoding: "COPY FROM in an encoding that is not understood",
        "send the data in UTF8";
    CopyTrigger: "COPY FROM into a table with a trigger that may change its key",
        "COPY into a temporary table, then INSERT … SELECT from it";
    CopyArrayKey: "COPY FROM with a key that is an array",
        "COPY into a temporary table, then INSERT … SELECT from it";
    CopyAmong: "COPY FROM among other statements",
        "send COPY FROM STDIN as a text of its own";
    CopyColumns: "COPY FROM of other columns than expected",
        "list the columns in the COPY";
    CopyKeyNull: "COPY FROM with a key that is NULL",
        "send the values of the key columns";
    CopyKeyDefault: "COPY FROM with a key that is a default",
        "send the values of the key columns";
    CopyKeyEscaped: "COPY FROM with a key in escaped bytes",
        "send the bytes themselves instead of their numbers";
    CopyKeyEncoding: "COPY FROM with a key in another encoding",
        "send the data in the encoding of the client";
    CopyData: "COPY FROM of data that are not understood",
        "send the data in another format";
    CopyManyKeys: "COPY FROM of more keys than are kept",
        "send fewer rows per COPY, or rows whose keys are near each other";
    ExplainAnalyze: "EXPLAIN ANALYZE of a write",
        "EXPLAIN without ANALYZE, or analyze it on a copy of the table: it does write";
    TruncateUnclear: "a TRUNCATE that is not understood",
        "write TRUNCATE table, …";
    TruncatePart: "TRUNCATE of a part of the table",
        "DELETE FROM ONLY the part, or TRUNCATE the table as a whole";
    MovesRows: "tables that join the source, or leave it",
        "nothing: the migration is verified again; use unclassified = \"record\" if it is refused";
    KeyUnread: "a write by a role that may not read the key",
        "grant the role SELECT on the key columns";
    RowHidden: "a write by a role from which policies may hide what it writes",
        "let a policy for SELECT ask for what those for writes ask for, or write RETURNING";
    ShadowWrite: "a write on the shadow",
        "write the source: the shadow follows it";
    // The shape of a write.
    OurNames: "a name that the mirrored form uses",
        "choose another name than \"pgsegue …\"";
    WriteShape: "a write of a shape that is not understood",
        "write it as plain INSERT INTO, UPDATE … SET or DELETE FROM";
    TableElsewhere: "a write whose table is not where it is expected",
        "name the table right behind INSERT INTO, UPDATE or DELETE FROM";
    TableInParentheses: "a table in parentheses",
        "take the parentheses off the table";
    ReturningWith: "RETURNING WITH",
        "leave WITH (OLD AS …, NEW AS …) out of RETURNING";
    TwoReturning: "two RETURNING",
        "put the column or table of that name in double quotes";
    ConflictChangesKey: "ON CONFLICT DO UPDATE of a key column",
        "leave the key columns out of DO UPDATE SET";
    MergeChangesKey: "MERGE that changes a key column",
        "leave the key columns out of UPDATE SET; from Postgres 18 on it is understood";
    KeyByTrigger: "a write at which a trigger or a generated column may change the key",
        "let the trigger say NEW only with other columns behind it; or write a plain UPDATE";
    KeyInOwnWith: "a change of the key behind a WITH list within WITH",
        "move the inner WITH items to the list of the statement";
    OldUnnamed: "a change of the key whose RETURNING says old or new",
        "write RETURNING WITH (OLD AS …), and name the old row by that";
    ManyMigrations: "writes on more than 32 migrations",
        "write fewer tables by one statement";
    UpdateWithoutSet: "UPDATE without SET",
        "write UPDATE table SET …";
    KeyAtCursor: "a change of the key WHERE CURRENT OF",
        "find the row by its key instead of by the cursor";
    KeyByVolatile: "a change of the key under a condition that may be volatile",
        "SELECT the keys first, then UPDATE by them";
    // Sessions.
    FailedTransaction: "a write in a failed transaction",
        "nothing, if it fails as it should; end a failed transaction with ROLLBACK";
    NamesChanged: "a write after a change of what names mean",
        "send SET search_path and the like as a text of its own, or write schema.table";
    PreparedInSql: "a statement of SQL-level PREPARE",
        "prepare by the protocol, as drivers do, instead of by PREPARE";
    ExecuteOfWrite: "EXECUTE of a prepared write",
        "prepare by the protocol, as drivers do, instead of by PREPARE and EXECUTE";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_a_text_of_its_own_and_a_way_out_that_fits_on_a_line() {
        let texts: HashSet<_> = Reason::ALL.iter().map(|r| r.text()).collect();
        assert_eq!(texts.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let (text, way_out) = (reason.text(), reason.way_out());
            assert!(!text.is_empty() && text.chars().count() <= 70, "{text}");
            assert!(!way_out.is_empty() && way_out.chars().count() <= 90, "{way_out}");
        }
    }
}
