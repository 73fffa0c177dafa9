//! Which Bedrock agent, and what is it asked? The `agent` of a job, read and checked by hand, so that every complaint names
//! its key.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::ident::{Digest, JobKey};

/// What an agent's alias is called where others are called by the id of their model: `agent/AGENTID/ALIASID`.
const PREFIX: &str = "agent/";

/// Whether this names an agent's alias where the id of a model could stand.
pub fn names_an_agent(id: &str) -> bool {
    id.starts_with(PREFIX)
}

macro_rules! resource {
    ($(#[$doc:meta])* $name:ident, $lengths:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// `None` if it is not of that form.
            pub fn new(text: &str) -> Option<Self> {
                let fits = $lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
                fits.then(|| Self(text.into()))
            }

            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

pub(super) use resource;

resource!(
    /// The id of an agent: 1 to 10 of `A-Z a-z 0-9` (source: the service model of `InvokeAgent`).
    AgentId, (1..=10)
);
resource!(
    /// The id of an agent's alias: 1 to 10 of `A-Z a-z 0-9` (source: the service model of `InvokeAgent`).
    AliasId, (1..=10)
);

/// The id of a conversation with an agent: 2 to 100 of `A-Z a-z 0-9 . _ : -` (source: the service model of `InvokeAgent`).
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct SessionId(String);

impl SessionId {
    /// `None` if it is not of that form.
    pub fn new(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
        ((2..=100).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    /// The session of a job that names none: its own, and the same however often the job is sent.
    fn of(job: &JobKey) -> Self {
        let name = serde_json::json!([job.tenant, job.batch, job.id]).to_string();
        Self(format!("aquifer-{}", Digest::of(name.as_bytes())))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The `agent` of a job.
#[derive(Clone, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentCall {
    /// Which agent.
    pub agent_id: AgentId,
    /// Which of its aliases.
    pub agent_alias_id: AliasId,
    /// The conversation that this is a part of; where nothing is said, one of the job's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// What it is asked.
    pub input_text: String,
}

impl fmt::Debug for AgentCall {
    /// Never what it is asked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentCall")
            .field("agent_id", &self.agent_id)
            .field("agent_alias_id", &self.agent_alias_id)
            .field("session_id", &self.session_id)
            .field("input_bytes", &self.input_text.len())
            .finish()
    }
}

impl AgentCall {
    /// The longest `inputText`, in characters (source: the service model of `InvokeAgent`).
    pub const LONGEST: usize = 25_000_000;
    const KEYS: [&'static str; 4] = ["agentId", "agentAliasId", "sessionId", "inputText"];

    /// Reads what stands under `agent`.
    ///
    /// # Errors
    /// The first thing wrong, by its key and in words safe to log.
    pub fn read(fields: &Map<String, Value>) -> Result<Self, String> {
        if let Some(unknown) = fields.keys().find(|key| !Self::KEYS.contains(&key.as_str())) {
            let shown: String = unknown.chars().take(40).flat_map(char::escape_debug).collect();
            return Err(format!("unknown key `{shown}` in `agent`; it has {}", Self::KEYS.join(", ")));
        }
        let id = "a string of 1 to 10 letters and digits";
        let session = "a string of 2 to 100 of A-Z a-z 0-9 . _ : -";
        let input = format!("a string of 1 to {} characters that says something", Self::LONGEST);
        let asked = |text: &str| {
            let fits = !text.trim().is_empty() && text.chars().nth(Self::LONGEST).is_none();
            fits.then(|| text.to_owned())
        };
        Ok(Self {
            agent_id: required(fields, "agentId", AgentId::new, id)?,
            agent_alias_id: required(fields, "agentAliasId", AliasId::new, id)?,
            session_id: match fields.get("sessionId") {
                None | Some(Value::Null) => None,
                Some(_) => Some(required(fields, "sessionId", SessionId::new, session)?),
            },
            input_text: required(fields, "inputText", asked, &input)?,
        })
    }

    /// The agent and the alias of a [`name`](Self::name).
    pub fn ids(name: &str) -> Option<(AgentId, AliasId)> {
        let (agent, alias) = name.strip_prefix(PREFIX)?.split_once('/')?;
        Some((AgentId::new(agent)?, AliasId::new(alias)?))
    }

    /// What stands in the place of its model: `agent/AGENTID/ALIASID`.
    pub fn name(&self) -> String {
        format!("{PREFIX}{}/{}", self.agent_id, self.agent_alias_id)
    }

    /// The same with the session that it is a part of.
    pub fn within_session_of(&self, job: &JobKey) -> Self {
        let session_id = self.session_id.clone().unwrap_or_else(|| SessionId::of(job));
        Self { session_id: Some(session_id), ..self.clone() }
    }
}

fn required<T>(
    fields: &Map<String, Value>,
    key: &str,
    new: impl Fn(&str) -> Option<T>,
    expected: &str,
) -> Result<T, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Err(format!("`agent` has no `{key}`")),
        Some(value) => value.as_str().and_then(new).ok_or_else(|| format!("`agent.{key}` must be {expected}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job::ident::{BatchName, JobId, Tenant};

    fn read(value: Value) -> Result<AgentCall, String> {
        AgentCall::read(value.as_object().unwrap())
    }

    fn key(batch: &str, id: &str) -> JobKey {
        JobKey { tenant: Tenant::unnamed(), batch: BatchName::new(batch).unwrap(), id: JobId::new(id).unwrap() }
    }

    #[test]
    fn bounds_are_those_of_the_service_and_each_complaint_names_its_key() {
        let good = json!({ "agentId": "AGENT12345", "agentAliasId": "TSTALIASID", "inputText": "Hi" });
        assert_eq!(read(good.clone()).unwrap().name(), "agent/AGENT12345/TSTALIASID");
        let (agent, alias) = AgentCall::ids("agent/AGENT12345/TSTALIASID").unwrap();
        assert_eq!((agent.as_str(), alias.as_str()), ("AGENT12345", "TSTALIASID"));
        assert!(AgentCall::ids("agent/AGENT12345").is_none() && AgentCall::ids("us.amazon.nova-lite-v1:0").is_none());
        for (key, value) in [
            ("agentId", json!("AGENT123456")),
            ("agentId", json!("")),
            ("agentId", json!("../models")),
            ("agentAliasId", json!(7)),
            ("agentAliasId", Value::Null),
            ("sessionId", json!("x")),
            ("sessionId", json!("a/b")),
            ("sessionId", json!("x".repeat(101))),
            ("inputText", json!(" \n")),
            ("inputText", json!(["Hi"])),
        ] {
            let mut bad = good.clone();
            bad[key] = value.clone();
            let why = read(bad).unwrap_err();
            assert!(why.contains(&format!("`agent.{key}`")) || why.contains(&format!("no `{key}`")), "{value}: {why}");
        }
        let mut unknown = good;
        unknown["sessionState"] = json!({});
        assert!(read(unknown).unwrap_err().contains("unknown key `sessionState` in `agent`"));
    }

    #[test]
    fn a_job_sent_again_is_in_the_same_session_and_another_job_in_its_own() {
        let call = read(json!({ "agentId": "A", "agentAliasId": "B", "inputText": "Hi" })).unwrap();
        let session = |key: &JobKey| call.within_session_of(key).session_id.unwrap();
        assert_eq!(session(&key("b", "1")), session(&key("b", "1")));
        assert_ne!(session(&key("b", "1")), session(&key("b", "2")));
        assert_ne!(session(&key("b:1", "x")), session(&key("b", "1:x")));
        assert!(SessionId::new(session(&key("b", "1")).as_str()).is_some());
        let named = AgentCall { session_id: SessionId::new("mine"), ..call.clone() };
        assert_eq!(named.within_session_of(&key("b", "1")), named);
    }

    #[test]
    fn what_is_asked_does_not_show_in_debug() {
        let call = read(json!({ "agentId": "A", "agentAliasId": "B", "inputText": "a secret" })).unwrap();
        assert!(!format!("{call:?}").contains("secret"));
    }
}
