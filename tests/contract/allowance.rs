//! What an allowance must do; see `ports::Allowance`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aquifer::job::units::Timestamp;
use aquifer::ports::{Allowance, Clock, LANE_STATE_BYTES, LaneId, Shared, Swap, Version};
use bytes::Bytes;

use crate::world::{ManualClock, World};

const TICK: Duration = Duration::from_millis(1);

fn lane() -> LaneId {
    lane_of("us-west-2", "us.vendor.m-v1:0")
}

fn lane_of(region: &str, model_id: &str) -> LaneId {
    LaneId { region: region.into(), model_id: model_id.into() }
}

/// What stands there, without its time.
async fn standing(allowance: &dyn Allowance, lane: &LaneId) -> (Version, Bytes) {
    let shared = allowance.read(lane).await.unwrap();
    (shared.version, shared.state)
}

#[track_caller]
fn swapped(swap: &Swap) -> Version {
    match swap {
        Swap::Swapped { version, .. } => *version,
        Swap::Stale(shared) => panic!("stale: {shared:?}"),
    }
}

#[track_caller]
fn stale(swap: Swap) -> (Version, Bytes) {
    match swap {
        Swap::Stale(shared) => (shared.version, shared.state),
        Swap::Swapped { version, .. } => panic!("swapped: {version:?}"),
    }
}

pub(crate) async fn a_lane_that_was_never_written_is_empty_under_version_0(w: World) {
    let nothing = (Version(0), Bytes::new());
    assert_eq!(standing(w.allowance.as_ref(), &lane()).await, nothing);
    for expected in [Version(1), Version(u64::MAX)] {
        let reply = w.allowance.swap(&lane(), expected, "a".into()).await.unwrap();
        assert_eq!(stale(reply), nothing, "there is no {expected:?} to replace");
    }
    assert_eq!(standing(w.allowance.as_ref(), &lane()).await, nothing);
}

pub(crate) async fn a_state_reads_back_byte_for_byte_under_a_growing_version(w: World) {
    let every_byte: Bytes = (0..=u8::MAX).collect();
    let mut version = Version(0);
    for state in [every_byte, Bytes::new(), "a".into()] {
        let next = swapped(&w.allowance.swap(&lane(), version, state.clone()).await.unwrap());
        assert!(next > version, "{next:?} after {version:?}");
        assert_eq!(standing(w.allowance.as_ref(), &lane()).await, (next, state));
        version = next;
    }
}

pub(crate) async fn a_stale_swap_changes_nothing_and_returns_what_stands(w: World) {
    let first = swapped(&w.allowance.swap(&lane(), Version(0), "a".into()).await.unwrap());
    let second = swapped(&w.allowance.swap(&lane(), first, "b".into()).await.unwrap());
    let stands = (second, Bytes::from("b"));
    for expected in [Version(0), first, Version(second.0 + 1), Version(u64::MAX)] {
        let reply = w.allowance.swap(&lane(), expected, "c".into()).await.unwrap();
        assert_eq!(stale(reply), stands, "{expected:?}");
        assert_eq!(standing(w.allowance.as_ref(), &lane()).await, stands, "{expected:?}");
    }
    // As after a reply that was lost: the own state is what makes the repetition stale.
    let reply = w.allowance.swap(&lane(), first, "b".into()).await.unwrap();
    assert_eq!(stale(reply), stands);
}

pub(crate) async fn q2_of_fifty_swaps_of_one_version_one_is_done(w: World) {
    let mut version = Version(0);
    // The first swap and the later ones are not the same statement in every store.
    for round in 0..3 {
        let racers: Vec<_> = (0..50)
            .map(|n| {
                let (allowance, state) = (Arc::clone(&w.allowance), Bytes::from(format!("{round}/{n}")));
                tokio::spawn(async move { (state.clone(), allowance.swap(&lane(), version, state).await.unwrap()) })
            })
            .collect();
        let (mut won, mut lost) = (Vec::new(), Vec::new());
        for racer in racers {
            match racer.await.unwrap() {
                (state, Swap::Swapped { version, .. }) => won.push((version, state)),
                (_, Swap::Stale(shared)) => lost.push((shared.version, shared.state)),
            }
        }
        assert_eq!((won.len(), lost.len()), (1, 49));
        assert!(lost.iter().all(|seen| *seen == won[0]), "the losers see what the winner wrote");
        assert_eq!(standing(w.allowance.as_ref(), &lane()).await, won[0]);
        version = won[0].0;
    }
}

