//! The ways in which clients speak to Postgres: every one of them goes through the proxy as it is.

use crate::pg;
use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, RowStream, SimpleQueryMessage, Statement};

/// The statements that clients run; all parameters are int4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sql {
    Point,
    Range,
    OfUser,
    Sum,
    Insert,
    Change,
    Add,
    Delete,
    Upsert,
    AddShared,
}

const ALL: [Sql; 10] = [
    Sql::Point,
    Sql::Range,
    Sql::OfUser,
    Sql::Sum,
    Sql::Insert,
    Sql::Change,
    Sql::Add,
    Sql::Delete,
    Sql::Upsert,
    Sql::AddShared,
];

impl Sql {
    fn text(self) -> &'static str {
        match self {
            Self::Point => "SELECT id, user_id, total, status FROM orders WHERE id = $1",
            Self::Range => {
                "SELECT id, user_id, total, status FROM orders WHERE id BETWEEN $1 AND $2 \
                 ORDER BY id"
            }
            Self::OfUser => {
                "SELECT id, user_id, total, status FROM orders WHERE user_id = $1 ORDER BY id"
            }
            Self::Sum => "SELECT count(*), sum(total) FROM orders WHERE user_id = $1",
            Self::Insert => "INSERT INTO orders (user_id, total) VALUES ($1, $2) RETURNING id",
            Self::Change => {
                "UPDATE orders SET user_id = $2, total = $3, status = 'paid' WHERE id = $1"
            }
            Self::Add => "UPDATE orders SET total = total + $2 WHERE id = $1 RETURNING total",
            Self::Delete => "DELETE FROM orders WHERE id = $1",
            Self::Upsert => {
                "INSERT INTO orders (id, user_id, total) VALUES ($1, $2, $3) \
                 ON CONFLICT (id) DO UPDATE SET user_id = excluded.user_id, \
                 total = excluded.total, status = 'again' RETURNING id, status"
            }
            Self::AddShared => "UPDATE orders SET total = total + 1 WHERE id = $1",
        }
    }

    pub(super) fn is_read(self) -> bool {
        match self {
            Self::Point | Self::Range | Self::OfUser | Self::Sum => true,
            Self::Insert
            | Self::Change
            | Self::Add
            | Self::Delete
            | Self::Upsert
            | Self::AddShared => false,
        }
    }

    /// The text with the values in it, as clients of the simple protocol send it.
    fn literal(self, values: &[i32]) -> String {
        let numbered = values.iter().enumerate();
        numbered.fold(self.text().to_owned(), |text, (i, value)| {
            text.replace(&format!("${}", i + 1), &value.to_string())
        })
    }
}

/// How a client sends its statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// Prepared once, at the start, and held to the end, as connection pools do it.
    Held,
    /// Prepared, run and closed each time.
    PerCall,
    /// The unnamed statement, parameters apart.
    Unnamed,
    /// The simple protocol.
    Simple,
}

/// A connection through the proxy.
pub(super) struct Speaker {
    client: Client,
    manner: Manner,
    held: Vec<Statement>,
}

/// What a statement answered: rows as text.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) rows: Vec<Vec<Option<String>>>,
    pub(super) affected: u64,
}

impl Speaker {
    pub(super) async fn connect(
        conninfo: &str,
        manner: Manner,
    ) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(conninfo, NoTls).await?;
        // Ends with the client.
        drop(tokio::spawn(connection));
        let mut held = Vec::new();
        if manner == Manner::Held {
            for sql in ALL {
                held.push(client.prepare(sql.text()).await?);
            }
        }
        Ok(Self { client, manner, held })
    }

    /// Runs one statement.
    pub(super) async fn run(&self, sql: Sql, values: &[i32]) -> Result<Answer, String> {
        let values_dyn = values.iter().map(|value| value as &(dyn ToSql + Sync));
        let answer = match self.manner {
            Manner::Held => match self.held.iter().zip(ALL).find(|(_, of)| *of == sql) {
                Some((statement, _)) => {
                    read(self.client.query_raw(statement, values_dyn).await).await
                }
                None => return Err("a statement was not prepared".to_owned()),
            },
            Manner::PerCall => read(self.client.query_raw(sql.text(), values_dyn).await).await,
            Manner::Unnamed => {
                let typed: Vec<_> = values_dyn.map(|value| (value, Type::INT4)).collect();
                read(self.client.query_typed_raw(sql.text(), typed).await).await
            }
            Manner::Simple => self.client.simple_query(&sql.literal(values)).await.map(simple),
        };
        answer.map_err(|error| pg::reason(&error))
    }

    /// Runs a statement that only steers the transaction.
    pub(super) async fn steer(&self, text: &str) -> Result<(), String> {
        self.client.batch_execute(text).await.map_err(|error| pg::reason(&error))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

async fn read(
    stream: Result<RowStream, tokio_postgres::Error>,
) -> Result<Answer, tokio_postgres::Error> {
    let stream = stream?;
    pin_mut!(stream);
    let mut answer = Answer::default();
    while let Some(row) = stream.try_next().await? {
        let mut values = Vec::with_capacity(row.len());
        for (i, column) in row.columns().iter().enumerate() {
            values.push(match *column.type_() {
                Type::INT4 => row.try_get::<_, Option<i32>>(i)?.map(|value| value.to_string()),
                Type::INT8 => row.try_get::<_, Option<i64>>(i)?.map(|value| value.to_string()),
                _ => row.try_get::<_, Option<String>>(i)?,
            });
        }
        answer.rows.push(values);
    }
    answer.affected = stream.rows_affected().unwrap_or(0);
    Ok(answer)
}

fn simple(messages: Vec<SimpleQueryMessage>) -> Answer {
    let mut answer = Answer::default();
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                let values = (0..row.len()).map(|i| row.get(i).map(str::to_owned));
                answer.rows.push(values.collect());
            }
            SimpleQueryMessage::CommandComplete(affected) => answer.affected = affected,
            _ => {}
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_the_place_of_parameters() {
        assert_eq!(Sql::Delete.literal(&[7]), "DELETE FROM orders WHERE id = 7");
    }
}
