//! What does a worker's page show of what is on record? The same that `status`, `explain` and `dead` tell, from whichever
//! back end the worker works.

use std::time::Duration;

use async_trait::async_trait;

use crate::embedded::{BatchSummary, Reader};
use crate::job::units::Timestamp;
use crate::page::{AskedJob, BATCHES, BatchProgress, Desk, Explained};
use crate::ports::{Clock as _, StoreError};
use crate::{aws, config};

use super::args::{ExplainArgs, Places};
use super::backend::{Backend, state_dir};
use super::{SystemClock, dead, eta, explain};

/// A look costs a read of a local file there.
const EMBEDDED_EVERY: Duration = Duration::from_secs(2);
/// And here some twenty reads of a row for each batch.
const FLEET_EVERY: Duration = Duration::from_secs(15);

/// The desk of the back end that a worker works.
#[derive(Debug)]
pub(crate) struct BackendDesk {
    backend: Backend,
    places: Places,
    is_simulated: bool,
    default_model: Option<String>,
}

impl BackendDesk {
    /// Of this one, as it was configured.
    pub(crate) fn new(backend: Backend, places: &Places, is_simulated: bool, settings: &config::Settings) -> Self {
        let default_model = settings.default_model().map(|model| model.name.to_string());
        Self { backend, places: places.clone(), is_simulated, default_model }
    }

    /// Asks the state directory, on a connection of its own and where it holds nobody up.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, String> {
        let dir = state_dir(&self.places, self.is_simulated);
        let looked = tokio::task::spawn_blocking(move || read(&Reader::open(&dir)?)).await;
        looked.map_err(in_words)?.map_err(in_words)
    }
}

#[async_trait]
impl Desk for BackendDesk {
    async fn batches(&self) -> Result<Vec<BatchProgress>, String> {
        match &self.backend {
            Backend::Embedded(_) => {
                let mut batches = self.read(Reader::batches).await?;
                batches.sort_by_key(|batch| std::cmp::Reverse(batch.first));
                batches.truncate(BATCHES);
                Ok(batches.iter().map(|batch| of_embedded(batch, SystemClock.now())).collect())
            }
            Backend::Fleet(fleet) => {
                let batches = fleet.newest_batches(BATCHES).await.map_err(in_words)?;
                Ok(batches.iter().map(|batch| of_fleet(batch, SystemClock.now())).collect())
            }
        }
    }

    async fn explain(&self, asked: &AskedJob) -> Result<Vec<Explained>, String> {
        let args =
            ExplainArgs { job: asked.id.clone(), batch: asked.batch.clone(), json: true, places: self.places.clone() };
        let told = explain::look(&args).await.map_err(in_words)?;
        let is_asked = |job: &serde_json::Value| {
            asked.tenant.as_ref().is_none_or(|tenant| job["tenant"] == tenant.as_str())
                && job["simulated"] == self.is_simulated
        };
        let asked = told.into_iter().filter(|told| is_asked(&told.job));
        Ok(asked.map(|told| Explained { job: told.job, lines: told.lines }).collect())
    }

    async fn redrive(&self) -> Result<u64, String> {
        match &self.backend {
            Backend::Embedded(store) => {
                let dead = self.read(Reader::dead).await?;
                let ids: Vec<_> = dead.into_iter().map(|letter| letter.id).collect();
                let redriven = store.redrive(ids).await.map_err(in_words)?;
                Ok(u64::try_from(redriven.len()).unwrap_or(u64::MAX))
            }
            Backend::Fleet(fleet) => {
                dead::fleet::put_all_back(fleet, self.default_model.as_deref()).await.map_err(in_words)
            }
        }
    }

    fn stale_after(&self) -> Duration {
        match self.backend {
            Backend::Embedded(_) => EMBEDDED_EVERY,
            Backend::Fleet(_) => FLEET_EVERY,
        }
    }
}

fn of_embedded(batch: &BatchSummary, now: Timestamp) -> BatchProgress {
    let counts = &batch.counts;
    BatchProgress {
        tenant: batch.tenant.to_string(),
        batch: batch.batch.to_string(),
        total: counts.total(),
        succeeded: counts.succeeded,
        failed: counts.failed,
        rejected: counts.rejected,
        expired: counts.expired,
        partial: counts.partial,
        sealed: batch.sealed,
        cost_usd: batch.cost,
        eta_s: eta::of_embedded(batch, now),
    }
}

fn of_fleet(batch: &aws::BatchSummary, now: Timestamp) -> BatchProgress {
    let ended = &batch.ended;
    BatchProgress {
        tenant: batch.key.tenant.to_string(),
        batch: batch.key.batch.to_string(),
        total: batch.open().unwrap_or(0) + ended.total,
        succeeded: ended.succeeded,
        failed: ended.failed,
        rejected: ended.rejected,
        expired: ended.expired,
        partial: ended.partial,
        sealed: batch.sealed,
        cost_usd: ended.cost_usd,
        eta_s: eta::of_fleet(batch, now),
    }
}

fn in_words(error: impl std::fmt::Display) -> String {
    error.to_string()
}
