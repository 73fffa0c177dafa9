//! How close are the estimates of a backlog, and are reservations safe?

use aquifer::job::units::Tokens;
use aquifer::rules::estimate::{InputEstimate, InputEstimates, OutputEstimate, Text};

use crate::draws::Draw;

/// A text and its answer. Bytes are what a worker sees beforehand, tokens what the service reports afterwards.
struct Call {
    text: Text,
    input: u64,
    output: u64,
}

/// Sizes like those of the code trace of AzurePublicDataset (inputs of 2,000 tokens in the mean, spread over two orders of
/// magnitude, and short answers), or of a chat (inputs of 1,000, answers of 200); 3.2 to 4.6 bytes a token from text to
/// text, and a frame of a few tokens.
fn calls(seed: u64, kind: Kind, count: usize) -> Vec<Call> {
    let mut draw = Draw::new(seed);
    (0..count)
        .map(|number| {
            let (input, output) = match kind {
                Kind::Code => (draw.log_normal(1_450.0, 0.85).min(7_500), draw.log_normal(14.0, 0.9).min(1_800)),
                Kind::Chat => (draw.log_normal(700.0, 0.95).min(14_000), draw.log_normal(130.0, 0.9).min(1_900)),
            };
            let bytes = input as f64 * draw.between(3.2, 4.6);
            Call { text: Text { bytes: bytes as u64, template: number as u64 % 3 }, input: input + 6, output }
        })
        .collect()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Code,
    Chat,
}

const SEEDS: u64 = 200;

/// The whole backlog as it is expected after 200 calls: those that were answered are known, the others are estimated.
#[test]
fn the_total_of_a_backlog_is_within_five_percent_after_200_calls() {
    for kind in [Kind::Code, Kind::Chat] {
        let mut errors = Vec::new();
        for seed in 0..SEEDS {
            let calls = calls(seed, kind, 2_000);
            let (mut input, mut output) = (InputEstimates::default(), OutputEstimate::new());
            for call in &calls[..200] {
                input.learn(call.text, Tokens(call.input));
                output.learn(Tokens(call.output));
            }
            let (mut expected, mut expected_input, mut truth, mut truth_input) = (0, 0, 0, 0);
            for (number, call) in calls.iter().enumerate() {
                let of_input = if number < 200 { call.input } else { input.expected(call.text).0 };
                let of_output = if number < 200 { call.output } else { output.expected(Tokens(4_096)).0 };
                expected_input += of_input;
                expected += of_input + of_output;
                truth_input += call.input;
                truth += call.input + call.output;
            }
            let off = |expected: u64, truth: u64| expected.abs_diff(truth) as f64 / truth as f64;
            assert!(off(expected_input, truth_input) <= 0.05, "{kind:?} {seed}: {expected_input} for {truth_input}");
            errors.push(off(expected, truth));
        }
        errors.sort_by(f64::total_cmp);
        // Nobody can say more of the mean of answers than 200 of them show: in a chat that is 7 % of a fifth of the tokens.
        assert!(errors[errors.len() - 1] <= 0.05, "{kind:?}: at worst {:.3}", errors[errors.len() - 1]);
        assert!(errors[errors.len() / 2] <= 0.015, "{kind:?}: mostly {:.3}", errors[errors.len() / 2]);
    }
}

#[test]
fn a_cold_start_reserves_no_less_than_the_truth() {
    for kind in [Kind::Code, Kind::Chat] {
        for seed in 0..SEEDS {
            let mut input = InputEstimates::default();
            for call in calls(seed, kind, 60) {
                let reserved = input.reserve(call.text).0;
                assert!(reserved >= call.input, "{kind:?} {seed}: {reserved} for {} tokens", call.input);
                input.learn(call.text, Tokens(call.input));
            }
        }
    }
}

#[test]
fn reservations_keep_to_their_percentile_and_waste_little() {
    let (mut above, mut reserved, mut truth, mut count) = (0, 0, 0, 0);
    for seed in 0..20 {
        let mut input = InputEstimates::default();
        for (number, call) in calls(seed, Kind::Code, 1_500).into_iter().enumerate() {
            if number >= 300 {
                above += u64::from(input.reserve(call.text).0 < call.input);
                reserved += input.reserve(call.text).0;
                truth += call.input;
                count += 1;
            }
            input.learn(call.text, Tokens(call.input));
        }
    }
    assert!(above * 100 <= count * 7, "{above} of {count} were larger than reserved, of about 5 in 100");
    assert!(reserved * 100 <= truth * 125, "{reserved} reserved for {truth}");
}

/// One model, two templates: English at 4.2 bytes a token and a dump of numbers at 2.4, each within 3 %.
#[test]
fn templates_are_told_apart_and_cost_less_margin() {
    let mut draw = Draw::new(7);
    let mut call = |template: u64| {
        let input = draw.log_normal(900.0, 0.6);
        let bytes = input as f64 * if template == 0 { 4.2 } else { 2.4 } * draw.between(0.97, 1.03);
        (Text { bytes: bytes as u64, template }, Tokens(input + 8))
    };
    let (mut by_template, mut by_model) = (InputEstimates::default(), InputEstimate::new());
    for number in 0..400 {
        let (text, actual) = call(number % 2);
        by_template.learn(text, actual);
        by_model.learn(text.bytes, actual);
    }
    let (mut with, mut without, mut truth, mut above) = (0, 0, 0, 0);
    for number in 0..400 {
        let (text, actual) = call(number % 2);
        with += by_template.reserve(text).0;
        without += by_model.reserve(text.bytes).0;
        truth += actual.0;
        above += u64::from(by_template.reserve(text) < actual);
        assert!(by_template.expected(text).0.abs_diff(actual.0) * 20 <= actual.0, "each is within 5 %");
    }
    assert!(with * 100 <= truth * 105, "{with} reserved for {truth}");
    assert!(without * 100 >= truth * 120, "{without} reserved for {truth}: one ratio for both needs a wide margin");
    assert!(above <= 40, "{above} of 400 were larger than reserved");
}

/// A template that needs more than the model knows is reserved more for from its first answer, not from its thirty-second.
#[test]
fn a_new_template_is_safe_once_it_has_shown_itself() {
    let mut input = InputEstimates::default();
    for _ in 0..400 {
        input.learn(Text { bytes: 4_000, template: 1 }, Tokens(1_008));
    }
    let numbers = Text { bytes: 4_000, template: 2 };
    assert!(input.reserve(numbers) < Tokens(1_700), "nobody could know");
    input.learn(numbers, Tokens(1_708));
    assert!(input.reserve(numbers) >= Tokens(1_708));
    assert!(input.reserve(Text { bytes: 4_000, template: 1 }) < Tokens(1_100), "the other is left alone");
}
