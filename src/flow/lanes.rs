//! Which lanes may a job use, and what is known of each? Names resolve to plans, plans to lanes; names that resolve
//! to the same id share the lane, because it is the id that has the quota.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;

use crate::job::failure::{Class, Failure};
use crate::job::intake;
use crate::job::spec::Job;
use crate::job::units::{PerDay, PerMinute, Price, Timestamp, Tokens};
use crate::ports::LaneId;
use crate::rules::breaker::BreakerRules;
use crate::rules::estimate::Text;
use crate::rules::pace::{Counting, Hypothesis, Limits, Terms};
use crate::rules::route::Spread;

use super::lane::Lane;
use super::line::Line;
use super::pace_clock::PaceClock;
use super::sizing::{self, Estimates};

/// What is to be known of a model before the first call.
#[derive(Clone, Debug)]
pub struct PlanSpec {
    /// Every name a job may use for it.
    pub names: Vec<Arc<str>>,
    /// What it costs; `None` if nobody said.
    pub price: Option<Price>,
    /// Quota tokens per output token.
    pub burndown: u32,
    /// The cap on output when a job names none.
    pub default_cap: NonZeroU32,
    /// Time for a call, by its cap.
    pub call_timeout: CallTimeout,
    /// Names of the models that may answer when this one is overloaded, in this order.
    pub fallback: Vec<Arc<str>>,
    /// Where it can be called, in configured order.
    pub routes: Vec<RouteSpec>,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub struct CallTimeout {
    /// Always.
    pub base: Duration,
    /// And for each token of the cap.
    pub per_token: Duration,
}

impl CallTimeout {
    /// For a call with this cap.
    pub fn of(&self, cap: u32) -> Duration {
        self.base.saturating_add(self.per_token.saturating_mul(cap))
    }
}

/// One endpoint of a model.
#[derive(Clone, Debug)]
pub struct RouteSpec {
    /// The lane.
    pub lane: LaneId,
    /// Whether it is tried before those that are not.
    pub primary: bool,
    /// It is not called before this moment, which somebody set from outside; `None`, or one that has passed: it may be.
    pub not_before: Option<Timestamp>,
    /// Its quota.
    pub limits: Limits,
    /// What the account may use there in a day, over all models.
    pub account_tokens_per_day: Option<PerDay>,
    /// How the service counts it.
    pub counting: Counting,
}

impl RouteSpec {
    /// What is told of its lane.
    pub fn terms(&self) -> Terms {
        Terms { limits: self.limits, counting: self.counting, slack: ADMITTED_WITHIN, first_alone: true }
    }
}

/// A model, ready to be called.
#[derive(Debug)]
pub struct Plan {
    /// Every name a job may use for it.
    pub names: Vec<Arc<str>>,
    /// What it costs; `None` if nobody said.
    pub price: Option<Price>,
    /// Quota tokens per output token.
    pub burndown: u32,
    /// The cap on output when a job names none.
    pub default_cap: NonZeroU32,
    /// Time for a call, by its cap.
    pub call_timeout: CallTimeout,
    /// Names of the models that may answer when this one is overloaded, in this order.
    pub fallback: Vec<Arc<str>>,
    /// Where it can be called, in configured order.
    pub routes: Vec<Route>,
    /// The largest request any of its lanes can ever admit; `None` if one has no limit.
    pub largest: Option<u64>,
    /// Who chooses a lane next; a fair lock, so that the oldest is not starved by smaller ones.
    pub turn: tokio::sync::Mutex<()>,
    /// Who waits for it.
    pub line: Line,
    estimates: Mutex<Estimates>,
    spread: Mutex<Spread>,
}

/// One endpoint of a plan.
#[derive(Debug)]
pub struct Route {
    /// The lane.
    pub lane: Arc<Lane>,
    /// The account behind it, where that has a quota of its own.
    pub account: Option<Arc<Lane>>,
    /// Whether it is tried before those that are not.
    pub primary: bool,
}

/// How large a call is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Its text, for the estimate to learn from.
    pub text: Text,
    /// The cap on its output; zero for what has none, as embeddings.
    pub cap: u32,
    /// What it may have without right-sizing.
    pub full_cap: u32,
    /// At least so much, if it may be right-sized at all.
    pub least_cap: Option<u32>,
    /// Its input, estimated on the safe side.
    pub input: Tokens,
    /// What the longest answer weighs in the end, as far as is known: output tokens times burndown.
    pub settled_output: Tokens,
}

