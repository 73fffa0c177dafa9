//! What becomes of one call, from its bytes to what goes back, whichever way it came in?
//!
//! The server on a socket and the door for callers in this process are shells around this one function: admission,
//! faults, latency and settlement cannot differ between them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::Answer;
use super::errors::Refused;
use super::fault::Kind;
use super::open::Open;
use super::request::{self, Ask, Family, Operation};
use super::respond;
use super::scope::Target;
use super::service::{Denied, Service};

/// The largest body of InvokeModel, in bytes; taken for all operations.
pub(super) const BODY_LIMIT: usize = 25_000_000;

/// What a caller can ask for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Converse,
    ConverseStream,
    Invoke,
    InvokeAgent,
    CountTokens,
}

/// What goes back to the caller.
#[derive(Debug)]
pub(super) enum Reply {
    /// 200 with all of its body.
    Whole(Form, Vec<u8>),
    /// 200 with all of its body, a piece at a time.
    Paced(Form, Box<Paced>),
    /// 200 that was to have this body, and breaks off halfway.
    Cut(Form, Bytes),
    /// An error.
    Refused(Refused),
    /// Nothing: the connection closes after the model has worked.
    Gone,
    /// Nothing: the connection closes as if nobody listened.
    NoConnection,
}

/// The form of a body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    Json,
    EventStream,
}

/// Answers one call. Never returns for a `hang`: that ends when the caller goes away and drops this.
pub(super) async fn answer(service: &Arc<Service>, target: Target<'_>, action: Action, body: &[u8]) -> Reply {
    match read(service, target, action, body) {
        Ok(Read::Count(tokens)) => {
            service.counted_tokens();
            Reply::Whole(Form::Json, format!("{{\"inputTokens\":{tokens}}}").into_bytes())
        }
        Ok(Read::Ask(operation, ask)) => match service.admit(target, operation.is_streaming(), ask) {
            Ok(open) => work(target.id, operation, open).await,
            Err(Denied::Refused(refused)) => Reply::Refused(refused),
            Err(Denied::Closed) => Reply::NoConnection,
        },
        Err(refused) => {
            service.reject();
            Reply::Refused(refused)
        }
    }
}

enum Read {
    Count(u64),
    Ask(Operation, Ask),
}

fn read(service: &Service, target: Target<'_>, action: Action, body: &[u8]) -> Result<Read, Refused> {
    if body.len() > BODY_LIMIT {
        return Err(request::malformed());
    }
    let operation = match action {
        Action::CountTokens => {
            service.scenario.counts_tokens(target)?;
            return request::count_tokens(target.id, body).map(Read::Count);
        }
        Action::Converse => Operation::Converse,
        Action::ConverseStream => Operation::ConverseStream,
        Action::InvokeAgent => Operation::InvokeAgent,
        Action::Invoke => {
            // An unknown id is that before it is a body in the wrong format.
            service.scenario.model(target)?;
            Operation::Invoke(request::family(target.id).ok_or_else(request::no_format)?)
        }
    };
    request::read(target.id, operation, body).map(|ask| Read::Ask(operation, ask))
}

