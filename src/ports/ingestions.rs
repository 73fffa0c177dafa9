//! Who brings data sources of knowledge bases up to date?

use async_trait::async_trait;

use crate::job::failure::Failure;
use crate::job::ingest::{DataSource, IngestToken, Ingestion};

/// What asking for an ingestion came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Begun {
    /// It has begun, now or when it was asked for under the same token before.
    Yes,
    /// Another runs, of this source or of others that may not run beside it: nothing was begun.
    Busy,
}

/// Ingestions of data sources.
///
/// * One runs at a time for a data source: of any number that are asked for meanwhile, the others are [`Begun::Busy`].
/// * Asked for again under the same token, an ingestion is the one that was begun.
/// * A [`Failure`] says by its class whether it is worth asking again.
#[async_trait]
pub trait Ingestions: Send + Sync {
    /// Where they run; empty if that is not known.
    async fn region(&self) -> String;

    /// The newest of a data source, newest first; what runs is among them.
    async fn newest(&self, source: &DataSource) -> Result<Vec<Ingestion>, Failure>;

    /// Asks for one.
    async fn begin(&self, source: &DataSource, token: &IngestToken) -> Result<Begun, Failure>;

    /// Why one failed, in the service's words; empty if it does not say.
    async fn reasons(&self, source: &DataSource, id: &str) -> Result<Vec<String>, Failure>;
}
