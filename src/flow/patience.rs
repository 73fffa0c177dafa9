//! What does a step do while a store is in trouble? A run says so soon, to the person who waits for it. A worker waits:
//! it keeps what it holds, takes nothing new on, and goes on when the store does, or when somebody has mended it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::ports::{StoreError, StoreTrouble};

use super::context::Context;

/// A queue keeps a message for two weeks at most. Half a day before that is over, what could not be done is given up: who waits is told, and
/// a person finds the message among the dead letters.
pub const KEPT: Duration = Duration::from_secs(27 * 12 * 60 * 60);

/// How long trouble with a store is borne.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Patience {
    /// As long as somebody in front of it would: an answer is tried to be recorded for as long as `drain`, the queue is asked
    /// for 20 s; what does not pass by itself ends the run at once.
    Bounded,
    /// Until it is over, or the worker is told to stop.
    Endless,
}

impl Patience {
    /// Whether this trouble is waited out.
    pub fn outlasts(self, trouble: StoreTrouble) -> bool {
        match (self, trouble) {
            // The others have been updated: waiting makes this program no newer.
            (Self::Bounded, _) | (Self::Endless, StoreTrouble::Newer) => false,
            (
                Self::Endless,
                StoreTrouble::Away
                | StoreTrouble::Full
                | StoreTrouble::Denied
                | StoreTrouble::Damaged
                | StoreTrouble::Other,
            ) => true,
        }
    }
}

/// Between two attempts: doubles from the first to the last, each somewhere between its half and its whole, so that those who
/// wait for the same store do not all come at once.
#[derive(Debug)]
pub(super) struct BackOff(Duration);

const FIRST: Duration = Duration::from_millis(100);
/// Short enough that everything goes on within 5 s of a store's return.
const LAST: Duration = Duration::from_secs(3);

impl BackOff {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    /// How long to wait now.
    pub(super) fn next(&mut self) -> Duration {
        let whole = self.0;
        self.0 = (whole * 2).min(LAST);
        whole.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

/// What is handed back with nothing to say when it can go on comes again after so much of the time that it has waited, and not
/// sooner or later than that. A queue counts its deliveries, and at a thousand takes it for dead: so it has half of them in the
/// two weeks that it may wait at most.
const AGAIN_SHARE: u32 = 50;
const AGAIN_LEAST: Duration = Duration::from_secs(5);
const AGAIN_MOST: Duration = Duration::from_secs(60 * 60);

/// When a message comes again that cannot be worked for that long: not later than its deadline, when somebody has to say so, and not
/// later than this either, since what is known may change: a quota is raised, a lane is asked again.
pub(super) fn no_longer(rest: Duration, deadline: Option<Duration>) -> Duration {
    rest.min(AGAIN_MOST).min(deadline.unwrap_or(Duration::MAX))
}

/// When a message of that age comes again.
pub(super) fn by_age(age: Duration) -> Duration {
    (age / AGAIN_SHARE).clamp(AGAIN_LEAST, AGAIN_MOST)
}

/// Asks a store until it answers, or until the worker aborts; with [`Patience::Bounded`], once. What is asked may be repeated.
///
/// # Errors
/// The last trouble.
pub(super) async fn insist<T, F>(context: &Context, mut ask: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut back_off = BackOff::new();
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if !context.settings.patience.outlasts(error.kind) || context.stop.is_aborting() {
            return Err(error);
        }
        context.meter.store_trouble(&error);
        tokio::select! {
            () = tokio::time::sleep(back_off.next()) => {}
            () = context.stop.aborted() => return Err(error),
        }
    }
}

/// Whether claims are answered. While they are not, receiving more would only wear out messages: a queue counts how often
/// each was received. So nothing is received but one message now and then, for the case that the trouble is one job's own.
#[derive(Debug)]
pub struct ClaimGate {
    is_open: watch::Sender<bool>,
    /// When one was let through although it is shut.
    last: Mutex<Option<Instant>>,
}

/// While claims fail, one message is received this often.
const TRICKLE: Duration = Duration::from_secs(1);

impl Default for ClaimGate {
    fn default() -> Self {
        Self { is_open: watch::Sender::new(true), last: Mutex::default() }
    }
}

impl ClaimGate {
    /// A claim was answered, whatever the answer.
    pub fn answered(&self) {
        self.is_open.send_if_modified(|is_open| !std::mem::replace(is_open, true));
    }

    /// A claim was not answered.
    pub fn failed(&self) {
        self.is_open.send_if_modified(|is_open| std::mem::replace(is_open, false));
    }

    /// Whether the last claim was answered.
    pub fn is_open(&self) -> bool {
        *self.is_open.borrow()
    }

    /// Waits until something may be received; how many messages, if the gate sets a limit.
    pub async fn may_receive(&self) -> Option<usize> {
        let mut state = self.is_open.subscribe();
        loop {
            if self.is_open() {
                return None;
            }
            let rest = {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                match last.map(|at| TRICKLE.saturating_sub(at.elapsed())).filter(|rest| !rest.is_zero()) {
                    Some(rest) => rest,
                    None => {
                        *last = Some(Instant::now());
                        return Some(1);
                    }
                }
            };
            tokio::select! {
                // The sender lives in `self`, so the channel cannot close.
                _ = state.wait_for(|is_open| *is_open) => {}
                () = tokio::time::sleep(rest) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_waits_for_whatever_can_be_mended_and_a_run_for_nothing() {
        use StoreTrouble::{Away, Damaged, Denied, Full, Newer, Other};
        for trouble in [Away, Full, Denied, Damaged, Other] {
            assert!(Patience::Endless.outlasts(trouble), "{trouble:?}");
        }
        assert!(!Patience::Endless.outlasts(Newer));
        for trouble in [Away, Full, Denied, Newer, Damaged, Other] {
            assert!(!Patience::Bounded.outlasts(trouble), "{trouble:?}");
        }
    }

    #[test]
    fn f05_waiting_for_two_weeks_does_not_use_up_a_thousand_deliveries() {
        let (mut age, mut deliveries) = (Duration::ZERO, 0);
        while age < Duration::from_secs(14 * 24 * 60 * 60) {
            age += by_age(age);
            deliveries += 1;
        }
        assert!((300..700).contains(&deliveries), "{deliveries}");
    }

    #[test]
    fn a_back_off_grows_and_stays_below_three_seconds() {
        let mut back_off = BackOff::new();
        let waits: Vec<Duration> = (0..20).map(|_| back_off.next()).collect();
        assert!(waits[0] <= FIRST && waits[0] >= FIRST / 2, "{waits:?}");
        assert!(waits[10..].iter().all(|wait| *wait >= LAST / 2 && *wait <= LAST), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn while_claims_fail_one_message_a_second_is_received() {
        let gate = ClaimGate::default();
        assert_eq!(gate.may_receive().await, None);
        gate.failed();
        let start = Instant::now();
        for second in 0..4_u32 {
            assert_eq!(gate.may_receive().await, Some(1));
            assert_eq!(start.elapsed().as_secs(), u64::from(second));
        }
        gate.answered();
        assert_eq!(gate.may_receive().await, None);
    }
}
