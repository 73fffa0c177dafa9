//! Eight workers on a row that is far away and costs something: do they use one quota as one would, with a write a second each,
//! whatever becomes of the store and of them?

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aquifer::ports::{Allowance, LaneId, Shared, StoreError, StoreTrouble, Swap, Version};
use aquifer::rules::pace::{Counting, Hypothesis};
use aquifer::simulate::Report;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::draws::Draw;
use crate::play::{
    EAST, Enrolled, HAIKU, MINUTE, Play, SECOND, Setup, assert_all_answered, backlog, drain_time, figure, optimum,
    small,
};

const QUOTA: u64 = 200_000;
const LATENCY: Duration = Duration::from_secs(2);
const INTO_THE_MINUTE: Duration = Duration::from_secs(5);
const WORKERS: usize = 8;

/// A store on the other side of a network: each way takes a while, some replies are lost, and sometimes it is away.
#[derive(Clone)]
pub struct FarStore(Arc<Far>);

struct Far {
    way: Duration,
    /// One reply in so many is lost, after its swap was carried out.
    loses_one_in: Option<u64>,
    is_away: AtomicBool,
    swaps: AtomicU64,
    won: AtomicU64,
    reads: AtomicU64,
    draw: Mutex<Draw>,
}

impl FarStore {
    fn new(loses_one_in: Option<u64>) -> Self {
        Self(Arc::new(Far {
            way: Duration::from_millis(10),
            loses_one_in,
            is_away: AtomicBool::new(false),
            swaps: AtomicU64::new(0),
            won: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            draw: Mutex::new(Draw::new(5)),
        }))
    }

    pub fn before(&self, port: Arc<dyn Allowance>) -> Arc<dyn Allowance> {
        Arc::new(Behind { port, store: self.clone() })
    }

    async fn way(&self) -> Result<(), StoreError> {
        tokio::time::sleep(self.0.way).await;
        if self.0.is_away.load(Ordering::SeqCst) { Err(trouble()) } else { Ok(()) }
    }
}

struct Behind {
    port: Arc<dyn Allowance>,
    store: FarStore,
}

#[async_trait]
impl Allowance for Behind {
    async fn read(&self, lane: &LaneId) -> Result<Shared, StoreError> {
        self.store.0.reads.fetch_add(1, Ordering::SeqCst);
        self.store.way().await?;
        let shared = self.port.read(lane).await?;
        self.store.way().await?;
        Ok(shared)
    }

    async fn swap(&self, lane: &LaneId, expected: Version, state: Bytes) -> Result<Swap, StoreError> {
        let far = &self.store.0;
        far.swaps.fetch_add(1, Ordering::SeqCst);
        self.store.way().await?;
        let swap = self.port.swap(lane, expected, state).await?;
        if matches!(swap, Swap::Swapped { .. }) {
            far.won.fetch_add(1, Ordering::SeqCst);
        }
        let is_lost = far.loses_one_in.is_some_and(|n| far.draw.lock().unwrap().between(0.0, n as f64) < 1.0);
        self.store.way().await?;
        if is_lost { Err(trouble()) } else { Ok(swap) }
    }

    fn pace(&self) -> Duration {
        SECOND
    }
}

fn trouble() -> StoreError {
    StoreError { kind: StoreTrouble::Away, doing: "asking".to_owned(), why: "as the test says".to_owned() }
}

fn scenario(counting: Hypothesis, latency: Duration) -> String {
    format!(
        "counting = '{}'\n[latency]\nconstant = '{}s'\n[answer]\nfrom_prompt = true\n\
         [[model]]\nid = '{HAIKU}'\ntokens_per_minute = {QUOTA}\n",
        crate::drains::word(counting),
        latency.as_secs()
    )
}

fn setup(told: Counting, store: &FarStore) -> Setup {
    let mut setup = Setup::new(HAIKU, &[EAST]).told(QUOTA, told).behind(store);
    setup.settings.slots = 32;
    setup.settings.patience = aquifer::flow::patience::Patience::Endless;
    setup
}

