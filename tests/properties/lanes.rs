//! Breaker, cool-down, concurrency, back-off, routing, and the row that all workers of a lane share.

use std::num::NonZeroU32;
use std::time::Duration;

use aquifer::job::failure::Class;
use aquifer::job::units::{PerDay, PerMinute, Timestamp, Tokens};
use aquifer::rules::breaker::{Breaker, BreakerRules, Gate, Permit, Phase};
use aquifer::rules::concurrency::Concurrency;
use aquifer::rules::lane::{LaneBook, Word, Writer};
use aquifer::rules::pace::{Counting, Event, LaneLedger, Limits, Quota, Reservation, Terms};
use aquifer::rules::retry;
use aquifer::rules::route::{Candidate, Choice, RoutingRules, Spread, choose, has_left};
use proptest::collection::vec;
use proptest::prelude::*;

const START: Timestamp = Timestamp(1_800_000_000_000);
const TICK: Duration = Duration::from_millis(1);

fn class() -> impl Strategy<Value = Class> {
    proptest::sample::select(Class::ALL.to_vec())
}

fn millis(most: u64) -> impl Strategy<Value = Duration> {
    (0..most).prop_map(Duration::from_millis)
}

// ------------------------------------------------------------------------------------------------- the shared row

/// As the row says it.
fn paused_until(ledger: &LaneLedger) -> Option<i64> {
    serde_json::to_value(ledger).unwrap()["pause"]["until"].as_i64()
}

/// What a worker does to a lane. Indexes pick among the open calls.
#[derive(Clone, Debug)]
enum Deed {
    Reserve(u64),
    Settle { which: usize, used: u64 },
    Throttle { which: usize, hint: Option<Duration> },
    Release(usize),
    Exhaust(usize),
    Fail { class: Class, sent_before: Duration, window: Duration },
    Call { class: Option<Class> },
}

fn deed() -> impl Strategy<Value = Deed> {
    let which = any::<usize>;
    prop_oneof![
        6 => (0_u64..400).prop_map(Deed::Reserve),
        4 => (which(), 0_u64..600).prop_map(|(which, used)| Deed::Settle { which, used }),
        1 => (which(), proptest::option::of(millis(90_000))).prop_map(|(which, hint)| Deed::Throttle { which, hint }),
        1 => which().prop_map(Deed::Release),
        1 => which().prop_map(Deed::Exhaust),
        2 => (class(), millis(5_000), millis(120_000))
            .prop_map(|(class, sent_before, window)| Deed::Fail { class, sent_before, window }),
        3 => proptest::option::of(class()).prop_map(|class| Deed::Call { class }),
    ]
}

/// Answers what can be seen of it.
fn carry_out(book: &mut LaneBook, now: Timestamp, deed: &Deed, open: &mut Vec<Reservation>) -> String {
    let mut pick = |which: usize| (!open.is_empty()).then(|| open.swap_remove(which % open.len()));
    let say = |book: &mut LaneBook, event| format!("{:?}", book.note(now, &Word::Quota(event)));
    match *deed {
        Deed::Reserve(tokens) => {
            let answer = book.ledger.reserve(now, Tokens(tokens));
            open.extend(answer.ok());
            format!("{answer:?}")
        }
        Deed::Settle { which, used } => {
            pick(which).map_or_else(String::new, |it| say(book, Event::Settled(it, Tokens(used))))
        }
        Deed::Throttle { which, hint } => {
            pick(which).map_or_else(String::new, |it| say(book, Event::Throttled(it, Quota::Tokens, hint)))
        }
        Deed::Release(which) => pick(which).map_or_else(String::new, |it| say(book, Event::Released(it))),
        Deed::Exhaust(which) => pick(which).map_or_else(String::new, |it| say(book, Event::DayExhausted(it, None))),
        Deed::Fail { class, sent_before, window } => {
            format!("{:?}", book.note(now, &Word::Left { sent: now - sent_before, failed: now, class, window }))
        }
        Deed::Call { class } => {
            let gate = book.breaker.admit(now);
            let seen = format!("{gate:?}");
            if let Gate::Go(permit) | Gate::Probe(permit) = gate {
                let word = class.map_or(Word::Answered(permit), |class| Word::Failed(permit, class));
                book.note(now, &word);
            }
            seen
        }
    }
}