impl Size {
    /// What is reserved for it where so many tokens a minute are the quota: what the service deducts before the call, or what
    /// the call comes to if that is more. The service charges the difference before we know of it, so it must not be a
    /// surprise; but what fits into the minute is never too large for what it may come to.
    pub fn reserve_under(&self, quota: Option<u64>) -> Tokens {
        let room = quota.map_or(self.settled_output, |quota| Tokens(quota.saturating_sub(self.input.0)));
        self.input + self.output().max(self.settled_output.min(room))
    }

    /// What the service needs to be free to admit it.
    pub fn admission(&self) -> Tokens {
        self.input + self.output()
    }

    /// Its output at most.
    pub fn output(&self) -> Tokens {
        Tokens(u64::from(self.cap))
    }
}

impl Plan {
    /// How large the call of a job is at most, by what is known now: under its full cap.
    pub fn size_of(&self, job: &Job) -> Size {
        let text = Text { bytes: intake::text_bytes(&job.request), template: intake::template_of(&job.request) };
        let cap = match intake::output_cap(&job.request, job.max_tokens) {
            Some(cap) => cap,
            None if intake::takes_output_cap(&job.request) => self.default_cap.get(),
            None => 0,
        };
        let least_cap = sizing::least_cap(job);
        Size {
            text,
            cap,
            full_cap: cap,
            least_cap,
            input: self.estimates().input.reserve(text),
            settled_output: Tokens(0),
        }
    }

    /// Why no lane can ever admit a call of this size, if none can.
    pub fn too_large(&self, size: &Size) -> Option<Failure> {
        let largest = self.largest.filter(|largest| size.admission().0 > *largest)?;
        let needed = size.admission();
        let message = format!("needs {needed} tokens at once, and no lane it may use has more than {largest} a minute");
        Some(Failure::new(Class::TooLarge, message))
    }

    /// Why this job may go nowhere, if its residency leaves no lane.
    pub fn no_residence(&self, job: &Job) -> Option<Failure> {
        let regions = job.residency.as_ref()?;
        if self.routes.iter().any(|route| regions.iter().any(|region| **region == *route.lane.id.region)) {
            return None;
        }
        let message = format!("no configured region is among {}", regions.join(", "));
        Some(Failure::new(Class::Residency, message))
    }

    /// What is learned of its tokens, for a moment.
    pub fn estimates(&self) -> MutexGuard<'_, Estimates> {
        lock(&self.estimates)
    }

    /// Who got the last jobs, for a moment.
    pub fn spread(&self) -> MutexGuard<'_, Spread> {
        lock(&self.spread)
    }
}

/// What stands for the model in the name of an account's lane.
pub const ACCOUNT: &str = "*";
/// Between the sending of a call and its admission by the service: the way there, and a connection that may have to be
/// opened.
const ADMITTED_WITHIN: Duration = Duration::from_millis(300);

/// Every model and lane. Ids that no configuration names become plans when they are first asked for.
pub struct Catalogue {
    bare: Bare,
    breaker: BreakerRules,
    clock: Arc<PaceClock>,
    /// Told when a lane has something to write.
    said: Arc<Notify>,
    known: RwLock<Known>,
}

/// Makes the plan of an id that no configuration names.
type Bare = Box<dyn Fn(&str) -> Option<PlanSpec> + Send + Sync>;

#[derive(Default)]
struct Known {
    plans: HashMap<Arc<str>, Arc<Plan>>,
    lanes: HashMap<LaneId, Arc<Lane>>,
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalogue").finish_non_exhaustive()
    }
}

impl Catalogue {
    /// With the configured models; `now` is the wall clock's time, and `bare` makes the plan of a model or profile id that
    /// none of them names.
    pub fn new(
        now: Timestamp,
        specs: Vec<PlanSpec>,
        breaker: BreakerRules,
        bare: impl Fn(&str) -> Option<PlanSpec> + Send + Sync + 'static,
    ) -> Self {
        let catalogue = Self {
            bare: Box::new(bare),
            breaker,
            clock: Arc::new(PaceClock::starting_at(now)),
            said: Arc::default(),
            known: RwLock::default(),
        };
        {
            let mut known = catalogue.known.write().unwrap_or_else(PoisonError::into_inner);
            for spec in specs {
                catalogue.add(&mut known, spec);
            }
        }
        catalogue
    }

