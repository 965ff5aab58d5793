//! Trying again, later and later.

use std::time::{Duration, Instant};

use super::error::HubError;
use super::id::HubId;
use super::watch::Watch;

/// How often a failing request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// Attempts in a row that may fail without getting further.
    pub attempts: u32,
    /// Wait after the first failure; it doubles with every further one.
    pub first: Duration,
    /// Longest wait, also where the server asks for a longer one.
    pub longest: Duration,
}

impl Default for Retries {
    /// Five attempts, with waits of 1, 2, 4 and 8 seconds; a server may ask for up to a minute.
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

/// A failed request.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another attempt would fail too.
    Final(HubError),
    /// Another attempt may succeed, not before `wait` where the server says so.
    Again { error: HubError, wait: Option<Duration> },
}

impl Failure {
    /// A failure without a server's wish.
    pub fn again(error: HubError) -> Self {
        Self::Again { error, wait: None }
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// Counts the failures of one piece of work.
#[derive(Debug)]
pub(super) struct Backoff<'a> {
    retries: Retries,
    id: &'a HubId,
    failed: u32,
}

impl<'a> Backoff<'a> {
    pub fn new(retries: Retries, id: &'a HubId) -> Self {
        Self { retries, id, failed: 0 }
    }

    /// The work got further: earlier failures count no more.
    pub fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits for the next attempt.
    ///
    /// # Errors
    /// The failure itself where it is final or was the last attempt, [`HubError::Interrupted`].
    pub fn failed(&mut self, failure: Failure, watch: &mut dyn Watch) -> Result<(), HubError> {
        let (error, wait) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again { error, wait } => (error, wait),
        };
        self.failed += 1;
        let (failed, attempts) = (self.failed, self.retries.attempts);
        if failed >= attempts {
            return Err(HubError::GaveUp { attempts: failed, last: Box::new(error) });
        }
        let doubled = self.retries.first.saturating_mul(1 << (failed - 1).min(16));
        let wait = wait.unwrap_or_default().max(doubled).min(self.retries.longest);
        watch.message(&format!(
            "{error}; trying again in {:.0} s (attempt {} of {attempts})",
            wait.as_secs_f32(),
            failed + 1
        ));
        pause(wait, self.id, watch)
    }
}

/// Sleeps, and wakes up where the user wants to stop.
pub(super) fn pause(wait: Duration, id: &HubId, watch: &dyn Watch) -> Result<(), HubError> {
    const STEP: Duration = Duration::from_millis(100);
    let begun = Instant::now();
    loop {
        if watch.interrupted() {
            return Err(HubError::Interrupted { id: id.clone() });
        }
        let left = wait.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(STEP));
    }
}