pub(crate) async fn q2_fifty_tasks_count_to_fifty(w: World) {
    let counters = (0..50).map(|_| Arc::clone(&w.allowance));
    count_together(counters, &w).await;
}

pub(crate) async fn f07_q1_two_workers_on_one_store_count_as_one(w: World) {
    let other = w.another_worker().await;
    let counters = (0..50).map(|n| Arc::clone(if n % 2 == 0 { &w.allowance } else { &other }));
    count_together(counters, &w).await;
    assert_eq!(standing(other.as_ref(), &lane()).await, standing(w.allowance.as_ref(), &lane()).await);
}

/// Each adds one to a counter in the lane's state, all at once, while time passes.
async fn count_together(counters: impl Iterator<Item = Arc<dyn Allowance>>, w: &World) {
    let ticks = w.can.move_clock;
    let racers: Vec<_> =
        counters.map(|allowance| tokio::spawn(count(allowance, Arc::clone(&w.clock), ticks))).collect();
    let wanted = racers.len();
    let mut versions = HashSet::new();
    for racer in racers {
        versions.insert(racer.await.unwrap());
    }
    assert_eq!(versions.len(), wanted, "no version is used twice");
    let end = w.allowance.read(&lane()).await.unwrap();
    assert_eq!(counted(&end).0, wanted, "no swap is lost");
    assert_eq!(Some(&end.version), versions.iter().max(), "the last swap stands");
}

/// Adds one, and writes the time of the last reply beside it.
async fn count(allowance: Arc<dyn Allowance>, clock: Arc<ManualClock>, ticks: bool) -> Version {
    let mut seen = allowance.read(&lane()).await.unwrap();
    loop {
        let (count, written) = counted(&seen);
        assert!(seen.now >= written, "{:?} for a state of {written:?}", seen.now);
        let state = format!("{} {}", count + 1, seen.now.0);
        clock.pass(TICK);
        match allowance.swap(&lane(), seen.version, state.into()).await.unwrap() {
            Swap::Swapped { version, now } => {
                assert!(now > seen.now || !ticks && now == seen.now, "{now:?} after {:?}", seen.now);
                return version;
            }
            Swap::Stale(shared) => {
                assert!(shared.version > seen.version, "stale without a newer state");
                // Either way to learn of it is good.
                seen = if shared.version.0 % 2 == 0 { shared } else { allowance.read(&lane()).await.unwrap() };
            }
        }
    }
}

fn counted(shared: &Shared) -> (usize, Timestamp) {
    if shared.version == Version(0) {
        return (0, Timestamp(0));
    }
    let text = std::str::from_utf8(&shared.state).unwrap();
    let (count, written) = text.split_once(' ').unwrap();
    (count.parse().unwrap(), Timestamp(written.parse().unwrap()))
}

pub(crate) async fn r16_lanes_do_not_touch_each_other(w: World) {
    let lanes = [
        lane(),
        lane_of("us-east-1", "us.vendor.m-v1:0"),
        lane_of("us-west-2", "vendor.m-v1:0"),
        lane_of("us-west-2", "us.vendor.m-v1:0 "),
        lane_of("us-west-2", "US.vendor.m-v1:0"),
        lane_of("us-west-2", "arn:aws:bedrock:us-west-2:1:inference-profile/us.vendor.m-v1:0"),
    ];
    for (lane, state) in lanes.iter().zip("abcdef".chars()) {
        let reply = w.allowance.swap(lane, Version(0), state.to_string().into()).await.unwrap();
        assert_eq!(swapped(&reply), Version(1), "{lane}");
    }
    let first = swapped(&w.allowance.swap(&lanes[0], Version(1), "new".into()).await.unwrap());
    assert_eq!(standing(w.allowance.as_ref(), &lanes[0]).await, (first, "new".into()));
    for (lane, state) in lanes.iter().zip("abcdef".chars()).skip(1) {
        assert_eq!(standing(w.allowance.as_ref(), lane).await, (Version(1), state.to_string().into()), "{lane}");
    }
}