    /// The plan for what a job calls its model.
    pub fn find(&self, name: &str) -> Option<Arc<Plan>> {
        if let Some(plan) = self.known.read().unwrap_or_else(PoisonError::into_inner).plans.get(name) {
            return Some(Arc::clone(plan));
        }
        let spec = (self.bare)(name)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Some(self.add(&mut known, spec))
    }

    /// Every lane, in no order.
    pub fn lanes(&self) -> Vec<Arc<Lane>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).lanes.values().cloned().collect()
    }

    /// The time by which charges age.
    pub fn clock(&self) -> &PaceClock {
        &self.clock
    }

    /// Waits until a lane has something to write.
    pub async fn said(&self) {
        self.said.notified().await;
    }

    fn add(&self, known: &mut Known, spec: PlanSpec) -> Arc<Plan> {
        let largest = spec
            .routes
            .iter()
            .map(|route| route.limits.tokens_per_minute.map(PerMinute::get))
            .collect::<Option<Vec<_>>>()
            .and_then(|limits| limits.into_iter().max());
        let routes = spec
            .routes
            .into_iter()
            .map(|route| Route {
                account: route.account_tokens_per_day.map(|limit| self.account(known, &route.lane, limit)),
                primary: route.primary,
                lane: self.lane(known, &route),
            })
            .collect();
        let plan = Arc::new(Plan {
            names: spec.names,
            price: spec.price,
            burndown: spec.burndown,
            default_cap: spec.default_cap,
            call_timeout: spec.call_timeout,
            fallback: spec.fallback,
            routes,
            largest,
            turn: tokio::sync::Mutex::default(),
            line: Line::default(),
            estimates: Mutex::default(),
            spread: Mutex::default(),
        });
        for name in &plan.names {
            known.plans.insert(Arc::clone(name), Arc::clone(&plan));
        }
        plan
    }
}

impl Catalogue {
    fn lane(&self, known: &mut Known, route: &RouteSpec) -> Arc<Lane> {
        let make = || Arc::new(self.make(route.lane.clone(), route.not_before, route.terms()));
        Arc::clone(known.lanes.entry(route.lane.clone()).or_insert_with(make))
    }

    /// The account of a region is kept like a lane whose model is any.
    fn account(&self, known: &mut Known, of: &LaneId, limit: PerDay) -> Arc<Lane> {
        let id = LaneId { region: Arc::clone(&of.region), model_id: ACCOUNT.into() };
        let make = || {
            let limits = Limits { tokens_per_day: Some(limit), ..Limits::default() };
            // Days are not learned, so any counting of minutes will do.
            let counting = Counting::Known(Hypothesis::Sliding);
            let terms = Terms { limits, counting, slack: ADMITTED_WITHIN, first_alone: false };
            Arc::new(self.make(id.clone(), None, terms).for_account())
        };
        Arc::clone(known.lanes.entry(id.clone()).or_insert_with(make))
    }

    fn make(&self, id: LaneId, not_before: Option<Timestamp>, terms: Terms) -> Lane {
        Lane::new(id, not_before, terms, self.breaker, Arc::clone(&self.clock), Arc::clone(&self.said))
    }
}

/// A lock whose holder panicked is still a lock: what it guards is only ever replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The premise: what long answers come to was bounded by the largest quota of all lanes, and a job that may use a smaller one
    /// alone was too large for it.
    #[test]
    fn what_fits_into_a_lanes_minute_is_not_too_large_for_what_long_answers_come_to() {
        let text = Text { bytes: 0, template: 0 };
        let (input, settled_output) = (Tokens(10_000), Tokens(50_000));
        let size = Size { text, cap: 10_000, full_cap: 10_000, least_cap: None, input, settled_output };
        let reserved = |quota| size.reserve_under(quota).0;
        assert_eq!([None, Some(200_000)].map(reserved), [60_000; 2]);
        assert_eq!(reserved(Some(50_000)), 50_000);
        assert_eq!(reserved(Some(15_000)), 20_000, "what the service deducts");
    }
}
