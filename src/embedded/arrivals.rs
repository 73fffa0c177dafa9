//! How does a job come in that stands in no input? One by one, told of by the world, as files in a watched folder are. It is on no
//! roll, so that no later input withdraws it and `results` shows all of its batch; its batch is never sealed, since nobody knows
//! what is still to come.

use std::sync::Arc;

use super::batch::BatchRow;
use super::clerk::queue_new;
use super::process::Inner;
use super::queue::pool_or_new;
use super::rows::JobRow;
use super::transaction::Tx;
use super::trouble;
use crate::job::spec::Job;
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "queueing a job";

pub(super) async fn take_in(inner: &Arc<Inner>, job: Job) -> Result<bool, StoreError> {
    let (digest, message) = (job.digest(), job.to_message());
    let work = move |tx: &mut Tx<'_>| {
        let name = &job.key.batch;
        if BatchRow::list(tx.conn, Some(name))?.iter().any(|batch| batch.forgetting) {
            return Ok(None);
        }
        let batch = tx.batch_or_new(&job.key.batch_key())?.no;
        if JobRow::find(tx.conn, batch, &job.key.id)?.is_some() {
            return Ok(Some(false));
        }
        let pool = pool_or_new(tx.conn, name)?;
        queue_new(tx, pool, &job, batch, digest, &message).map(|_| Some(true))
    };
    let taken = inner.committer.commit(DOING, work).await?;
    taken.ok_or_else(|| trouble::of_ours(StoreTrouble::Away, DOING, "its batch is just being forgotten"))
}
