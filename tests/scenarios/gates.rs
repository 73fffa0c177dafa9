//! Is it true what `explain` and the progress line say a job waits for, since when and until when?

use std::time::Duration;

use aquifer::embedded::{LaneGate, Reader};
use aquifer::flow::lanes::RouteSpec;
use aquifer::job::units::{PerDay, PerMinute, Price, Timestamp, Usd};
use aquifer::ports::{Clock as _, Gate, LaneId};
use aquifer::rules::pace::{Counting, Hypothesis, Limits};

use crate::play::{EAST, Enrolled, HAIKU, MINUTE, Play, SECOND, Setup, WEST, Working, small};

/// A service with nothing to say against anything but what the faults say.
fn play(faults: &str) -> Play {
    Play::of(&format!("counting = 'sliding'\n[latency]\nconstant = '1s'\n{faults}"))
}

fn limited(limits: Limits) -> Setup {
    let mut setup = Setup::new(HAIKU, &[EAST]);
    for route in &mut setup.models[0].routes {
        (route.limits, route.counting) = (limits, Counting::Known(Hypothesis::Sliding));
    }
    setup
}

/// What `explain` reads.
fn told(play: &Play) -> Vec<LaneGate> {
    Reader::open(play.state.dir.path()).unwrap().gates().unwrap()
}

/// The one gate that is told of this region, after so long.
async fn gate_after(play: &Play, working: &Working, rest: Duration, region: &str) -> Gate {
    tokio::time::sleep(rest).await;
    let told = told(play);
    let mut gates = told.iter().filter(|told| told.lane.contains(region)).map(|told| told.gate.clone());
    let gate = gates.next().unwrap_or_else(|| panic!("no gate in {region} is told: {told:?}"));
    assert_eq!(gates.next(), None, "{told:?}");
    let by_meter = working.context.meter.gates();
    assert!(by_meter.iter().any(|(_, said)| *said == gate), "the progress line says {by_meter:?}, not {gate:?}");
    let now = play.state.clock.now();
    assert!(gate.since <= now && now < gate.until, "{now}: {gate:?}");
    gate
}

/// Nothing is called before the gate's end, and something within a moment of it.
async fn assert_opens_as_told(play: &Play, gate: &Gate) {
    let calls = || play.report().calls;
    let (before, now) = (calls(), play.state.clock.now());
    tokio::time::sleep(gate.until.since(now).saturating_sub(SECOND)).await;
    assert_eq!(calls(), before, "a call went before {}", gate.until);
    tokio::time::sleep(5 * SECOND / 2).await;
    assert!(calls() > before, "no call by {}", play.state.clock.now());
}

