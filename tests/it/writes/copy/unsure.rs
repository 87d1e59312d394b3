//! A COPY whose keys are not surely known: it runs, and marks the migration in its transaction, or
//! is refused. Rows that are skipped do no harm.

use super::data;
use crate::live::raw::{frame, query};
use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml, text};

const SEEN: &str = "SELECT string_agg(reason, ', ') FROM pgsegue.dirty_keys WHERE key IS NULL";

/// A key that the server makes up from a byte of its own encoding, one that it fills in, and a COPY
/// among other statements.
const UNSURE: &[(&str, &str, &str)] = &[
    ("COPY tags FROM STDIN", "a\\303\\251\tx\n", "escaped"),
    ("COPY tags (note) FROM STDIN", "x\n", "without the key"),
    ("COPY tags FROM STDIN (ENCODING 'latin1')", "\u{e9}\tx\n", "another encoding"),
    ("COPY tags FROM STDIN (ENCODING 'sjis')", "a\tx\n", "not understood"),
];

const TAGS: &str = "CREATE TABLE tags (tag text PRIMARY KEY DEFAULT 'made up', note text)";

const TAGS_TOML: &str = r#"
[[migration]]
name = "tags_v2"
source = "public.tags"
shadow = "public.tags_v2"
key = ["tag"]
[migration.columns]
tag = "tag"
note = "note"
"#;

#[tokio::test]
async fn a_copy_whose_keys_are_not_known_is_marked_in_its_transaction() {
    let ddl = format!("{TAGS}; CREATE TABLE tags_v2 (tag text PRIMARY KEY, note text)");
    let live = Live::ready(&ddl, TAGS_TOML, &["tags_v2"]).await;
    let mut pair = Pair::new(&live, TAGS).await;
    for (sql, lines, why) in UNSURE {
        for end in ["ROLLBACK", "COMMIT"] {
            pair.simple("DELETE FROM tags").await;
            live.until_clean("tags_v2").await;
            pair.simple("BEGIN").await;
            let frames = [query(sql), data(lines.as_bytes(), 2)].concat();
            pair.exchange(sql, &frames, 1).await;
            let seen = pair.live.rows(SEEN).await.concat().concat_strings();
            assert!(seen.contains(why), "{sql}: {seen}");
            assert_eq!(text(&live.db.client, SEEN).await, "", "{sql}");
            pair.simple(end).await;
        }
        pair.simple("DELETE FROM tags").await;
        let frames = [query(sql), data(lines.as_bytes(), 2)].concat();
        pair.exchange(sql, &frames, 1).await;
        live.until_clean("tags_v2").await;
        let shadow = text(&live.db.client, "SELECT tag || note FROM tags_v2").await;
        assert_eq!(shadow, text(&live.db.client, "SELECT tag || note FROM tags").await, "{sql}");
    }
    pair.same();
}

trait Strings {
    fn concat_strings(&self) -> String;
}

impl Strings for Vec<Option<String>> {
    fn concat_strings(&self) -> String {
        self.iter().flatten().map(String::as_str).collect()
    }
}

#[tokio::test]
async fn a_trigger_before_each_row_may_change_keys_so_the_copy_is_marked() {
    let trigger = "
        CREATE FUNCTION other_key() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN NEW.id := NEW.id + 1000; RETURN NEW; END';
        CREATE TRIGGER other_key BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION other_key()";
    let live = Live::ready(
        &format!("{ORDERS};{ORDERS_V2};{trigger}"),
        &orders_toml("", ""),
        &["orders_v2"],
    )
    .await;
    let mut pair = Pair::new(&live, &format!("{ORDERS};{trigger}")).await;
    let before = live.statements("recorded", "write");
    let frames = [query("COPY orders FROM STDIN"), data(b"60\t1\t1\ta\tb\n", 50)].concat();
    pair.exchange("COPY", &frames, 1).await;
    assert!(live.statements("recorded", "write") > before);
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn unclassified_refuse_undoes_a_copy_whose_keys_are_not_known() {
    let ddl = format!("{TAGS}; CREATE TABLE tags_v2 (tag text PRIMARY KEY, note text)");
    let toml = TAGS_TOML.replace("key =", "unclassified = \"refuse\"\nkey =");
    let live = Live::ready(&ddl, &toml, &["tags_v2"]).await;
    let mut raw = live.raw().await;
    let escaped = data(b"a\\303\\251\tx\n", 2);
    let sql = "COPY tags FROM STDIN";
    let said = raw.exchange(&[query(sql), escaped.clone()].concat(), 1).await;
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with('G') && said[1].contains("C0A000"), "{said:?}");
    assert_eq!(said[2], "Z I");
    let said = raw.exchange(&super::extended(sql, &escaped), 1).await;
    assert!(said[said.len() - 2].contains("C0A000"), "{said:?}");
    let tags: String = said.iter().map(|line| &line[..1]).collect();
    assert_eq!(tags, "12nGEZ", "{said:?}");
    raw.exchange(&[query("COPY tags (note) FROM STDIN")].concat(), 1).await;
    let known = [query(sql), frame(b'd', b"b\tx\n"), frame(b'c', b"")].concat();
    assert_eq!(raw.exchange(&known, 1).await[1..], ["C COPY 1", "Z I"]);
    assert_eq!(text(&live.db.client, "SELECT tag FROM tags_v2").await, "b");
    assert_eq!(text(&live.db.client, "SELECT tag FROM tags").await, "b");
    assert_eq!(live.dirty().await, []);
}

#[tokio::test]
async fn rows_that_are_skipped_for_their_values_do_no_harm() {
    let live = Live::orders("", "").await;
    let mut raw = live.raw().await;
    let version: u32 =
        raw.rows("SHOW server_version_num").await[0][0].clone().unwrap().parse().unwrap();
    let sql = "COPY orders (id, user_id) FROM STDIN (ON_ERROR ignore)";
    let lines = "60\t1\nsixty\t1\n61\tx\n99999999999\t1\n62\t1\n";
    let said = raw.exchange(&[query(sql), data(lines.as_bytes(), 9)].concat(), 1).await;
    if version >= 170_000 {
        assert_eq!(said[said.len() - 2..], ["C COPY 2", "Z I"], "{said:?}");
        assert_eq!(live.dirty().await, []);
    } else {
        assert!(said[0].contains("on_error"), "{said:?}");
    }
    live.orders_in_step().await;
}
