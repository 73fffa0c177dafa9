//! Are estimates near what comes, for any language, any batch and any template?

use aquifer::job::units::Tokens;
use aquifer::rules::estimate::{InputEstimate, InputEstimates, OutputEstimate, Text};
use proptest::collection::vec;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any language (bytes per token), any frame around a request, sizes over two orders of magnitude, 20 % noise: after
    /// 200 answers the estimate of the next 200 is within 5 % of what they are in the mean. Their own noise nobody can
    /// foresee: it would carry their sum past 5 % once in some thousand times.
    #[test]
    fn estimates_of_a_whole_batch_are_within_five_percent_after_200_answers(
        bytes_per_token in 1.5_f64..6.0,
        frame in 0.0_f64..16.0,
        texts in vec((100_u64..10_000, -0.2_f64..0.2), 400..401),
    ) {
        let count = |bytes: u64, noise: f64| Tokens(((bytes as f64 / bytes_per_token) * (1.0 + noise) + frame).round() as u64);
        let mut model = InputEstimate::new();
        for (bytes, noise) in &texts[..200] {
            model.learn(*bytes, count(*bytes, *noise));
        }
        let rest = &texts[200..];
        let estimated: u64 = rest.iter().map(|(bytes, _)| model.expected(*bytes).0).sum();
        let truth: u64 = rest.iter().map(|(bytes, _)| count(*bytes, 0.0).0).sum();
        prop_assert!(estimated.abs_diff(truth) as f64 <= truth as f64 * 0.05, "{estimated} for {truth}");
        let above = rest.iter().filter(|(bytes, noise)| count(*bytes, *noise) > model.reserve(*bytes)).count();
        // One in twenty is meant. Even noise has no tail: a mean that is off by 1 % carries 2.5 % of them over its edge.
        prop_assert!(above <= 60, "{above} of 200 were larger than reserved");
        let reserved: u64 = rest.iter().map(|(bytes, _)| model.reserve(*bytes).0).sum();
        prop_assert!(reserved as f64 <= truth as f64 * 1.4, "{reserved} reserved for {truth}");
    }

    /// Two sorts of prompts in turn, each of its own language: each is judged by its own answers.
    #[test]
    fn a_template_is_judged_by_its_own_answers(
        ratios in (1.5_f64..6.0, 1.5_f64..6.0),
        // Until it has some sixty, a guess on the safe side stands in.
        sizes in vec(100_u64..10_000, 130..240),
    ) {
        let sorts = [(1_u64, ratios.0), (2, ratios.1)];
        let count = |bytes: u64, ratio: f64| Tokens((bytes as f64 / ratio).ceil() as u64);
        let mut inputs = InputEstimates::default();
        for (turn, bytes) in sizes.iter().enumerate() {
            let (template, ratio) = sorts[turn % 2];
            inputs.learn(Text { bytes: *bytes, template }, count(*bytes, ratio));
        }
        for (template, ratio) in sorts {
            let text = Text { bytes: 5_000, template };
            let truth = count(text.bytes, ratio).0 as f64;
            let estimated = inputs.expected(text).0 as f64;
            prop_assert!((estimated - truth).abs() <= truth * 0.1, "{estimated} for {truth}");
            prop_assert!(inputs.reserve(text).0 as f64 <= truth * 1.4);
        }
    }

    #[test]
    fn the_mean_of_the_output_is_the_mean(answers in vec(1_u64..4_000, 1..300)) {
        let mut model = OutputEstimate::new();
        for tokens in &answers {
            model.learn(Tokens(*tokens));
        }
        let mean = answers.iter().sum::<u64>() as f64 / answers.len() as f64;
        prop_assert!((model.expected(Tokens(u64::MAX)).0 as f64 - mean).abs() <= 1.001);
    }

    /// Against the answers themselves, the older the less: not more of them pass it than may, and nothing much shorter
    /// would do.
    #[test]
    fn a_percentile_of_the_output_is_passed_by_as_few_as_it_says(
        answers in vec(prop_oneof![1_u64..50, 1_u64..4_000], 1..300),
        share in 0.0_f64..1.0,
    ) {
        let mut model = OutputEstimate::new();
        for tokens in &answers {
            model.learn(Tokens(*tokens));
        }
        let longer_than = |length: f64| {
            let faded = answers.iter().rev().scan(1.0, |weight, tokens| {
                let this = *weight;
                *weight *= 0.999;
                Some((*tokens, this))
            });
            faded.filter(|(tokens, _)| *tokens as f64 > length).map(|(_, weight)| weight).sum::<f64>()
        };
        let percentile = model.percentile(share).unwrap().0 as f64;
        let may = longer_than(0.0) * (1.0 - share);
        prop_assert!(longer_than(percentile) <= may + 1e-6, "{percentile} is too short");
        let shorter = (percentile / (1.0 + 1.0 / 16.0)).ceil() - 1.0;
        prop_assert!(longer_than(shorter) > may - 1e-6, "{percentile} is too long");
    }
}
