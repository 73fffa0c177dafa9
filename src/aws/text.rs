//! Which text do SQS and SNS carry? What XML 1.0 may hold, and no empty values.

/// Whether it may stand in a message or an attribute.
pub(super) const fn is_legal(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

/// Whether a service takes it as the value of an attribute, or as a body.
pub(super) fn can_be_sent(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_legal)
}

/// At most `limit` characters of it, and only what may be sent.
pub(super) fn cut(text: &str, limit: usize) -> String {
    text.chars().filter(|c| is_legal(*c)).take(limit).collect()
}

/// JSON of the same meaning that can be sent: what is not legal stands inside strings only, where it can be escaped.
pub(super) fn json(json: String) -> String {
    if json.chars().all(is_legal) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_legal(c) {
            escaped.push(c);
        } else {
            // Below U+10000, all of them.
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    escaped
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_hold_is_not_sent() {
        assert!(can_be_sent("a\tb\r\n\u{1F30A}\u{e9}\u{85}"));
        for bad in ["", "\0", "a\u{b}", "\u{fffe}", "\u{ffff}"] {
            assert!(!can_be_sent(bad), "{bad:?}");
        }
        assert_eq!(cut("a\0b\u{ffff}cde", 4), "abcd");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "batch": "a\u{fffe}\u{ffff}b \u{1F30A}" });
        let sent = json(value.to_string());
        assert!(can_be_sent(&sent));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&sent).unwrap(), value);
    }
}
