//! Workers that draw grants from one row, against a service that counts for itself: whatever they draw, spend, give back and say
//! late, and whoever of them is killed with what in hand, no call is one too many.

use std::time::Duration;

use aquifer::job::units::{PerMinute, Timestamp, Tokens};
use aquifer::rules::pace::{Counting, Drawn, Event, Grant, Hypothesis, LaneLedger, Limits, Purse, Reservation, Terms};
use proptest::collection::vec;
use proptest::prelude::*;

/// Some way into a minute, so that turns are met.
const START: Timestamp = Timestamp(1_800_000_030_000);
const MINUTE: i64 = 60_000;
const LIMIT: u64 = 1_000;
const CALLS: u64 = 40;
const SLACK_MS: i64 = 300;

#[derive(Clone, Debug)]
enum Step {
    Pass(i64),
    /// With the sizes of those behind.
    Draw {
        worker: usize,
        first: u64,
        behind: Vec<u64>,
        way: i64,
    },
    Spend {
        worker: usize,
        tokens: u64,
        way: i64,
    },
    /// A call is taken out of the purse and sent later, or not at all.
    Hesitate {
        worker: usize,
        tokens: u64,
        by: i64,
        sends: bool,
        way: i64,
    },
    Settle {
        which: usize,
        percent: u64,
    },
    Write(usize),
    Kill(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let worker = || 0..4_usize;
    let size = || 1_u64..200;
    let way = || 0..=SLACK_MS;
    let pass = prop_oneof![4 => 0_i64..400, 3 => 0_i64..4_000, 1 => 0_i64..50_000];
    let step = prop_oneof![
        6 => pass.prop_map(Step::Pass),
        5 => (worker(), size(), vec(size(), 0..12), way())
            .prop_map(|(worker, first, behind, way)| Step::Draw { worker, first, behind, way }),
        9 => (worker(), size(), way()).prop_map(|(worker, tokens, way)| Step::Spend { worker, tokens, way }),
        2 => (worker(), size(), 0_i64..1_500, any::<bool>(), way()).prop_map(|(worker, tokens, by, sends, way)| {
            Step::Hesitate { worker, tokens, by, sends, way }
        }),
        5 => (any::<usize>(), 0_u64..=100).prop_map(|(which, percent)| Step::Settle { which, percent }),
        4 => worker().prop_map(Step::Write),
        1 => worker().prop_map(Step::Kill),
    ];
    vec(step, 1..200)
}

/// A call as the service saw it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    admitted: i64,
    reserved: u64,
    /// When, and how much it came to.
    settled: Option<(i64, u64)>,
}

impl Seen {
    fn counts_at(&self, moment: i64) -> u64 {
        match self.settled {
            Some((at, used)) if at <= moment => used,
            Some(_) | None => self.reserved,
        }
    }
}

#[derive(Default)]
struct Worker {
    purse: Purse,
    /// Not in the row yet.
    said: Vec<Event>,
    /// Calls whose end it waits for: which, and their charge.
    open: Vec<(usize, Reservation)>,
}

struct Fleet {
    terms: Terms,
    row: String,
    workers: Vec<Worker>,
    calls: Vec<Seen>,
    now: i64,
}

impl Fleet {
    fn new(counting: Hypothesis) -> Self {
        let limits = Limits {
            tokens_per_minute: PerMinute::new(LIMIT),
            requests_per_minute: PerMinute::new(CALLS),
            tokens_per_day: None,
        };
        let slack = Duration::from_millis(SLACK_MS.unsigned_abs());
        let terms = Terms { limits, counting: Counting::Known(counting), slack, first_alone: false };
        let row = serde_json::to_string(&LaneLedger::new(terms)).unwrap();
        let workers = (0..4).map(|_| Worker::default()).collect();
        Self { terms, row, workers, calls: Vec::new(), now: START.0 }
    }

