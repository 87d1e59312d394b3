//! What the server writes by itself behind a statement: by a trigger or a foreign key that the operator has
//! accepted. It is not mirrored; the verify finds it.

use crate::live::{Live, ORDERS, ORDERS_TABLE, ORDERS_V2, Pair, orders_toml};

const TRIGGERS: &str = "
    CREATE FUNCTION next_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE orders SET note = note || '+' WHERE id = NEW.id + 1; RETURN NULL; END $$;
    CREATE TRIGGER next_one AFTER UPDATE OF total ON orders FOR EACH ROW EXECUTE FUNCTION next_one();
    CREATE FUNCTION counts() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO orders VALUES (NEW.id + 100, 1, 1); DELETE FROM orders WHERE id = NEW.orders_id;
        RETURN NULL; END $$;
    CREATE TRIGGER counts AFTER UPDATE ON other FOR EACH ROW EXECUTE FUNCTION counts()";

const TRIGGERS_ACCEPTED: &str = r#"accepted = ["trigger public.orders.next_one",
    "function public.next_one()", "function public.counts()"]"#;

const KEYS: &str = "
    CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users SELECT generate_series(0, 9);
    ALTER TABLE orders ADD CONSTRAINT of_user FOREIGN KEY (user_id) REFERENCES users
        ON DELETE CASCADE ON UPDATE CASCADE";

const KEYS_ACCEPTED: &str = "accepted = [\"foreign key public.orders.of_user\"]";

/// Runs each statement, asks for a verify, and compares.
async fn is_found(hazards: &str, accepted: &str, statements: &[&str]) {
    let ddl = format!("{ORDERS};{hazards}");
    let live =
        Live::ready(&format!("{ddl};{ORDERS_V2}"), &orders_toml(accepted, ""), &["orders_v2"])
            .await;
    let mut pair = Pair::new(&live, &ddl).await;
    let found = || {
        let of_kind = |kind: &str| {
            let labels = format!("{{kind=\"{kind}\",migration=\"orders_v2\"}}");
            live.proxy.metric(&format!("pgsegue_verify_differences_total{labels}")).unwrap_or(0.0)
        };
        ["missing", "orphaned", "different"].map(of_kind).iter().sum::<f64>()
    };
    for sql in statements {
        let before = found();
        pair.simple(sql).await;
        pair.simple("SELECT * FROM orders ORDER BY id").await;
        live.verified("orders_v2").await;
        live.orders_in_step().await;
        assert!(found() > before, "nothing was found behind {sql}");
        // One that finds nothing, before an operator is asked about those that do.
        live.verified("orders_v2").await;
    }
    pair.finish(&live, &[ORDERS_TABLE]).await;
}

#[tokio::test]
async fn what_an_accepted_trigger_writes_is_found_and_repaired_by_the_verify() {
    let statements = [
        "UPDATE orders SET total = total + 1 WHERE id = 5",
        "UPDATE orders SET total = total + 1",
        "UPDATE other SET note = 'x' WHERE id = 2",
        "BEGIN; UPDATE other SET note = 'y' WHERE id IN (3, 4); COMMIT",
    ];
    is_found(TRIGGERS, TRIGGERS_ACCEPTED, &statements).await;
}

#[tokio::test]
async fn what_an_accepted_foreign_key_cascades_is_found_and_repaired_by_the_verify() {
    let statements = ["UPDATE users SET id = 11 WHERE id = 1", "DELETE FROM users WHERE id = 2"];
    is_found(KEYS, KEYS_ACCEPTED, &statements).await;
}
