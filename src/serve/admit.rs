//! Who may come in: a bounded queue in front of a bounded number of slots.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Share of the newest time in the mean.
const NEWEST: f64 = 0.1;

/// The queue and the slots behind it.
#[derive(Debug)]
pub(super) struct Queue {
    slots: Arc<Semaphore>,
    size: usize,
    /// Prompts in slots and waiting.
    pending: AtomicUsize,
    most: usize,
    running: AtomicUsize,
    /// How long a prompt keeps its slot, in seconds.
    mean: Mutex<f64>,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    /// When to come back.
    pub after: Duration,
}

/// A place in the queue.
#[derive(Debug)]
pub(super) struct Ticket {
    queue: Arc<Queue>,
    size: u32,
}

/// A place among the answers that are worked on.
#[derive(Debug)]
pub(super) struct Slot {
    ticket: Ticket,
    permit: OwnedSemaphorePermit,
    since: Instant,
}

impl Queue {
    pub fn new(slots: usize, queue: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(slots)),
            size: slots,
            pending: AtomicUsize::new(0),
            most: slots.saturating_add(queue),
            running: AtomicUsize::new(0),
            mean: Mutex::new(1.0),
        })
    }

    /// Places for `count` prompts of `choices` answers each: all, or none.
    pub fn enter(self: &Arc<Self>, count: usize, choices: usize) -> Result<Vec<Ticket>, Full> {
        let pending = self.pending.fetch_add(count, Ordering::Relaxed);
        if pending + count > self.most {
            self.pending.fetch_sub(count, Ordering::Relaxed);
            let mean = *self.mean.lock().unwrap_or_else(PoisonError::into_inner);
            // Until as many have ended as would have to.
            let rounds = (pending + count - self.most) as f64 / self.size as f64;
            return Err(Full { after: Duration::from_secs_f64((mean * rounds).clamp(1.0, 60.0)) });
        }
        // More answers than slots: the backend gets all slots, and looks after itself.
        let size = choices.min(self.size) as u32;
        Ok((0..count).map(|_| Ticket { queue: Arc::clone(self), size }).collect())
    }

    /// Most prompts that could ever be let in at once.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Prompts that have a slot.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Prompts that wait for one.
    pub fn waiting(&self) -> usize {
        self.pending.load(Ordering::Relaxed).saturating_sub(self.running())
    }
}

impl Ticket {
    /// Waits for a slot, first come, first served.
    pub async fn slot(self) -> Slot {
        let slots = Arc::clone(&self.queue.slots);
        let Ok(permit) = slots.acquire_many_owned(self.size).await else {
            // Nobody ever closes it.
            std::future::pending().await
        };
        self.queue.running.fetch_add(1, Ordering::Relaxed);
        Slot { ticket: self, permit, since: Instant::now() }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slot {
    /// How many answers it is for.
    pub fn size(&self) -> usize {
        self.permit.num_permits()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let queue = &self.ticket.queue;
        queue.running.fetch_sub(1, Ordering::Relaxed);
        let mut mean = queue.mean.lock().unwrap_or_else(PoisonError::into_inner);
        *mean += NEWEST * (self.since.elapsed().as_secs_f64() - *mean);
    }
}
