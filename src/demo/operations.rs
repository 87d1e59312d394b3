//! What clients do: reads whose answers they can check against their own writes, and writes of
//! every kind, alone and in transactions.

use super::history::{Change, Order};
use super::load::Client;
use super::speaker::{Answer, Sql};
use super::tables::{ROWS, SHARED_ROWS, USERS};

/// One operation, drawn by what an app may look like: 60 % reads.
pub(super) async fn any(client: &mut Client) {
    match client.random.below(100) {
        0..30 => point(client, &[]).await,
        30..42 => range(client).await,
        42..54 => of_user(client).await,
        54..60 => sum(client).await,
        60..70 => insert(client).await,
        70..78 => change(client, &mut Vec::new(), Ack::Now).await,
        78..84 => add(client, &mut Vec::new(), Ack::Now).await,
        84..89 => delete(client).await,
        89..93 => upsert(client).await,
        93..95 => add_shared(client).await,
        _ => transaction(client).await,
    }
}

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ack {
    Now,
    WithItsTransaction,
}

fn note(client: &mut Client, open: &mut Vec<Change>, change: Change, ack: Ack) {
    match ack {
        Ack::Now => client.history.acknowledged([change]),
        Ack::WithItsTransaction => open.push(change),
    }
}

async fn point(client: &mut Client, open: &[Change]) {
    let id = client.history.any_own(&mut client.random);
    point_of(client, id, open).await;
}

async fn point_of(client: &mut Client, id: i32, open: &[Change]) {
    let scene = client.scene();
    let expected = client.history.state(id, open).map(|order| image(id, order));
    let Some(answer) = client.run(Sql::Point, &[id]).await else { return };
    if answer.rows.first() != expected.as_ref() || answer.rows.len() > 1 {
        client.read_wrong(scene, &format!("row {id}: {:?}, not {expected:?}", answer.rows));
    }
}

async fn range(client: &mut Client) {
    let scene = client.scene();
    let first = client.random.below(ROWS - 50) + 1;
    let Some(answer) = client.run(Sql::Range, &[first, first + 40]).await else { return };
    for id in (first..=first + 40).filter(|id| client.history.owns_from_the_start(*id)) {
        let expected = client.history.state(id, &[]).map(|order| image(id, order));
        let own = Some(id.to_string());
        let found = answer.rows.iter().find(|row| row.first() == Some(&own));
        if found != expected.as_ref() {
            let what = format!("row {id} in a range: {found:?}, not {expected:?}");
            client.read_wrong(scene, &what);
            return;
        }
    }
}

async fn of_user(client: &mut Client) {
    let scene = client.scene();
    let user = client.random.below(USERS);
    let Some(answer) = client.run(Sql::OfUser, &[user]).await else { return };
    for row in &answer.rows {
        let id = number(row.first()).unwrap_or(0);
        let own = client.history.owns_from_the_start(id);
        let expected = client.history.state(id, &[]).map(|order| image(id, order));
        if own && Some(row) != expected.as_ref() {
            let what = format!("row {id} of a user: {row:?}, not {expected:?}");
            client.read_wrong(scene, &what);
            return;
        }
    }
}

async fn sum(client: &mut Client) {
    let user = client.random.below(USERS);
    if let Some(answer) = client.run(Sql::Sum, &[user]).await
        && answer.rows.len() != 1
    {
        client.fail(format!("a sum of {} rows", answer.rows.len()));
    }
}

async fn insert(client: &mut Client) {
    let (user, total) = (client.random.below(USERS), client.random.below(10_000));
    let Some(answer) = client.run(Sql::Insert, &[user, total]).await else { return };
    match number(answer.rows.first().and_then(|row| row.first())) {
        Some(id) => client.history.acknowledged([(id, Some(Order { user, total, status: "new" }))]),
        None => client.fail("an INSERT … RETURNING id without an id".to_owned()),
    }
}

