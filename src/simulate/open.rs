//! What does an admitted call still need? What the model says to it and how long that takes, and its settlement.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::answer::Answer;
use super::brownout::stretched;
use super::chance::{Dice, Purpose};
use super::fault::Kind;
use super::ledger::{Reservation, Split};
use super::request::Ask;
use super::scenario::Model;
use super::service::Service;

/// An admitted call. Dropped without a word it was abandoned by its caller, and keeps its reservation.
#[derive(Debug)]
pub(super) struct Open {
    service: Arc<Service>,
    admitted: Admitted,
    since: Instant,
    closed: bool,
}

/// What admission found out.
#[derive(Debug)]
pub(super) struct Admitted {
    /// As the service keeps it.
    pub(super) region: String,
    /// As the service keeps it.
    pub(super) lane: String,
    pub(super) model: Arc<Model>,
    pub(super) split: Split,
    pub(super) ask: Ask,
    /// How often this body has come, from 1.
    pub(super) attempt: u32,
    /// `None` where the call was admitted only because quotas are not enforced.
    pub(super) reservation: Option<Reservation>,
    /// The fault that strikes it.
    pub(super) fault: Option<Kind>,
    /// How many times as long it takes.
    pub(super) latency_factor: f64,
}

/// How a call ended, for the books.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The caller has a whole answer.
    Answered,
    /// The model has worked, but the caller has no use of it.
    Wasted,
    /// The model has produced nothing.
    Failed,
    /// The caller went away.
    Abandoned,
}

impl Open {
    pub(super) fn new(service: Arc<Service>, admitted: Admitted) -> Self {
        Self { service, admitted, since: Instant::now(), closed: false }
    }

    /// The fault that strikes it.
    pub(super) fn fault(&self) -> Option<&Kind> {
        self.admitted.fault.as_ref()
    }

    /// What the model says to this; always the same to the same request.
    pub(super) fn answer(&self) -> Answer {
        let Admitted { ask, model, .. } = &self.admitted;
        let limit = ask.max_tokens.unwrap_or(model.max_output);
        let exact = ask.answer_tokens.filter(|_| model.answer_from_prompt);
        Answer::compose(&mut self.dice(Purpose::Answer), model.answer, exact, limit, model.reasoning, ask)
    }

    /// The vector for an embedding, if one was asked for.
    pub(super) fn embedding(&self) -> Option<Vec<f64>> {
        let (dimensions, normalize) = self.admitted.ask.embedding?;
        Some(super::answer::embedding(&mut self.dice(Purpose::Answer), dimensions, normalize))
    }

    /// How long until the first token.
    pub(super) fn latency(&self) -> Duration {
        let usual = self.admitted.model.latency.draw(&mut self.dice(Purpose::Latency));
        stretched(usual, self.admitted.latency_factor)
    }

    /// How long from the first token to the last.
    pub(super) fn generating(&self, output_tokens: u64) -> Duration {
        stretched(self.admitted.model.latency.generating(output_tokens), self.admitted.latency_factor)
    }

    /// Milliseconds since admission.
    pub(super) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Of model id and content.
    pub(super) fn digest(&self) -> u64 {
        self.admitted.ask.digest
    }

    /// Input tokens, cached or not.
    pub(super) fn input_tokens(&self) -> u64 {
        self.admitted.ask.input_tokens
    }

    /// Input tokens as the cache splits them.
    pub(super) fn split(&self) -> Split {
        self.admitted.split
    }

    /// The whole answer goes out.
    pub(super) fn answered(self, output_tokens: u64) {
        self.close(End::Answered, output_tokens);
    }

    /// The work is charged, but no answer reaches the caller.
    pub(super) fn wasted(self, output_tokens: u64) {
        self.close(End::Wasted, output_tokens);
    }

    /// Nothing came of it: the reservation is given back.
    pub(super) fn failed(self) {
        self.close(End::Failed, 0);
    }

    fn close(mut self, end: End, output_tokens: u64) {
        self.service.settle(&self.admitted, end, output_tokens);
        self.closed = true;
    }

    fn dice(&self, purpose: Purpose) -> Dice {
        let attempt = match purpose {
            Purpose::Answer => 0,
            Purpose::Latency | Purpose::Fault(_) => self.admitted.attempt,
        };
        Dice::new(self.service.scenario.seed, self.admitted.ask.digest, attempt, purpose)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.closed {
            self.service.settle(&self.admitted, End::Abandoned, 0);
        }
    }
}
