//! Which words of the service may be shown?
//!
//! Errors of the service are shown, logged and kept; prompts must not be. A refusal may quote what it refuses, so
//! whatever a message shares with a text of the request is taken out, by comparing the two: no list of phrases can be
//! complete. What could be quoted in another form than it was sent in, a long quotation, goes as well.

use std::collections::HashSet;

use serde_json::Value;

/// A message longer than this is cut, in characters.
const LONGEST: usize = 300;
const GAP: &str = "[…]";
/// So many bytes in common with a text of the request are an echo, unless they are only words of [`OWN_WORDS`].
const ECHO: usize = 8;
/// So many are one whatever the words.
const LONG_ECHO: usize = 24;
/// A text of the request that is shorter is no secret: a role, a type.
const SHORTEST: usize = 4;
/// Words that the service's own sentences are made of. A long prompt holds most of them as well, and hiding them there
/// would hide "input is too long" exactly where it is said.
const OWN_WORDS: &str = "a access account again allowed an and are at be bedrock before body but can cannot connections \
    constraint content context count day denied detected error exceed exceeds exception expected expired failed few field \
    following for format found from greater has have in input invalid is it key length less limit long longer \
    malformed max maximum member message messages min minimum minute model more must no not number of on one only \
    or output parameter per permitted please prompt provide provided region request requested requests required \
    resource response retry role satisfy schema see service string supported system than that the this throughput to \
    token tokens too tool total try trying type unable unexpected use user validation value values was wait window \
    with you your";

/// How much a message is trusted not to repeat the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Trust {
    /// It speaks of quotas, access or the service.
    Fixed,
    /// It speaks of the request; its quotations go as well.
    Quoting,
}

/// The message without what it repeats of `request`, a JSON text.
pub(super) fn safe(message: &str, request: &[u8], trust: Trust) -> String {
    let message: String = message.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    let mut hide = vec![false; message.len()];
    // A request that is no JSON cannot be compared by its texts, so it is compared as a whole.
    match serde_json::from_slice(request) {
        Ok(request) => each_text(&request, &mut |text| mark(&message, text, &mut hide)),
        Err(_) => mark(&message, &String::from_utf8_lossy(request), &mut hide),
    }
    let mut hide = to_whole_words(&message, &hide);
    if trust == Trust::Quoting {
        mark_quotations(&message, &mut hide);
    }
    let mut safe = String::with_capacity(message.len());
    for (at, c) in message.char_indices() {
        if !hide[at..at + c.len_utf8()].contains(&true) {
            safe.push(c);
        } else if !safe.ends_with(GAP) {
            safe.push_str(GAP);
        }
    }
    safe
}

/// A single word as a service may send it: a code, a stop reason. Anything else is `?`.
pub(super) fn word(word: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if word.len() <= 64 && word.chars().all(plain) { word } else { "?" }
}

