//! Which metrics are there? Every one in a list: name, kind, labels, what it says, and where the number comes from. What is
//! scraped, the table in the README and the tests of dashboards and alert rules are made from it, so that no name is written
//! twice and none is watched that nobody emits.
//!
//! Names follow Prometheus: base units (seconds, tokens, US dollars, ratios from 0 to 1), `_total` on what only grows.

use crate::job::failure::{Class, Consequence};
use crate::job::units::Usd;

use super::figures::{BreakerState, Figures, LaneFigures};
use super::tallies::{Histogram, TenantTally};

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What it counts in.
    pub unit: &'static str,
    /// What it says, in one line.
    pub help: &'static str,
    pub(super) series: Series,
}

/// How values behave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It only grows, and begins anew with the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// A counter by size: `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// By what it is told apart, and where the number is found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Series {
    Whole(fn(&Figures) -> Option<f64>),
    Lane(fn(&LaneFigures) -> Option<f64>),
    /// By lane and by those classes.
    LaneClass(fn(Class) -> bool),
    LaneHistogram(fn(&LaneFigures) -> &Histogram),
    Tenant(fn(&TenantTally) -> f64),
    TenantStatus,
    FailedClass,
    Fallback,
}

impl Kind {
    /// The word of the exposition format.
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Metric {
    /// By what it is told apart.
    pub fn labels(&self) -> &'static [&'static str] {
        match self.series {
            Series::Whole(_) => &[],
            Series::Lane(_) | Series::LaneHistogram(_) => &["region", "model"],
            Series::LaneClass(_) => &["region", "model", "class"],
            Series::Tenant(_) => &["tenant"],
            Series::TenantStatus => &["tenant", "status"],
            Series::FailedClass => &["class"],
            Series::Fallback => &["from", "to"],
        }
    }

    /// What it says of one lane, over all classes; nothing if it is not told apart by lanes. A histogram is its sum and its count.
    pub(super) fn on_lane(&self, lane: &LaneFigures) -> Vec<(String, f64)> {
        let name = self.name.to_owned();
        match self.series {
            Series::Lane(read) => read(lane).map(|value| (name, value)).into_iter().collect(),
            Series::LaneClass(is_such) => vec![(name, number(lane.tally.failed(is_such)))],
            Series::LaneHistogram(read) => {
                let histogram = read(lane);
                let [.., count] = histogram.up_to();
                vec![(format!("{name}_sum"), histogram.sum), (format!("{name}_count"), number(count))]
            }
            Series::Whole(_) | Series::Tenant(_) | Series::TenantStatus | Series::FailedClass | Series::Fallback => {
                Vec::new()
            }
        }
    }

    /// What it says of the whole worker, over all by which it is told apart; nothing if that is lanes.
    pub(super) fn on_worker(&self, figures: &Figures) -> Option<f64> {
        match self.series {
            Series::Whole(read) => read(figures),
            Series::Tenant(read) => {
                // A plain sum of no floats is minus zero.
                Some(figures.tenants.iter().map(|(_, tally)| read(tally)).fold(0.0, std::ops::Add::add))
            }
            Series::TenantStatus => count(figures.tenants.iter().flat_map(|(_, tally)| tally.ended).sum()),
            Series::FailedClass => count(figures.failed.iter().sum()),
            Series::Fallback => count(figures.fallbacks.iter().map(|(_, times)| times).sum()),
            Series::Lane(_) | Series::LaneClass(_) | Series::LaneHistogram(_) => None,
        }
    }
}

/// A refusal for the quota: the call waits, and no attempt is used up.
pub fn is_throttle(class: Class) -> bool {
    class.consequence() == Consequence::Wait
}

/// Any other way in which a call can fail.
fn is_call_failure(class: Class) -> bool {
    match class.consequence() {
        Consequence::Again | Consequence::LaneOut | Consequence::Pause => true,
        Consequence::Fail => class != Class::Poison,
        Consequence::Wait | Consequence::Reject | Consequence::Expire | Consequence::HandBack => false,
    }
}

const fn metric(name: &'static str, kind: Kind, unit: &'static str, series: Series, help: &'static str) -> Metric {
    Metric { name, kind, unit, help, series }
}

