//! Who may speak for a tenant? Where that is set, a message of somebody else is no job of that tenant. On SQS a sender is the
//! unique id of the principal, which nobody can choose: `AIDA...` for a user, `AROA...:session` for a role.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::job::ident::Tenant;

/// The tenants for whom not everybody may send.
#[derive(Clone, Debug, Default)]
pub struct Senders(Arc<BTreeMap<Tenant, Vec<String>>>);

impl Senders {
    /// `*` at the end of a sender stands for anything.
    pub fn new(senders: BTreeMap<Tenant, Vec<String>>) -> Self {
        Self(Arc::new(senders))
    }

    /// Whether this sender may send jobs of this tenant. A queue that knows no senders is guarded by other means.
    pub fn may_send(&self, tenant: &Tenant, sender: Option<&str>) -> bool {
        let (Some(allowed), Some(sender)) = (self.0.get(tenant), sender) else { return true };
        allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => sender.starts_with(beginning),
            None => sender == pattern,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn only_those_that_are_named_speak_for_a_tenant() {
        let acme = Tenant::new("acme").unwrap();
        let named = vec!["AROA1:*".to_owned(), "AIDA2".to_owned()];
        let senders = Senders::new(BTreeMap::from([(acme.clone(), named)]));
        for (sender, may) in
            [("AROA1:one", true), ("AIDA2", true), ("AIDA22", false), ("AROA2:one", false), ("", false)]
        {
            assert_eq!(senders.may_send(&acme, Some(sender)), may, "{sender}");
        }
        assert!(senders.may_send(&Tenant::unnamed(), Some("anybody")), "nothing is set for this one");
        assert!(senders.may_send(&acme, None));
    }
}
