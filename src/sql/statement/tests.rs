//! Texts and what they mean, as tables.

use super::*;
use crate::sql::ident::{Ident, QualifiedName};
use crate::sql::prefilter::{Prefilter, Verdict};
use crate::sql::target::Privileges;
use crate::sql::ways::Ways;

fn targets() -> Vec<Arc<Target>> {
    vec![Arc::new(Target {
        migration: "m".into(),
        source: QualifiedName::parse("public.orders").unwrap(),
        shadow: QualifiedName::parse("public.orders_v2").unwrap(),
        source_oid: 1,
        shadow_oid: 2,
        parts: crate::sql::target::by_name(&[crate::sql::target::Part {
            columns: Vec::new(),
            oid: 3,
            name: QualifiedName::parse("parts.orders_1").unwrap(),
        }]),
        key: vec![Ident::new("id")],
        columns: Vec::new(),
        old_shape: Ok(Vec::new()),
        sync_function: "s".into(),
        follow_function: None,
        truncate_function: None,
        whole_function: None,
        hold: None,
        mark_function: "m".into(),
        server_version: 15,
        copy: Ok(crate::sql::target::Copyable {
            columns: vec![Ident::new("id")],
            key_types: vec![],
        }),
        update_changes_key: false,
        runs_before_update: false,
        counted: None,
        privileges: Privileges::default(),
    })]
}

fn class(sql: &str) -> String {
    let understanding = understand(sql, &targets(), &Functions::default());
    let names = understanding.statements.iter().map(|s| match &s.class {
        Class::Passthrough => "pass".to_owned(),
        Class::Read(read) => if read.fit.is_ok() { "read" } else { "source" }.to_owned(),
        Class::Write(write) => {
            write.verb().map_or_else(|| "within".to_owned(), |verb| verb.as_str().to_lowercase())
        }
        Class::Truncate(t) => format!("truncate {:?} {:?} {:?}", t.named, t.reach, t.extent),
        Class::Prepare(p) => {
            format!("prepare {} {:?} {:?}", p.name, &sql[p.types.clone()], &sql[p.body.clone()])
        }
        Class::Execute(e) => format!("execute {}", e.name),
        Class::Deallocate(d) => format!("{d:?}"),
        Class::Cascade => "cascade".to_owned(),
        Class::Ddl(_) => "ddl".to_owned(),
        Class::CopyFrom(..) => "copy".to_owned(),
        Class::Unclassified(_) => "unclassified".to_owned(),
    });
    names.collect::<Vec<_>>().join(" ")
}

