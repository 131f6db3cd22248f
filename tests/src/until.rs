//! Waits for something to come true on the cluster, within a bound, and says what it saw last when it does not.

use std::time::Duration;

use anyhow::{Error, Result, bail};
use tokio::time::{Instant, sleep};

/// What one look found.
#[derive(Debug)]
pub enum Seen<T> {
    /// It is so; waiting ends with this value.
    Done(T),
    /// Not yet; the text says what is there instead.
    NotYet(String),
    /// It will never be so; waiting ends with this error.
    Never(Error),
}

/// Looks every 100 ms until `look` is done, for at most `bound`. An error of `look` counts as "not yet".
///
/// Errors when the bound has passed, with `what` and what was seen last.
pub async fn until<T, F>(what: &str, bound: Duration, mut look: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Seen<T>>,
{
    let deadline = Instant::now() + bound;
    loop {
        let last = match look().await {
            Ok(Seen::Done(value)) => return Ok(value),
            Ok(Seen::NotYet(last)) => last,
            Ok(Seen::Never(error)) => return Err(error.context(format!("waiting for {what}"))),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}; last seen: {last}", bound.as_secs());
        }
        sleep(Duration::from_millis(100)).await;
    }
}
