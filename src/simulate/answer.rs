//! What does the model say? Prose that reads like an answer, of a drawn length, the same for the same request.

use super::chance::{Dice, Length};
use super::request::Ask;

/// Why an answer ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    EndTurn,
    MaxTokens,
    Sequence,
}

impl Stop {
    /// The word on the wire, the same in all formats.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::EndTurn => "end_turn",
            Self::MaxTokens => "max_tokens",
            Self::Sequence => "stop_sequence",
        }
    }
}

/// What the model says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    /// Comes before the text and counts as output.
    pub(super) reasoning: Option<String>,
    /// `None` when reasoning has used up `max_tokens`, or a fault took it away.
    pub(super) text: Option<String>,
    pub(super) stop: Stop,
    pub(super) output_tokens: u64,
}

impl Answer {
    /// A 200 that says nothing.
    pub(super) fn empty() -> Self {
        Self { reasoning: None, text: None, stop: Stop::EndTurn, output_tokens: 0 }
    }

    /// At most `limit` tokens in all; `exact` is how many it shall be, reasoning included, instead of a drawn length.
    pub(super) fn compose(
        dice: &mut Dice,
        length: Length,
        exact: Option<u64>,
        limit: u64,
        reasoning: bool,
        ask: &Ask,
    ) -> Self {
        let think = |dice: &mut Dice| if reasoning { length.draw(dice) } else { 0 };
        let (wanted, thought) = match exact {
            Some(total) => {
                let thought = think(dice).min(total.saturating_sub(1));
                (total - thought, thought)
            }
            None => (length.draw(dice), think(dice)),
        };
        let thought = thought.min(limit);
        let left = limit - thought;
        let reasoning = (thought > 0).then(|| prose(dice, thought, thought < limit));
        if left == 0 {
            return Self { reasoning, text: None, stop: Stop::MaxTokens, output_tokens: thought };
        }
        let mut text = prose(dice, wanted.min(left), wanted <= left && exact.is_none());
        if wanted <= left && exact.is_some() {
            text.pop();
            text.push('.');
        }
        let mut stop = if wanted <= left { Stop::EndTurn } else { Stop::MaxTokens };
        if let Some(end) = ask.stop_sequences.iter().filter_map(|sequence| text.find(sequence)).min() {
            text.truncate(end);
            stop = Stop::Sequence;
        }
        let output_tokens = thought + tokens(&text);
        Self { reasoning, text: (!text.is_empty()).then_some(text), stop, output_tokens }
    }
}

/// A vector of this many dimensions; of length one if asked for.
pub(super) fn embedding(dice: &mut Dice, dimensions: usize, normalize: bool) -> Vec<f64> {
    let mut vector: Vec<f64> = (0..dimensions).map(|_| dice.normal()).collect();
    if normalize {
        let length = vector.iter().map(|part| part * part).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|part| *part /= length);
    }
    vector
}

const BYTES_PER_TOKEN: u64 = 4;

fn tokens(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX).div_ceil(BYTES_PER_TOKEN)
}

/// Text of this many tokens, or a little less where it ends with its sentence. All of it is ASCII.
fn prose(dice: &mut Dice, tokens: u64, finished: bool) -> String {
    let goal = usize::try_from(tokens.saturating_mul(BYTES_PER_TOKEN)).unwrap_or(usize::MAX);
    let mut text = String::with_capacity(goal + 128);
    let mut sentences_left = dice.between(3, 6);
    while text.len() < goal {
        sentence(dice, &mut text);
        sentences_left -= 1;
        if sentences_left == 0 {
            text.push_str("\n\n");
            sentences_left = dice.between(3, 6);
        } else {
            text.push(' ');
        }
    }
    if !finished {
        text.truncate(goal);
        return text;
    }
    text.truncate(goal.saturating_sub(1));
    if let Some(end) = text.rfind(' ') {
        text.truncate(end);
    }
    let end = text.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len();
    text.truncate(end);
    text.push('.');
    text
}

fn sentence(dice: &mut Dice, text: &mut String) {
    let start = text.len();
    if dice.strikes(0.35) {
        text.push_str(dice.pick(&OPENINGS));
        text.push(' ');
    }
    clause(dice, text);
    if dice.strikes(0.45) {
        text.push_str(dice.pick(&JOINTS));
        text.push(' ');
        clause(dice, text);
    }
    text.push('.');
    if let Some(first) = text.get_mut(start..=start) {
        first.make_ascii_uppercase();
    }
}

fn clause(dice: &mut Dice, text: &mut String) {
    thing(dice, text);
    text.push(' ');
    text.push_str(dice.pick(&VERBS));
    text.push(' ');
    thing(dice, text);
    if dice.strikes(0.5) {
        text.push(' ');
        text.push_str(dice.pick(&PLACES));
        text.push(' ');
        thing(dice, text);
    }
}

fn thing(dice: &mut Dice, text: &mut String) {
    text.push_str(dice.pick(&ARTICLES));
    text.push(' ');
    if dice.strikes(0.6) {
        text.push_str(dice.pick(&ADJECTIVES));
        text.push(' ');
    }
    text.push_str(dice.pick(&NOUNS));
}