const CLASSES: &[(&str, &str)] = &[
    ("", ""),
    (" ; ; ", ""),
    ("select 1", "pass"),
    ("select 'orders'", "pass"),
    ("select orders.a from x as orders", "source"),
    ("select a from other.orders", "pass"),
    ("select a from orders", "read"),
    ("select a from public.orders o join x on x.id = o.id", "read"),
    ("table orders", "read"),
    ("select a from only orders", "source"),
    ("select a from \"Orders\"", "pass"),
    ("select a from \"orders\"", "read"),
    ("select a from orders_v2", "pass"),
    ("(select a from orders) union select 1", "read"),
    ("with d as (delete from x returning *) select * from orders", "pass"),
    ("with d as (delete from orders returning *) select 1", "within"),
    ("with d as (select 1) update orders set a = 1", "update"),
    ("with d as (delete from x returning *) insert into orders select * from d", "insert"),
    ("with d as (delete from orders returning *) insert into x select * from d", "within"),
    ("insert into orders with d as (delete from x returning *) select * from d", "unclassified"),
    ("insert into x select * from orders", "pass"),
    ("insert into orders values (1); update orders set a = 2", "insert update"),
    ("update orders_v2 set a = 1", "unclassified"),
    ("update x set orders = 1", "pass"),
    ("update orders set a = 1 where", "pass"),
    ("update orders set", "pass"),
    ("update orders set a = b *", "pass"),
    ("delete from orders returning", "pass"),
    ("delete from orders returning *", "delete"),
    ("delete from orders returning orders.*", "delete"),
    ("update orders set a = default", "update"),
    ("with x as (with y as (select 1) delete from orders returning 1) select 1 from x", "within"),
    (
        "with x as (with y as (select 1) delete from orders returning 1) update t set a = 1",
        "within",
    ),
    ("create table t as with x as (delete from orders returning *) select * from x", "within"),
    ("create table t as select * from orders", "pass"),
    ("copy binary orders from '/x'", "unclassified"),
    ("truncate parent cascade", "truncate [] Cascade Whole"),
    ("truncate parent", "pass"),
    ("explain (\"analyze\") delete from orders", "unclassified"),
    ("select a from orders where id in (select 1) for update", "source"),
    ("merge into orders using x on true when matched then delete", "merge"),
    (
        "merge into orders using x on true when not matched then insert (b) values (1)",
        "unclassified",
    ),
    ("merge into x using orders on true when matched then delete", "pass"),
    ("copy orders from stdin", "copy"),
    ("copy orders (a, id) from stdin csv", "copy"),
    ("copy orders (a) from stdin", "unclassified"),
    ("copy orders from stdin (what)", "unclassified"),
    ("copy orders_v2 from stdin", "unclassified"),
    ("copy public.orders (a, b) to stdout", "pass"),
    ("copy (select * from orders) to stdout", "pass"),
    ("copy (update orders set a = 1 returning a) to stdout", "update"),
    ("copy (update orders set a = 1) to stdout", "pass"),
    ("copy (with x as (delete from orders) insert into b select 1) to stdout", "pass"),
    ("copy (update orders set a = (delete from orders returning a)) to stdout", "pass"),
    ("copy (with x as (delete from orders) select 1) to stdout", "within"),
    ("(with x as (delete from orders returning a) select a from x) order by 1", "within"),
    ("(with x as (delete from orders) select 1) union select 1", "unclassified"),
    ("(delete from orders)", "unclassified"),
    ("with x as (delete from orders) select 1 from x", "unclassified"),
    ("with x as (delete from orders_v2) select 1", "unclassified"),
    ("with x as (delete from orders returning a::int) select 1 from x", "unclassified"),
    ("with recursive x as (update orders set a = x.a from x returning 1) select 1", "unclassified"),
    ("with x as (delete from orders), y as (update t set a = 1) select 1", "within"),
    ("select 1 from (with x as (delete from orders) select 1) y", "unclassified"),
    ("truncate orders", "truncate [0] Named Whole"),
    ("TRUNCATE TABLE x, public.Orders * RESTART IDENTITY", "truncate [0] Named Whole"),
    ("truncate x, only (orders), y continue identity cascade", "truncate [0] Cascade Part"),
    ("truncate only x, orders restrict", "truncate [0] Named Whole"),
    ("truncate orders, orders_v2", "unclassified"),
    ("truncate only x, elsewhere.orders", "pass"),
    ("truncate orders cascade restart identity", "unclassified"),
    ("explain select * from orders", "pass"),
    ("explain analyze delete from orders", "unclassified"),
    ("explain (costs, \"analyze\", timing off) delete from orders", "unclassified"),
    ("explain (analyze off, analyze) delete from orders", "unclassified"),
    ("explain (analyze on) delete from orders", "unclassified"),
    ("explain (analyze off) delete from orders", "pass"),
    ("explain (analyze, costs off, analyse 'false') delete from orders", "pass"),
    ("explain (analyze 0) delete from orders where analyze", "pass"),
    ("explain verbose delete from orders where analyze", "pass"),
    ("explain (analyze) select * from orders", "pass"),
    ("do $$ begin delete from orders; end $$", "unclassified"),
    ("do 'x'", "pass"),
    ("call p('orders')", "unclassified"),
    ("call p()", "unclassified"),
    ("alter table if exists only public.orders add x int", "ddl"),
    ("alter table x add foreign key (a) references orders", "pass"),
    ("drop table x, orders_v2", "ddl"),
    ("drop index orders", "pass"),
    ("create index on orders (a)", "pass"),
    ("create trigger t after insert on orders execute function f()", "ddl"),
    ("create or replace rule r as on insert to public.orders do also select 1", "ddl"),
    ("create trigger orders after insert on x execute function orders()", "pass"),
    ("create table parts.orders_2 partition of orders for values in (2)", "pass"),
    ("alter table orders set (fillfactor = 70), alter column a set statistics 500", "pass"),
    ("alter table only orders alter a set (n_distinct = 5), validate constraint c", "pass"),
    ("alter table orders replica identity full", "pass"),
    ("alter table orders cluster on i", "pass"),
    ("alter table orders validate constraint c, add column b int", "ddl"),
    ("alter table orders alter column a set not null", "ddl"),
    ("alter table orders alter column a type int8", "ddl"),
    ("alter table orders rename to x", "ddl"),
    ("alter table orders disable trigger all", "ddl"),
    ("alter table orders set schema x", "ddl"),
    ("alter table orders set unlogged", "ddl"),
    ("alter table orders enable row level security", "ddl"),
    ("alter table parts.orders_1 add check (a > 0)", "ddl"),
    ("alter table parts.orders_1 set (autovacuum_enabled = off)", "pass"),
    ("alter index orders rename to x", "ddl"),
    ("alter index orders_pkey rename to x", "pass"),
    ("alter table orders attach partition x for values in (3)", "unclassified"),
    ("alter table orders detach partition parts.orders_1", "unclassified"),
    ("alter table orders detach partition x concurrently", "ddl"),
    ("alter table x attach partition orders default", "ddl"),
    ("alter table orders_v2 detach partition x", "ddl"),
    ("alter table x inherit orders", "unclassified"),
    ("alter table x no inherit public.orders", "unclassified"),
    ("alter table x inherit y", "pass"),
    ("drop table x, parts.orders_1", "unclassified"),
    ("drop table parts.orders_1, orders", "ddl"),
    ("drop schema if exists x, public cascade", "ddl"),
    ("drop schema parts cascade", "ddl"),
    ("drop schema pgsegue cascade", "ddl"),
    ("drop type mood cascade", "cascade"),
    ("drop owned by current_user", "cascade"),
    ("alter type pair drop attribute a cascade", "cascade"),
    ("drop type mood", "pass"),
    ("drop table orders cascade", "ddl"),
    ("drop table x cascade", "cascade"),
    ("drop index i cascade", "pass"),
    ("drop subscription s cascade", "pass"),
    ("drop schema public", "pass"),
    ("drop schema x cascade", "cascade"),
    ("alter schema public rename to x", "ddl"),
    ("alter schema public owner to x", "pass"),
    ("insert into parts.orders_1 values (1)", "insert"),
    ("update orders_1 set a = 1", "update"),
    ("delete from x.orders_1", "pass"),
    ("select * from orders_1", "pass"),
    ("select 1 from orders join orders_1 using (id)", "source"),
    ("truncate parts.orders_1", "truncate [0] Named Part"),
    ("do $$ begin delete from parts.orders_1; end $$", "unclassified"),
    ("create temp table orders (a int)", "pass"),
    ("lock table orders", "pass"),
    ("vacuum orders", "pass"),
    ("declare c cursor for select * from orders", "pass"),
    ("prepare p as update orders set a = 1", "prepare p \"\" \"update orders set a = 1\""),
    (
        "PREPARE \"P q\" (int, numeric(5, 2)[]) AS values ($1);",
        "prepare P q \"(int, numeric(5, 2)[])\" \"values ($1)\"",
    ),
    ("prepare p (int", "unclassified"),
    ("prepare transaction 'x'", "pass"),
    ("execute P (1, (select orders()))", "execute p"),
    ("execute p", "execute p"),
    ("execute p 1", "unclassified"),
    ("deallocate prepare P", "One(\"p\")"),
    ("deallocate prepare", "One(\"prepare\")"),
    ("deallocate all", "All"),
    ("discard all", "All"),
    ("discard plans", "pass"),
    ("update u&\"\\006frders\" set a = 1", "update"),
    ("update u&\"x\" set a = 1", "pass"),
    ("select * from u&\"!006frders\" uescape '!'", "source"),
    ("select * from u&\"\\00\"", "unclassified"),
    ("select 'x", "unclassified"),
    ("frobnicate orders", "unclassified"),
    ("create function f() returns int begin atomic select 1; end", "pass"),
    ("create function f() returns int begin atomic delete from orders; end", "unclassified"),
];