async fn drained(counting: Hypothesis, told: Counting, workers: usize, store: &FarStore) -> (f64, Report) {
    let tokens = QUOTA * 9 / 2;
    let play = Play::of(&scenario(counting, LATENCY));
    tokio::time::advance(INTO_THE_MINUTE).await;
    let jobs = backlog(tokens, 1);
    let count = jobs.len();
    let mut setup = setup(told, store);
    if workers == 1 {
        setup.settings.slots = 256;
    }
    let results = play.drained(&setup, workers, jobs).await;
    assert_all_answered(&results, count);
    let report = play.report();
    assert_eq!(report.answered_twice, 0);
    let best = optimum(counting, tokens, QUOTA, INTO_THE_MINUTE);
    let took = drain_time(&report);
    let share = (took - LATENCY).as_secs_f64() / best.as_secs_f64();
    let [swaps, won, reads] = [&store.0.swaps, &store.0.won, &store.0.reads].map(|count| count.load(Ordering::SeqCst));
    let writes = swaps as f64 / took.as_secs_f64() / workers as f64;
    figure(
        &format!("{workers} by grants, {counting:?}, {told:?}"),
        format_args!(
            "{share:.3} x, {} throttled, {swaps} swaps ({won} won), {reads} reads for {count} jobs, {writes:.2} writes a second a worker",
            report.throttled
        ),
    );
    // What decides about others waits for no pace, and the first may come early.
    assert!(swaps as f64 <= (took.as_secs_f64() + 5.0) * workers as f64, "{writes} writes a second a worker");
    (share, report)
}

#[tokio::test(start_paused = true)]
async fn q01_q02_eight_workers_that_draw_grants_share_whatever_counting_it_is() {
    for counting in Hypothesis::ALL {
        let (share, report) = drained(counting, Counting::Learn, WORKERS, &FarStore::new(None)).await;
        assert!((0.97..=1.07).contains(&share), "{counting:?}: {share}");
        assert!(report.throttled <= 5, "{counting:?}: {}", report.throttled);
    }
}

#[tokio::test(start_paused = true)]
async fn q01_q02_workers_that_draw_grants_and_know_the_counting_are_never_throttled() {
    for counting in Hypothesis::ALL {
        let (share, report) = drained(counting, Counting::Known(counting), WORKERS, &FarStore::new(None)).await;
        assert!((0.97..=1.07).contains(&share), "{counting:?}: {share}");
        assert_eq!(report.throttled, 0, "{counting:?}");
    }
}

/// The premise: the question was put down to the draw of a grant, which filled the purse of a lane that was out; no call was ever
/// made under it, and after a quarter of an hour the jobs failed.
#[tokio::test(start_paused = true)]
async fn a_lane_that_answered_and_is_denied_for_a_while_is_asked_again_also_by_who_draws_grants() {
    let denied = "[[fault]]\nkind = 'AccessDeniedException'\nfrom = '10s'\nuntil = '90s'\n";
    let play = Play::of(&format!("{}{denied}", scenario(Hypothesis::Sliding, LATENCY)));
    let mut setup = setup(Counting::Known(Hypothesis::Sliding), &FarStore::new(None));
    setup.settings.slots = 4;
    let results = play.drained(&setup, 1, small(60)).await;
    assert_all_answered(&results, 60);
    let report = play.report();
    let took = drain_time(&report);
    assert!(took > 90 * SECOND && took < 4 * MINUTE, "{took:?}");
    assert!(report.calls <= 60 + 4 + 2, "{} calls: those that found out, and one a minute", report.calls);
}

#[tokio::test(start_paused = true)]
async fn q11_one_worker_that_draws_grants_uses_its_quota() {
    for counting in Hypothesis::ALL {
        let (share, report) = drained(counting, Counting::Learn, 1, &FarStore::new(None)).await;
        // The fleet's bar. Under sliding counting it is 1.052: charges come back a second at a time, and a draw a second follows them.
        assert!((0.97..=1.07).contains(&share), "{counting:?}: {share}");
        assert!(report.throttled <= 5, "{counting:?}: {}", report.throttled);
    }
}