const OPENINGS: [&str; 12] = [
    "in short,",
    "overall,",
    "for example,",
    "in most cases,",
    "on the other hand,",
    "as a rule,",
    "by contrast,",
    "at first sight,",
    "in practice,",
    "to begin with,",
    "more precisely,",
    "taken together,",
];
const JOINTS: [&str; 10] = [
    ", and",
    ", but",
    ", so",
    ", because",
    ", although",
    ", while",
    ", whereas",
    "; meanwhile,",
    "; therefore,",
    ", which means that",
];
const ARTICLES: [&str; 8] = ["the", "the", "the", "this", "each", "every", "that", "another"];
const ADJECTIVES: [&str; 32] = [
    "clear",
    "recent",
    "likely",
    "practical",
    "early",
    "careful",
    "steady",
    "broad",
    "small",
    "useful",
    "common",
    "detailed",
    "strong",
    "quiet",
    "simple",
    "positive",
    "mixed",
    "honest",
    "different",
    "central",
    "final",
    "modest",
    "notable",
    "reliable",
    "local",
    "typical",
    "helpful",
    "relevant",
    "friendly",
    "lasting",
    "direct",
    "gradual",
];
const NOUNS: [&str; 48] = [
    "reviewer",
    "product",
    "result",
    "question",
    "answer",
    "reason",
    "example",
    "customer",
    "delivery",
    "price",
    "quality",
    "feature",
    "problem",
    "solution",
    "team",
    "process",
    "report",
    "summary",
    "detail",
    "pattern",
    "market",
    "design",
    "reader",
    "argument",
    "decision",
    "method",
    "service",
    "experience",
    "improvement",
    "comparison",
    "material",
    "version",
    "schedule",
    "measure",
    "source",
    "change",
    "region",
    "document",
    "opinion",
    "outcome",
    "structure",
    "model",
    "study",
    "trend",
    "factor",
    "step",
    "choice",
    "passage",
];
const VERBS: [&str; 32] = [
    "explains",
    "supports",
    "describes",
    "improves",
    "follows",
    "shows",
    "confirms",
    "suggests",
    "changes",
    "compares",
    "reflects",
    "mentions",
    "replaces",
    "affects",
    "combines",
    "addresses",
    "reduces",
    "outlines",
    "requires",
    "introduces",
    "clarifies",
    "illustrates",
    "precedes",
    "completes",
    "questions",
    "highlights",
    "limits",
    "covers",
    "justifies",
    "extends",
    "simplifies",
    "influences",
];
const PLACES: [&str; 12] =
    ["in", "within", "after", "before", "beside", "with", "without", "through", "under", "for", "beyond", "across"];

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::super::chance::Purpose;
    use super::*;

    fn dice(body: u64) -> Dice {
        Dice::new(1, body, 0, Purpose::Answer)
    }

    fn ask(stop_sequences: &[&str]) -> Ask {
        Ask {
            digest: 0,
            input_tokens: 1,
            checkpoints: Vec::new(),
            max_tokens: None,
            stop_sequences: stop_sequences.iter().map(|&text| text.to_owned()).collect(),
            answer_tokens: None,
            embedding: None,
        }
    }

    const LENGTH: Length = Length { mean: 120.0, spread: 80.0 };

    #[test]
    fn an_answer_never_exceeds_its_limit_and_says_when_it_was_cut() {
        for body in 0..500 {
            for (limit, reasoning) in [(1, false), (1, true), (60, false), (60, true), (100_000, true)] {
                let answer = Answer::compose(&mut dice(body), LENGTH, None, limit, reasoning, &ask(&[]));
                let said = answer.reasoning.iter().chain(&answer.text).map(|text| tokens(text)).sum::<u64>();
                assert!((1..=limit).contains(&answer.output_tokens), "{limit}: {}", answer.output_tokens);
                assert!(said <= answer.output_tokens, "{limit}: {said}");
                if answer.stop == Stop::MaxTokens {
                    assert_eq!(answer.output_tokens, limit);
                } else {
                    assert!(answer.text.unwrap().ends_with('.'));
                }
            }
        }
    }

    #[test]
    fn an_exact_answer_is_exact_unless_its_limit_is_lower() {
        for body in 0..200 {
            let exact = body % 40 + 1;
            for (limit, reasoning) in [(10_000, false), (10_000, true), (20, false), (20, true)] {
                let answer = Answer::compose(&mut dice(body), LENGTH, Some(exact), limit, reasoning, &ask(&[]));
                assert_eq!(answer.output_tokens, exact.min(limit), "{exact} of at most {limit}");
                let said = answer.reasoning.iter().chain(&answer.text).map(|text| tokens(text)).sum::<u64>();
                assert!(said <= answer.output_tokens, "{said} {answer:?}");
                let ended = if exact <= limit { Stop::EndTurn } else { Stop::MaxTokens };
                assert_eq!(answer.stop, ended, "{exact} of at most {limit}");
                assert!(answer.text.is_some() || ended == Stop::MaxTokens);
            }
        }
    }

    #[test]
    fn an_answer_reads_like_sentences() {
        let text = Answer::compose(&mut dice(3), LENGTH, None, 10_000, false, &ask(&[])).text.unwrap();
        for sentence in text.split_terminator('.').map(str::trim) {
            assert!(sentence.starts_with(|c: char| c.is_ascii_uppercase()), "{sentence}");
        }
        assert!(text.split_whitespace().count() > 10, "{text}");
    }

    #[test]
    fn a_stop_sequence_ends_the_answer_before_itself() {
        let answer = Answer::compose(&mut dice(3), LENGTH, None, 10_000, false, &ask(&["zzz", "."]));
        assert_eq!(answer.stop, Stop::Sequence);
        assert!(!answer.text.unwrap().contains('.'));
    }

    #[test]
    fn an_embedding_has_length_one_when_asked_for() {
        let length = |vector: Vec<f64>| vector.iter().map(|part| part * part).sum::<f64>().sqrt();
        assert!((length(embedding(&mut dice(1), 256, true)) - 1.0).abs() < 1e-9);
        assert!(length(embedding(&mut dice(1), 256, false)) > 2.0);
    }
}