fn since_start(time: Timestamp) -> Duration {
    time.since(crate::common::START)
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_tokens_is_told_so_and_until_when() {
    let play = play("");
    let work = Enrolled::new(&play, small(60)).await;
    // 306 tokens each are reserved, 70 or so used: the calls come all within some seconds.
    let setup = limited(Limits { tokens_per_minute: PerMinute::new(2_000), ..Limits::default() });
    let working = play.worker(&setup).await;
    let gate = gate_after(&play, &working, 40 * SECOND, EAST).await;
    assert_eq!(gate.reason, "tokens a minute");
    assert!(since_start(gate.since) < 40 * SECOND, "{gate:?}");
    assert!(since_start(gate.until) >= MINUTE, "{gate:?}");
    assert_opens_as_told(&play, &gate).await;
    assert!(!work.so_far().await.is_empty());
    working.kill().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_requests_is_told_so_and_until_when() {
    let play = play("");
    let _work = Enrolled::new(&play, small(60)).await;
    let working = play.worker(&limited(Limits { requests_per_minute: PerMinute::new(7), ..Limits::default() })).await;
    let gate = gate_after(&play, &working, 30 * SECOND, EAST).await;
    assert_eq!(gate.reason, "requests a minute");
    assert!((1..=12).contains(&since_start(gate.since).as_secs()), "{gate:?}");
    assert!((60..=66).contains(&since_start(gate.until).as_secs()), "{gate:?}");
    assert_opens_as_told(&play, &gate).await;
    working.kill().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_tokens_of_the_day_is_told_so_and_until_when() {
    let play = play("");
    let _work = Enrolled::new(&play, small(60)).await;
    let working = play.worker(&limited(Limits { tokens_per_day: PerDay::new(2_000), ..Limits::default() })).await;
    let gate = gate_after(&play, &working, 5 * MINUTE, EAST).await;
    assert_eq!(gate.reason, "tokens a day");
    let until = since_start(gate.until);
    // Days are counted in parts, so that the end of one is known a little coarsely.
    assert!((24 * 60 * MINUTE..=25 * 60 * MINUTE).contains(&until), "{until:?}");
    working.kill().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_as_the_service_has_told_it_to_is_told_so_and_until_when() {
    let play = play("[[fault]]\nkind = 'ThrottlingException'\nfrom = '5s'\nuntil = '20s'\nretry_after = '90s'");
    let _work = Enrolled::new(&play, small(600)).await;
    let working = play.worker(&Setup::new(HAIKU, &[EAST])).await;
    let gate = gate_after(&play, &working, 40 * SECOND, EAST).await;
    assert_eq!(gate.reason, "throttled by the service");
    assert!((5..=9).contains(&since_start(gate.since).as_secs()), "{gate:?}");
    assert_opens_as_told(&play, &gate).await;
    working.kill().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_cool_down_is_told_so_and_until_when() {
    // One failure in the east; the west has no tokens left after some seconds.
    let play = play(&format!("[[fault]]\nkind = 'refuse'\nregion = '{EAST}'\ncalls = '1'"));
    let _work = Enrolled::new(&play, small(60)).await;
    let mut setup = limited(Limits { tokens_per_minute: PerMinute::new(1_000), ..Limits::default() });
    let west =
        RouteSpec { lane: LaneId { region: WEST.into(), model_id: HAIKU.into() }, ..setup.models[0].routes[0].clone() };
    setup.models[0].routes[0].limits = Limits::default();
    setup.models[0].routes.push(west);
    // A job leaves the lane that failed it when it goes to another, for which it stands in line.
    setup.settings.slots = 1;
    let working = play.worker(&setup).await;
    let gate = gate_after(&play, &working, 25 * SECOND, EAST).await;
    assert_eq!(gate.reason, "cool-down after failures");
    let (since, until) = (since_start(gate.since), since_start(gate.until));
    assert!(since < 20 * SECOND && (29 * SECOND..40 * SECOND).contains(&until), "{gate:?}");
    assert_opens_as_told(&play, &gate).await;
    working.kill().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_open_breaker_is_told_so_and_until_when() {
    let play = play("[[fault]]\nkind = 'refuse'\nuntil = '20s'");
    let work = Enrolled::new(&play, small(30)).await;
    let working = play.worker(&Setup::new(HAIKU, &[EAST])).await;
    let gate = gate_after(&play, &working, 30 * SECOND, EAST).await;
    assert_eq!(gate.reason, "open breaker");
    let (since, until) = (since_start(gate.since), since_start(gate.until));
    assert!(since < 20 * SECOND && (60 * SECOND..80 * SECOND).contains(&until), "{gate:?}");
    assert_opens_as_told(&play, &gate).await;
    work.ended().await;
    assert_eq!(told(&play), [], "nothing is held when nothing waits");
    working.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_under_the_cost_cap_is_told_so_until_open_calls_have_settled() {
    let play = Play::of("[latency]\nconstant = '8s'");
    let _work = Enrolled::new(&play, small(60)).await;
    let mut setup = Setup::new(HAIKU, &[EAST]);
    let dollar_a_million = Usd::from_nanos(1_000_000_000);
    let (cache_read, cache_write) = (Usd::ZERO, Usd::ZERO);
    setup.models[0].price = Some(Price { input: dollar_a_million, output: dollar_a_million, cache_read, cache_write });
    // Ten calls of 50 tokens in and up to 256 out are open at once.
    setup.settings.cost_cap = Some(Usd::from_nanos(3_200_000));
    let working = play.worker(&setup).await;
    let gate = gate_after(&play, &working, 14 * SECOND, "batch batch").await;
    assert!(gate.reason.contains("cost cap"), "{gate:?}");
    assert!((8..14).contains(&since_start(gate.since).as_secs()), "since the first ten are out: {gate:?}");
    let before = play.report();
    assert_eq!(before.answered, 1, "{before}");
    tokio::time::sleep(4 * SECOND).await;
    assert!(play.report().calls > before.calls, "{}", play.report());
    working.kill().await;
}
