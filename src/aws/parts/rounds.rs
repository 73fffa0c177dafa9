//! Which round of parts was handed out, for which job? One row a round, in the partition of the job's batch, so that all rounds
//! below a job or a batch are found by a query.

use aws_sdk_dynamodb::types::CancellationReason;

use super::DOING;
use super::staged::Lies;
use crate::aws::rows;
use crate::aws::table::{self, Fields, HEAD, Item, needed, number, text, unreadable};
use crate::aws::transact::{InTheWay, Transacted, in_words, pauses, transact};
use crate::aws::update::Update;
use crate::aws::{Inner, trouble};
use crate::job::ident::{BatchKey, BatchName, JobKey};
use crate::job::trace::TraceContext;
use crate::ports::{Fence, StoreError, StoreTrouble};

/// What of a job stands in the rows of its rounds; a longer one is put away, and its claim check stands there.
pub(super) const AGAIN_BYTES: usize = 2_048;

/// The key of a round's row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::aws) struct Place {
    pk: String,
    sk: String,
}

/// A round's row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::aws) struct RoundRow {
    pub(in crate::aws) place: Place,
    /// Its parts are jobs of this batch.
    pub(in crate::aws) batch: BatchName,
    pub(in crate::aws) total: u64,
    /// The parts as they are sent.
    pub(super) staged: Lies,
    /// The message of the job, which is sent when all of them have ended.
    pub(super) again: String,
    /// The trace that goes with that.
    pub(super) trace: Option<TraceContext>,
    /// Whether all parts are sent.
    pub(super) is_out: bool,
}

/// What writing a round's row came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Written {
    Done,
    /// There is one already.
    Before,
    /// The job is not ours any more.
    Lost,
}

impl Place {
    pub(super) fn of(job: &JobKey, generation: u32, round: u32) -> Self {
        Self { pk: pk(&job.batch_key()), sk: format!("{}{generation}/{round}", below(job)) }
    }

    /// As it stands in another row.
    pub(in crate::aws) fn parse(pk: &str, sk: &str) -> Self {
        Self { pk: pk.to_owned(), sk: sk.to_owned() }
    }

    /// By which generation of the job, and which round of it.
    pub(in crate::aws) fn generation_and_round(&self) -> Option<(u32, u32)> {
        let (rest, round) = self.sk.rsplit_once('/')?;
        let (_, generation) = rest.rsplit_once('/')?;
        Some((generation.parse().ok()?, round.parse().ok()?))
    }

    /// The partition of the job's own row.
    pub(super) fn job_pk(&self) -> String {
        let batch = self.pk.strip_prefix(table::PARTS).unwrap_or(&self.pk);
        let id = self.sk.split('/').next().unwrap_or_default();
        format!("job/{batch}/{id}")
    }

    fn key(&self) -> Item {
        table::key(self.pk.clone(), self.sk.as_str())
    }
}

/// The partition of the rounds of a batch's jobs.
fn pk(batch: &BatchKey) -> String {
    format!("{}{}", table::PARTS, table::batch_sk(batch))
}

/// What the sort keys of a job's rounds begin with. Ids hold no slash.
fn below(job: &JobKey) -> String {
    format!("{}/", job.id)
}

impl RoundRow {
    fn read(item: &Item) -> Result<Self, StoreError> {
        let fields = Fields(item);
        let place = Place::parse(needed("pk", fields.text("pk")?)?, needed("sk", fields.text("sk")?)?);
        Ok(Self {
            place,
            batch: BatchName::new(needed("batch", fields.text("batch")?)?).map_err(|_| unreadable("batch"))?,
            total: needed("total", fields.number("total")?)?,
            staged: Lies {
                key: needed("at", fields.text("at")?)?.to_owned(),
                about: needed("len", fields.number("len")?)?,
            },
            again: needed("again", fields.text("again")?)?.to_owned(),
            trace: fields.text("trace")?.and_then(|trace| trace.parse().ok()),
            is_out: fields.count::<u8>("out")? > 0,
        })
    }

    fn update(&self, inner: &Inner) -> Update {
        let update = Update::default();
        let update = match &self.trace {
            Some(trace) => update.set("trace", text(trace.to_string())),
            None => update,
        };
        update
            .set("batch", text(self.batch.as_str()))
            .set("total", number(self.total))
            .set("at", text(self.staged.key.as_str()))
            .set("len", number(self.staged.about))
            .set("again", text(self.again.as_str()))
            .set("ttl", table::ttl(inner.clock.now(), inner.settings.keep))
            .only_if("attribute_not_exists(#pk)", [])
    }

