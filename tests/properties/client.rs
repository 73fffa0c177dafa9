//! A worker with nothing in it but the rules, before a simulated service that counts by itself.
//!
//! Time is tokio's paused clock: it passes only while everybody waits. A call is reserved, sent, admitted or refused
//! when it arrives, answered after its latency, and heard of after its way back, as over a network.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use aquifer::job::units::{PerMinute, Timestamp, Tokens};
use aquifer::rules::concurrency::{Concurrency, SETTLED_IN};
use aquifer::rules::estimate::{InputEstimates, Text};
use aquifer::rules::pace::{
    Counting, Event, Hypothesis, JUDGED_AFTER, LaneLedger, Limits, Quota, Refusal, Reservation, Terms,
};
use aquifer::simulate::{InProcess, NoAnswer, Operation, Report, Scenario};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

const MODEL: &str = "us.anthropic.claude-haiku-4-5-20251001-v1:0";
/// The simulator's own rule.
const BYTES_PER_TOKEN: u64 = 4;
/// A turn of the clock's minute.
const TURN: Timestamp = Timestamp(1_800_000_000_000);

/// What is behind the lane.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) counting: Hypothesis,
    pub(crate) tokens_per_minute: u64,
    pub(crate) requests_per_minute: Option<u64>,
    pub(crate) burndown: u64,
    /// `"amend"` or `"append"`.
    pub(crate) excess: &'static str,
    /// Median, and what one call in a hundred takes.
    pub(crate) latency: (Duration, Duration),
}

impl Service {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            tokens_per_minute: PerMinute::new(self.tokens_per_minute),
            requests_per_minute: self.requests_per_minute.and_then(PerMinute::new),
            tokens_per_day: None,
        }
    }

    fn start(&self, at: Timestamp) -> InProcess {
        let counting = match self.counting {
            Hypothesis::Bucket => "bucket",
            Hypothesis::Sliding => "sliding",
            Hypothesis::Fixed => "fixed",
        };
        let requests =
            self.requests_per_minute.map(|limit| format!("requests_per_minute = {limit}")).unwrap_or_default();
        let Self { tokens_per_minute, burndown, excess, latency: (p50, p99), .. } = self;
        let scenario = format!(
            "counting = '{counting}'\nsettlement_excess = '{excess}'\nanswer = {{ mean = 1, from_prompt = true }}\n\
             latency = {{ p50 = '{}ms', p99 = '{}ms' }}\n[[model]]\nid = '{MODEL}'\nburndown = {burndown}\n\
             tokens_per_minute = {tokens_per_minute}\n{requests}",
            p50.as_millis(),
            p99.as_millis()
        );
        InProcess::new(Scenario::from_toml(&scenario).unwrap(), at)
    }
}

/// A call to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// When the job comes, from the start.
    pub(crate) comes: Duration,
    /// In tokens; at least [`LEAST_INPUT`].
    pub(crate) input: u64,
    /// In output tokens.
    pub(crate) cap: u64,
    /// How long its answer is, in output tokens; at most the cap, at least 1.
    pub(crate) answer: u64,
    /// What the client reserves beyond the cap for an answer that costs more.
    pub(crate) surcharge: u64,
    /// From sending it to its admission.
    pub(crate) out: Duration,
    /// From its end to hearing of it.
    pub(crate) back: Duration,
}

/// What the marker of the answer's length takes.
pub(crate) const LEAST_INPUT: u64 = 12;

impl Call {
    pub(crate) fn settlement(&self, burndown: u64) -> u64 {
        self.input + self.answer * burndown
    }

    fn body(self, number: usize) -> Vec<u8> {
        let mut text = format!("[answer: {} tokens] {number} ", self.answer);
        let length = usize::try_from(self.input * BYTES_PER_TOKEN).unwrap();
        assert!(text.len() <= length, "no room for its marker");
        text.extend(std::iter::repeat_n('.', length - text.len()));
        let body = json!({ "messages": [{ "role": "user", "content": [{ "text": text }] }],
            "inferenceConfig": { "maxTokens": self.cap } });
        body.to_string().into_bytes()
    }
}