fn book(limits: Limits) -> LaneBook {
    let terms = Terms { limits, counting: Counting::Learn, slack: Duration::from_millis(300), first_alone: true };
    LaneBook::new(terms, breaker_rules(3, 60_000, 1))
}

fn breaker_rules(failures: u32, open_ms: u64, probes: u32) -> BreakerRules {
    BreakerRules {
        failures: NonZeroU32::new(failures).unwrap(),
        open_for: Duration::from_millis(open_ms),
        probes: NonZeroU32::new(probes).unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A lane that goes through its row from worker to worker at every step, each with a clock of its own, answers as one
    /// that never left memory; and neither its time, nor a pause, nor a stamp ever goes back.
    #[test]
    fn q2_r11_a_lane_that_workers_hand_on_is_the_same_lane_and_never_goes_back(
        deeds in vec((millis(8_000), 0_u64..2_000, deed()), 1..100),
        day in proptest::option::of(1_000_u64..20_000),
    ) {
        let limits = Limits {
            tokens_per_minute: PerMinute::new(1_000),
            requests_per_minute: PerMinute::new(20),
            tokens_per_day: day.and_then(PerDay::new),
        };
        let (mut kept, mut handed) = (book(limits), book(limits));
        let (mut kept_open, mut handed_open) = (Vec::new(), Vec::new());
        let mut time = START;
        for (writer, (passed, behind, deed)) in (1_u64..).zip(&deeds) {
            time = time + *passed;
            let clock = time - Duration::from_millis(*behind);
            let mut next = book(limits);
            let writer = Writer { worker: writer % 7, write: writer };
            let row = handed.save(writer).unwrap();
            next.load(&row).unwrap();
            prop_assert!(next.is_written_by(writer));
            let later = Writer { write: writer.write + 7, ..writer };
            prop_assert!(!next.is_written_by(later));
            prop_assert_eq!(&next.save(writer).unwrap(), &row, "reading and writing changes nothing");
            handed = next;

            let before = (kept.ledger.latest(), paused_until(&kept.ledger), kept.cool_down.available_at(START));
            let seen = carry_out(&mut kept, clock, deed, &mut kept_open);
            prop_assert_eq!(carry_out(&mut handed, clock, deed, &mut handed_open), seen);

            prop_assert!(kept.ledger.latest() >= before.0);
            prop_assert!(kept.cool_down.available_at(START) >= before.2);
            prop_assert!(paused_until(&kept.ledger) >= before.1, "a pause became shorter");
        }
    }

    /// Two workers fail on a lane at once. Whoever writes first, the later end stands.
    #[test]
    fn r11_of_two_stamps_the_later_stands_whoever_writes_first(
        windows in (millis(600_000), millis(600_000)),
        sent in (millis(5_000), millis(5_000)),
    ) {
        let now = START + Duration::from_secs(10);
        let word = |sent, window| Word::Left { sent: now - sent, failed: now, class: Class::Unavailable, window };
        let (one, other) = (word(sent.0, windows.0), word(sent.1, windows.1));
        let mut ends = Vec::new();
        for words in [[one, other], [other, one]] {
            let mut shared = book(Limits::default());
            for word in words {
                let mut worker = book(Limits::default());
                worker.load(&shared.save(Writer { worker: 1, write: 1 }).unwrap()).unwrap();
                worker.note(now, &word);
                shared = worker;
            }
            ends.push(shared.cool_down.available_at(now));
        }
        prop_assert_eq!(ends, [now + windows.0.max(windows.1); 2]);
    }
}

// --------------------------------------------------------------------------------------------------------- breaker

#[derive(Clone, Debug)]
enum Knock {
    Pass(Duration),
    Ask,
    Answer(usize),
    Fail(usize, Class),
    Abandon(usize),
}

fn knock() -> impl Strategy<Value = Knock> {
    prop_oneof![
        3 => millis(20_000).prop_map(Knock::Pass),
        6 => Just(Knock::Ask),
        2 => any::<usize>().prop_map(Knock::Answer),
        5 => (any::<usize>(), class()).prop_map(|(which, class)| Knock::Fail(which, class)),
        5 => any::<usize>().prop_map(|which| Knock::Fail(which, Class::Unavailable)),
        1 => any::<usize>().prop_map(Knock::Abandon),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Only failures that count, so many in a row of calls let through since it closed, and not before one that was answered,
    /// open it; open is open to the tick; then no more probes are out than it allows; and a report from an earlier state changes nothing.
    #[test]
    fn b1_b2_b3_a_breaker_opens_and_probes_by_the_rules(
        failures in 1_u32..6,
        open_ms in 1_000_u64..60_000,
        probes in 1_u32..4,
        knocks in vec(knock(), 1..200),
    ) {
        let rules = breaker_rules(failures, open_ms, probes);
        let mut breaker = Breaker::new(rules);
        let mut now = START;
        // Each call with the number of the state it was let through in, and when, also if as a probe.
        let mut open: Vec<(Permit, u32, Timestamp, Option<Timestamp>)> = Vec::new();
        let (mut state, mut in_a_row, mut open_until, mut probing) = (0_u32, 0_u32, None::<Timestamp>, false);
        // When the newest call was made that has been answered in this state, or closed it.
        let mut answered = None::<Timestamp>;
        for knock in &knocks {
            let mut pick = |which: usize| (!open.is_empty()).then(|| open.swap_remove(which % open.len()));
            let before = breaker.standing().clone();
            let reported = match *knock {
                Knock::Pass(time) => {
                    now = now + time;
                    continue;
                }
                Knock::Ask => {
                    let shut = breaker.shut_until(now);
                    match breaker.admit(now) {
                        Gate::Go(permit) => {
                            prop_assert_eq!(open_until, None);
                            open.push((permit, state, now, None));
                        }
                        Gate::Probe(permit) => {
                            prop_assert!(open_until.is_some_and(|until| until <= now));
                            state += u32::from(!probing);
                            probing = true;
                            let out = |(_, of, _, made): &&(Permit, u32, Timestamp, Option<Timestamp>)| {
                                *of == state && made.is_some_and(|made| now < made + rules.open_for)
                            };
                            prop_assert!((open.iter().filter(out).count() as u32) < probes, "too many probes");
                            open.push((permit, state, now, Some(now)));
                        }
                        Gate::Open { until } => {
                            prop_assert!(now < until && open_until.is_some());
                            prop_assert_eq!(shut, Some(until));
                        }
                    }
                    continue;
                }
                Knock::Answer(which) => {
                    let Some((permit, of, made, _)) = pick(which) else { continue };
                    if of == state {
                        in_a_row = 0;
                        answered = answered.max(Some(made));
                    }
                    breaker.on_success(permit);
                    of
                }
                Knock::Fail(which, class) => {
                    let Some((permit, of, made, _)) = pick(which) else { continue };
                    let is_news = open_until.is_some() || Some(made) >= answered;
                    if of == state && is_news && class.trips_breaker() {
                        in_a_row += 1;
                    }
                    breaker.on_failure(permit, now, class);
                    of
                }
                Knock::Abandon(which) => {
                    let Some((permit, of, ..)) = pick(which) else { continue };
                    breaker.on_abandoned(permit);
                    of
                }
            };
            match breaker.standing().phase() {
                phase if phase == before.phase() => {
                    prop_assert!(reported == state || before == *breaker.standing(), "an old report had a say");
                    prop_assert!(open_until.is_some() || in_a_row < failures, "it should have opened");
                }
                Phase::Open { until } => {
                    prop_assert_eq!(until, now + rules.open_for);
                    prop_assert!(open_until.is_some() || in_a_row == failures, "it opened after {in_a_row}");
                    prop_assert_eq!(breaker.shut_until(until - TICK), Some(until));
                    prop_assert_eq!(breaker.shut_until(until), None);
                    (open_until, in_a_row, state, probing) = (Some(until), 0, state + 1, false);
                }
                Phase::Closed => {
                    prop_assert!(open_until.is_some());
                    (open_until, in_a_row, state, probing) = (None, 0, state + 1, false);
                }
                Phase::HalfOpen | Phase::Held => prop_assert!(false, "no report makes it half-open, or holds it"),
            }
        }
    }

    /// Never below one; only a service without room lowers it, what was sent together once; only success raises it beyond
    /// what it was before.
    #[test]
    fn only_overload_lowers_the_number_of_open_calls_and_once_a_burst(
        steps in vec((millis(3_000), proptest::option::of((class(), millis(3_000))), 1_usize..100), 1..200),
    ) {
        let mut lane = Concurrency::new();
        let (mut now, mut shrunk, mut most) = (START, None, lane.limit());
        for (passed, failed, open) in steps {
            now = now + passed;
            let before = lane.limit();
            let Some((class, ago)) = failed else {
                lane.settled_in(now, open);
                most = most.max(lane.limit());
                prop_assert!((before..=before + 1).contains(&lane.limit()));
                prop_assert!(open * 2 >= before || lane.limit() == before, "what is not used does not grow");
                continue;
            };
            let sent = now - ago;
            lane.failed(sent, now, class, open);
            // What fails however few are open gives back what was taken for it; a shrink within one whole number is not seen
            // here.
            let highest = if class == Class::Unavailable { most } else { before };
            prop_assert!((1..=highest).contains(&lane.limit()));
            let counts = matches!(class, Class::Overloaded | Class::Unavailable);
            if !counts || shrunk.is_some_and(|shrunk| sent <= shrunk) {
                prop_assert_eq!(lane.limit(), before);
            } else if class == Class::Overloaded || lane.limit() < before {
                shrunk = Some(now);
            }
        }
    }

    #[test]
    fn t2_a_back_off_never_passes_its_ceiling_and_nothing_overflows(
        class in class(),
        attempt in any::<u32>(),
        random in any::<f64>(),
    ) {
        let wait = retry::back_off(class, attempt, random);
        prop_assert!(wait <= retry::ceiling(class, attempt));
        prop_assert!(retry::ceiling(class, attempt) <= Duration::from_secs(30));
        prop_assert!(retry::ceiling(class, attempt) <= retry::ceiling(class, attempt.saturating_add(1)));
    }
}

// --------------------------------------------------------------------------------------------------------- routing

fn candidate() -> impl Strategy<Value = Candidate> {
    let ahead = || prop_oneof![2 => Just(Duration::ZERO), 1 => millis(60_000)].prop_map(|time| START + time);
    (any::<bool>(), proptest::bool::weighted(0.2), ahead(), ahead(), ahead(), 0_u32..5).prop_map(
        |(primary, out, available_at, shut_until, admits_at, failures)| Candidate {
            primary,
            out,
            available_at,
            shut_until,
            admits_at,
            sent: failures > 0,
            failures,
            last: false,
        },
    )
}

fn routing() -> impl Strategy<Value = RoutingRules> {
    (proptest::bool::weighted(0.8), any::<bool>(), 1_u32..4).prop_map(|(multi_region, spread_primaries, in_a_row)| {
        RoutingRules { multi_region, spread_primaries, attempts_per_endpoint: NonZeroU32::new(in_a_row).unwrap() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// No lane that is out, shut or without tokens is ever chosen, none that is cooled but by a job that stays, and no other
    /// than a primary while a primary is there that has not failed the job more often; and until the moment that is told,
    /// none could have been.
    #[test]
    fn r04_r06_r07_r14_r15_a_lane_is_chosen_only_if_it_may_and_a_wait_is_no_longer_than_it_must(
        rules in routing(),
        lanes in vec(candidate(), 0..6),
    ) {
        let stays = |lane: &Candidate| !lane.failures.is_multiple_of(rules.attempts_per_endpoint.get());
        let rests = |lane: &Candidate| lane.available_at > START && !stays(lane);
        let at = |now: Timestamp| choose(now, &rules, &lanes, &mut Spread::new());
        match at(START) {
            Choice::Lane(index) => {
                let chosen = &lanes[index];
                prop_assert!(!chosen.out && chosen.shut_until <= START && chosen.admits_at <= START && !rests(chosen));
                prop_assert!(rules.multi_region || chosen.sent || lanes.iter().all(|lane| !lane.sent));
                if !chosen.primary && !stays(chosen) && rules.multi_region {
                    let better = |lane: &&Candidate| {
                        lane.primary && !lane.out && !rests(lane) && lane.shut_until <= START
                            && lane.failures / rules.attempts_per_endpoint <= chosen.failures / rules.attempts_per_endpoint
                    };
                    prop_assert_eq!(lanes.iter().filter(better).count(), 0);
                }
            }
            Choice::WaitUntil(until) | Choice::RestUntil(until) => {
                prop_assert!(until > START);
                let early = at(until - TICK);
                prop_assert!(!matches!(early, Choice::Lane(_)), "{early:?} before {until}");
                match at(until) {
                    Choice::Lane(_) => {}
                    Choice::WaitUntil(next) | Choice::RestUntil(next) => prop_assert!(next > until),
                    Choice::NoneLeft => prop_assert!(false, "none left, only because time has passed"),
                }
            }
            Choice::NoneLeft => {
                let bound = !rules.multi_region && lanes.iter().any(|lane| lane.sent);
                prop_assert!(lanes.iter().all(|lane| lane.out || (bound && !lane.sent)));
            }
        }
    }

    /// Tries in a row are counted: after the last of them the job goes elsewhere or waits, whatever the others wait for.
    #[test]
    fn r05_a_job_never_goes_back_to_the_lane_of_its_last_try_in_a_row(
        mut lanes in vec(candidate(), 2..6),
        which in any::<proptest::sample::Index>(),
        attempts_per_endpoint in 1_u32..4,
        later in millis(120_000),
    ) {
        let rules = RoutingRules {
            multi_region: true,
            spread_primaries: true,
            attempts_per_endpoint: NonZeroU32::new(attempts_per_endpoint).unwrap(),
        };
        lanes.iter_mut().for_each(|lane| lane.failures -= lane.failures % attempts_per_endpoint);
        let which = which.index(lanes.len());
        let last = &mut lanes[which];
        (last.last, last.sent, last.out) = (true, true, false);
        last.failures += attempts_per_endpoint;
        let elsewhere = lanes.iter().enumerate().any(|(index, lane)| index != which && !lane.out);
        let choice = choose(START + later, &rules, &lanes, &mut Spread::new());
        prop_assert_eq!(has_left(&rules, &lanes), elsewhere);
        prop_assert!(!elsewhere || choice != Choice::Lane(which));
        prop_assert!(choice != Choice::NoneLeft);
    }

    /// However many primaries there are and whichever are cooled: those that are well share to the last job.
    #[test]
    fn r01_r02_primaries_that_are_well_share_evenly(
        cooled in vec(any::<bool>(), 1..9),
        normals in 0_usize..4,
        rounds in 1_usize..50,
    ) {
        let rules = RoutingRules { multi_region: true, spread_primaries: true, attempts_per_endpoint: NonZeroU32::MIN };
        let lane = |primary: bool, cooled: bool| Candidate {
            primary,
            out: false,
            available_at: if cooled { START + TICK } else { START },
            shut_until: START,
            admits_at: START,
            sent: false,
            failures: 0,
            last: false,
        };
        let well = cooled.iter().filter(|cooled| !**cooled).count();
        prop_assume!(well > 0);
        let mut lanes: Vec<_> = cooled.iter().map(|cooled| lane(true, *cooled)).collect();
        lanes.extend((0..normals).map(|_| lane(false, false)));
        let mut shares = vec![0; lanes.len()];
        let mut spread = Spread::new();
        for _ in 0..rounds * well {
            let Choice::Lane(index) = choose(START, &rules, &lanes, &mut spread) else { panic!("some are well") };
            shares[index] += 1;
        }
        for (index, lane) in lanes.iter().enumerate() {
            let share = if lane.primary && lane.available_at <= START { rounds } else { 0 };
            prop_assert_eq!(shares[index], share);
        }
    }
}