async fn work(id: &str, operation: Operation, open: Open) -> Reply {
    let fault = open.fault().cloned();
    if fault == Some(Kind::Hang) {
        std::future::pending::<Infallible>().await;
    }
    let latency = open.latency();
    if let Some(Kind::LateError(refused)) = fault {
        pause(latency).await;
        open.failed();
        return Reply::Refused(refused);
    }
    let answer = if fault == Some(Kind::Empty) { Answer::empty() } else { open.answer() };
    let generating = open.generating(answer.output_tokens);
    if operation.is_streaming() {
        pause(latency).await;
        let frames = match operation {
            Operation::InvokeAgent => respond::agent_frames(&answer),
            Operation::Converse | Operation::ConverseStream | Operation::Invoke(_) => {
                let generating_ms = u64::try_from(generating.as_millis()).unwrap_or(u64::MAX);
                respond::frames(&answer, open.split(), open.elapsed_ms().saturating_add(generating_ms))
            }
        };
        return stream_out(open, frames, answer.output_tokens, generating, fault);
    }
    pause(latency + generating).await;
    let (body, output_tokens) = match operation {
        // Streams went out above.
        Operation::Converse | Operation::ConverseStream | Operation::InvokeAgent => {
            (respond::converse(&answer, open.split(), open.elapsed_ms()), answer.output_tokens)
        }
        Operation::Invoke(Family::TitanEmbedding) => {
            let vector = open.embedding().filter(|_| fault != Some(Kind::Empty)).unwrap_or_default();
            (respond::embedding(&vector, open.input_tokens()), 0)
        }
        Operation::Invoke(family) => {
            (respond::invoke(family, id, &answer, open.split(), open.digest()), answer.output_tokens)
        }
    };
    match fault {
        Some(Kind::Drop) => {
            open.wasted(output_tokens);
            Reply::Gone
        }
        Some(Kind::Truncate) => {
            open.wasted(output_tokens);
            Reply::Cut(Form::Json, body.into())
        }
        Some(Kind::SlowBody(over)) => {
            let whole = body.len();
            let body = Bytes::from(body);
            let step = whole.div_ceil(SLOW_PIECES).max(1);
            let pieces = (0..whole).step_by(step).map(|at| body.slice(at..whole.min(at + step))).collect();
            Reply::Paced(Form::Json, Box::new(Paced::new(pieces, over, open, output_tokens)))
        }
        Some(Kind::Empty) => {
            open.wasted(output_tokens);
            Reply::Whole(Form::Json, body)
        }
        Some(Kind::Garbage) => {
            open.wasted(output_tokens);
            Reply::Whole(Form::Json, GARBAGE.to_vec())
        }
        // The others have been dealt with, or do not concern a unary call.
        None | Some(Kind::Error(_) | Kind::Refuse | Kind::LateError(_) | Kind::Hang | Kind::StreamError { .. }) => {
            open.answered(output_tokens);
            Reply::Whole(Form::Json, body)
        }
    }
}

fn stream_out(open: Open, mut frames: Vec<Bytes>, tokens: u64, generating: Duration, fault: Option<Kind>) -> Reply {
    match fault {
        Some(Kind::Drop) => {
            open.wasted(tokens);
            Reply::Gone
        }
        Some(Kind::Truncate) => {
            open.wasted(tokens);
            Reply::Cut(Form::EventStream, frames.concat().into())
        }
        Some(Kind::SlowBody(over)) => Reply::Paced(Form::EventStream, Box::new(Paced::new(frames, over, open, tokens))),
        Some(Kind::Empty) => {
            open.wasted(tokens);
            Reply::Whole(Form::EventStream, frames.concat())
        }
        Some(Kind::Garbage) => {
            open.wasted(tokens);
            Reply::Whole(Form::EventStream, GARBAGE.to_vec())
        }
        Some(Kind::StreamError { exception, message }) => {
            frames.truncate(frames.len() / 2);
            frames.push(respond::exception(exception, &message));
            open.wasted(tokens / 2);
            Reply::Whole(Form::EventStream, frames.concat())
        }
        None | Some(Kind::Error(_) | Kind::Refuse | Kind::LateError(_) | Kind::Hang) => {
            if generating.is_zero() {
                open.answered(tokens);
                Reply::Whole(Form::EventStream, frames.concat())
            } else {
                Reply::Paced(Form::EventStream, Box::new(Paced::new(frames, generating, open, tokens)))
            }
        }
    }
}

const SLOW_PIECES: usize = 20;
const GARBAGE: &[u8] = b"<html><head><title>502 Bad Gateway</title></head><body></body></html>";

/// A body that comes a piece at a time, evenly; the call is answered with the last.
#[derive(Debug)]
pub(super) struct Paced {
    pieces: std::vec::IntoIter<Bytes>,
    gap: Duration,
    open: Option<Open>,
    output_tokens: u64,
}

impl Paced {
    fn new(pieces: Vec<Bytes>, over: Duration, open: Open, output_tokens: u64) -> Self {
        let gap = over / u32::try_from(pieces.len()).unwrap_or(u32::MAX).max(1);
        Self { pieces: pieces.into_iter(), gap, open: Some(open), output_tokens }
    }

    /// What is still to come, in bytes.
    pub(super) fn length(&self) -> usize {
        self.pieces.as_slice().iter().map(Bytes::len).sum()
    }

    /// The next piece, when it is due.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        if self.pieces.len() > 0 {
            pause(self.gap).await;
        }
        let piece = self.pieces.next()?;
        if let Some(open) = self.open.take_if(|_| self.pieces.len() == 0) {
            open.answered(self.output_tokens);
        }
        Some(piece)
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
