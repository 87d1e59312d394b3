//! Waiting for something that becomes true, with a deadline and without guessing how long.

use std::time::Duration;
use tokio::time::{Instant, interval};

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Asks again and again until the answer is `Ok`, and returns it. Fails the test after 60 s with
/// the last `Err`, which says what was seen instead.
pub async fn eventually<T, E: std::fmt::Debug>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + DEADLINE;
    let mut tick = interval(POLL);
    loop {
        tick.tick().await;
        match ask().await {
            Ok(answer) => return answer,
            Err(seen) if Instant::now() > deadline => panic!("not in 60 s: {what}; saw {seen:?}"),
            Err(_) => {}
        }
    }
}