#[test]
fn classes() {
    for (sql, expected) in CLASSES {
        assert_eq!(class(sql), *expected, "{sql}");
    }
}

#[test]
fn what_gives_a_migrated_table_another_name_says_so() {
    let first = Targets::default().with(0);
    for (what, sql) in [
        (Defined::Way, "create or replace temp view orders as select 1"),
        (Defined::Way, "create view seen as select * from orders"),
        (
            Defined::Way,
            "create function f() returns int language sql as 'select max(id) from orders'",
        ),
        (Defined::Way, "create rule r as on insert to x do also delete from orders"),
        (Defined::Part, "create table orders_9 partition of orders default"),
        (Defined::Part, "create table child () inherits (orders)"),
    ] {
        let statements = understand(sql, &targets(), &Functions::default()).statements;
        let keeps = if sql.contains("view orders") { Keeps::Nothing } else { Keeps::Names };
        assert_eq!(statements[0].effect, Effect::Defines(what, first, keeps), "{sql}");
    }
    let last = Targets::default().with(70);
    assert!(last.has(64) && last.has(63) && !last.has(62));
}

#[test]
fn effects() {
    use Isolation::{Default, ReadCommitted, RepeatableRead, Serializable};
    for (sql, effect) in [
        ("begin", Effect::Begin(Default)),
        (
            "START TRANSACTION READ ONLY, ISOLATION LEVEL REPEATABLE READ",
            Effect::Begin(RepeatableRead),
        ),
        ("begin isolation level read committed", Effect::Begin(ReadCommitted)),
        ("begin isolation level serializable", Effect::Begin(Serializable)),
        ("set transaction isolation level repeatable read", Effect::SetTransaction(RepeatableRead)),
        ("set transaction read only", Effect::None),
        ("set local search_path = x", Effect::State),
        ("set session \"SEARCH_PATH\" to x", Effect::State),
        ("set local session authorization x", Effect::State),
        ("set session authorization x", Effect::State),
        ("set schema 'x'", Effect::State),
        ("set role x", Effect::State),
        ("reset all", Effect::State),
        ("reset session authorization", Effect::State),
        ("set time zone 'UTC'", Effect::KeepsNames),
        ("set session characteristics as transaction read only", Effect::KeepsNames),
        ("set local app.x = orders", Effect::KeepsNames),
        ("reset work_mem", Effect::KeepsNames),
        (
            "set local transaction isolation level repeatable read",
            Effect::SetTransaction(RepeatableRead),
        ),
        ("set transaction_isolation to 'read committed'", Effect::SetTransaction(Serializable)),
        ("commit", Effect::End),
        ("end work", Effect::End),
        ("commit and chain", Effect::Begin(Serializable)),
        ("commit and no chain", Effect::End),
        ("rollback to savepoint a", Effect::State),
        ("rollback work to a", Effect::State),
        ("rollback prepared 'x'", Effect::None),
        ("discard all", Effect::Discard),
        ("deallocate prepare all", Effect::Discard),
        ("deallocate \"all\"", Effect::None),
        ("create temp table orders (a int)", Effect::State),
        ("create table s.\"orders\" (a int)", Effect::State),
        ("create table if not exists x as select * from orders", Effect::KeepsNames),
        ("create table x as execute orders", Effect::State),
        ("create table x as select set_config('a', 'b', true)", Effect::State),
        ("create view seen as select * from elsewhere", Effect::KeepsNames),
        ("create or replace procedure p() language plpgsql as $$ begin end $$", Effect::KeepsNames),
        ("set transaction snapshot '0-1'", Effect::SetTransaction(Serializable)),
        ("create unique index concurrently on orders (a)", Effect::KeepsNames),
        ("create schema x create table orders (a int)", Effect::State),
        ("create extension x", Effect::State),
        ("alter table x rename to orders", Effect::State),
        ("alter table orders set (fillfactor = 90)", Effect::KeepsNames),
        ("alter schema x rename to y", Effect::State),
        ("drop table x cascade", Effect::Uncovers),
        ("drop owned by x", Effect::State),
        ("select a into temp table x from orders", Effect::KeepsNames),
        ("select set_config('search_path', 'x', false)", Effect::State),
        ("update t set a = pg_catalog.\"set_config\"('a', 'b', false)", Effect::State),
        ("update pg_settings set setting = 'x'", Effect::State),
        ("select 1 as id into temp orders", Effect::State),
        ("prepare p as delete from orders", Effect::PreparesWrite),
        ("prepare p as select from orders", Effect::None),
        ("select 1", Effect::None),
    ] {
        let statements = understand(sql, &targets(), &Functions::default()).statements;
        assert_eq!(statements[0].effect, effect, "{sql}");
    }
}

