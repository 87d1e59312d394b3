//! Stands in for the crate that sqlx's tests import and that its package does not carry: how to
//! connect, and the tests of a type, which sqlx's files only list.

use sqlx::pool::PoolOptions;
use sqlx::{Connection, Database, Pool};

/// Nothing is read from files here: the runner sets the environment.
pub fn setup_if_needed() {}

fn url() -> String {
    std::env::var("DATABASE_URL").expect("the runner sets DATABASE_URL")
}

pub async fn new<DB: Database>() -> anyhow::Result<DB::Connection> {
    Ok(DB::Connection::connect(&url()).await?)
}

pub async fn pool<DB: Database>() -> anyhow::Result<Pool<DB>> {
    Ok(PoolOptions::new().min_connections(0).max_connections(5).connect(&url()).await?)
}

/// The value of an SQL expression is decoded to the Rust value, by both protocols, and a parameter
/// makes the way there and back.
#[macro_export]
macro_rules! test_type {
    ($name:ident<$ty:ty>($db:ident, $($sql:literal == $value:expr),+ $(,)?)) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $crate::__test_simple!($ty, $db, $($sql == $value),+);
            $crate::__test_prepared!($ty, $db, $($sql == $value),+);
        }
    };
    ($name:ident($db:ident, $($sql:literal == $value:expr),+ $(,)?)) => {
        $crate::test_type!($name<$name>($db, $($sql == $value),+));
    };
}

/// As `test_type`, of a type that has no text form.
#[macro_export]
macro_rules! test_prepared_type {
    ($name:ident<$ty:ty>($db:ident, $($sql:literal == $value:expr),+ $(,)?)) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            $crate::__test_prepared!($ty, $db, $($sql == $value),+);
        }
    };
    ($name:ident($db:ident, $($sql:literal == $value:expr),+ $(,)?)) => {
        $crate::test_prepared_type!($name<$name>($db, $($sql == $value),+));
    };
}

/// As `test_type`, of a type that cannot be a parameter.
#[macro_export]
macro_rules! test_decode_type {
    ($name:ident<$ty:ty>($db:ident, $($sql:literal == $value:expr),+ $(,)?)) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[sqlx_macros::test]
            async fn decoded() -> anyhow::Result<()> {
                use sqlx::Row as _;
                let mut connection = $crate::new::<$db>().await?;
                $({
                    let sql = sqlx::AssertSqlSafe(format!("SELECT {}", $sql));
                    let row = sqlx::query(sql).fetch_one(&mut connection).await?;
                    let found: $ty = row.try_get(0)?;
                    assert!(found == $value, "{found:?}");
                })+
                Ok(())
            }
        }
    };
    ($name:ident($db:ident, $($sql:literal == $value:expr),+ $(,)?)) => {
        $crate::test_decode_type!($name<$name>($db, $($sql == $value),+));
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __test_simple {
    ($ty:ty, $db:ident, $($sql:literal == $value:expr),+) => {
        #[sqlx_macros::test]
        async fn simple() -> anyhow::Result<()> {
            use sqlx::Row as _;
            let mut connection = $crate::new::<$db>().await?;
            $({
                let sql = sqlx::AssertSqlSafe(format!("SELECT {}", $sql));
                let row = sqlx::raw_sql(sql).fetch_one(&mut connection).await?;
                let found: $ty = row.try_get(0)?;
                assert!(found == $value, "{found:?}");
            })+
            Ok(())
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __test_prepared {
    ($ty:ty, $db:ident, $($sql:literal == $value:expr),+) => {
        #[sqlx_macros::test]
        async fn prepared() -> anyhow::Result<()> {
            use sqlx::Row as _;
            let mut connection = $crate::new::<$db>().await?;
            $({
                let sql = sqlx::AssertSqlSafe(format!("SELECT {}, $1", $sql));
                let parameter: $ty = $value;
                let query = sqlx::query(sql).bind(parameter);
                let row = query.fetch_one(&mut connection).await?;
                let (found, returned): ($ty, $ty) = (row.try_get(0)?, row.try_get(1)?);
                assert!(found == $value, "{found:?}");
                assert!(returned == $value, "{returned:?}");
            })+
            Ok(())
        }
    };
}
