//! What kind of service is played? The resolved scenario: every value checked, every default filled in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::brownout::{Brownout, Capacity};
use super::chance::{Latency, Length};
use super::errors::{self, Refused};
use super::fault::Fault;
use super::file;
use super::ledger::{Counting, Excess, Ledger, Window};
use super::request::{foundation, resource};
use super::scope::{AGENT, Target};
use super::unseen::{Change, Stranger};

/// How the simulated service behaves. The default is a healthy one without quotas that knows every model.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub(super) seed: u64,
    pub(super) counting: Counting,
    /// How far the first fixed minute has run at the start; `None` is as far as the clock's.
    pub(super) minute_offset: Option<Duration>,
    pub(super) settlement_excess: Excess,
    pub(super) cache_reads_at_admission: bool,
    /// `false`: admits everything and counts what it would have refused.
    pub(super) enforce: bool,
    /// How long a day of the daily quotas is.
    pub(super) day: Duration,
    pub(super) account_tokens_per_day: Option<u64>,
    /// By id; empty means that every well-formed id is `any`.
    pub(super) models: BTreeMap<String, ByRegion>,
    pub(super) any: Arc<Model>,
    pub(super) faults: Vec<Fault>,
    pub(super) brownouts: Vec<Brownout>,
    pub(super) strangers: Vec<Stranger>,
    pub(super) changes: Vec<Change>,
}

/// How a model behaves where.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ByRegion {
    /// Where no region of its own says otherwise.
    pub(super) elsewhere: Option<Arc<Model>>,
    pub(super) regions: BTreeMap<String, Arc<Model>>,
}

/// How one model behaves.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Model {
    pub(super) requests_per_minute: Option<u64>,
    pub(super) tokens_per_minute: Option<u64>,
    pub(super) tokens_per_day: Option<u64>,
    /// What an output token costs of the token quotas.
    pub(super) burndown: u64,
    /// In input tokens.
    pub(super) context_window: u64,
    /// In tokens; also what a call without `max_tokens` reserves.
    pub(super) max_output: u64,
    /// The shortest prefix that is cached, in tokens.
    pub(super) cache_min_prefix: u64,
    pub(super) latency: Latency,
    pub(super) answer: Length,
    /// A marker in the prompt says how long the answer is.
    pub(super) answer_from_prompt: bool,
    pub(super) reasoning: bool,
    /// `None` is as many calls at once as come.
    pub(super) capacity: Option<Capacity>,
}

/// Why a scenario was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ScenarioError {
    /// No TOML, an unknown key, or a value of the wrong type; the text shows the line.
    #[error("{0}")]
    Form(String),
    /// A value out of bounds.
    #[error("`{key}` is {value}: {bound}")]
    Value {
        /// Where it stands, as in `model[0].burndown`.
        key: String,
        /// As it was written.
        value: String,
        /// What would have been allowed.
        bound: String,
    },
}

const MINUTE: Duration = Duration::from_secs(60);

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`ScenarioError`] with the first thing wrong; unknown keys are errors.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        file::read(text)
    }

    /// Fixed minutes turn with those of a clock that says `since_epoch` at the start, unless the scenario says when.
    pub(super) fn starting_at(mut self, since_epoch: Duration) -> Self {
        let into_the_minute = Duration::from_secs(since_epoch.as_secs() % MINUTE.as_secs());
        self.minute_offset.get_or_insert(into_the_minute + Duration::from_nanos(since_epoch.subsec_nanos().into()));
        self
    }

    /// The model of this id in this region, and the name under which its quota is kept there.
    pub(super) fn model<'a>(&self, target: Target<'a>) -> Result<(&'a str, &Arc<Model>), Refused> {
        let Target { region, id } = target;
        let name = resource(id);
        if id.starts_with(AGENT) {
            // Tables are of models; an agent needs none to be there.
            return Ok((id, self.models.get(id).and_then(|model| model.at(region)).unwrap_or(&self.any)));
        }
        if self.models.is_empty() {
            let well_formed = name.contains('.') || id.starts_with("arn:");
            return if well_formed { Ok((name, &self.any)) } else { Err(malformed_id()) };
        }
        let known = |id: &str| self.models.get(id).and_then(|model| model.at(region));
        if let Some(found) = known(id) {
            return Ok((id, found));
        }
        if let Some(found) = known(name) {
            return Ok((name, found));
        }
        if !name.contains('.') {
            return Err(malformed_id());
        }
        if self.ids(region).any(|known| known != name && foundation(known) == name) {
            return Err(Refused::invalid(format!(
                "Invocation of model ID {name} with on-demand throughput isn\u{2019}t supported. Retry your request with the ID or ARN of an inference profile that contains this model."
            )));
        }
        Err(errors::known("ResourceNotFoundException").map_or_else(malformed_id, Refused::plain))
    }

    /// Whether `CountTokens` knows this id there: it takes foundation models only.
    pub(super) fn counts_tokens(&self, target: Target<'_>) -> Result<(), Refused> {
        let name = resource(target.id);
        if name != foundation(target.id) {
            return Err(Refused::invalid("The provided model doesn't support counting tokens."));
        }
        let profile_known = self.ids(target.region).any(|known| foundation(known) == name);
        if profile_known { Ok(()) } else { self.model(target).map(|_| ()) }
    }

    /// The ids that a region knows.
    fn ids(&self, region: &str) -> impl Iterator<Item = &str> {
        self.models.iter().filter(move |(_, model)| model.at(region).is_some()).map(|(id, _)| id.as_str())
    }

    /// Fresh quotas of a model.
    pub(super) fn ledger(&self, model: &Model) -> Ledger {
        Ledger {
            requests: model.requests_per_minute.map(|limit| self.minute(limit)),
            minute: model.tokens_per_minute.map(|limit| self.minute(limit)),
            day: model.tokens_per_day.map(|limit| self.whole_day(limit)),
        }
    }

    /// A fresh quota of the account.
    pub(super) fn account(&self) -> Option<Window> {
        self.account_tokens_per_day.map(|limit| self.whole_day(limit))
    }

    /// A fresh quota of a minute.
    pub(super) fn minute(&self, limit: u64) -> Window {
        Window::new(limit, MINUTE, self.counting, self.minute_offset.unwrap_or_default())
    }

    /// Days are counted as whole ones whatever the minutes do: a bucket would refill within seconds, and nobody
    /// has seen that.
    fn whole_day(&self, limit: u64) -> Window {
        Window::new(limit, self.day, Counting::Fixed, Duration::ZERO)
    }
}

