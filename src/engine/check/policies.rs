//! Row level security on either side.

use super::{Finding, Kind, Subject};
use crate::engine::Error;
use crate::engine::shape::Relation;

/// Whether policies hide rows from us, from writers, or from readers of one side only.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let (source, shadow) = (&subject.shape.source, &subject.shape.shadow);
    let mut findings = Vec::new();
    for relation in [source, shadow] {
        let table = relation.name.spelled();
        // The pinned row_security = off does not count: this asks for the role's policies.
        if subject.holds("SELECT row_security_active($1::oid)", &[&relation.oid]).await? {
            findings.push(
                Finding::blocker(
                    Kind::RowSecurity,
                    &table,
                    format!("row level security hides rows of {table} from the control role"),
                    "give the control role BYPASSRLS (a superuser can), or make it the owner of the table",
                )
                .run(format!("ALTER ROLE {} BYPASSRLS", subject.role().await?)),
            );
        }
    }
    findings.extend(hidden(subject));
    findings.extend(differing(subject).await?);
    findings.extend(parts(subject).await?);
    Ok(findings)
}

/// Tables of the source whose policies may hide a row from the role that writes it: a mirrored form
/// returns its key, and would be refused.
fn hidden(subject: &Subject<'_>) -> Option<Finding> {
    if subject.shape.privileges.hiding.is_empty() {
        return None;
    }
    let table = subject.source();
    let message = format!(
        "policies may hide a row of {table} from the role that writes it; such a role's writes \
         without RETURNING are recorded, and followed by a full verify each time"
    );
    let remedy = "let a policy for SELECT ask for what those for writes ask for, of the same roles";
    Some(Finding::warning(Kind::RowSecurity, table, message, remedy).or_accept())
}

/// Parts of the source with policies of their own: they filter what names the part, and nothing else.
async fn parts(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let (source, shadow) = (subject.source(), subject.shadow());
    let parts: Vec<u32> = subject.shape.parts.iter().map(|part| part.oid).collect();
    let sql = "SELECT oid::regclass::text FROM pg_class WHERE oid = ANY ($1) AND relrowsecurity ORDER BY 1";
    subject
        .each(sql, &[&parts], |part, _| {
            Finding::warning(
                Kind::Policies,
                part,
                format!(
                    "{part} has row level security of its own, which filters statements by that name: \
                     neither those that name {source} nor reads of {shadow}"
                ),
                "give both tables policies of the same meaning before roles that it filters read the \
                 shadow, or accept it",
            )
            .or_accept()
        })
        .await
}

async fn is_secured(subject: &Subject<'_>, relation: &Relation) -> Result<bool, Error> {
    subject.holds("SELECT relrowsecurity FROM pg_class WHERE oid = $1", &[&relation.oid]).await
}

/// What a policy says, apart from its table; and the statement that makes it, without the table.
async fn policies(subject: &Subject<'_>, relation: &Relation) -> Result<Vec<[String; 2]>, Error> {
    let rows = subject
        .rows(
            "SELECT concat_ws(' ', CASE WHEN polpermissive THEN 'AS PERMISSIVE' ELSE 'AS RESTRICTIVE' END, \
                 'FOR ' || CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' \
                     WHEN 'd' THEN 'DELETE' ELSE 'ALL' END, \
                 'TO ' || coalesce((SELECT string_agg(quote_ident(rolname), ', ' ORDER BY rolname) \
                     FROM pg_roles r WHERE r.oid = ANY (polroles)), 'PUBLIC'), \
                 'USING (' || pg_get_expr(polqual, polrelid) || ')', \
                 'WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')'), quote_ident(polname) \
             FROM pg_policy WHERE polrelid = $1 AND polcmd IN ('r', '*') ORDER BY polname",
            &[&relation.oid],
        )
        .await?;
    Ok(rows.into_iter().filter_map(|row| <[String; 2]>::try_from(row).ok()).collect())
}

/// A read on the shadow runs as its client, under the shadow's policies alone.
async fn differing(subject: &Subject<'_>) -> Result<Option<Finding>, Error> {
    let (source, shadow) = (&subject.shape.source, &subject.shape.shadow);
    let secured = (is_secured(subject, source).await?, is_secured(subject, shadow).await?);
    let (of_source, of_shadow) =
        (policies(subject, source).await?, policies(subject, shadow).await?);
    let table = shadow.name.quoted();
    let enable = format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY");
    let missing = of_source.iter().filter(|[what, _]| of_shadow.iter().all(|[w, _]| w != what));
    // Those for writes as well: a name is taken, whatever it is for.
    let sql = "SELECT quote_ident(polname) FROM pg_policy WHERE polrelid = $1";
    let taken = subject.rows(sql, &[&shadow.oid]).await?.concat();
    let create = missing.flat_map(|[what, name]| {
        let drop = taken.contains(name).then(|| format!("DROP POLICY {name} ON {table}"));
        drop.into_iter().chain([format!("CREATE POLICY {name} ON {table} {what}")])
    });
    let (source, shadow) = (subject.source(), subject.shadow());
    let remedy = "give the shadow policies of the same meaning, over its own columns";
    let found = match secured {
        (false, false) => return Ok(None),
        (true, false) => Finding::blocker(
            Kind::Policies,
            &shadow,
            format!("{source} has row level security and {shadow} has none: a read that the shadow serves would show rows that the source hides"),
            remedy,
        )
        .run(enable),
        (false, true) => Finding::warning(
            Kind::Policies,
            &shadow,
            format!("{shadow} has row level security and {source} has none: a read that the shadow serves may show less"),
            "let the shadow show what the source shows",
        )
        .run(format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")),
        (true, true) => {
            let words = |all: &[[String; 2]]| {
                let mut words: Vec<String> = all.iter().map(|[what, _]| what.clone()).collect();
                words.sort();
                words
            };
            if words(&of_source) == words(&of_shadow) {
                return Ok(None);
            }
            Finding::blocker(
                Kind::Policies,
                &shadow,
                format!("the policies for reads of {shadow} differ from those of {source}"),
                "compare them; accept it when they let through the same rows",
            )
            .or_accept()
        }
    };
    Ok(Some(if secured.0 { create.fold(found, Finding::run) } else { found }))
}