    fn ledger(&self) -> LaneLedger {
        let mut ledger = LaneLedger::new(self.terms);
        ledger.load(&self.row).unwrap();
        ledger
    }

    /// What a worker would write: the row and what it has to say.
    fn copy(&mut self, worker: usize) -> LaneLedger {
        let mut ledger = self.ledger();
        let worker = &mut self.workers[worker];
        let rest = worker.purse.empty().map(Event::Returned);
        for event in worker.said.drain(..).chain(rest) {
            ledger.apply(Timestamp(self.now), &event);
        }
        ledger
    }

    fn write(&mut self, ledger: &LaneLedger) {
        self.row = serde_json::to_string(ledger).unwrap();
    }

    fn send(&mut self, worker: usize, part: Grant, way: i64) {
        let sent = Timestamp(self.now);
        let reservation = part.reservation(sent);
        self.workers[worker].said.push(Event::Spent(part, sent));
        self.sent(worker, reservation, way);
    }

    fn sent(&mut self, worker: usize, reservation: Reservation, way: i64) {
        self.workers[worker].open.push((self.calls.len(), reservation));
        self.calls.push(Seen { admitted: self.now + way, reserved: reservation.tokens.0, settled: None });
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Pass(time) => self.now += time,
            Step::Draw { worker, first, ref behind, way } => {
                let mut ledger = self.copy(worker);
                let behind = behind.iter().copied().map(Tokens);
                let ahead = self.workers[worker].purse.ahead(Timestamp(self.now), Duration::from_secs(1));
                let drawn = ledger.draw(Timestamp(self.now), Tokens(first), behind, ahead);
                self.write(&ledger);
                match drawn {
                    Ok(Drawn::Grant(grant)) => {
                        self.workers[worker].purse.fill(grant);
                        let part = self.workers[worker].purse.take(Timestamp(self.now), Tokens(first));
                        assert!(part.is_some(), "at least the first");
                        if let Some(part) = part {
                            self.send(worker, part, way);
                        }
                    }
                    Ok(Drawn::One(reservation)) => self.sent(worker, reservation, way),
                    Err(_) => {}
                }
            }
            Step::Spend { worker, tokens, way } => {
                if let Some(part) = self.workers[worker].purse.take(Timestamp(self.now), Tokens(tokens)) {
                    self.send(worker, part, way);
                }
            }
            Step::Hesitate { worker, tokens, by, sends, way } => {
                let Some(part) = self.workers[worker].purse.take(Timestamp(self.now), Tokens(tokens)) else { return };
                self.now += by;
                if sends && part.until() >= Timestamp(self.now) {
                    self.send(worker, part, way);
                } else {
                    self.workers[worker].said.push(Event::Returned(part));
                }
            }
            Step::Settle { which, percent } => {
                let holders: Vec<_> = (0..self.workers.len()).filter(|w| !self.workers[*w].open.is_empty()).collect();
                let Some(worker) = holders.get(which % holders.len().max(1)).copied() else { return };
                let open = &mut self.workers[worker].open;
                let (call, reservation) = open.swap_remove(which % open.len());
                // No answer comes before the call was admitted.
                self.now = self.now.max(self.calls[call].admitted);
                let used = reservation.tokens.0 * percent / 100;
                self.calls[call].settled = Some((self.now, used));
                self.workers[worker].said.push(Event::Settled(reservation, Tokens(used)));
            }
            Step::Write(worker) => {
                let ledger = self.copy(worker);
                self.write(&ledger);
            }
            Step::Kill(worker) => self.workers[worker] = Worker::default(),
        }
    }

    /// The first call that the service would have refused, and why.
    fn refused(&self, counting: Hypothesis) -> Option<String> {
        let mut order: Vec<usize> = (0..self.calls.len()).collect();
        order.sort_by_key(|call| self.calls[*call].admitted);
        order.iter().enumerate().find_map(|(place, call)| {
            let moment = self.calls[*call].admitted;
            let before = order[..=place].iter().map(|call| &self.calls[*call]);
            let (tokens, calls) = match counting {
                Hypothesis::Sliding => sum(before.filter(|seen| seen.admitted > moment - MINUTE), moment),
                Hypothesis::Fixed => {
                    sum(before.filter(|seen| seen.admitted.div_euclid(MINUTE) == moment.div_euclid(MINUTE)), moment)
                }
                Hypothesis::Bucket => owed(&before.copied().collect::<Vec<_>>(), moment),
            };
            let is_over = tokens > LIMIT || calls > CALLS;
            is_over.then(|| format!("{tokens} tokens and {calls} calls at {} ms", moment - START.0))
        })
    }
}

