//! How will the drain go? Rehearsed as it is configured, with every quota doubled, and with right-sized answers.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::thread;

use crate::aws::Bill;
use crate::cli::wiring;
use crate::config::{AwsSettings, Settings};
use crate::flow::lanes::{Plan, Route};
use crate::flow::patience::Patience;
use crate::job::units::{PerDay, PerMinute, Timestamp};
use crate::ports::LaneId;
use crate::rules::forecast::{Forecast, Rehearsal, Way, Work, rehearse};
use crate::rules::lane::LaneBook;
use crate::rules::pace::{Hypothesis, LaneLedger, Limits};
use crate::rules::rightsize::Weights;
use crate::rules::route::RoutingRules;

use super::history::History;
use super::load::{KEPT, Load, ModelLoad};
use super::plumbing;

/// What comes of the input.
pub(super) struct Outlook {
    pub(super) models: Vec<ModelLoad>,
    pub(super) lanes: Vec<LaneTerms>,
    pub(super) slots: usize,
    pub(super) now: Forecast,
    pub(super) doubled: Forecast,
    /// `None` if all jobs are right-sized already, or none can be.
    pub(super) auto: Option<Forecast>,
    /// Of a fleet: what its services cost beside the models.
    pub(super) plumbing: Option<Bill>,
    /// Why more may have happened before than is known.
    pub(super) history_unknown: Option<String>,
}

/// A lane or an account, as it is rehearsed.
pub(super) struct LaneTerms {
    pub(super) id: LaneId,
    pub(super) limits: Limits,
    pub(super) counting: Hypothesis,
    pub(super) counted: Counted,
    ledger: LaneLedger,
    rests_until: Timestamp,
}

/// How it is known how the service counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Counted {
    AsConfigured,
    AsLearned,
    /// The slowest of the three, and within the quota under each.
    Assumed,
}

impl Outlook {
    /// Of what is worked by this fleet, or on one machine.
    pub(super) fn of(
        settings: &Settings,
        fleet: Option<&AwsSettings>,
        history: &History,
        load: Load<'_>,
        start: Timestamp,
    ) -> Self {
        let models = load.models;
        let flow = wiring::flow_settings(settings, false, None, Patience::Bounded);
        let rules = RoutingRules {
            multi_region: flow.multi_region,
            spread_primaries: flow.spread_primaries,
            attempts_per_endpoint: flow.attempts_per_endpoint,
        };
        let mut lanes = Lanes { history, start, found: HashMap::new(), lanes: Vec::new() };
        let ways: Vec<Vec<Way>> = models.iter().map(|model| lanes.ways(&model.plan)).collect();
        let lanes = lanes.lanes;
        let rehearsal = |times: u64, auto: bool| Rehearsal {
            start,
            slots: flow.slots,
            rules,
            lanes: lanes.iter().map(|lane| lane.ledger.under(lane.limits_times(times), lane.counting)).collect(),
            work: models.iter().zip(&ways).map(|(model, ways)| work(model, ways, times, auto)).collect(),
            calls: KEPT,
        };
        let can_be_auto = models.iter().any(|model| model.could_be_auto > model.auto);
        let (now, doubled, auto) = thread::scope(|scope| {
            let doubled = scope.spawn(|| rehearse(rehearsal(2, false)));
            let now = rehearse(rehearsal(1, false));
            let auto = can_be_auto.then(|| rehearse(rehearsal(1, true)));
            // Only a rule that panics ends a rehearsal early.
            (now, doubled.join().unwrap_or_default(), auto)
        });
        let plumbing = fleet.map(|fleet| plumbing::bill(settings, fleet, &models, &lanes, &now));
        let history_unknown = history.unknown.clone();
        Self { models, lanes, slots: flow.slots, now, doubled, auto, plumbing, history_unknown }
    }
}

fn work(model: &ModelLoad, ways: &[Way], times: u64, auto: bool) -> Work {
    let plan = &model.plan;
    Work {
        ways: ways.to_vec(),
        burndown: plan.burndown,
        weights: Weights::new(plan.price.as_ref(), plan.burndown),
        largest: plan.largest.map(|largest| largest.saturating_mul(times)),
        jobs: model.rehearsed(auto),
        count: model.jobs,
        experience: model.experience(),
    }
}

struct Lanes<'h> {
    history: &'h History,
    start: Timestamp,
    found: HashMap<LaneId, usize>,
    lanes: Vec<LaneTerms>,
}

impl Lanes<'_> {
    fn ways(&mut self, plan: &Plan) -> Vec<Way> {
        plan.routes.iter().map(|route| self.way(route)).collect()
    }

    fn way(&mut self, route: &Route) -> Way {
        let lane = self.index(&route.lane);
        let account = route.account.as_ref().map(|account| self.index(account));
        let rests_until = self.lanes.get(lane).map_or(self.start, |lane| lane.rests_until);
        Way { lane, account, primary: route.primary, rests_until }
    }

    fn index(&mut self, lane: &crate::flow::lane::Lane) -> usize {
        if let Some(index) = self.found.get(&lane.id) {
            return *index;
        }
        let mut book = lane.state().book.clone();
        let told = book.ledger.standing();
        if let Some(row) = self.history.lanes.get(&lane.id.to_string()) {
            // One that another version has written says nothing.
            let _ = book.load(row);
        }
        self.lanes.push(self.terms(lane, &mut book, &told));
        self.found.insert(lane.id.clone(), self.lanes.len() - 1);
        self.lanes.len() - 1
    }

    fn terms(&self, lane: &crate::flow::lane::Lane, book: &mut LaneBook, told: &[Hypothesis]) -> LaneTerms {
        let (counting, counted) = match (told, book.ledger.standing().as_slice()) {
            ([told], _) => (*told, Counted::AsConfigured),
            (_, [learned]) => (*learned, Counted::AsLearned),
            (_, _) => (Hypothesis::Sliding, Counted::Assumed),
        };
        let limits = Limits {
            tokens_per_minute: book.ledger.tokens_per_minute().and_then(PerMinute::new),
            ..book.ledger.limits()
        };
        let rests = book.cool_down.available_at(self.start);
        LaneTerms {
            id: lane.id.clone(),
            limits,
            counting,
            counted,
            rests_until: lane.not_before.unwrap_or(rests).max(rests),
            ledger: book.ledger.clone(),
        }
    }
}

impl LaneTerms {
    fn limits_times(&self, times: u64) -> Limits {
        let by = |count: NonZeroU64| count.saturating_mul(NonZeroU64::MIN.saturating_add(times.saturating_sub(1)));
        Limits {
            tokens_per_minute: self.limits.tokens_per_minute.map(|limit| PerMinute(by(limit.0))),
            requests_per_minute: self.limits.requests_per_minute.map(|limit| PerMinute(by(limit.0))),
            tokens_per_day: self.limits.tokens_per_day.map(|limit| PerDay(by(limit.0))),
        }
    }
}