    /// Its batch is complete when all parts have ended, and then this round's job is woken.
    fn seal(&self, inner: &Inner) -> Update {
        Update::default()
            .set("total", number(self.total))
            .set("of", text(self.place.pk.as_str()))
            .set("nth", text(self.place.sk.as_str()))
            .set("ttl", table::ttl(inner.clock.now(), inner.settings.keep))
    }
}

/// The round at that place.
pub(super) async fn read(inner: &Inner, place: &Place) -> Result<Option<RoundRow>, StoreError> {
    let get = inner.clients.dynamodb.get_item().table_name(&inner.settings.table).consistent_read(true);
    let found = get.set_key(Some(place.key())).send().await;
    let found = found.map_err(|error| trouble::of_sdk("looking for a round of parts", &error))?;
    found.item.as_ref().map(RoundRow::read).transpose()
}

/// Writes the row of a round and seals its batch, if the job is ours.
pub(super) async fn write(inner: &Inner, job: &Fence, batch: &BatchKey, row: &RoundRow) -> Result<Written, StoreError> {
    // It is there as long as what was asked of it.
    let kept = Update::default().set("ttl", table::ttl(inner.clock.now(), inner.settings.keep));
    let items = vec![
        rows::under_fence(kept, job).in_transaction(inner, DOING, table::job(&job.key))?,
        row.update(inner).in_transaction(inner, DOING, row.place.key())?,
        row.seal(inner).in_transaction(inner, DOING, table::key(table::batch_pk(batch), HEAD))?,
    ];
    let mut pauses = pauses();
    loop {
        let reasons = match transact(inner, DOING, items.clone()).await? {
            Transacted::Done => return Ok(Written::Done),
            Transacted::Cancelled(reasons) => reasons,
        };
        let stood_by = |place: usize| reasons.get(place).map_or(InTheWay::No, InTheWay::of) == InTheWay::Condition;
        if stood_by(0) {
            return Ok(Written::Lost);
        }
        if stood_by(1) {
            return Ok(Written::Before);
        }
        let is_other = |reason: &CancellationReason| InTheWay::of(reason) == InTheWay::Other;
        match pauses.next().filter(|_| !reasons.iter().any(is_other)) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(trouble::of_ours(StoreTrouble::Away, DOING, in_words(&reasons))),
        }
    }
}

/// Puts on record that all parts of a round are sent.
pub(super) async fn mark_out(inner: &Inner, place: &Place) -> Result<(), StoreError> {
    let update = Update::default().set("out", number(1)).only_if("attribute_exists(#pk)", []);
    // Whoever forgot it meanwhile needs no mark.
    update.carry_out(inner, DOING, place.key()).await.map(drop)
}

/// All rounds of a job, of whatever generation.
pub(in crate::aws) async fn of_job(inner: &Inner, job: &JobKey) -> Result<Vec<RoundRow>, StoreError> {
    found(inner, &job.batch_key(), &below(job)).await
}

/// All rounds of a batch's jobs.
pub(in crate::aws) async fn of_batch(inner: &Inner, batch: &BatchKey) -> Result<Vec<RoundRow>, StoreError> {
    found(inner, batch, "").await
}

async fn found(inner: &Inner, batch: &BatchKey, below: &str) -> Result<Vec<RoundRow>, StoreError> {
    let query = inner.clients.dynamodb.query().table_name(&inner.settings.table).consistent_read(true);
    let query = query.expression_attribute_values(":pk", text(pk(batch)));
    let query = match below {
        "" => query.key_condition_expression("pk = :pk"),
        below => query
            .key_condition_expression("pk = :pk AND begins_with(sk, :below)")
            .expression_attribute_values(":below", text(below)),
    };
    let mut items = query.into_paginator().items().send();
    let mut rows = Vec::new();
    while let Some(item) = items.next().await {
        let item = item.map_err(|error| trouble::of_sdk("looking for rounds of parts", &error))?;
        rows.push(RoundRow::read(&item)?);
    }
    Ok(rows)
}

/// The key of a round's row.
pub(in crate::aws) fn key_of(row: &RoundRow) -> Item {
    row.place.key()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::job::ident::{JobId, Tenant};

    #[test]
    fn a_round_lies_in_the_partition_of_its_jobs_batch_and_knows_the_jobs_row() {
        let long = "\u{1f980}".repeat(100);
        for batch in ["-", "reviews 2026", &long] {
            let job = JobKey {
                tenant: Tenant::new("acme").unwrap(),
                batch: BatchName::new(batch).unwrap(),
                id: JobId::new("in:a.pdf-1").unwrap(),
            };
            let place = Place::of(&job, 2, 1);
            assert_eq!(place.sk, "in:a.pdf-1/2/1");
            assert_eq!(place.job_pk(), table::job_pk(&job));
            assert_eq!(place.generation_and_round(), Some((2, 1)));
        }
    }
}