#[test]
fn the_prefilter_lets_nothing_of_interest_pass() {
    let filter = Prefilter::new(&targets(), &Ways::default());
    for plain in ["select 1", "update x set a = 1;", "insert into y values ('a;b')", ""] {
        let expected = if plain.contains("a;b") { Verdict::Understand } else { Verdict::Plain };
        assert_eq!(filter.look(plain.as_bytes()), expected, "{plain}");
    }
    for other in [
        "select * from OrDeRs",
        "/* */ begin",
        "select 1; begin",
        "select u&\"x\"",
        "select set_config('a','b',true)",
        "-- x\nDO $$ $$",
    ] {
        assert_eq!(filter.look(other.as_bytes()), Verdict::Understand, "{other}");
    }
    assert_eq!(Prefilter::new(&[], &Ways::default()).look(b"select * from orders"), Verdict::Plain);
}

#[test]
fn of_a_text_that_cannot_be_read_its_names_and_its_kind_are_known() {
    let filter = Prefilter::new(&targets(), &Ways::default());
    for (sql, spells) in [
        ("select 'Orders", true),
        ("select u&\"x\"", true),
        ("select set_config('a', 'b', true)", false),
        ("begin", false),
    ] {
        assert_eq!(filter.spells_a_name(sql.as_bytes()), spells, "{sql}");
    }
    for (sql, harmless) in [
        ("vacuum orders;", true),
        ("/* orders */ BEGIN", true),
        ("begin; delete from orders", false),
        ("select orders()", false),
    ] {
        assert_eq!(changes_no_row(sql.as_bytes()), harmless, "{sql}");
    }
    assert!(!filter.is_blind_to("größe".as_bytes()));
}

