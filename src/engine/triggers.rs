//! Whether the triggers before each row of a source may change its key: then a write's text does not
//! say which keys it leaves, nor a COPY's data which it writes.

use super::Error;
use super::shape::{Column, Filled};
use crate::sql::ident::Ident;
use crate::sql::lex::{self, Kind, Token, identifier};
use crate::sql::target::Part;
use tokio_postgres::{GenericClient, Row};

/// What may change a key beside the statement itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyChanges {
    /// Before an INSERT.
    pub on_insert: bool,
    /// At an UPDATE.
    pub on_update: bool,
    /// What runs before each updated row.
    pub before_update: BeforeUpdate,
}

/// What runs before each updated row, whatever it does to the key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BeforeUpdate {
    /// Nothing.
    #[default]
    Nothing,
    /// A trigger.
    Triggers,
}

/// Triggers of the server's own and of its `spi` module that set a column which is named by an
/// argument, or none: source file of the function, or its language and name.
const SETTERS: [(&str, &str); 5] = [
    ("internal", "suppress_redundant_updates_trigger"),
    ("internal", "tsvector_update_trigger_byid"),
    ("internal", "tsvector_update_trigger_bycolumn"),
    ("c", "moddatetime"),
    ("c", "insert_username"),
];

/// Looks at the triggers of a source and of what else holds its rows. Bits of `tgtype`: 1 each row, 2
/// before, 4 INSERT, 16 UPDATE.
pub(super) async fn key_changes(
    client: &impl GenericClient,
    (source, parts): (u32, &[Part]),
    key: &[&Column],
) -> Result<KeyChanges, Error> {
    let tables: Vec<_> = parts.iter().map(|part| part.oid).chain([source]).collect();
    let rows = client
        .query(
            "SELECT t.tgtype & 4 <> 0, t.tgtype & 16 <> 0, l.lanname::text, p.prosrc, \
             encode(t.tgargs, 'escape') FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
             JOIN pg_language l ON l.oid = p.prolang WHERE t.tgtype & 3 = 3 AND NOT t.tgisinternal \
             AND t.tgenabled <> 'D' AND t.tgrelid = ANY ($1)",
            &[&tables],
        )
        .await?;
    let names: Vec<_> = key.iter().map(|column| &column.name).collect();
    let generated = key.iter().any(|column| column.filled == Filled::Generated);
    let mut changes = KeyChanges { on_update: generated, ..KeyChanges::default() };
    for row in rows {
        if row.try_get(1)? {
            changes.before_update = BeforeUpdate::Triggers;
        }
        if may_change(&row, &names)? {
            changes.on_insert |= row.try_get::<_, bool>(0)?;
            changes.on_update |= row.try_get::<_, bool>(1)?;
        }
    }
    Ok(changes)
}

fn may_change(row: &Row, key: &[&Ident]) -> Result<bool, Error> {
    let (language, source): (String, String) = (row.try_get(2)?, row.try_get(3)?);
    if language == "plpgsql" {
        return Ok(!keeps(&source, key));
    }
    let arguments: String = row.try_get(4)?;
    let setter = SETTERS.contains(&(language.as_str(), source.as_str()));
    Ok(!setter || key.iter().any(|column| arguments.contains(column.as_str())))
}

/// Whether a body in PL/pgSQL surely leaves these columns of the row alone: it says NEW only to
/// return it, or with another column behind it, and returns nothing else but OLD and NULL.
fn keeps(body: &str, key: &[&Ident]) -> bool {
    let Ok(tokens) = lex::tokens(body) else { return false };
    let word = |at: Option<usize>| -> Option<String> {
        at.and_then(|i| tokens.get(i)).and_then(|t| identifier(body, t))
    };
    let is = |at: Option<usize>, kind: Kind| {
        at.and_then(|i| tokens.get(i)).is_some_and(|t: &Token| t.kind == kind)
    };
    (0..tokens.len()).all(|i| {
        let (before, next) = (i.checked_sub(1), i.checked_add(1));
        match word(Some(i)).as_deref() {
            Some("new") if is(next, Kind::Dot) => {
                word(i.checked_add(2)).is_some_and(|name| key.iter().all(|k| k.as_str() != name))
            }
            Some("new") => word(before).as_deref() == Some("return"),
            Some("return") => {
                is(i.checked_add(2), Kind::Semicolon)
                    && matches!(word(next).as_deref(), Some("new" | "old" | "null"))
            }
            // An alias of the row would be one more name of it; code that is built may say anything.
            Some("alias" | "execute") => false,
            _ => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_keeps_the_key_is_told_from_one_that_may_not() {
        let key = [&Ident::new("id"), &Ident::new("Kind")];
        let keeps = |body: &str| keeps(&format!("BEGIN {body} END"), &key);
        for body in [
            "NEW.at := now(); RETURN NEW;",
            "new.at = clock_timestamp(); return new;",
            "IF NEW.total <> OLD.total THEN NEW.version := OLD.version + 1; END IF; RETURN NEW;",
            "IF OLD.id = 3 THEN RETURN NULL; END IF; RETURN OLD;",
            "-- NEW.id := 3;\n NEW.kind := 'NEW.id'; RETURN NEW;",
            "INSERT INTO audit VALUES (OLD.id, 'x'); RETURN NEW;",
        ] {
            assert!(keeps(body), "{body}");
        }
        for body in [
            "NEW.id := 4; RETURN NEW;",
            "NEW.\"id\" := 4; RETURN NEW;",
            "\"new\".ID = 4; RETURN NEW;",
            "NEW.\"Kind\" := 'a'; RETURN NEW;",
            "SELECT 4 INTO NEW.id; RETURN NEW;",
            "SELECT * INTO NEW FROM orders; RETURN NEW;",
            "NEW := jsonb_populate_record(NEW, '{}'); RETURN NEW;",
            "NEW = f(OLD); RETURN NEW;",
            "RETURN f(NEW);",
            "RETURN r;",
            "RETURN (1, 2, 3);",
            "PERFORM f(NEW); RETURN NEW;",
            "DECLARE r ALIAS FOR NEW; BEGIN r.id := 3; END; RETURN NEW;",
            "EXECUTE 'SELECT 1' INTO NEW; RETURN NEW;",
            "RETURN NEW; 'unterminated",
        ] {
            assert!(!keeps(body), "{body}");
        }
    }
}