/// How the client goes about it.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) terms: Terms,
    /// How far the clock's minute has run at the start.
    pub(crate) into_the_minute: Duration,
    /// Has to estimate the input tokens and learns from answers, as a worker does; else it knows.
    pub(crate) estimates: bool,
    /// Starts with one call at a time, as a worker does; else all go that may.
    pub(crate) starts_low: bool,
    /// By so many milliseconds its clock is off, from one look to the next: it is several workers' in truth.
    pub(crate) clock_off: Vec<i64>,
}

/// What became of the calls.
#[derive(Debug)]
pub(crate) struct Drained {
    pub(crate) lane: LaneLedger,
    pub(crate) report: Report,
    pub(crate) throttled: Vec<Throttled>,
    /// What came to more than was reserved: when it was reserved and when that was heard of, from the start.
    pub(crate) exceeded: Vec<(Duration, Duration)>,
    /// When trials were reserved, from the start.
    pub(crate) trials: Vec<Duration>,
    /// From the start to the last answer.
    pub(crate) took: Duration,
}

/// A call that the service refused.
#[derive(Clone, Debug)]
pub(crate) struct Throttled {
    pub(crate) stood: Stood,
    /// When it was reserved and when the refusal was heard of, from the start and by no worker's clock.
    pub(crate) reserved: Duration,
    pub(crate) heard: Duration,
}

/// What the ledger believed when a call was reserved.
#[derive(Clone, Debug)]
pub(crate) struct Stood {
    pub(crate) countings: Vec<Hypothesis>,
    /// Of tokens a minute.
    pub(crate) limit: Option<u64>,
}

/// Runs it while nobody's time passes.
pub(crate) fn on_virtual_time<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(work)
}

/// Makes all of the calls, in order; one that is refused by the ledger is asked for again when it said, and one that is
/// refused by the service goes first.
pub(crate) async fn drain(service: &Service, manner: Manner, calls: &[Call]) -> Drained {
    Client::new(service, manner, calls).drain().await
}

enum Happened {
    SettledIn,
    Passed(Sent),
    Ended(Sent, Result<Tokens, Quota>),
}

#[derive(Clone)]
struct Sent {
    number: usize,
    reservation: Reservation,
    reserved: Duration,
    stood: Stood,
}

struct Client<'a> {
    service: InProcess,
    calls: &'a [Call],
    burndown: u64,
    manner: Manner,
    began: Instant,
    looks: usize,
    waiting: VecDeque<usize>,
    open: usize,
    concurrency: Concurrency,
    inputs: InputEstimates,
    tell: UnboundedSender<Happened>,
    news: UnboundedReceiver<Happened>,
    done: Drained,
}

impl<'a> Client<'a> {
    fn new(service: &Service, manner: Manner, calls: &'a [Call]) -> Self {
        let (tell, news) = unbounded_channel();
        let running = service.start(TURN + manner.into_the_minute);
        let lane = LaneLedger::new(manner.terms);
        Self {
            calls,
            burndown: service.burndown,
            began: Instant::now(),
            looks: 0,
            waiting: (0..calls.len()).collect(),
            open: 0,
            concurrency: if manner.starts_low { Concurrency::new() } else { Concurrency::unbounded() },
            inputs: InputEstimates::default(),
            tell,
            news,
            done: Drained {
                lane,
                report: running.report(),
                throttled: Vec::new(),
                exceeded: Vec::new(),
                trials: Vec::new(),
                took: Duration::ZERO,
            },
            service: running,
            manner,
        }
    }

    async fn drain(mut self) -> Drained {
        while !self.waiting.is_empty() || self.open > 0 {
            let next = self.start_what_may();
            tokio::select! {
                Some(happened) = self.news.recv() => self.note(happened),
                () = sleep_until(next.unwrap_or(self.began)), if next.is_some() => {}
            }
        }
        self.done.report = self.service.report();
        self.done
    }

    /// Returns when to look again, if that is not when something happens.
    fn start_what_may(&mut self) -> Option<Instant> {
        while self.open < self.concurrency.limit() {
            let number = *self.waiting.front()?;
            let call = &self.calls[number];
            if self.began.elapsed() < call.comes {
                return Some(self.began + call.comes);
            }
            let now = self.now();
            let lane = &self.done.lane;
            let stood = Stood { countings: lane.standing(), limit: lane.tokens_per_minute() };
            let input = if self.manner.estimates { self.inputs.reserve(text(call)).0 } else { call.input };
            match self.done.lane.reserve(now, Tokens(input + call.cap + call.surcharge)) {
                Ok(reservation) => {
                    self.waiting.pop_front();
                    self.open += 1;
                    if reservation.trial {
                        self.done.trials.push(self.began.elapsed());
                    }
                    self.send(Sent { number, reservation, reserved: self.began.elapsed(), stood });
                }
                Err(Refusal::NotUntil { at, .. }) => {
                    assert!(at > now, "told to wait for the past");
                    return Some(Instant::now() + at.since(now));
                }
                Err(never) => panic!("{never}: {call:?}"),
            }
        }
        None
    }