/// All of them. Those by lane have the region that is called and the model or profile id that is called there; `model` is `*`
/// for what all models of an account share.
pub const ALL: &[Metric] = &[
    metric(
        "aquifer_calls_answered_total",
        Kind::Counter,
        "calls",
        Series::Lane(|lane| count(lane.tally.answers)),
        "Calls to the model that were answered.",
    ),
    metric(
        "aquifer_throttles_total",
        Kind::Counter,
        "calls",
        Series::LaneClass(is_throttle),
        "Calls that the service refused for its quota of the minute or of the day.",
    ),
    metric(
        "aquifer_call_failures_total",
        Kind::Counter,
        "calls",
        Series::LaneClass(is_call_failure),
        "Calls that failed otherwise; `overloaded`, `unavailable` and `model_error` are 5xx, `timeout` is no answer in time.",
    ),
    metric(
        "aquifer_call_duration_seconds",
        Kind::Histogram,
        "seconds",
        Series::LaneHistogram(|lane| &lane.tally.latency),
        "How long the calls took that were answered.",
    ),
    metric(
        "aquifer_pacing_wait_seconds",
        Kind::Histogram,
        "seconds",
        Series::LaneHistogram(|lane| &lane.tally.paced),
        "How long a job waited for quota, cool-down, breaker or back-off before a call could go.",
    ),
    metric(
        "aquifer_calls_open",
        Kind::Gauge,
        "calls",
        Series::Lane(|lane| lane.now.map(|now| size(now.open))),
        "Calls of this worker that are under way.",
    ),
    metric(
        "aquifer_retries_total",
        Kind::Counter,
        "calls",
        Series::Lane(|lane| count(lane.tally.retries)),
        "Failed calls that used up an attempt of a job that goes on.",
    ),
    metric(
        "aquifer_input_tokens_total",
        Kind::Counter,
        "tokens",
        Series::Lane(|lane| count(lane.tally.usage.input_tokens)),
        "Fresh input tokens of the answers.",
    ),
    metric(
        "aquifer_output_tokens_total",
        Kind::Counter,
        "tokens",
        Series::Lane(|lane| count(lane.tally.usage.output_tokens)),
        "Output tokens of the answers, thinking included.",
    ),
    metric(
        "aquifer_cache_read_tokens_total",
        Kind::Counter,
        "tokens",
        Series::Lane(|lane| count(lane.tally.usage.cache_read_tokens)),
        "Input tokens read from the prompt cache.",
    ),
    metric(
        "aquifer_cache_write_tokens_total",
        Kind::Counter,
        "tokens",
        Series::Lane(|lane| count(lane.tally.usage.cache_write_tokens)),
        "Input tokens written to the prompt cache.",
    ),
    metric(
        "aquifer_cost_usd_total",
        Kind::Counter,
        "US dollars",
        Series::Lane(|lane| Some(usd(lane.tally.spent))),
        "What the calls cost at the configured price.",
    ),
    metric(
        "aquifer_reserved_tokens_total",
        Kind::Counter,
        "tokens of quota",
        Series::Lane(|lane| count(lane.tally.reserved.0)),
        "What had been reserved for the calls that were answered.",
    ),
    metric(
        "aquifer_settled_tokens_total",
        Kind::Counter,
        "tokens of quota",
        Series::Lane(|lane| count(lane.tally.settled.0)),
        "What these calls came to: input, cache writes, and output times burndown.",
    ),
    metric(
        "aquifer_quota_tokens_used",
        Kind::Gauge,
        "tokens of quota",
        Series::Lane(|lane| lane.now.map(|now| number(now.used))),
        "Charged to the quota in the last minute by all workers, reservations included.",
    ),
    metric(
        "aquifer_quota_tokens_limit",
        Kind::Gauge,
        "tokens of quota",
        Series::Lane(|lane| lane.now.and_then(|now| now.tokens_per_minute).map(number)),
        "The tokens a minute that hold just now, as configured or as learned; absent if there is no such quota.",
    ),
    metric(
        "aquifer_quota_utilisation_ratio",
        Kind::Gauge,
        "ratio",
        Series::Lane(|lane| lane.now.and_then(|now| now.utilisation)),
        "The share of the tokens a minute that is charged; 1 is all of them.",
    ),
    metric(
        "aquifer_breaker_state",
        Kind::Gauge,
        "state",
        Series::Lane(|lane| lane.now.map(|now| breaker(now.breaker))),
        "0 closed, 1 half-open, 2 open, 3 open by hand.",
    ),
    metric(
        "aquifer_breaker_opened_total",
        Kind::Counter,
        "times",
        Series::Lane(|lane| count(lane.tally.breaker_opened)),
        "How often this worker opened the breaker for all.",
    ),
    metric(
        "aquifer_lane_out",
        Kind::Gauge,
        "0 or 1",
        Series::Lane(|lane| lane.now.map(|now| flag(now.out.is_some()))),
        "1 if the model cannot be called there: not enabled, not there or not allowed.",
    ),
    metric(
        "aquifer_fallbacks_total",
        Kind::Counter,
        "jobs",
        Series::Fallback,
        "How often a job went on to another model because its own was overloaded everywhere.",
    ),
    metric(
        "aquifer_jobs_ended_total",
        Kind::Counter,
        "jobs",
        Series::TenantStatus,
        "Jobs whose end this worker recorded.",
    ),
    metric(
        "aquifer_jobs_unsuccessful_total",
        Kind::Counter,
        "jobs",
        Series::FailedClass,
        "Of these, those that ended without an answer, by the class of the failure.",
    ),
    metric(
        "aquifer_jobs_cost_usd_total",
        Kind::Counter,
        "US dollars",
        Series::Tenant(|tenant| usd(tenant.spent)),
        "What the jobs cost that ended, all their calls together.",
    ),
    metric(
        "aquifer_jobs_in_hand",
        Kind::Gauge,
        "jobs",
        Series::Whole(|figures| count(figures.counts.in_hand)),
        "Jobs that this worker holds now.",
    ),
    metric(
        "aquifer_slots",
        Kind::Gauge,
        "jobs",
        Series::Whole(|figures| Some(size(figures.slots))),
        "Jobs that it may hold.",
    ),
    metric(
        "aquifer_oldest_job_in_hand_seconds",
        Kind::Gauge,
        "seconds",
        Series::Whole(|figures| Some(figures.oldest_in_hand.unwrap_or_default().as_secs_f64())),
        "How long ago the oldest job was queued that this worker holds; 0 if it holds none.",
    ),
    metric(
        "aquifer_messages_received_total",
        Kind::Counter,
        "messages",
        Series::Whole(|figures| count(figures.counts.received)),
        "Messages received from the queue.",
    ),
    metric(
        "aquifer_queue_ready",
        Kind::Gauge,
        "messages",
        Series::Whole(|figures| figures.queue.map(|depth| number(depth.ready))),
        "Messages that can be delivered; asked every 15 s, absent if the queue did not answer.",
    ),
    metric(
        "aquifer_queue_in_flight",
        Kind::Gauge,
        "messages",
        Series::Whole(|figures| figures.queue.map(|depth| number(depth.in_flight))),
        "Messages that some worker holds; likewise.",
    ),
    metric(
        "aquifer_queue_delayed",
        Kind::Gauge,
        "messages",
        Series::Whole(|figures| figures.queue.map(|depth| number(depth.delayed))),
        "Messages sent or handed back with a delay; likewise.",
    ),
    metric(
        "aquifer_queue_dead",
        Kind::Gauge,
        "messages",
        Series::Whole(|figures| figures.queue.map(|depth| number(depth.dead))),
        "Messages set aside as dead letters; likewise.",
    ),
    metric(
        "aquifer_right_sizing_saved_tokens_total",
        Kind::Counter,
        "tokens of quota",
        Series::Whole(|figures| count(figures.counts.reservation_saved.0)),
        "Tokens that `max_tokens = \"auto\"` did not reserve.",
    ),
    metric(
        "aquifer_right_sizing_reruns_total",
        Kind::Counter,
        "calls",
        Series::Whole(|figures| count(figures.counts.reruns)),
        "Answers that it cut, and asked for again.",
    ),
    metric(
        "aquifer_right_sizing_rerun_cost_usd_total",
        Kind::Counter,
        "US dollars",
        Series::Whole(|figures| Some(usd(figures.counts.rerun_cost))),
        "What the cut answers cost, as part of aquifer_cost_usd_total.",
    ),
    metric(
        "aquifer_credentials_refused",
        Kind::Gauge,
        "0 or 1",
        Series::Whole(|figures| Some(flag(figures.are_credentials_refused))),
        "1 while the service refuses the credentials and all calls wait.",
    ),
    metric(
        "aquifer_store_troubles",
        Kind::Gauge,
        "troubles",
        Series::Whole(|figures| Some(size(figures.troubles))),
        "What goes wrong with queue, ledger, bodies or notices just now.",
    ),
];

fn breaker(state: BreakerState) -> f64 {
    match state {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 1.0,
        BreakerState::Open => 2.0,
        BreakerState::Held => 3.0,
    }
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}

fn count(count: u64) -> Option<f64> {
    Some(number(count))
}

/// Exact up to 2^53, which no count here comes near.
#[allow(clippy::cast_precision_loss, reason = "see above")]
pub(super) fn number(number: u64) -> f64 {
    number as f64
}

fn size(size: usize) -> f64 {
    number(u64::try_from(size).unwrap_or(u64::MAX))
}

fn usd(usd: Usd) -> f64 {
    number(usd.nanos()) / 1e9
}
