//! What happened to a job, and when? A bounded list that travels with its row: who claimed it, what it waited for, each call.
//!
//! It is for people who ask, and for the next worker, which goes on where the one before left off if it can. Nothing is lost with
//! it, so it costs no write of its own: whatever a ledger writes of a job takes along what happened since, in a text so short
//! that it fits beside the rest. The newest events are kept, older ones are counted.

use std::collections::VecDeque;
use std::time::Duration;

use super::failure::Class;
use super::units::Timestamp;

/// So many events are kept.
pub const KEPT: usize = 16;
/// Events of a text stand apart by this, the parts of one by a space.
const APART: char = ';';
/// Longer words are cut, so that a foreign id cannot crowd out the rest.
const WORD_BYTES: usize = 128;
/// The lane of the call before.
const SAME_LANE: &str = "=";

/// The newest events of a job, oldest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Trail {
    events: VecDeque<Event>,
    older: u64,
}

/// Something that happened to a job.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// When it began, by the clock of whoever did it.
    pub at: Timestamp,
    /// What it was.
    pub what: What,
}

/// What can happen to a job between its queueing and its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum What {
    /// A worker took it.
    Claimed {
        /// The epoch of its process.
        by: String,
    },
    /// It waited before a call could be made.
    Waited {
        /// How long in all, in whole milliseconds.
        took: Duration,
        /// For what most of that time.
        reason: String,
    },
    /// The model was called.
    Called(Call),
    /// Its worker gave it back.
    HandedBack {
        /// For so long nobody was to take it.
        after: Duration,
    },
    /// Its worker was gone, or had not extended its lease: whatever it did after the event before this is not on record.
    Abandoned,
    /// A person had it run again.
    Redriven,
}

/// A call to the model.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// The region that was called.
    pub region: String,
    /// The model or inference-profile id.
    pub model: String,
    /// How long it took, in whole milliseconds.
    pub took: Duration,
    /// What it came to.
    pub came_to: CameTo,
}

/// What a call came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CameTo {
    /// An answer.
    Answered,
    /// An answer that a right-sized cap had cut: it was asked for again.
    Cut,
    /// No answer.
    Failed(Class),
}

impl CameTo {
    /// In a word: `answered`, `cut`, or the class of the failure.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Cut => "cut",
            Self::Failed(class) => class.word(),
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        match word {
            "answered" => Some(Self::Answered),
            "cut" => Some(Self::Cut),
            class => Class::from_word(class).map(Self::Failed),
        }
    }
}

impl Trail {
    /// Adds what happened last. One wait right after another for the same is one.
    pub fn add(&mut self, at: Timestamp, what: What) {
        if let What::Waited { took: more, reason: again } = &what
            && let Some(Event { at: since, what: What::Waited { took, reason } }) = self.events.back_mut()
            && reason == again
        {
            *took = at.after(*more).since(*since);
            return;
        }
        self.events.push_back(Event { at, what });
        while self.events.len() > KEPT {
            self.drop_oldest();
        }
    }

    /// The events that are kept, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }

    /// How many there were before those.
    pub fn older(&self) -> u64 {
        self.older
    }

