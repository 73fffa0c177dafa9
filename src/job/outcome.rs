//! What became of a job? The result line, to the letter of the contract.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::Failure;
use super::ident::{BatchName, Digest, JobKey, Tenant};
use super::lifecycle::Status;
use super::units::{Tokens, Usd};

/// Tokens of one answer, as the service reported them.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Usage {
    /// Fresh input tokens.
    pub input_tokens: u64,
    /// Output tokens, thinking included.
    pub output_tokens: u64,
    /// Input tokens read from the prompt cache.
    pub cache_read_tokens: u64,
    /// Input tokens written to the prompt cache.
    pub cache_write_tokens: u64,
}

impl Usage {
    /// What the quota is charged at settlement: `input + cache_write + output x burndown`; cache reads are
    /// free (source: "How tokens are counted in Amazon Bedrock").
    pub fn quota_tokens(&self, burndown: u32) -> Tokens {
        let output = self.output_tokens.saturating_mul(u64::from(burndown));
        Tokens(self.input_tokens.saturating_add(self.cache_write_tokens).saturating_add(output))
    }
}

/// Where the time of a job went, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Timing {
    /// From enqueueing to the claim that finished it.
    pub queued_ms: u64,
    /// Spent waiting for quota, cool-downs and back-offs under that claim.
    pub paced_ms: u64,
    /// Spent in calls to the model under that claim.
    pub model_ms: u64,
}

/// What `max_tokens = "auto"` came to for one job.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RightSized {
    /// The cap on output tokens that the last call was sent, and reserved, with.
    pub cap: u32,
    /// What it would have been without right-sizing.
    pub full_cap: u32,
    /// Answers that a smaller cap cut; each was asked for again under the full one.
    pub reruns: u64,
    /// What those cut answers cost, as part of `cost_usd`.
    pub rerun_cost_usd: Usd,
}

/// What a document came to.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DocumentResult {
    /// As the job names it.
    pub source: String,
    /// `pdf`, `docx`, `html`, `markdown` or `text`; what was found instead, if it is none of them; `None` if nobody got so far.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Pages, where its type has them.
    pub pages: Option<u32>,
    /// Chunks.
    pub chunks: u32,
    /// The ids of the chunks that did not succeed, and of the jobs that were to bring answers together.
    pub failed: Vec<String>,
}

/// One line of a results file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct JobResult {
    /// The job's id; for a line that named none and is no job, `line-N`.
    pub id: String,
    /// Its batch.
    pub batch: BatchName,
    /// Whose job it is.
    pub tenant: Tenant,
    /// How it ended.
    pub status: Status,
    /// The model as the job named it.
    pub model: Option<String>,
    /// The model or profile id that answered.
    pub model_used: Option<String>,
    /// The region that was called.
    pub region: Option<String>,
    /// Whether another model than the one asked for answered.
    pub degraded: bool,
    /// Whether the simulator answered.
    pub simulated: bool,
    /// The joined text blocks of the answer.
    pub text: Option<String>,
    /// The answer as the service sent it.
    pub output: Option<Value>,
    /// Why the model stopped; a value we do not know is passed on.
    pub stop_reason: Option<String>,
    /// Tokens of the returned answer.
    pub usage: Usage,
    /// Bytes of text that were sent, images and the like as what they weigh: beside `usage` that says how many bytes a token
    /// has, which `plan` goes by. `None` where there is no answer.
    #[serde(default)]
    pub text_bytes: Option<u64>,
    /// The sum over every billed call.
    pub cost_usd: Usd,
    /// Calls that ended in a failure that counts.
    pub attempts: u32,
    /// Every HTTP request to the model, over all deliveries.
    pub model_calls: u32,
    /// Where the time went.
    pub timing: Timing,
    /// Why it did not succeed.
    pub error: Option<Failure>,
    /// Only where the job says `max_tokens = "auto"`, and its request has a place for a cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right_sized: Option<RightSized>,
    /// Only of documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentResult>,
    /// Echoed from the job.
    pub metadata: Map<String, Value>,
}

