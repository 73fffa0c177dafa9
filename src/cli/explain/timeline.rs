//! What happened to the job, in its order? From its queueing to the notice of its end, as far as it is on record.

use std::time::Duration;

use serde_json::{Value, json};

use crate::job::lifecycle::Status;
use crate::job::trail::{Trail, What};
use crate::job::units::Timestamp;

/// As wide as a moment is with all of its milliseconds.
const MOMENT_WIDTH: usize = "2026-11-21T11:01:07.345Z".len();

/// Everything that is on record.
pub(super) struct Timeline {
    /// When it was queued, first or again.
    pub(super) enqueued: Timestamp,
    /// What its workers wrote down.
    pub(super) trail: Trail,
    /// When its end was recorded, and what it is.
    pub(super) recorded: Option<(Timestamp, Status)>,
    /// When its end was made known.
    pub(super) notified: Option<Timestamp>,
}

impl Timeline {
    /// Lines for a person.
    pub(super) fn text(&self) -> Vec<String> {
        let older = self.trail.older();
        let gap = (older > 0).then(|| format!("{:MOMENT_WIDTH$}  ({older} older events are not kept)", ""));
        let line = |(at, said): (Timestamp, Said<'_>)| format!("{at:.3}  {}", said.text());
        let mut events = self.events().into_iter();
        let first = events.next().filter(|(_, said)| matches!(said, Said::Queued));
        match first {
            Some(first) => std::iter::once(line(first)).chain(gap).chain(events.map(line)).collect(),
            None => gap.into_iter().chain(self.events().into_iter().map(line)).collect(),
        }
    }

    /// One object an event: `at`, `event`, and what belongs to it.
    pub(super) fn json(&self) -> Vec<Value> {
        let object = |(at, said): (Timestamp, Said<'_>)| {
            let mut object = said.json();
            object["at"] = json!(at.to_string());
            object
        };
        self.events().into_iter().map(object).collect()
    }

    /// How many events were on record that are not any more.
    pub(super) fn older(&self) -> u64 {
        self.trail.older()
    }

    fn events(&self) -> Vec<(Timestamp, Said<'_>)> {
        // One that was run again is queued since then, and its trail says so.
        let ran_again = self.trail.events().any(|event| event.what == What::Redriven);
        let queued = (!ran_again).then_some((self.enqueued, Said::Queued));
        let trail = self.trail.events().map(|event| (event.at, Said::Happened(&event.what)));
        let recorded = self.recorded.map(|(at, status)| (at, Said::Recorded(status)));
        let notified = self.notified.map(|at| (at, Said::Notified));
        queued.into_iter().chain(trail).chain(recorded).chain(notified).collect()
    }
}

enum Said<'a> {
    Queued,
    Happened(&'a What),
    Recorded(Status),
    Notified,
}

impl Said<'_> {
    fn text(&self) -> String {
        match self {
            Said::Queued => "queued".to_owned(),
            Said::Happened(What::Claimed { by }) => format!("claimed by process {by}"),
            Said::Happened(What::Waited { took, reason }) => format!("waited {} for {reason}", span(*took)),
            Said::Happened(What::Called(call)) => {
                format!("called {}/{}: {} after {}", call.region, call.model, call.came_to.word(), span(call.took))
            }
            Said::Happened(What::HandedBack { after }) if after.is_zero() => "handed back".to_owned(),
            Said::Happened(What::HandedBack { after }) => format!("handed back, to come again after {}", span(*after)),
            Said::Happened(What::Abandoned) => "its worker was gone, or had lost its lease".to_owned(),
            Said::Happened(What::Redriven) => "run again by a person".to_owned(),
            Said::Recorded(status) => format!("recorded: {status}"),
            Said::Notified => "notified".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Said::Queued => json!({ "event": "queued" }),
            Said::Happened(What::Claimed { by }) => json!({ "event": "claimed", "by": by }),
            Said::Happened(What::Waited { took, reason }) => {
                json!({ "event": "waited", "ms": millis(*took), "for": reason })
            }
            Said::Happened(What::Called(call)) => json!({
                "event": "called",
                "region": call.region,
                "model": call.model,
                "ms": millis(call.took),
                "class": call.came_to.word(),
            }),
            Said::Happened(What::HandedBack { after }) => {
                json!({ "event": "handed_back", "after_ms": millis(*after) })
            }
            Said::Happened(What::Abandoned) => json!({ "event": "abandoned" }),
            Said::Happened(What::Redriven) => json!({ "event": "redriven" }),
            Said::Recorded(status) => json!({ "event": "recorded", "status": status }),
            Said::Notified => json!({ "event": "notified" }),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// In milliseconds while they matter, then in seconds and up.
fn span(time: Duration) -> String {
    match time.as_millis() {
        millis @ 0..1_000 => format!("{millis}ms"),
        1_000..60_000 => format!("{:.1}s", time.as_secs_f64()),
        _ => humantime::format_duration(Duration::from_secs(time.as_secs())).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::trail::{Call, CameTo};

    fn timeline() -> Timeline {
        let mut trail = Trail::default();
        trail.add(Timestamp(1_000), What::Claimed { by: "4f..c1".to_owned() });
        trail.add(
            Timestamp(1_001),
            What::Waited { took: Duration::from_secs(61), reason: "tokens a minute".to_owned() },
        );
        let (region, model, took) = ("eu-west-1".to_owned(), "m".to_owned(), Duration::from_millis(2_210));
        trail.add(Timestamp(62_001), What::Called(Call { region, model, took, came_to: CameTo::Answered }));
        let recorded = Some((Timestamp(64_300), Status::Succeeded));
        Timeline { enqueued: Timestamp(5), trail, recorded, notified: Some(Timestamp(64_301)) }
    }

    #[test]
    fn events_stand_in_their_order_for_people_and_for_programs() {
        let timeline = timeline();
        let text = timeline.text();
        assert_eq!(text[0], "1970-01-01T00:00:00.005Z  queued");
        assert_eq!(text[2], "1970-01-01T00:00:01.001Z  waited 1m 1s for tokens a minute");
        assert_eq!(text[4], "1970-01-01T00:01:04.300Z  recorded: succeeded", "all as long as each other");
        assert_eq!(text[3], "1970-01-01T00:01:02.001Z  called eu-west-1/m: answered after 2.2s");
        let json = timeline.json();
        assert_eq!(json.len(), text.len());
        let called = json!({
            "at": "1970-01-01T00:01:02.001Z", "event": "called", "region": "eu-west-1", "model": "m", "ms": 2_210,
            "class": "answered",
        });
        assert_eq!(json[3], called);
        let last: Vec<_> = json.iter().map(|event| event["event"].clone()).skip(4).collect();
        assert_eq!(last, ["recorded", "notified"]);
    }

    #[test]
    fn what_is_not_kept_is_counted_where_it_was() {
        let mut timeline = timeline();
        for at in 0..100 {
            timeline.trail.add(Timestamp(at), What::Abandoned);
        }
        let text = timeline.text();
        assert!(text[1].contains("(87 older events are not kept)"), "{text:?}");
        assert_eq!(timeline.older(), 87);
    }

    #[test]
    fn a_job_that_was_run_again_begins_with_what_was_before() {
        let mut timeline = timeline();
        timeline.trail.add(Timestamp(70_000), What::Redriven);
        let events: Vec<_> = timeline.json().iter().map(|event| event["event"].clone()).collect();
        assert_eq!(events[..4], ["claimed", "waited", "called", "redriven"]);
    }
}
