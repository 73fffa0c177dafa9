//! What do those see who keep looking? One snapshot a second, made once for all of them and not at all while there are none;
//! and how it went over the last minutes, of which a small sample is always kept, so that a page that is opened now already
//! has a past to show.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt as _};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::telemetry::figures::Figures;

/// Between two snapshots.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two samples.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// Ten minutes of them.
const SAMPLES: usize = 120;
/// The rate of the last minute is told, not that of the last quarter of an hour.
const RATED_OVER: Duration = Duration::from_secs(60);
/// Looking at once; more would starve the scrapes of connections.
const VIEWERS: usize = 24;
/// A browser that lost us asks again after this.
const RETRY: &str = "retry: 1000\n\n";

/// What is shown to all who look.
#[derive(Debug)]
pub(super) struct Live {
    /// The newest snapshot, as an event.
    newest: watch::Sender<Bytes>,
    /// Somebody began to look.
    came: Notify,
    past: Mutex<Past>,
    made: AtomicU64,
}

#[derive(Debug, Default)]
struct Past {
    samples: VecDeque<Sample>,
    /// Of all there ever were.
    next: u64,
}

#[derive(Clone, Debug)]
struct Sample {
    number: u64,
    at: Instant,
    ended: u64,
    shown: Value,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            newest: watch::Sender::new(Bytes::new()),
            came: Notify::new(),
            past: Mutex::default(),
            made: AtomicU64::new(0),
        }
    }
}

impl Live {
    /// Keeps it up to date; never ends. `figures` is cheap, `snapshot` may be less so.
    pub(super) async fn run(&self, figures: impl Fn() -> (i64, Figures), snapshot: impl Fn() -> Value) {
        let mut sample = tokio::time::interval(SAMPLE_EVERY);
        let mut look = tokio::time::interval(LOOK_EVERY);
        sample.set_missed_tick_behavior(MissedTickBehavior::Skip);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let is_asked = tokio::select! {
                _ = sample.tick() => {
                    let (now, figures) = figures();
                    self.note(now, &figures);
                    false
                }
                _ = look.tick() => self.newest.receiver_count() > 0,
                // The first sight does not wait for the turn of the second.
                () = self.came.notified() => true,
            };
            if is_asked {
                self.made.fetch_add(1, Ordering::Relaxed);
                let event = format!("event: status\ndata: {}\n\n", snapshot());
                self.newest.send_replace(event.into());
            }
        }
    }

    /// How many snapshots were made for those who look.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Jobs that ended a second over the last minute; `None` until there is something to compare.
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    pub(super) fn per_second(&self, ended: u64) -> Option<f64> {
        let past = self.past();
        let now = Instant::now();
        let first = past.samples.iter().find(|sample| now.duration_since(sample.at) <= RATED_OVER)?;
        let seconds = now.duration_since(first.at).as_secs_f64();
        (seconds >= 1.0).then(|| ended.saturating_sub(first.ended) as f64 / seconds)
    }

    /// Events for one who looks; `None` if there are too many already.
    pub(super) fn watch(self: Arc<Self>) -> Option<impl Stream<Item = Result<Frame<Bytes>, Infallible>>> {
        if self.newest.receiver_count() >= VIEWERS {
            return None;
        }
        let newest = self.newest.subscribe();
        self.came.notify_one();
        let first = Frame::data(Bytes::from_static(RETRY.as_bytes()));
        let events = stream::unfold((self, newest, 0), |(live, mut newest, seen)| async move {
            newest.changed().await.ok()?;
            let (samples, seen) = live.since(seen);
            let mut event = samples.unwrap_or_default().into_bytes();
            event.extend_from_slice(&newest.borrow_and_update());
            Some((Ok(Frame::data(Bytes::from(event))), (live, newest, seen)))
        });
        Some(stream::iter([Ok(first)]).chain(events))
    }

    /// The samples from that number on, as an event; and the number of the next.
    fn since(&self, number: u64) -> (Option<String>, u64) {
        let past = self.past();
        let new: Vec<&Value> =
            past.samples.iter().filter(|sample| sample.number >= number).map(|sample| &sample.shown).collect();
        let event = (!new.is_empty()).then(|| format!("event: samples\ndata: {}\n\n", json!(new)));
        (event, past.next)
    }

    fn note(&self, now: i64, figures: &Figures) {
        let lanes = figures.lanes.iter().filter_map(|lane| {
            let stands = lane.now?;
            Some((lane.lane.to_string(), json!([stands.used, stands.reserved, stands.tokens_per_minute])))
        });
        let shown = json!({
            "at": now,
            "ended": figures.counts.ended,
            "without_success": figures.counts.unsuccessful,
            "lanes": lanes.collect::<serde_json::Map<_, _>>(),
        });
        let mut past = self.past();
        let number = past.next;
        past.next += 1;
        past.samples.push_back(Sample { number, at: Instant::now(), ended: figures.counts.ended, shown });
        if past.samples.len() > SAMPLES {
            past.samples.pop_front();
        }
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::pin::Pin;

    use super::*;
    use crate::telemetry::Counts;

    type Events = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

    fn look(live: &Arc<Live>) -> Option<Events> {
        Arc::clone(live).watch().map(|events| Box::pin(events) as Events)
    }

    async fn next(events: &mut Events) -> String {
        let Ok(frame) = events.next().await.unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    /// Ten jobs end a second.
    fn start() -> Arc<Live> {
        let (live, began) = (Arc::new(Live::default()), Instant::now());
        let running = Arc::clone(&live);
        tokio::spawn(async move {
            let figures = || {
                let counts = Counts { ended: began.elapsed().as_secs() * 10, ..Counts::default() };
                (0, Figures { counts, ..Figures::default() })
            };
            running.run(figures, || json!({ "elapsed_s": began.elapsed().as_secs() })).await;
        });
        live
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_is_made_once_for_all_who_look_and_never_for_nobody() {
        let live = start();
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(live.made(), 0, "nobody looks");
        let mut all: Vec<_> = (0..10).map(|_| look(&live).unwrap()).collect();
        for events in &mut all {
            assert_eq!(next(events).await, RETRY);
            let event = next(events).await;
            assert!(event.contains("event: samples\ndata: [{") && event.contains("event: status\ndata: {"), "{event}");
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let made = live.made();
        assert!((20..=22).contains(&made), "one a second, not ten: {made}");
        let event = next(&mut all[0]).await;
        let newest = ["{\"elapsed_s\":119}\n\n", "{\"elapsed_s\":120}\n\n"];
        assert!(newest.iter().any(|newest| event.ends_with(newest)), "who was slow sees the newest: {event}");
        drop(all);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(live.made() <= made + 1, "nobody looks any more");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_late_sees_ten_minutes_and_then_each_sample_once() {
        let live = start();
        tokio::time::sleep(Duration::from_secs(3_601)).await;
        let mut events = look(&live).unwrap();
        next(&mut events).await;
        let count = |event: &str| event.matches("\"ended\"").count();
        assert_eq!(count(&next(&mut events).await), SAMPLES);
        let mut later = 0;
        for _ in 0..30 {
            later += count(&next(&mut events).await);
        }
        assert!((5..=7).contains(&later), "one every five seconds: {later}");
        assert!(live.per_second(36_300).is_some_and(|rate| (9.0..=11.0).contains(&rate)), "ten a second");
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_an_end_to_how_many_look() {
        let live = start();
        let all: Vec<_> = (0..VIEWERS).map(|_| look(&live).unwrap()).collect();
        assert!(look(&live).is_none());
        drop(all);
        assert!(look(&live).is_some());
    }
}