    /// Whether nothing is on it.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.older == 0
    }

    /// Who claimed the job last, and when.
    pub fn last_claim(&self) -> Option<(Timestamp, &str)> {
        self.events.iter().rev().find_map(|event| match &event.what {
            What::Claimed { by } => Some((event.at, by.as_str())),
            What::Waited { .. } | What::Called(_) | What::HandedBack { .. } | What::Abandoned | What::Redriven => None,
        })
    }

    /// Which region was called last, since a person had it run again if anybody did.
    pub fn region(&self) -> Option<&str> {
        let mut since = self.events.iter().rev().take_while(|event| event.what != What::Redriven);
        since.find_map(|event| if let What::Called(call) = &event.what { Some(&*call.region) } else { None })
    }

    /// Adds for how long in all it waited for this, in place of what was said of that before.
    pub fn add_in_all(&mut self, at: Timestamp, took: Duration, reason: &str) {
        self.events.retain(|event| !matches!(&event.what, What::Waited { reason: said, .. } if said == reason));
        self.add(at, What::Waited { took, reason: reason.to_owned() });
    }

    /// How long it waited for this, if nothing is on record since but that it went from one worker to the next.
    pub fn handed_on_after(&self, reason: &str) -> Option<Duration> {
        let stays = |what: &What| matches!(what, What::Claimed { .. } | What::HandedBack { .. });
        match &self.events.iter().rev().find(|event| !stays(&event.what))?.what {
            What::Waited { took, reason: waited } => (waited == reason).then_some(*took),
            What::Claimed { .. } | What::HandedBack { .. } | What::Called(_) | What::Abandoned | What::Redriven => None,
        }
    }

    /// As a text of at most so many bytes: the newest events that fit. Empty if there is nothing to say, or no room to say it.
    pub fn text(&self, bytes: usize) -> String {
        let mut trail = self.clone();
        loop {
            let text = trail.whole_text();
            if text.len() <= bytes {
                return text;
            }
            if trail.events.is_empty() {
                return String::new();
            }
            trail.drop_oldest();
        }
    }

    fn whole_text(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let mut parts = vec![self.older.to_string()];
        let mut lane = None;
        for Event { at, what } in &self.events {
            let at = at.0;
            parts.push(match what {
                What::Claimed { by } => format!("c {at} {}", word(by)),
                What::Waited { took, reason } => format!("w {at} {} {}", took.as_millis(), sentence(reason)),
                What::Called(call) => {
                    let this = (word(&call.region), word(&call.model));
                    let place = match &lane {
                        Some(before) if *before == this => SAME_LANE.to_owned(),
                        Some(_) | None => format!("{} {}", this.0, this.1),
                    };
                    lane = Some(this);
                    format!("m {at} {} {} {place}", call.took.as_millis(), call.came_to.word())
                }
                What::HandedBack { after } => format!("b {at} {}", after.as_millis()),
                What::Abandoned => format!("a {at}"),
                What::Redriven => format!("r {at}"),
            });
        }
        parts.join(&APART.to_string())
    }

    /// From a text; `None` if it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let mut parts = text.split(APART);
        let mut trail = Self { older: parts.next()?.parse().ok()?, ..Self::default() };
        for part in parts {
            let (at, what) = trail.event(part)?;
            trail.events.push_back(Event { at, what });
        }
        Some(trail)
    }

    fn event(&self, part: &str) -> Option<(Timestamp, What)> {
        let (kind, rest) = part.split_once(' ')?;
        let (at, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let what = match kind {
            "c" => What::Claimed { by: rest.to_owned() },
            "w" => {
                let (took, reason) = rest.split_once(' ')?;
                What::Waited { took: millis(took)?, reason: reason.to_owned() }
            }
            "m" => {
                let mut words = rest.split(' ');
                let (took, came_to) = (millis(words.next()?)?, CameTo::from_word(words.next()?)?);
                let (region, model) = match words.next()? {
                    SAME_LANE => self.last_lane()?,
                    region => (region.to_owned(), words.next()?.to_owned()),
                };
                What::Called(Call { region, model, took, came_to })
            }
            "b" => What::HandedBack { after: millis(rest)? },
            "a" => What::Abandoned,
            "r" => What::Redriven,
            _ => return None,
        };
        Some((Timestamp(at.parse().ok()?), what))
    }

    fn last_lane(&self) -> Option<(String, String)> {
        self.events.iter().rev().find_map(|event| match &event.what {
            What::Called(call) => Some((call.region.clone(), call.model.clone())),
            What::Claimed { .. } | What::Waited { .. } | What::HandedBack { .. } | What::Abandoned | What::Redriven => {
                None
            }
        })
    }

    fn drop_oldest(&mut self) {
        // Where it was called last is kept: it may be bound to go there again.
        let called = self.events.iter().rposition(|event| matches!(event.what, What::Called(_)));
        let oldest = usize::from(called == Some(0) && self.events.len() > 1);
        if self.events.remove(oldest).is_some() {
            self.older += 1;
        }
    }
}

fn millis(word: &str) -> Option<Duration> {
    word.parse().ok().map(Duration::from_millis)
}

/// One word of a text.
fn word(text: &str) -> String {
    sentence(text).replace(' ', "_")
}

