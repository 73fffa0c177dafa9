//! What does the world hear when a job or a batch ends, or a breaker turns? Counts, ids and places; never a prompt or an answer.

use serde::Serialize;

use super::failure::Failure;
use super::ident::{BatchKey, BatchName, Digest, JobId, JobKey, Tenant};
use super::lifecycle::Status;
use super::outcome::{Ending, Pointer, Tally, Usage};
use super::units::{Timestamp, Usd};

/// One notice. At least once for every end; the same `notice_id` at every repetition.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Notice {
    /// A job ended.
    Job(JobNotice),
    /// Every job of a batch ended.
    Batch(BatchNotice),
    /// The breaker of a lane was turned, for all workers. Said once by whoever turned it, as far as it lives to say so.
    Breaker(BreakerNotice),
}

/// See [`Notice::Job`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobNotice {
    /// The same at every repetition.
    pub notice_id: String,
    /// The job's id.
    pub id: JobId,
    /// Its batch.
    pub batch: BatchName,
    /// Whose job it is.
    pub tenant: Tenant,
    /// How it ended.
    pub status: Status,
    /// The model or profile id that answered.
    pub model_used: Option<String>,
    /// Calls that ended in a failure that counts.
    pub attempts: u32,
    /// Tokens of the returned answer.
    pub usage: Usage,
    /// The sum over every billed call.
    pub cost_usd: Usd,
    /// Why it did not succeed.
    pub error: Option<Failure>,
    /// Where the result line lies.
    pub result: Pointer,
}

/// See [`Notice::Batch`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchNotice {
    /// The same at every repetition.
    pub notice_id: String,
    /// The batch's name.
    pub batch: BatchName,
    /// Whose batch it is.
    pub tenant: Tenant,
    /// `succeeded` if every job did, `failed` if none did, not even in part, else `partial`.
    pub status: Status,
    /// Counts and sums over its jobs.
    #[serde(flatten)]
    pub sums: BatchSums,
    /// Where the manifest lies.
    pub manifest: String,
}

/// See [`Notice::Breaker`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BreakerNotice {
    /// The same at every repetition.
    pub notice_id: String,
    /// The region of the lane.
    pub region: String,
    /// Its model or profile id.
    pub model: String,
    /// How the breaker stands now: `closed`, `half-open`, `open`, or `open by hand`.
    pub state: &'static str,
    /// When a probe is let through, if by itself.
    pub until: Option<String>,
    /// When it was turned.
    pub at: String,
}

/// Counts and sums over the jobs of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct BatchSums {
    /// Jobs.
    pub total: u64,
    /// Of these, succeeded.
    pub succeeded: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Of these, rejected.
    pub rejected: u64,
    /// Of these, expired.
    pub expired: u64,
    /// Of these, documents of which a part succeeded.
    pub partial: u64,
    /// Tokens of the returned answers.
    pub usage: Usage,
    /// The sum over every billed call.
    pub cost_usd: Usd,
}

impl BatchSums {
    /// A batch with failures is not a success.
    pub fn status(&self) -> Status {
        if self.succeeded == self.total {
            Status::Succeeded
        } else if self.succeeded + self.partial == 0 {
            Status::Failed
        } else {
            Status::Partial
        }
    }
}

impl Notice {
    /// The notice of an ended job. `generation` counts redrives, so that a second end is a second notice.
    pub fn of_job(key: &JobKey, generation: u32, tally: &Tally, ending: &Ending) -> Self {
        let name = format!("job\0{}\0{}\0{}\0{generation}", key.tenant, key.batch, key.id);
        Self::Job(JobNotice {
            notice_id: Digest::of(name.as_bytes()).to_string(),
            id: key.id.clone(),
            batch: key.batch.clone(),
            tenant: key.tenant.clone(),
            status: ending.status,
            model_used: ending.model_used.clone(),
            attempts: tally.attempts,
            usage: ending.usage,
            cost_usd: tally.spent,
            error: ending.error.clone(),
            result: ending.result.clone(),
        })
    }

    /// The notice of a complete batch. `completion` counts how often it was complete before: a batch that was
    /// added to or redriven completes again.
    pub fn of_batch(key: &BatchKey, completion: u64, sums: BatchSums, manifest: String) -> Self {
        let name = format!("batch\0{}\0{}\0{completion}", key.tenant, key.batch);
        Self::Batch(BatchNotice {
            notice_id: Digest::of(name.as_bytes()).to_string(),
            batch: key.batch.clone(),
            tenant: key.tenant.clone(),
            status: sums.status(),
            sums,
            manifest,
        })
    }

    /// The notice of a breaker that was turned.
    pub fn of_breaker(region: &str, model: &str, state: &'static str, until: Option<Timestamp>, at: Timestamp) -> Self {
        let name = format!("breaker\0{region}\0{model}\0{state}\0{}", at.0);
        Self::Breaker(BreakerNotice {
            notice_id: Digest::of(name.as_bytes()).to_string(),
            region: region.to_owned(),
            model: model.to_owned(),
            state,
            until: until.map(|until| until.to_string()),
            at: at.to_string(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// The premise: documents that ended partial stood in `total` and in no other count, so that a batch of theirs did not add up, and
    /// one that had nothing else was called failed.
    #[test]
    fn w4_the_counts_of_a_batch_add_up_and_what_succeeded_in_part_is_no_failure() {
        let sums = BatchSums { total: 3, partial: 3, ..BatchSums::default() };
        assert_eq!(sums.status(), Status::Partial);
        assert_eq!(BatchSums { failed: 3, partial: 0, ..sums }.status(), Status::Failed);
        let said = serde_json::to_value(BatchSums { succeeded: 1, partial: 2, ..sums }).unwrap();
        let count = |name: &str| said[name].as_u64().unwrap();
        let all: u64 = ["succeeded", "failed", "rejected", "expired", "partial"].map(count).iter().sum();
        assert_eq!((all, count("partial")), (count("total"), 2));
    }
}