#[test]
fn deep_and_long_texts_neither_abort_nor_take_long() {
    let ors = format!("select a from orders where {}", vec!["a = 1"; 4_000].join(" or "));
    let unions = vec!["select a from orders"; 3_000].join(" union all ");
    let nested = format!("select {}1{} from orders", "(".repeat(5_000), ")".repeat(5_000));
    for sql in [ors, unions, nested] {
        assert!(["read", "source"].contains(&class(&sql).as_str()));
    }
}

#[test]
fn code_that_spells_a_name_in_quotes_is_code_on_the_table() {
    let mut odd = Target::clone(&targets()[0]);
    odd.source.name = Ident::new("Or\"d'er\\s");
    let odd = vec![Arc::new(odd)];
    for code in [
        "DO $$ BEGIN DELETE FROM \"Or\"\"d'er\\s\"; END $$",
        "DO 'BEGIN DELETE FROM \"Or\"\"d''er\\s\"; END'",
        "DO E'BEGIN DELETE FROM \"Or\"\"d\\'er\\\\s\"; END'",
        "DO $$ BEGIN DELETE FROM U&\"\\004fr\"\"d'er\\005cs\"; END $$",
    ] {
        for text in [code.to_owned(), format!("SELECT 1; {code}")] {
            assert_eq!(
                Prefilter::new(&odd, &Ways::default()).look(text.as_bytes()),
                Verdict::Understand,
                "{text}"
            );
            let understanding = understand(&text, &odd, &Functions::default());
            let last = understanding.statements.last().unwrap();
            assert!(matches!(last.class, Class::Unclassified(_)), "{text}");
        }
    }
}