fn each_text(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(items) => items.iter().for_each(|item| each_text(item, visit)),
        Value::Object(fields) => fields.values().for_each(|field| each_text(field, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Marks every run of [`ECHO`] bytes that stands in both, and all of a text that is shorter than that. One pass over
/// the request, which may have megabytes; the message has few.
fn mark(message: &str, text: &str, hide: &mut [bool]) {
    if text.len() < SHORTEST || message.is_empty() {
        return;
    }
    let window = ECHO.min(text.len());
    let ours: HashSet<&[u8]> = message.as_bytes().windows(window).collect();
    let echoed: HashSet<&[u8]> = text.as_bytes().windows(window).filter(|run| ours.contains(run)).collect();
    for (at, run) in message.as_bytes().windows(window).enumerate() {
        if echoed.contains(run) {
            hide[at..at + window].fill(true);
        }
    }
}

/// Widens each marked run to whole words, and drops those that are short and only of the service's own words.
fn to_whole_words(message: &str, marked: &[bool]) -> Vec<bool> {
    let mut hide = vec![false; message.len()];
    let mut at = 0;
    while let Some(start) = marked[at..].iter().position(|&marked| marked).map(|offset| at + offset) {
        let end = marked[start..].iter().position(|&marked| !marked).map_or(marked.len(), |offset| start + offset);
        at = end;
        let within = |(_, c): &(usize, char)| c.is_alphanumeric();
        // A run may begin or end within a character.
        let (from, to) = (message.floor_char_boundary(start), message.ceil_char_boundary(end));
        let open = message[..from].char_indices().rev().take_while(within).last().map_or(from, |(at, _)| at);
        let close = message[to..].char_indices().take_while(within).last().map_or(to, |(at, c)| to + at + c.len_utf8());
        let own = |word: &str| OWN_WORDS.split_whitespace().any(|own| own.eq_ignore_ascii_case(word));
        let mut words = message[open..close].split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        if end - start >= LONG_ECHO || !words.all(own) {
            hide[open..close].fill(true);
        }
    }
    hide
}

/// Hides quotations that are more than a name. An apostrophe within a word opens none.
fn mark_quotations(message: &str, hide: &mut [bool]) {
    let name =
        |text: &str| text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:/#[]$".contains(c));
    let mut rest = 0;
    while let Some((open, close, quote)) = next_quotation(message, rest) {
        if !name(&message[open + quote.len_utf8()..close]) {
            hide[open..close].fill(true);
        }
        rest = (close + quote.len_utf8()).min(message.len());
    }
}

/// Where the next one opens and closes; one that never closes runs to the end.
fn next_quotation(message: &str, from: usize) -> Option<(usize, usize, char)> {
    let in_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (open, quote) = message[from..]
        .char_indices()
        .map(|(at, c)| (from + at, c))
        .find(|&(at, c)| matches!(c, '"' | '\'' | '`' | '“' | '‘') && !in_word(message[..at].chars().next_back()))?;
    let closing = match quote {
        '“' => '”',
        '‘' => '’',
        other => other,
    };
    let start = open + quote.len_utf8();
    let close = message[start..]
        .char_indices()
        .map(|(at, c)| (start + at, c))
        .find(|&(at, c)| c == closing && !in_word(message[at + c.len_utf8()..].chars().next()));
    Some(close.map_or((open, message.len(), quote), |(at, _)| (open, at, closing)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "The heron of Lot 49 flies at dawn, says \"K\".";

    fn request(prompt: &str) -> Vec<u8> {
        serde_json::json!({ "messages": [{ "role": "user", "content": [{ "text": prompt }] }] })
            .to_string()
            .into_bytes()
    }

    #[test]
    fn no_form_of_echo_shows_the_prompt() {
        let request = request(CANARY);
        for message in [
            format!("malformed input: {CANARY}"),
            format!("messages.0.content.0.text: `{CANARY}` is not allowed"),
            format!("Value {} at 'messages.1.member.content' failed", serde_json::json!(CANARY)),
            format!("bad text: {}", &CANARY[..20]),
            format!("bad text: ...{}", &CANARY[12..]),
            format!("unexpected \"{}", CANARY.to_uppercase()),
        ] {
            let safe = safe(&message, &request, Trust::Quoting);
            for part in ["heron", "HERON", "dawn", "Lot 49"] {
                assert!(!safe.contains(part), "{safe}");
            }
        }
    }

    #[test]
    fn a_short_prompt_is_hidden_whole() {
        assert_eq!(safe("cannot say mellon here", &request("mellon"), Trust::Quoting), "cannot say […] here");
    }

    #[test]
    fn names_of_fields_and_models_stay() {
        let text = "Value at 'inferenceConfig.maxTokens' isn’t supported by model \"us.vendor.model-v1:0\"";
        assert_eq!(safe(text, &request(CANARY), Trust::Quoting), text);
    }

    #[test]
    fn fixed_phrases_stay_whole_beside_prompts_that_use_their_words() {
        let text = "Too many tokens, please wait before trying again.";
        assert_eq!(safe(text, &request("please wait before the tokens"), Trust::Fixed), text);
        let text = "Input is too long for requested model.";
        assert_eq!(safe(text, &request("a tale too long; the requested model sat"), Trust::Quoting), text);
        assert!(!safe(&format!("denied: {CANARY}"), &request(CANARY), Trust::Fixed).contains("heron"));
    }

    #[test]
    fn a_message_is_bounded_and_in_one_line() {
        let safe = safe(&"word \n".repeat(1_000), b"not json", Trust::Quoting);
        assert!(safe.chars().count() <= LONGEST && !safe.contains('\n'));
    }

    #[test]
    fn a_word_is_a_word() {
        assert_eq!(word("end_turn"), "end_turn");
        assert_eq!(word("The heron flies"), "?");
    }
}