/// Whoever does not know whether its swap was carried out finds it in the row, also when others have written since.
#[tokio::test(start_paused = true)]
async fn q02_q05_replies_that_are_lost_cost_no_throttle_and_little_of_the_quota() {
    let store = FarStore::new(Some(20));
    let (share, report) = drained(Hypothesis::Sliding, Counting::Known(Hypothesis::Sliding), WORKERS, &store).await;
    assert!((0.97..=1.10).contains(&share), "{share}");
    assert_eq!(report.throttled, 0);
}

/// What a worker held when it was killed counts until it could have been spent, and a minute more.
#[tokio::test(start_paused = true)]
async fn d02_q01_q05_workers_killed_with_grants_in_hand_never_exceed_the_quota() {
    let mut draw = Draw::new(12);
    for counting in [Hypothesis::Sliding, Hypothesis::Fixed] {
        let store = FarStore::new(None);
        let play = Play::of(&scenario(counting, 5 * LATENCY));
        let jobs = backlog(QUOTA * 9 / 2, 1);
        let count = jobs.len();
        let work = Enrolled::new(&play, jobs).await;
        let setup = setup(Counting::Known(counting), &store);
        let mut working = Vec::new();
        for _ in 0..WORKERS {
            working.push(play.worker(&setup).await);
        }
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs_f64(draw.between(1.0, 20.0))).await;
            let victim = draw.between(0.0, WORKERS as f64) as usize;
            working.swap_remove(victim).kill().await;
            working.push(play.worker(&setup).await);
        }
        let results = work.ended().await;
        for worker in working {
            worker.stop().await;
        }
        assert_all_answered(&results, count);
        let report = play.report();
        assert!(report.abandoned >= 5, "{} calls were open when their worker was killed", report.abandoned);
        assert_eq!(report.throttled, 0, "{counting:?}: {report}");
    }
}

/// Two minutes without the store, in the middle.
#[tokio::test(start_paused = true)]
async fn q12_without_the_store_calls_go_on_within_the_grants_that_live_and_then_none() {
    const SPENT_WITHIN: Duration = Duration::from_millis(2_100);
    let store = FarStore::new(None);
    let play = Play::of(&format!(
        "counting = 'bucket'\n[latency]\nconstant = '1s'\n[answer]\nfrom_prompt = true\n\
         [[model]]\nid = '{HAIKU}'\ntokens_per_minute = 600000\n"
    ));
    let setup = setup(Counting::Known(Hypothesis::Bucket), &store).told(600_000, Counting::Known(Hypothesis::Bucket));
    let jobs = small(9_000);
    let count = jobs.len();
    let work = Enrolled::new(&play, jobs).await;
    let mut working = Vec::new();
    for _ in 0..3 {
        working.push(play.worker(&setup).await);
    }
    tokio::time::sleep(30 * SECOND).await;
    let calls = || play.report().calls;
    let rate = {
        let before = calls();
        tokio::time::sleep(5 * SECOND).await;
        calls() - before
    };
    let gone = Instant::now();
    store.0.is_away.store(true, Ordering::SeqCst);
    let before = calls();
    tokio::time::sleep(SPENT_WITHIN).await;
    let within = calls() - before;
    tokio::time::sleep((2 * MINUTE).saturating_sub(gone.elapsed())).await;
    assert_eq!(calls() - before, within, "a call on a guess");
    store.0.is_away.store(false, Ordering::SeqCst);
    tokio::time::sleep(5 * SECOND).await;
    let back = calls();
    tokio::time::sleep(5 * SECOND).await;
    let after = calls() - back;
    figure(
        "away",
        format_args!("{rate} calls in 5 s before, {within} under grants that lived, {after} in 5 s once back"),
    );
    assert!(rate > 50 && within <= rate, "{within} calls under grants, {rate} in 5 s");
    assert!(after * 10 >= rate * 9, "{after} calls in the second 5 s after its return, {rate} before");
    let results = work.ended().await;
    for worker in working {
        worker.stop().await;
    }
    assert_all_answered(&results, count);
    let report = play.report();
    assert_eq!((report.answered, report.throttled), (count as u64, 0), "{report}");
}
