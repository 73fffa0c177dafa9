//! How much is reserved for an answer when the job says `max_tokens = "auto"`?
//!
//! The service takes `max_tokens` off the quota in full until a call ends, so that a generous cap, not the work, is what
//! throttles. Right-sizing reserves what the answers of the same batch have shown to be enough, and has the rare answer that
//! such a cap cuts made again under the full one. Four questions, each with its rule:
//!
//! * **Which cap?** The smallest for which the calls that it cuts, paid for in vain, add at most 1 % to the cost, and to
//!   the number of calls. How many that will be is judged from the answers that were longer, and beyond the longest,
//!   where nothing was seen, by a tail that falls with the fourth power of the length: with few answers that alone is a
//!   margin of a half and more.
//! * **From when?** After fifty answers under the full cap, counted in the order in which their calls were sent: the
//!   fifty that come back first are the shortest, not a sample.
//! * **Does it pay?** Only where tokens of the quota were waited for lately, and where the reservation is what takes
//!   them: a call holds `reserved x latency + settled x (60 s - latency)` of a sliding minute, and right-sizing must take a
//!   fifth off that, reruns included. Reservations bind beyond doubt where `latency > 60 s x settled / (reserved - settled)`;
//!   under sliding counting they cost long before that. Elsewhere the full cap stays, and nothing is slower than without.
//! * **And when the answers change?** Longer ones are noticed by the first few that are cut more often than they should
//!   be: at once the full cap is back, for fifty answers more, and what was learned before counts as no more than
//!   those. Shorter ones bring the cap down as the old ones fade. Fast up, slow down.

mod in_order;

use std::time::{Duration, Instant};

pub use self::in_order::Ticket;

use self::in_order::InOrder;
use super::estimate::{OutputEstimate, float};
use crate::job::units::{Price, Tokens};

/// Answers under the full cap before the first that is right-sized.
pub const FIRST_ANSWERS: u32 = 50;
/// What calls cut by a right-sized cap may add to the cost, 1 %, less a quarter: the smallest cap that looks good enough is
/// often one that was lucky.
const RERUN_SHARE: f64 = 0.0075;
/// On top of the chosen length.
const MARGIN: f64 = 1.1;
/// Beyond the longest answer seen, the share of longer ones falls with this power of the length.
const TAIL: i32 = 4;
/// What a right-sized call may hold of the quota, of what one under the full cap would hold.
const WORTH: f64 = 0.8;
/// The cap is chosen anew after so many answers.
const REFRESH: u32 = 16;
/// So many cuts beyond twice what is allowed mean that the answers have changed.
const ALARM: f64 = 2.5;
/// Means follow about so many answers.
const MEMORY: f64 = 200.0;
/// The charge of a call is held against the quota for so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Who waited for tokens so long ago may have to wait again.
const PRESSED_FOR: Duration = Duration::from_secs(600);

/// What a token costs, in any unit of money, and of the quota.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    input: f64,
    output: f64,
    burndown: f64,
}

impl Weights {
    /// By the price; without one, by what the quota is charged.
    pub fn new(price: Option<&Price>, burndown: u32) -> Self {
        let burndown = f64::from(burndown);
        match price {
            Some(price) if price.input.nanos() + price.output.nanos() > 0 => {
                Self { input: float(price.input.nanos()), output: float(price.output.nanos()), burndown }
            }
            Some(_) | None => Self { input: 1.0, output: burndown, burndown },
        }
    }
}

/// Whether tokens of the quota are short: was one waited for lately?
#[derive(Clone, Copy, Debug, Default)]
pub struct Pressure {
    last: Option<Instant>,
}

impl Pressure {
    /// A call waits for tokens.
    pub fn waited(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Whether one did within the last ten minutes.
    pub fn is_on(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < PRESSED_FOR)
    }
}

/// An answer that was not cut, as right-sizing learns from it.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    /// Its tokens.
    pub output: Tokens,
    /// Those of its input, cached ones included.
    pub input: Tokens,
    /// How long the call took.
    pub latency: Duration,
    /// Whether it was given under less than its full cap.
    pub right_sized: bool,
}

/// What is learned of the answers of one batch that may be right-sized.
#[derive(Debug, Default)]
pub struct RightSize {
    calls: InOrder,
    lengths: OutputEstimate,
    input: Mean,
    latency: Mean,
    /// Answers learned from since the beginning, or since they changed.
    heard: u32,
    chosen: Option<Chosen>,
    until_refresh: u32,
    /// Cuts beyond what is allowed.
    strain: f64,
}

#[derive(Clone, Copy, Debug)]
struct Chosen {
    cap: u32,
    /// The share of the answers that it is expected to cut.
    cut: f64,
}