impl ByRegion {
    /// How it behaves there; `None` where it is not.
    pub(super) fn at(&self, region: &str) -> Option<&Arc<Model>> {
        self.regions.get(region).or(self.elsewhere.as_ref())
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            seed: 1,
            counting: Counting::default(),
            minute_offset: None,
            settlement_excess: Excess::default(),
            cache_reads_at_admission: false,
            enforce: true,
            day: Duration::from_secs(86_400),
            account_tokens_per_day: None,
            models: BTreeMap::new(),
            any: Arc::new(Model::default()),
            faults: Vec::new(),
            brownouts: Vec::new(),
            strangers: Vec::new(),
            changes: Vec::new(),
        }
    }
}

impl Default for Model {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            tokens_per_minute: None,
            tokens_per_day: None,
            burndown: 1,
            context_window: 200_000,
            max_output: 64_000,
            cache_min_prefix: 1_024,
            latency: Latency::default(),
            answer: Length::default(),
            answer_from_prompt: false,
            reasoning: false,
            capacity: None,
        }
    }
}

fn malformed_id() -> Refused {
    Refused::invalid("The provided model identifier is invalid.")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    fn status_in(region: &str, scenario: &Scenario, id: &str) -> Option<(u16, String)> {
        let found = scenario.model(Target { region, id });
        found.err().map(|refused| (refused.status, refused.message.into_owned()))
    }

    fn status(scenario: &Scenario, id: &str) -> Option<(u16, String)> {
        status_in("us-east-1", scenario, id)
    }

    fn counts_tokens(scenario: &Scenario, id: &str) -> bool {
        scenario.counts_tokens(Target { region: "us-east-1", id }).is_ok()
    }

    #[test]
    fn without_a_table_every_id_that_looks_like_one_is_a_model() {
        let scenario = Scenario::default();
        for id in [
            "us.anthropic.claude-x",
            "amazon.nova-lite-v1:0",
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
        ] {
            assert_eq!(status(&scenario, id), None, "{id}");
        }
        assert_eq!(status(&scenario, "haiku"), Some((400, "The provided model identifier is invalid.".to_owned())));
    }

    #[test]
    fn with_a_table_only_what_stands_in_it_is_a_model() {
        let scenario = Scenario::from_toml("[[model]]\nid = 'us.anthropic.claude-x'\n").unwrap();
        assert_eq!(status(&scenario, "us.anthropic.claude-x"), None);
        assert_eq!(status(&scenario, "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-x"), None);
        assert_eq!(status(&scenario, "eu.anthropic.claude-x").unwrap().0, 404);
        assert_eq!(status(&scenario, "haiku").unwrap().0, 400);
        let (code, text) = status(&scenario, "anthropic.claude-x").unwrap();
        assert!(code == 400 && text.contains("on-demand throughput isn\u{2019}t supported"), "{text}");
        assert!(counts_tokens(&scenario, "anthropic.claude-x"));
        assert!(!counts_tokens(&scenario, "us.anthropic.claude-x"));
        assert!(!counts_tokens(&scenario, "anthropic.claude-y"));
    }

    #[test]
    fn a_table_with_a_region_beats_the_one_without_and_says_where_a_model_is() {
        let scenario = Scenario::from_toml(
            "[[model]]\nid = 'us.a.b'\n[[model]]\nid = 'us.a.b'\nregion = 'us-west-2'\nburndown = 5\n\
             [[model]]\nid = 'us.a.c'\nregion = 'us-west-2'",
        )
        .unwrap();
        let burndown = |region, id| scenario.model(Target { region, id }).map(|(_, model)| model.burndown);
        assert_eq!(burndown("us-east-1", "us.a.b"), Ok(1));
        assert_eq!(burndown("", "us.a.b"), Ok(1));
        assert_eq!(burndown("us-west-2", "us.a.b"), Ok(5));
        assert_eq!(burndown("us-west-2", "us.a.c"), Ok(1));
        assert_eq!(status_in("us-east-1", &scenario, "us.a.c").unwrap().0, 404);
        assert!(status_in("us-west-2", &scenario, "a.c").unwrap().1.contains("on-demand"));
        assert_eq!(status_in("us-east-1", &scenario, "a.c").unwrap().0, 404, "a profile of elsewhere is none here");
    }
}