/// Several.
fn sentence(text: &str) -> String {
    text.get(..text.floor_char_boundary(WORD_BYTES)).unwrap_or_default().replace(APART, ",")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn call(came_to: CameTo) -> What {
        let (region, model) = ("us-west-2".to_owned(), "us.anthropic.claude-haiku-4-5-20251001-v1:0".to_owned());
        What::Called(Call { region, model, took: Duration::from_millis(2_210), came_to })
    }

    fn travelled() -> Trail {
        let mut trail = Trail::default();
        let waited = What::Waited { took: Duration::from_secs(59), reason: "tokens a minute".to_owned() };
        let events = [
            What::Claimed { by: "0123456789abcdef".to_owned() },
            waited,
            call(CameTo::Failed(Class::QuotaMinute)),
            call(CameTo::Cut),
            What::HandedBack { after: Duration::from_secs(1) },
            What::Abandoned,
            What::Redriven,
            call(CameTo::Answered),
        ];
        for (n, what) in (0..).zip(events) {
            trail.add(Timestamp(1_795_000_000_000 + n), what);
        }
        trail
    }

    #[test]
    fn a_trail_reads_back_as_it_was_written() {
        let trail = travelled();
        assert_eq!(Trail::parse(&trail.text(usize::MAX)), Some(trail));
        assert_eq!(Trail::parse(""), Some(Trail::default()));
        assert_eq!(Trail::default().text(100), "");
    }

    #[test]
    fn the_newest_events_are_kept_and_older_ones_counted() {
        let mut trail = Trail::default();
        for n in 0..100 {
            trail.add(Timestamp(n), call(CameTo::Failed(Class::Overloaded)));
        }
        assert_eq!((trail.events().count(), trail.older()), (KEPT, 100 - KEPT as u64));
        assert_eq!(trail.events().last().unwrap().at, Timestamp(99));
    }

    #[test]
    fn the_newest_call_is_kept_however_much_happened_since() {
        let mut trail = Trail::default();
        trail.add(Timestamp(0), call(CameTo::Failed(Class::Overloaded)));
        for n in 1..100 {
            trail.add(Timestamp(n), What::HandedBack { after: Duration::ZERO });
        }
        assert_eq!((trail.events().count(), trail.older()), (KEPT, 100 - KEPT as u64));
        assert_eq!(trail.region(), Some("us-west-2"));
    }

    #[test]
    fn a_wait_that_goes_on_from_worker_to_worker_is_said_once_and_ends_with_whatever_else_happens() {
        let mut trail = Trail::default();
        for minutes in [5, 8] {
            trail.add(Timestamp(0), What::Claimed { by: "w".to_owned() });
            trail.add_in_all(Timestamp(1), Duration::from_secs(60 * minutes), "away");
            trail.add(Timestamp(2), What::HandedBack { after: Duration::ZERO });
        }
        assert_eq!(trail.handed_on_after("away"), Some(Duration::from_secs(480)));
        assert_eq!(trail.events().filter(|event| matches!(event.what, What::Waited { .. })).count(), 1);
        trail.add(Timestamp(3), What::Abandoned);
        assert_eq!(trail.handed_on_after("away"), None, "nobody knows what happened");
    }

    #[test]
    fn a_text_holds_what_there_is_room_for_and_reads_back_whatever_that_is() {
        let whole = travelled();
        for room in 0..whole.text(usize::MAX).len() {
            let text = whole.text(room);
            assert!(text.len() <= room, "{text}");
            let read = Trail::parse(&text).unwrap();
            if !read.is_empty() {
                assert_eq!(read.events().count() as u64 + read.older(), 8, "none is forgotten uncounted: {text}");
                let (read, all): (Vec<_>, Vec<_>) = (read.events().collect(), whole.events().collect());
                assert!(all.ends_with(&read), "{text}");
            }
        }
    }

    #[test]
    fn a_call_and_its_wait_take_few_bytes() {
        let mut trail = Trail::default();
        for _ in 0..2 {
            trail.add(Timestamp(1_795_000_000_000), call(CameTo::Failed(Class::QuotaMinute)));
        }
        let one = { trail.text(usize::MAX).len() };
        trail.add(Timestamp(1_795_000_000_000), call(CameTo::Failed(Class::QuotaMinute)));
        assert!(trail.text(usize::MAX).len() - one <= 40);
    }

    #[test]
    fn what_stands_between_events_cannot_come_from_outside() {
        let mut trail = Trail::default();
        let foreign = Call {
            region: "a b;c".to_owned(),
            model: "x".repeat(2_000),
            took: Duration::ZERO,
            came_to: CameTo::Answered,
        };
        trail.add(Timestamp(1), What::Called(foreign));
        let text = trail.text(usize::MAX);
        assert!(text.len() < 300, "{text}");
        assert_eq!(Trail::parse(&text).unwrap().events().count(), 1);
    }

    #[test]
    fn one_wait_after_another_for_the_same_is_one() {
        let mut trail = Trail::default();
        let wait = |reason: &str| What::Waited { took: Duration::from_millis(200), reason: reason.to_owned() };
        for at in [0, 200, 450] {
            trail.add(Timestamp(at), wait("the cost cap"));
        }
        trail.add(Timestamp(650), wait("tokens a minute"));
        let waits: Vec<_> = trail.events().map(|event| (event.at.0, &event.what)).collect();
        let whole = What::Waited { took: Duration::from_millis(650), reason: "the cost cap".to_owned() };
        assert_eq!(waits, [(0, &whole), (650, &wait("tokens a minute"))]);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["x", "0;z 1", "0;m 1 2 answered =", "0;c", "0;m 1 x answered a b", "0;a x"] {
            assert_eq!(Trail::parse(text), None, "{text}");
        }
    }
}
