//! Ingestions against a service that refuses a second: whoever looks when, however often somebody dies between looking and
//! beginning, and whatever others begin by hand.

use aquifer::job::ident::{BatchName, JobId, JobKey, Tenant};
use aquifer::job::ingest::{Counts, IngestToken, Ingestion, Phase};
use aquifer::job::units::Timestamp;
use aquifer::rules::ingest::{Next, next};
use proptest::collection::vec;
use proptest::prelude::*;

/// What happens at one moment.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A job is queued.
    Arrive,
    /// A job looks, and keeps in mind what it is to do.
    Look(usize),
    /// It does what it had in mind, however long ago that was; or dies before that, if it has nothing in mind.
    Act(usize),
    /// Somebody begins one by hand.
    ByHand,
    /// What runs ends.
    End(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let job = 0_usize..6;
    let step = prop_oneof![
        2 => Just(Step::Arrive),
        6 => job.clone().prop_map(Step::Look),
        6 => job.prop_map(Step::Act),
        1 => Just(Step::ByHand),
        3 => prop::bool::weighted(0.8).prop_map(Step::End),
    ];
    vec(step, 1..120)
}

struct Job {
    queued: Timestamp,
    token: IngestToken,
    begins: bool,
    ended: Option<Ingestion>,
}

/// The clock of the queue may be off from that of the service by this, in steps.
struct World {
    now: i64,
    skew: i64,
    jobs: Vec<Job>,
    ingestions: Vec<Ingestion>,
}

impl World {
    fn service_time(&self) -> Timestamp {
        Timestamp((self.now + self.skew) * 10)
    }

    fn runs(&self) -> bool {
        self.ingestions.iter().any(|of| of.phase == Phase::Running)
    }

    /// As the service does: one at a time, and the same one under the same token.
    fn begin(&mut self, token: Option<IngestToken>) {
        let is_known = token.is_some() && self.ingestions.iter().any(|of| of.token == token);
        if is_known || self.runs() {
            return;
        }
        let (id, began) = (self.ingestions.len().to_string(), self.service_time());
        self.ingestions.push(Ingestion { id, token, phase: Phase::Running, began, counts: Counts::default() });
    }

    fn take(&mut self, step: Step) {
        self.now += 1;
        match step {
            Step::Arrive => {
                let id = JobId::new(&format!("j{}", self.jobs.len())).unwrap();
                let key = JobKey { tenant: Tenant::unnamed(), batch: BatchName::new("b").unwrap(), id };
                let queued = Timestamp(self.now * 10);
                self.jobs.push(Job { queued, token: IngestToken::of(&key, 0), begins: false, ended: None });
            }
            Step::Look(which) => {
                let newest: Vec<Ingestion> = self.ingestions.iter().rev().cloned().collect();
                let Some(job) = self.jobs.get_mut(which).filter(|job| job.ended.is_none()) else { return };
                match next(job.queued, &job.token, &newest) {
                    Next::Ended(of) => job.ended = Some(of.clone()),
                    Next::Wait => job.begins = false,
                    Next::Start => job.begins = true,
                }
            }
            Step::Act(which) => {
                let job = self.jobs.get_mut(which).filter(|job| job.ended.is_none());
                let token = job.and_then(|job| std::mem::take(&mut job.begins).then(|| job.token.clone()));
                if let Some(token) = token {
                    self.begin(Some(token));
                }
            }
            Step::ByHand => self.begin(None),
            Step::End(well) => {
                if let Some(running) = self.ingestions.iter_mut().find(|of| of.phase == Phase::Running) {
                    running.phase = if well { Phase::Complete } else { Phase::Failed };
                }
            }
        }
        assert!(self.ingestions.iter().filter(|of| of.phase == Phase::Running).count() <= 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_arrival_ends_by_an_ingestion_that_began_after_it_and_none_begins_two(steps in steps()) {
        let mut world = World { now: 0, skew: 0, jobs: Vec::new(), ingestions: Vec::new() };
        for step in steps {
            world.take(step);
        }
        // Then everybody goes on until all have ended.
        let mut rounds = 0;
        while world.jobs.iter().any(|job| job.ended.is_none()) {
            rounds += 1;
            prop_assert!(rounds < 40, "somebody waits for ever");
            for which in 0..world.jobs.len() {
                world.take(Step::Look(which));
                world.take(Step::Act(which));
            }
            world.take(Step::End(true));
        }
        for job in &world.jobs {
            let by = job.ended.as_ref().unwrap();
            prop_assert!(by.began > job.queued, "queued at {:?}, and read from {:?} on", job.queued, by.began);
            let own = world.ingestions.iter().filter(|of| of.token.as_ref() == Some(&job.token)).count();
            prop_assert!(own <= 1, "{own} were begun by one job");
        }
    }

    /// A service whose clock is behind the queue's: a job's own ingestion covers it all the same, or it would begin for ever.
    #[test]
    fn clocks_that_disagree_cost_no_second_ingestion_of_a_lone_job(skew in -50_i64..=0) {
        let mut world = World { now: 0, skew, jobs: Vec::new(), ingestions: Vec::new() };
        world.take(Step::Arrive);
        for _ in 0..10 {
            world.take(Step::Look(0));
            world.take(Step::Act(0));
            world.take(Step::End(true));
        }
        prop_assert!(world.jobs[0].ended.is_some());
        prop_assert_eq!(world.ingestions.len(), 1);
    }
}