impl RightSize {
    /// A call of this batch is sent.
    pub fn sent(&mut self) -> Ticket {
        self.calls.sent()
    }

    /// It was answered in full; after a cut this is the answer of the rerun, under the ticket of the first call.
    pub fn answered(&mut self, ticket: Ticket, answer: Whole, weights: &Weights) {
        self.input.learn(float(answer.input.0));
        self.latency.learn(answer.latency.as_secs_f64());
        if let Some(chosen) = self.chosen.filter(|_| answer.right_sized) {
            self.strain = (self.strain - 2.0 * chosen.cut).max(0.0);
        }
        self.end(ticket, Some(answer.output), weights);
    }

    /// It ended without an answer.
    pub fn unanswered(&mut self, ticket: Ticket, weights: &Weights) {
        self.end(ticket, None, weights);
    }

    /// Its answer was cut by a right-sized cap of so many tokens. It stays open: its length is that of its rerun.
    pub fn cut(&mut self, cap: u32) {
        // What was cut by an older, lower cap says nothing against this one.
        if self.chosen.is_none_or(|chosen| cap < chosen.cap) {
            return;
        }
        self.strain += 1.0;
        if self.strain > ALARM {
            self.strain = 0.0;
            self.heard = 0;
            self.chosen = None;
            self.lengths.weigh_at_most(f64::from(FIRST_ANSWERS));
        }
    }

    /// The cap for a call that may have `full` tokens and needs `floor`: `full`, unless less is enough and pays.
    /// `pressed`: tokens of the quota are short.
    pub fn cap(&self, full: u32, floor: u32, weights: &Weights, pressed: bool) -> u32 {
        match self.chosen {
            Some(chosen) if pressed => {
                let cap = chosen.cap.max(floor);
                if cap < full && self.pays(cap, full, chosen.cut, weights) { cap } else { full }
            }
            Some(_) | None => full,
        }
    }

    fn end(&mut self, ticket: Ticket, length: Option<Tokens>, weights: &Weights) {
        let mut heard = 0;
        let lengths = &mut self.lengths;
        self.calls.ended(ticket, length, |length| {
            lengths.learn(length);
            heard += 1;
        });
        self.heard = self.heard.saturating_add(heard);
        self.until_refresh = self.until_refresh.saturating_sub(heard);
        if heard > 0 && self.heard >= FIRST_ANSWERS && (self.chosen.is_none() || self.until_refresh == 0) {
            self.until_refresh = REFRESH;
            self.chosen = Some(choose(&self.lengths, self.input.value, weights));
        }
    }

    /// Whether calls under `cap`, of which the share `cut` is made again, hold enough less of the quota.
    fn pays(&self, cap: u32, full: u32, cut: f64, weights: &Weights) -> bool {
        let open = self.latency.value.min(WINDOW.as_secs_f64());
        let held = |reserved: f64, settled: f64| reserved * open + settled * (WINDOW.as_secs_f64() - open);
        let reserved = |cap: u32| self.input.value + f64::from(cap);
        let charged = |output: f64| self.input.value + output * weights.burndown;
        let settled = charged(self.lengths.mean());
        let in_full = held(reserved(full), settled);
        let in_vain = held(reserved(cap), charged(f64::from(cap)));
        let right_sized = (1.0 - cut) * held(reserved(cap), settled) + cut * (in_vain + in_full);
        right_sized <= WORTH * in_full
    }
}

/// The smallest cap whose cuts add no more than their share to the cost.
fn choose(lengths: &OutputEstimate, input: f64, weights: &Weights) -> Chosen {
    let cost = |output: f64| input * weights.input + output * weights.output;
    let allowed = |cap: u64| {
        let in_vain = cost(float(cap));
        let share = if in_vain > 0.0 { cost(lengths.mean()) / in_vain } else { 1.0 };
        // However little it costs, a cut takes a call and its time.
        RERUN_SHARE * share.min(1.0)
    };
    // One more answer is reckoned with, longer than all of these.
    let share = |longer: f64| (longer + 1.0) / (lengths.weight() + 1.0);
    let mut best = None::<(u64, f64)>;
    for (length, longer) in lengths.lengths_from_the_longest() {
        if share(longer) > RERUN_SHARE {
            break;
        }
        if share(longer) <= allowed(length) {
            best = Some((length, share(longer)));
        }
    }
    let (length, cut) = best.unwrap_or_else(|| beyond(lengths, allowed, share(0.0)));
    Chosen { cap: with_margin(length), cut }
}

