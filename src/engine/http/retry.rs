//! Trying again, later and later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rand::RngExt;

use super::super::EngineError;
use super::settings::Retries;

/// An attempt that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt would fail too.
    Final(EngineError),
    /// Another attempt may succeed, not before `wait` where the server says so.
    Again { error: EngineError, wait: Option<Duration> },
}

impl Failure {
    /// A failure without a server's wish.
    pub fn again(error: EngineError) -> Self {
        Self::Again { error, wait: None }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::Final(error)
    }
}

/// Repeats `attempt` until it succeeds, fails for good, or `stop` is set (`None`).
pub(super) fn with_retries<T>(
    retries: &Retries,
    stop: &AtomicBool,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Option<Result<T, EngineError>> {
    let mut failed = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let (error, wait) = match attempt() {
            Ok(done) => return Some(Ok(done)),
            Err(Failure::Final(error)) => return Some(Err(error)),
            Err(Failure::Again { error, wait }) => (error, wait),
        };
        failed += 1;
        if failed >= retries.attempts {
            // One attempt is nothing to speak of.
            return Some(Err(match failed {
                1 => error,
                attempts => EngineError::GaveUp { attempts, last: Box::new(error) },
            }));
        }
        if !pause(wait_after(retries, failed, wait, rand::rng().random()), stop) {
            return None;
        }
    }
}

/// The wait after `failed` failures; `chance` is in [0, 1).
pub(super) fn wait_after(retries: &Retries, failed: u32, wish: Option<Duration>, chance: f64) -> Duration {
    let doubled = retries.first.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(retries.longest);
    let spread = doubled.mul_f64(0.75 + 0.5 * chance);
    wish.unwrap_or_default().max(spread).min(retries.longest)
}

/// `Retry-After`: seconds, or a date.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date: SystemTime = chrono::DateTime::parse_from_rfc2822(value).ok()?.into();
    Some(date.duration_since(now).unwrap_or_default())
}

/// Sleeps; false where `stop` was set meanwhile.
fn pause(wait: Duration, stop: &AtomicBool) -> bool {
    const STEP: Duration = Duration::from_millis(50);
    let begun = Instant::now();
    loop {
        if stop.load(Ordering::Relaxed) {
            return false;
        }
        let left = wait.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(STEP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_obey_the_server() {
        let retries = Retries { attempts: 9, first: Duration::from_secs(1), longest: Duration::from_secs(10) };
        let seconds = |failed, wish: Option<u64>, chance| {
            wait_after(&retries, failed, wish.map(Duration::from_secs), chance).as_secs_f64()
        };
        assert_eq!([1, 2, 3].map(|failed| seconds(failed, None, 0.5)), [1.0, 2.0, 4.0]);
        assert_eq!([0.0, 1.0].map(|chance| seconds(2, None, chance)), [1.5, 2.5]);
        assert_eq!(seconds(40, None, 0.5), 10.0);
        assert_eq!(seconds(1, Some(7), 0.5), 7.0);
        assert_eq!(seconds(1, Some(3600), 0.5), 10.0);
        assert_eq!(seconds(3, Some(1), 0.5), 4.0);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(retry_after("3", now), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(" 0.5 ", now), Some(Duration::from_millis(500)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
        assert_eq!(retry_after("-1", now), None);
    }
}