    fn send(&self, sent: Sent) {
        let Call { out, back, .. } = self.calls[sent.number];
        let body = self.calls[sent.number].body(sent.number);
        let (service, tell, burndown) = (self.service.clone(), self.tell.clone(), self.burndown);
        tokio::spawn(async move {
            let began = Instant::now();
            let exchange = async {
                sleep(out).await;
                let answer = service.call("us-east-1", MODEL, Operation::Converse, &body).await;
                sleep(back).await;
                heard(answer, burndown)
            };
            tokio::pin!(exchange);
            let mut end = timeout_at(began + SETTLED_IN, &mut exchange).await.ok();
            if end.as_ref().is_none_or(Result::is_ok) {
                let _gone = tell.send(Happened::SettledIn);
            }
            if end.is_none() {
                end = timeout_at(began + JUDGED_AFTER, &mut exchange).await.ok();
            }
            let end = match end {
                Some(end) => end,
                None => {
                    let _gone = tell.send(Happened::Passed(sent.clone()));
                    exchange.await
                }
            };
            let _gone = tell.send(Happened::Ended(sent, end));
        });
    }

    fn note(&mut self, happened: Happened) {
        let (now, heard) = (self.now(), self.began.elapsed());
        match happened {
            Happened::SettledIn => {
                let now = self.now();
                self.concurrency.settled_in(now, self.open);
            }
            Happened::Passed(sent) => self.done.lane.apply(now, &Event::Passed(sent.reservation)),
            Happened::Ended(sent, end) => {
                self.open -= 1;
                match end {
                    Ok(used) => {
                        if used > sent.reservation.tokens {
                            self.done.exceeded.push((sent.reserved, heard));
                        }
                        let call = &self.calls[sent.number];
                        self.inputs.learn(text(call), Tokens(call.input));
                        self.done.took = heard;
                        self.done.lane.apply(now, &Event::Settled(sent.reservation, used));
                    }
                    Err(quota) => {
                        self.waiting.push_front(sent.number);
                        self.done.lane.apply(now, &Event::Throttled(sent.reservation, quota, None));
                        let Sent { reserved, stood, .. } = sent;
                        self.done.throttled.push(Throttled { stood, reserved, heard });
                    }
                }
            }
        }
    }

    /// By its own clock.
    fn now(&mut self) -> Timestamp {
        let now = TURN + self.manner.into_the_minute + self.began.elapsed();
        self.looks += 1;
        let off = self.manner.clock_off.get(self.looks % self.manner.clock_off.len().max(1));
        Timestamp(now.0 + off.copied().unwrap_or(0))
    }
}

fn text(call: &Call) -> Text {
    Text { bytes: call.input * BYTES_PER_TOKEN, template: 0 }
}

fn heard(answer: Result<Vec<u8>, NoAnswer>, burndown: u64) -> Result<Tokens, Quota> {
    match answer {
        Ok(body) => {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let count = |key: &str| body["usage"][key].as_u64().unwrap();
            Ok(Tokens(count("inputTokens") + count("outputTokens") * burndown))
        }
        Err(NoAnswer::Error(refused)) if refused.message.starts_with("Too many tokens") => Err(Quota::Tokens),
        Err(NoAnswer::Error(refused)) if refused.message.starts_with("Too many requests") => Err(Quota::Requests),
        Err(other) => panic!("neither answered nor throttled: {other:?}"),
    }
}

/// Acts by what it was told.
pub(crate) fn told(service: &Service, slack: Duration) -> Terms {
    Terms { limits: service.limits(), counting: Counting::Known(service.counting), slack, first_alone: true }
}

/// Has to find out.
pub(crate) fn learning(service: &Service, slack: Duration) -> Terms {
    Terms { counting: Counting::Learn, ..told(service, slack) }
}