/// Even the longest answer is too short a cap: how far beyond it is long enough?
fn beyond(lengths: &OutputEstimate, allowed: impl Fn(u64) -> f64, at_longest: f64) -> (u64, f64) {
    let longest = lengths.lengths_from_the_longest().next().map_or(1, |(length, _)| length.max(1));
    let mut length = longest;
    loop {
        let cut = at_longest * (float(longest) / float(length)).powi(TAIL);
        if cut <= allowed(length) || length >= u64::from(u32::MAX) {
            return (length, cut);
        }
        length += length.div_ceil(32);
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float beyond the range becomes its end")]
fn with_margin(length: u64) -> u32 {
    ((float(length) * MARGIN).ceil() as u32).max(1)
}

/// Whether an answer of so many tokens was cut by its cap. By the word of the service, in the spelling of each family of
/// models; where the word is neither that nor one for an end that was meant, by the count.
pub fn is_cut(stop_reason: Option<&str>, output: u64, cap: u32) -> bool {
    const CUT: [&str; 5] = ["max_tokens", "length", "max_length", "max_output_tokens", "token_limit"];
    const MEANT: [&str; 16] = [
        "end_turn",
        "stop",
        "stop_sequence",
        "stop_criteria_met",
        "finish",
        "finished",
        "complete",
        "endoftext",
        "eos_token",
        "tool_use",
        "tool_calls",
        "guardrail_intervened",
        "content_filtered",
        "content_filter",
        "refusal",
        "model_context_window_exceeded",
    ];
    let is_one_of =
        |words: &[&str]| stop_reason.is_some_and(|reason| words.iter().any(|word| word.eq_ignore_ascii_case(reason)));
    is_one_of(&CUT) || (output >= u64::from(cap) && !is_one_of(&MEANT))
}

/// The mean of about the newest [`MEMORY`] values.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    count: f64,
    value: f64,
}

impl Mean {
    fn learn(&mut self, value: f64) {
        self.count = (self.count + 1.0).min(MEMORY);
        self.value += (value - self.value) / self.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: u32 = 16_384;
    const BY_TOKENS: Weights = Weights { input: 1.0, output: 1.0, burndown: 1.0 };

    fn answer(batch: &mut RightSize, output: u64, right_sized: bool) {
        let ticket = batch.sent();
        let whole = Whole { output: Tokens(output), input: Tokens(300), latency: Duration::from_secs(10), right_sized };
        batch.answered(ticket, whole, &BY_TOKENS);
    }

    fn after(answers: impl IntoIterator<Item = u64>) -> RightSize {
        let mut batch = RightSize::default();
        answers.into_iter().for_each(|output| answer(&mut batch, output, false));
        batch
    }

    fn cap(batch: &RightSize) -> u32 {
        batch.cap(FULL, 0, &BY_TOKENS, true)
    }

    #[test]
    fn the_full_cap_stands_until_fifty_answers_are_known() {
        assert_eq!(cap(&after([200; 49])), FULL);
        let first = cap(&after([200; 50]));
        assert!((200..=400).contains(&first), "{first}");
        let later = cap(&after([200; 1_000]));
        assert!((220..first).contains(&later), "{later}: more is known, and a tenth is kept as margin");
    }

    #[test]
    fn the_shortest_that_come_back_first_are_no_sample() {
        let mut batch = RightSize::default();
        let long: Vec<_> = (0..20).map(|_| batch.sent()).collect();
        for _ in 0..200 {
            answer(&mut batch, 100, false);
        }
        assert_eq!(cap(&batch), FULL, "twenty that were sent before them are still out");
        for ticket in long {
            let whole = Whole {
                output: Tokens(3_000),
                input: Tokens(300),
                latency: Duration::from_secs(60),
                right_sized: false,
            };
            batch.answered(ticket, whole, &BY_TOKENS);
        }
        assert!(cap(&batch) >= 3_000, "{}", cap(&batch));
    }

    #[test]
    fn a_cap_is_never_above_the_full_one_nor_below_what_the_job_needs() {
        let batch = after([200; 100]);
        assert_eq!(batch.cap(100, 0, &BY_TOKENS, true), 100);
        assert_eq!(batch.cap(FULL, 5_000, &BY_TOKENS, true), 5_000);
        assert_eq!(batch.cap(FULL, FULL + 1, &BY_TOKENS, true), FULL);
    }

    #[test]
    fn it_is_left_alone_where_it_does_not_pay() {
        let batch = after([200; 100]);
        assert_eq!(batch.cap(FULL, 0, &BY_TOKENS, false), FULL, "nobody waits for tokens");
        assert_eq!(batch.cap(400, 0, &BY_TOKENS, true), 400, "a tenth less of the quota is not worth a rerun");
        let mut quick = RightSize::default();
        for _ in 0..100 {
            let ticket = quick.sent();
            let latency = Duration::from_millis(100);
            let whole = Whole { output: Tokens(200), input: Tokens(300), latency, right_sized: false };
            quick.answered(ticket, whole, &BY_TOKENS);
        }
        assert_eq!(quick.cap(2_048, 0, &BY_TOKENS, true), 2_048, "a reservation of a tenth of a second takes nothing");
    }

    #[test]
    fn it_pays_wherever_reservations_bind_beyond_doubt() {
        for (latency, output, full) in [(10, 200, 4_000), (30, 400, 2_000), (60, 500, 2_000), (300, 1_000, 4_000)] {
            let (settled, reserved) = (300 + output, u64::from(full) + 300);
            assert!(latency * (reserved - settled) > 60 * settled, "the premise");
            let mut batch = RightSize::default();
            for _ in 0..400 {
                let ticket = batch.sent();
                let latency = Duration::from_secs(latency);
                let whole = Whole { output: Tokens(output), input: Tokens(300), latency, right_sized: false };
                batch.answered(ticket, whole, &BY_TOKENS);
            }
            let cap = batch.cap(full, 0, &BY_TOKENS, true);
            assert!(u64::from(cap) < output * 5 / 4, "{latency} s, {output} of {full}: {cap}");
        }
    }

    #[test]
    fn the_dearer_a_cut_the_rarer_it_is() {
        // One in a hundred is ten times as long.
        let batch = || after((0..1_000).map(|number| if number % 100 == 7 { 2_000 } else { 200 }));
        assert!(cap(&batch()) >= 2_000, "a cut costs more than the mean call: one in a hundred is too many");
        let few = after((0..1_000).map(|number| if number % 400 == 7 { 2_000 } else { 200 }));
        assert!(cap(&few) < 300, "{}: one in four hundred is not", cap(&few));
    }

    #[test]
    fn longer_answers_bring_the_full_cap_back_at_once_and_then_a_longer_one() {
        let mut batch = after([200; 1_000]);
        let small = cap(&batch);
        let open: Vec<_> = (0..3).map(|_| batch.sent()).collect();
        batch.cut(small);
        batch.cut(small);
        assert_eq!(cap(&batch), small, "two may be chance");
        batch.cut(small);
        assert_eq!(cap(&batch), FULL);
        for ticket in open {
            let whole =
                Whole { output: Tokens(900), input: Tokens(300), latency: Duration::from_secs(10), right_sized: false };
            batch.answered(ticket, whole, &BY_TOKENS);
        }
        for _ in 0..46 {
            answer(&mut batch, 900, false);
        }
        assert_eq!(cap(&batch), FULL, "forty-nine");
        answer(&mut batch, 900, false);
        assert!((900..1_800).contains(&cap(&batch)), "{}", cap(&batch));
    }

    #[test]
    fn cuts_that_are_as_rare_as_expected_change_nothing() {
        let mut batch = after([200; 1_000]);
        let small = cap(&batch);
        for _ in 0..20 {
            let ticket = batch.sent();
            batch.cut(cap(&batch));
            batch.unanswered(ticket, &BY_TOKENS);
            for _ in 0..1_000 {
                answer(&mut batch, 200, true);
            }
        }
        assert_eq!(cap(&batch), small);
    }

    #[test]
    fn what_an_older_cap_cut_says_nothing_against_the_one_in_force() {
        let mut batch = after([200; 1_000]);
        let small = cap(&batch);
        for _ in 0..10 {
            batch.cut(small - 1);
        }
        assert_eq!(cap(&batch), small);
    }

    #[test]
    fn pressure_lasts_ten_minutes() {
        let start = Instant::now();
        let mut pressure = Pressure::default();
        assert!(!pressure.is_on(start));
        pressure.waited(start);
        assert!(pressure.is_on(start + Duration::from_secs(599)));
        assert!(!pressure.is_on(start + Duration::from_secs(600)));
    }

    #[test]
    fn without_a_price_the_quota_is_the_cost() {
        assert_eq!(Weights::new(None, 5), Weights { input: 1.0, output: 5.0, burndown: 5.0 });
        assert_eq!(Weights::new(Some(&Price::default()), 5), Weights::new(None, 5), "free of charge is no price");
    }

    #[test]
    fn a_cut_is_told_in_every_familys_words() {
        for word in ["max_tokens", "MAX_TOKENS", "length", "LENGTH", "max_length"] {
            assert!(is_cut(Some(word), 10, 100), "{word}");
        }
        for word in ["end_turn", "stop", "FINISH", "COMPLETE", "tool_use", "stop_sequence", "content_filtered"] {
            assert!(!is_cut(Some(word), 100, 100), "{word}");
        }
        // Words nobody has heard of yet, and none at all.
        for reason in [Some("ran_dry"), Some("malformed_tool_use"), None] {
            assert!(is_cut(reason, 100, 100), "{reason:?}");
            assert!(!is_cut(reason, 99, 100), "{reason:?}");
        }
    }
}