impl JobResult {
    /// The result of a line that was refused before it became a job: nothing in it but who, how and why.
    pub fn refused(id: String, batch: BatchName, tenant: Tenant, error: Failure, simulated: bool) -> Self {
        Self { status: Status::Rejected, error: Some(error), ..Self::nothing(id, batch, tenant, simulated) }
    }

    /// The result of a job of which nothing is known yet but its name; it reads as one that has failed.
    pub fn blank(key: &JobKey, simulated: bool) -> Self {
        Self::nothing(key.id.to_string(), key.batch.clone(), key.tenant.clone(), simulated)
    }

    fn nothing(id: String, batch: BatchName, tenant: Tenant, simulated: bool) -> Self {
        Self {
            id,
            batch,
            tenant,
            status: Status::Failed,
            model: None,
            model_used: None,
            region: None,
            degraded: false,
            simulated,
            text: None,
            output: None,
            stop_reason: None,
            usage: Usage::default(),
            text_bytes: None,
            cost_usd: Usd::ZERO,
            attempts: 0,
            model_calls: 0,
            timing: Timing::default(),
            error: None,
            right_sized: None,
            document: None,
            metadata: Map::new(),
        }
    }
}

/// Where a body lies: a range of bytes in a segment.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Pointer {
    /// The segment: a file below the state directory, or an `s3://` URI.
    pub uri: String,
    /// First byte.
    pub offset: u64,
    /// Number of bytes, without the line feed that ends the line.
    pub length: u64,
    /// Digest of those bytes.
    pub sha256: Digest,
}

/// What the ledger counts over a job's whole life, whoever worked it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Calls that ended in a failure that counts, in this generation.
    pub attempts: u32,
    /// Every HTTP request to the model.
    pub model_calls: u32,
    /// The sum over every billed call.
    pub spent: Usd,
    /// The price of the reservations of calls whose end nobody saw: counted against `--max-cost`, shown nowhere
    /// as a cost, because nobody knows whether they were billed.
    pub unknown: Usd,
    /// What right-sizing saved and cost, while the job is open; afterwards its batch has it.
    pub savings: Savings,
}

/// What right-sizing saved and cost, of a job or of a batch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Savings {
    /// Tokens that were not reserved for answers: the full cap less the one they were given under.
    pub saved: Tokens,
    /// Answers that were cut, and asked for again.
    pub reruns: u64,
    /// What the cut answers cost; part of what was spent.
    pub rerun_cost: Usd,
}

impl Savings {
    /// A call that was right-sized to `cap` was answered in full.
    pub fn fitted(&mut self, cap: u32, full_cap: u32) {
        self.saved = Tokens(u64::from(full_cap.saturating_sub(cap)));
    }

    /// An answer was cut, which cost that much.
    pub fn cut(&mut self, cost: Usd) {
        self.reruns += 1;
        self.rerun_cost += cost;
    }

    /// Whether nothing was right-sized.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What the ledger keeps of an ended job: enough to notify again without reading the body.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// How it ended.
    pub status: Status,
    /// The model or profile id that answered.
    pub model_used: Option<String>,
    /// Tokens of the returned answer.
    pub usage: Usage,
    /// Why it did not succeed.
    pub error: Option<Failure>,
    /// Where the result line lies.
    pub result: Pointer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q3_settlement_follows_the_worked_examples_of_the_service() {
        let usage =
            Usage { input_tokens: 3_000, output_tokens: 1_000, cache_read_tokens: 4_000, cache_write_tokens: 1_000 };
        assert_eq!(usage.quota_tokens(5), Tokens(9_000));
        assert_eq!(usage.quota_tokens(10), Tokens(14_000));
        assert_eq!(usage.quota_tokens(15), Tokens(19_000));
    }
}
