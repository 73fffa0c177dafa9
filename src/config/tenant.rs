//! What is said of single tenants: `[tenant.NAME]`.

use super::error::ConfigError;
use super::typed::{Named, Section};
use crate::job::ident::Tenant;

/// `[tenant.NAME]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TenantSettings {
    /// The tenant, by the name of its table.
    pub name: Tenant,
    /// `senders`: who may send its jobs to the queue of a fleet, by the unique ids of their principals as SQS tells them
    /// (`AIDA...`, `AROA...:*`; `*` at the end stands for anything). A job of anybody else goes to the dead-letter queue.
    /// Default: everybody who may send to the queue at all.
    pub senders: Option<Vec<String>>,
}

pub(super) fn read(top: &mut Section<'_>) -> Vec<TenantSettings> {
    let mut tenants = Vec::new();
    for (name, Named { path, table }) in top.named_tables("tenant") {
        let mut section = Section::new(path, table, top.problems());
        let senders = section.names("senders");
        section.later("output_tokens_per_day");
        section.finish();
        match Tenant::new(&name) {
            Ok(name) => tenants.push(TenantSettings { name, senders }),
            Err(error) => {
                let (key, value) = (format!("tenant.{name}"), format!("\"{name}\""));
                top.problem(ConfigError::OutOfBounds { key, value, bound: format!("a tenant's name ({error})") });
            }
        }
    }
    tenants
}