async fn change(client: &mut Client, open: &mut Vec<Change>, ack: Ack) {
    let id = client.history.any_own(&mut client.random);
    let order = Order {
        user: client.random.below(USERS),
        total: client.random.below(10_000),
        status: "paid",
    };
    let there = client.history.state(id, open).is_some();
    let Some(answer) = client.run(Sql::Change, &[id, order.user, order.total]).await else {
        return;
    };
    affected(client, &answer, there);
    if there {
        note(client, open, (id, Some(order)), ack);
    }
}

async fn add(client: &mut Client, open: &mut Vec<Change>, ack: Ack) {
    let id = client.history.any_own(&mut client.random);
    let more = client.random.below(100);
    let after = client.history.state(id, open).map(|o| Order { total: o.total + more, ..o });
    let Some(answer) = client.run(Sql::Add, &[id, more]).await else { return };
    affected(client, &answer, after.is_some());
    let returned = number(answer.rows.first().and_then(|row| row.first()));
    if returned != after.map(|order| order.total) {
        client.fail(format!("UPDATE … RETURNING of row {id}: {returned:?}, not {after:?}"));
    }
    if let Some(order) = after {
        note(client, open, (id, Some(order)), ack);
    }
}

async fn delete(client: &mut Client) {
    let id = client.history.any_own(&mut client.random);
    let there = client.history.state(id, &[]).is_some();
    let Some(answer) = client.run(Sql::Delete, &[id]).await else { return };
    affected(client, &answer, there);
    client.history.acknowledged([(id, None)]);
}

async fn upsert(client: &mut Client) {
    let id = client.history.any_own(&mut client.random);
    let (user, total) = (client.random.below(USERS), client.random.below(10_000));
    let there = client.history.state(id, &[]).is_some();
    let status = if there { "again" } else { "new" };
    let Some(answer) = client.run(Sql::Upsert, &[id, user, total]).await else { return };
    affected(client, &answer, true);
    let expected = vec![Some(id.to_string()), Some(status.to_owned())];
    if answer.rows != [expected] {
        client.fail(format!("an upsert of row {id} returned {:?}", answer.rows));
    }
    client.history.acknowledged([(id, Some(Order { user, total, status }))]);
}

/// A row that all clients write: none of the additions may get lost.
async fn add_shared(client: &mut Client) {
    let id = client.random.below(SHARED_ROWS) + 1;
    let Some(answer) = client.run(Sql::AddShared, &[id]).await else { return };
    affected(client, &answer, true);
    client.history.added_to_shared();
}

/// Two writes with a read between them and a savepoint, committed four times out of five.
async fn transaction(client: &mut Client) {
    let mut open = Vec::new();
    if client.steer("BEGIN").await.is_none() {
        return;
    }
    change(client, &mut open, Ack::WithItsTransaction).await;
    let last = open.last().map(|(id, _)| *id);
    if let Some(id) = last {
        point_of(client, id, &open).await;
    }
    let kept = open.len();
    let saved = client.steer("SAVEPOINT s").await;
    add(client, &mut open, Ack::WithItsTransaction).await;
    if saved.is_some() && client.random.below(3) == 0 {
        client.steer("ROLLBACK TO SAVEPOINT s").await;
        open.truncate(kept);
    }
    point(client, &open).await;
    if client.random.below(5) == 0 {
        client.steer("ROLLBACK").await;
    } else if client.steer("COMMIT").await.is_some() {
        client.history.acknowledged(open);
    }
}

fn affected(client: &mut Client, answer: &Answer, there: bool) {
    if answer.affected != u64::from(there) {
        client.fail(format!("a write of one row changed {} rows", answer.affected));
    }
}

fn image(id: i32, order: Order) -> Vec<Option<String>> {
    let Order { user, total, status } = order;
    [id.to_string(), user.to_string(), total.to_string(), status.to_owned()].map(Some).into()
}

fn number(value: Option<&Option<String>>) -> Option<i32> {
    value?.as_ref()?.parse().ok()
}