fn sum<'a>(calls: impl Iterator<Item = &'a Seen>, moment: i64) -> (u64, u64) {
    calls.fold((0, 0), |(tokens, calls), seen| (tokens + seen.counts_at(moment), calls + 1))
}

/// What a bucket lacks, in whole tokens and calls, rounded down.
fn owed(calls: &[Seen], moment: i64) -> (u64, u64) {
    let taken = calls.iter().map(|seen| (seen.admitted, i128::from(seen.reserved), 1));
    let given = calls.iter().filter_map(|seen| {
        let (at, used) = seen.settled.filter(|(at, _)| *at <= moment)?;
        Some((at, i128::from(used) - i128::from(seen.reserved), 0))
    });
    let mut changes: Vec<_> = taken.chain(given).collect();
    // An answer comes after its call, also within a millisecond.
    changes.sort_by_key(|(at, tokens, _)| (*at, -*tokens));
    let (mut at, mut tokens, mut requests) = (START.0, 0_i128, 0_i128);
    let drain = |owed: i128, passed: i64, limit: u64| (owed - i128::from(passed) * i128::from(limit)).max(0);
    for (then, more, one) in changes {
        tokens = (drain(tokens, then - at, LIMIT) + more * i128::from(MINUTE)).max(0);
        requests = drain(requests, then - at, CALLS) + one * i128::from(MINUTE);
        at = then;
    }
    let whole = |owed: i128| u64::try_from(owed / i128::from(MINUTE)).unwrap();
    (whole(drain(tokens, moment - at, LIMIT)), whole(drain(requests, moment - at, CALLS)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn q1_q2_q5_whatever_workers_draw_spend_return_and_whoever_is_killed_no_call_is_one_too_many(
        steps in steps(),
        counting in proptest::sample::select(Hypothesis::ALL.to_vec()),
    ) {
        let mut fleet = Fleet::new(counting);
        for step in &steps {
            fleet.take(step);
        }
        prop_assert_eq!(fleet.refused(counting), None, "{:?}", counting);
    }

    /// What was drawn and not spent is all there again once it is said: the quota is used to the brim.
    #[test]
    fn q3_what_is_returned_can_be_drawn_again_at_once(
        sizes in vec(1_u64..200, 1..12),
        // A bucket that was drawn on is full again a moment later.
        counting in proptest::sample::select(vec![Hypothesis::Sliding, Hypothesis::Fixed]),
    ) {
        let mut fleet = Fleet::new(counting);
        let draw = |fleet: &mut Fleet, worker: usize| {
            let mut ledger = fleet.copy(worker);
            let behind = sizes[1..].iter().copied().map(Tokens);
            let drawn = ledger.draw(Timestamp(fleet.now), Tokens(sizes[0]), behind, Purse::default().ahead(START, Duration::ZERO));
            fleet.write(&ledger);
            match drawn {
                Ok(Drawn::Grant(grant)) => grant,
                other => panic!("{other:?}"),
            }
        };
        let first = draw(&mut fleet, 0);
        fleet.workers[0].purse.fill(first);
        let ledger = fleet.copy(0);
        fleet.write(&ledger);
        prop_assert_eq!(draw(&mut fleet, 1), first);
    }
}
