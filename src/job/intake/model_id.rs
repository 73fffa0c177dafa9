//! Could this be the id of a model or inference profile, or of what else answers?

use crate::job::agent::{AgentCall, names_an_agent};

/// Whether the text has the form of a Bedrock model id, inference-profile id or ARN: `anthropic.claude-...`,
/// `us.amazon.nova-...`, `arn:aws:bedrock:...`; or of an agent's alias: `agent/AGENTID/ALIASID`. Says nothing about whether it
/// exists.
///
/// A provider or geography is lower-case letters and digits before the first dot, so that other vendors' names with a
/// version in them (`gpt-3.5-turbo`) do not pass.
pub fn is_plausible_model_id(text: &str) -> bool {
    if text.len() > 2_048 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return false;
    }
    if names_an_agent(text) {
        return AgentCall::ids(text).is_some();
    }
    if let Some(arn) = text.strip_prefix("arn:") {
        return arn.split(':').nth(1) == Some("bedrock");
    }
    let Some((provider, model)) = text.split_once('.') else { return false };
    let named = provider.starts_with(|c: char| c.is_ascii_lowercase())
        && provider.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (named || provider == "us-gov") && model.starts_with(|c: char| c.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::is_plausible_model_id;

    #[test]
    fn ids_of_the_service_pass_and_names_of_other_vendors_do_not() {
        for id in [
            "anthropic.claude-haiku-4-5-20251001-v1:0",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "us-gov.anthropic.claude-3-haiku-20240307-v1:0",
            "global.amazon.nova-2-lite-v1:0",
            "ai21.jamba-1-5-mini-v1:0",
            "openai.gpt-oss-120b-1:0",
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc",
            "agent/AGENT12345/TSTALIASID",
        ] {
            assert!(is_plausible_model_id(id), "{id}");
        }
        for name in [
            "gpt-3.5-turbo",
            "gpt-4.1-mini",
            "gemini-2.5-pro",
            "haiku",
            "",
            ".",
            "a b.c",
            "arn:aws:s3:::b",
            "agent/a",
            "agent/a.b/c",
        ] {
            assert!(!is_plausible_model_id(name), "{name}");
        }
    }
}
