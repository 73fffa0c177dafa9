//! Whom does a table of the scenario concern, and when?

use std::time::Duration;

use super::request::{foundation, resource};

/// With which the name of an agent's alias begins: `agent/AGENTID/ALIASID`.
pub(super) const AGENT: &str = "agent/";

/// Where a call goes, as its caller says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Target<'a> {
    /// The region it was signed for; empty where a key without one was used.
    pub(super) region: &'a str,
    /// A model id, an inference profile id or an ARN; or an agent's alias.
    pub(super) id: &'a str,
}

/// The lanes and the time that a table speaks of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Scope {
    /// Model id or foundation model; `None` is all.
    pub(super) model: Option<String>,
    /// `None` is all.
    pub(super) region: Option<String>,
    /// Since start.
    pub(super) from: Duration,
    /// Since start, this moment no longer; `None` is for ever.
    pub(super) until: Option<Duration>,
}

impl Scope {
    /// Whether such a call could be meant at all.
    pub(super) fn concerns(&self, target: Target<'_>) -> bool {
        let Target { region, id } = target;
        self.region.as_deref().is_none_or(|named| named == region)
            && self.model.as_deref().is_none_or(|model| model == resource(id) || model == foundation(id))
    }

    /// Whether it is in force.
    pub(super) fn holds(&self, now: Duration) -> bool {
        now >= self.from && self.until.is_none_or(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_as_profile_or_as_foundation_model() {
        let concerns = |model: &str, id| {
            let scope = Scope { model: Some(model.to_owned()), ..Scope::default() };
            scope.concerns(Target { region: "us-east-1", id })
        };
        assert!(concerns("us.amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1:0"));
        assert!(concerns("amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1:0"));
        assert!(!concerns("eu.amazon.nova-lite-v1:0", "us.amazon.nova-lite-v1:0"));
    }

    #[test]
    fn a_region_is_one_of_many_or_all() {
        let scope = Scope { region: Some("us-west-2".to_owned()), ..Scope::default() };
        for (region, here) in [("us-west-2", true), ("us-east-1", false), ("", false)] {
            let target = Target { region, id: "a.b" };
            assert_eq!(scope.concerns(target), here, "{region:?}");
            assert!(Scope::default().concerns(target), "{region:?}");
        }
    }
}
