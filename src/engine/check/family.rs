//! What holds rows of the two tables beside themselves, and what they are parts of.

use super::{Finding, Kind, NAMES_MAX, Subject};
use crate::engine::Error;

/// What inherits from a table over several steps: its name, whether it is a partition, and what it
/// inherits from at once.
const CHILDREN: &str = "WITH RECURSIVE tree (oid, parent) AS (SELECT inhrelid, inhparent FROM pg_inherits WHERE inhparent = $1 \
         UNION SELECT i.inhrelid, i.inhparent FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid) \
     SELECT c.oid::regclass::text, c.relispartition::text, parent::regclass::text \
     FROM tree JOIN pg_class c USING (oid) ORDER BY 1, 3";

/// What a table is a part of, over several steps: the name, and the statement that ends it, of those
/// that it is a part of at once.
const PARENTS: &str = "WITH RECURSIVE up (oid, step) AS (SELECT inhparent, 1 FROM pg_inherits WHERE inhrelid = $1 \
         UNION SELECT i.inhparent, step + 1 FROM up JOIN pg_inherits i ON i.inhrelid = up.oid) \
     SELECT up.oid::regclass::text, CASE WHEN step > 1 THEN '' WHEN c.relispartition \
         THEN format('ALTER TABLE %s DETACH PARTITION %s', up.oid::regclass, c.oid::regclass) \
         ELSE format('ALTER TABLE %s NO INHERIT %s', c.oid::regclass, up.oid::regclass) END \
     FROM up JOIN pg_class c ON c.oid = $1 ORDER BY 1";

/// Both tables, downwards and upwards.
pub(super) async fn check(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let mut findings = children(subject).await?;
    findings.extend(children_of_shadow(subject).await?);
    findings.extend(parents(subject).await?);
    findings.extend(parents_of_shadow(subject).await?);
    Ok(findings)
}

/// Partitions and inheritance children: writes by their names are mirrored.
async fn children(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let rows = subject.rows(CHILDREN, &[&subject.shape.source.oid]).await?;
    let mut findings = Vec::new();
    let mut partitions = Vec::new();
    for row in &rows {
        let [child, partition, parent] = row.as_slice() else { continue };
        if partition == "true" {
            partitions.push(child.as_str());
            continue;
        }
        let message = format!(
            "{child} is an inheritance child of the source: its keys are not unique with the source's"
        );
        let remedy = "let nobody write it, or end the inheritance";
        let end = format!("ALTER TABLE {child} NO INHERIT {parent}");
        findings.push(Finding::warning(Kind::Child, child, message, remedy).run(end));
    }
    if !partitions.is_empty() {
        let names = partitions.iter().take(NAMES_MAX).copied().collect::<Vec<_>>().join(", ");
        let count = match partitions.len() {
            1 => "1 partition".to_owned(),
            many => format!("{many} partitions"),
        };
        let more = if partitions.len() > NAMES_MAX { ", …" } else { "" };
        let message = format!(
            "the source has {count} ({names}{more}): one that joins with rows, or leaves, makes the migration verify everything again"
        );
        let remedy = "nothing: writes by their names are mirrored";
        findings.push(Finding::info(Kind::Child, subject.source(), message, remedy));
    }
    Ok(findings)
}

/// What inherits from the shadow without being a partition: its rows are no source row's, and read,
/// counted and repaired as the shadow's.
async fn children_of_shadow(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let rows = subject.rows(CHILDREN, &[&subject.shape.shadow.oid]).await?;
    let mut findings = Vec::new();
    for row in &rows {
        let [child, partition, parent] = row.as_slice() else { continue };
        if partition == "true" {
            continue;
        }
        findings.push(
            Finding::blocker(
                Kind::Child,
                child,
                format!(
                    "{child} is an inheritance child of the shadow: reads would show its rows, and the \
                     repair delete those without a source row"
                ),
                "end the inheritance, or accept it when it holds no rows and gets none",
            )
            .run(format!("ALTER TABLE {child} NO INHERIT {parent}"))
            .or_accept(),
        );
    }
    Ok(findings)
}

/// What the source is a partition or an inheritance child of.
async fn parents(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let source = subject.source();
    subject
        .each(PARENTS, &[&subject.shape.source.oid], |parent, _| {
            Finding::blocker(
                Kind::Parent,
                parent,
                format!("{source} is a part of {parent}: a write by that name reaches it unseen"),
                "migrate the parent, or accept it when nobody writes by its name",
            )
            .or_accept()
        })
        .await
}

/// What the shadow is a partition or an inheritance child of.
async fn parents_of_shadow(subject: &Subject<'_>) -> Result<Vec<Finding>, Error> {
    let shadow = subject.shadow();
    subject
        .each(PARENTS, &[&subject.shape.shadow.oid], |parent, end| {
            let found = Finding::blocker(
                Kind::Parent,
                parent,
                format!(
                    "{shadow} is a part of {parent}: what pgsegue copies shows up there, and a write by \
                     that name reaches the shadow"
                ),
                "take it out until the cutover, or accept it when nobody uses that name",
            )
            .or_accept();
            if end.is_empty() { found } else { found.run(end) }
        })
        .await
}