pub(crate) async fn a_state_that_is_too_large_is_refused(w: World) {
    let too_large = Bytes::from(vec![7; LANE_STATE_BYTES + 1]);
    let refused = w.allowance.swap(&lane(), Version(0), too_large.clone()).await.unwrap_err();
    assert!(refused.why.contains("65537") && refused.why.contains("65536"), "{refused}");
    assert_eq!(standing(w.allowance.as_ref(), &lane()).await, (Version(0), Bytes::new()));

    let largest = too_large.slice(1..);
    let version = swapped(&w.allowance.swap(&lane(), Version(0), largest.clone()).await.unwrap());
    w.allowance.swap(&lane(), version, too_large).await.unwrap_err();
    assert_eq!(standing(w.allowance.as_ref(), &lane()).await, (version, largest));
}

pub(crate) async fn r11_what_one_worker_swaps_the_other_sees_at_once(w: World) {
    let other = w.another_worker().await;
    let mut version = Version(0);
    for round in 0..20 {
        let (writer, reader) = if round % 2 == 0 { (&w.allowance, &other) } else { (&other, &w.allowance) };
        let state = Bytes::from(format!("{round}"));
        version = swapped(&writer.swap(&lane(), version, state.clone()).await.unwrap());
        assert_eq!(standing(reader.as_ref(), &lane()).await, (version, state));
    }
}

pub(crate) async fn r12_a_state_outlives_its_writer(w: World) {
    let version = swapped(&w.allowance.swap(&lane(), Version(0), "a".into()).await.unwrap());
    let again = w.close_and_reopen().await;
    let next = &again.allowance;
    assert_eq!(standing(next.as_ref(), &lane()).await, (version, "a".into()));
    assert!(swapped(&next.swap(&lane(), version, "b".into()).await.unwrap()) > version);
}

pub(crate) async fn now_is_what_the_clock_of_the_store_says(w: World) {
    let mut last = w.clock.now();
    let mut version = Version(0);
    let mut step = async |passes: &dyn Fn()| {
        passes();
        let read = w.allowance.read(&lane()).await.unwrap().now;
        passes();
        let (swapped, next) = match w.allowance.swap(&lane(), version, "a".into()).await.unwrap() {
            Swap::Swapped { version, now } => (now, version),
            Swap::Stale(shared) => panic!("{shared:?}"),
        };
        passes();
        let stale = match w.allowance.swap(&lane(), version, "b".into()).await.unwrap() {
            Swap::Stale(shared) => shared.now,
            Swap::Swapped { version, .. } => panic!("{version:?}"),
        };
        version = next;
        [read, swapped, stale]
    };
    if !w.can.move_clock {
        // The service's own, in whole seconds and as old as a request takes.
        let here = || i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        last = Timestamp(0);
        for moved in [Duration::ZERO, Duration::from_secs(3_600)] {
            w.clock.pass(moved);
            for now in step(&|| ()).await {
                let off = i128::from(now.0) - here();
                assert!(off.abs() < 60_000, "{off} ms from the time of this machine");
                assert!(now >= last, "not backwards");
                last = now;
            }
        }
        return;
    }
    for tick in [Duration::ZERO, TICK, Duration::from_secs(3_600)] {
        for now in step(&|| w.clock.pass(tick)).await {
            last = last.after(tick);
            assert_eq!(now, last, "not backwards while the clock does not");
        }
    }
    let hour = Duration::from_secs(3_600);
    w.clock.jump_back(hour);
    assert_eq!(step(&|| ()).await, [w.clock.now(); 3], "and back with it: that is for the rules to bear");
    assert_eq!(w.clock.now().after(hour), last);
}
