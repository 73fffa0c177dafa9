//! How does a batch stand? A head that says how many jobs it has, and counters in shards that say what became of them.
//!
//! A batch is complete when it is sealed and its shards add up to its total. Shards also count `ends`, which only grow: a
//! redriven job is taken out of the counts, and ends again. So a batch waits for an announcement if it is complete and
//! jobs of it have ended since the last one: redriven or added to, it completes again by itself.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;

use super::parts::rounds::Place;
use super::table::{self, Fields, HEAD, number, text};
use super::update::{Update, Written};
use super::{Inner, trouble, waiting};
use crate::job::control::{self, Total};
use crate::job::ident::BatchKey;
use crate::job::notice::BatchSums;
use crate::job::outcome::{Savings, Tally, Usage};
use crate::job::spec::TaskToken;
use crate::job::units::{Tokens, Usd};
use crate::ports::{Seals, StoreError};

/// What its sender says of a batch once all of it is sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seal {
    /// Jobs in it.
    pub total: u64,
    /// Lines of its input that are no jobs, and have their results already.
    pub refused: u64,
    /// Where its roll lies: what its input held, in its order.
    pub roll: Option<String>,
}

/// A batch, read in one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) head: Head,
    pub(super) counts: Counts,
    /// Who waits for it in workflows.
    pub(super) waiting: Vec<TaskToken>,
}

/// What is said of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub(super) seal: Option<Seal>,
    /// How often it was announced.
    pub(super) announced: u64,
    /// How many ends the last announcement covered.
    pub(super) ends: Option<u64>,
    /// Of a batch of parts: which round of which job they are.
    pub(super) round: Option<Place>,
}

/// What became of its jobs. Shards may be below zero, their sums are not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    pub(super) rejected: i64,
    pub(super) expired: i64,
    pub(super) partial: i64,
    /// How often a job of it has ended; those that were redriven count each time.
    pub(super) ends: i64,
    pub(super) input: i64,
    pub(super) output: i64,
    pub(super) cache_read: i64,
    pub(super) cache_write: i64,
    pub(super) cost: i64,
    pub(super) unknown: i64,
    pub(super) calls: i64,
    pub(super) attempts: i64,
    pub(super) saved: i64,
    pub(super) reruns: i64,
    pub(super) rerun_cost: i64,
}

impl Counts {
    /// The attributes of a shard.
    pub(super) fn parts(&mut self) -> [(&'static str, &mut i64); 17] {
        [
            ("succeeded", &mut self.succeeded),
            ("failed", &mut self.failed),
            ("rejected", &mut self.rejected),
            ("expired", &mut self.expired),
            ("partial", &mut self.partial),
            ("ends", &mut self.ends),
            ("input", &mut self.input),
            ("output", &mut self.output),
            ("cache_read", &mut self.cache_read),
            ("cache_write", &mut self.cache_write),
            ("cost", &mut self.cost),
            ("unknown", &mut self.unknown),
            ("calls", &mut self.calls),
            ("attempts", &mut self.attempts),
            ("saved", &mut self.saved),
            ("reruns", &mut self.reruns),
            ("rerun_cost", &mut self.rerun_cost),
        ]
    }

    /// Jobs that have ended.
    pub(super) fn ended(&self) -> u64 {
        whole(self.succeeded + self.failed + self.rejected + self.expired + self.partial)
    }

    /// What was counted of the jobs that have ended, over all their lives.
    pub(super) fn tally(&self) -> Tally {
        let count = |sum: i64| u32::try_from(whole(sum)).unwrap_or(u32::MAX);
        Tally {
            attempts: count(self.attempts),
            model_calls: count(self.calls),
            spent: Usd::from_nanos(whole(self.cost)),
            unknown: Usd::from_nanos(whole(self.unknown)),
            savings: self.savings(),
        }
    }

    /// What right-sizing saved and cost.
    pub(super) fn savings(&self) -> Savings {
        Savings {
            saved: Tokens(whole(self.saved)),
            reruns: whole(self.reruns),
            rerun_cost: Usd::from_nanos(whole(self.rerun_cost)),
        }
    }

    fn add_shard(&mut self, shard: Fields<'_>) -> Result<(), StoreError> {
        for (name, sum) in self.parts() {
            *sum += shard.count::<i64>(name)?;
        }
        Ok(())
    }
}

impl Standing {
    /// The number of the completion that is to be announced, if there is one.
    pub(super) fn waits_for_announcement(&self) -> Option<u64> {
        let seal = self.head.seal.as_ref()?;
        let all = self.counts.ended() >= seal.total;
        let news = self.head.ends.is_none_or(|ends| whole(self.counts.ends) > ends);
        (all && news).then_some(self.head.announced)
    }

    /// The number of the completion of which somebody is to be told, and whether it is the one that is to be announced: else it
    /// was announced before, and somebody waits who came later.
    pub(super) fn waits_for_word(&self) -> Option<(u64, bool)> {
        if let Some(news) = self.waits_for_announcement() {
            return Some((news, true));
        }
        let seal = self.head.seal.as_ref()?;
        let is_asked_for = !self.waiting.is_empty() && self.counts.ended() >= seal.total;
        self.head.announced.checked_sub(1).filter(|_| is_asked_for).map(|last| (last, false))
    }

    /// Counts and sums.
    pub(super) fn sums(&self) -> BatchSums {
        let counts = &self.counts;
        let refused = self.head.seal.as_ref().map_or(0, |seal| seal.refused);
        BatchSums {
            total: counts.ended() + refused,
            succeeded: whole(counts.succeeded),
            failed: whole(counts.failed),
            rejected: whole(counts.rejected) + refused,
            expired: whole(counts.expired),
            partial: whole(counts.partial),
            usage: Usage {
                input_tokens: whole(counts.input),
                output_tokens: whole(counts.output),
                cache_read_tokens: whole(counts.cache_read),
                cache_write_tokens: whole(counts.cache_write),
            },
            cost_usd: Usd::from_nanos(whole(counts.cost)),
        }
    }

    /// How often a job of it has ended.
    pub(super) fn ends(&self) -> u64 {
        whole(self.counts.ends)
    }
}

/// Reads head and shards, all that was committed before.
pub(super) async fn standing(inner: &Inner, batch: &BatchKey) -> Result<Standing, StoreError> {
    let doing = "reading how a batch stands";
    let mut pages = inner
        .clients
        .dynamodb
        .query()
        .table_name(&inner.settings.table)
        .consistent_read(true)
        .key_condition_expression("pk = :pk")
        .expression_attribute_values(":pk", text(table::batch_pk(batch)))
        .into_paginator()
        .items()
        .send();
    let mut standing = Standing::default();
    while let Some(item) = pages.next().await {
        let item = item.map_err(|error| trouble::of_sdk(doing, &error))?;
        let fields = Fields(&item);
        match fields.text("sk")? {
            Some(HEAD) => standing.head = read_head(fields)?,
            Some(sk) if sk.starts_with(table::COUNT) => standing.counts.add_shard(fields)?,
            Some(sk) if sk.starts_with(waiting::ASKS) => {
                standing.waiting.extend(fields.text(waiting::TASK)?.and_then(TaskToken::new));
            }
            Some(_) | None => {}
        }
    }
    Ok(standing)
}

/// Puts on record that all of a batch is sent. Again, with a greater total, it is open again until that is reached.
pub(super) async fn seal(inner: &Inner, batch: &BatchKey, seal: &Seal) -> Result<(), StoreError> {
    let doing = "sealing a batch";
    index(inner, batch).await?;
    let ttl = table::ttl_while_open(inner.clock.now(), inner.settings.keep);
    stays_in_index(inner, batch, ttl.clone()).await?;
    let update = Update::default().set("total", number(seal.total)).set("ttl", ttl);
    // Several may seal a batch, and their messages come in any order: who does not say what the input held does not take back
    // what another has said.
    let update = match &seal.roll {
        Some(roll) => update.set("roll", text(roll)).set("refused", number(seal.refused)),
        None if seal.refused > 0 => update.set("refused", number(seal.refused)),
        None => update,
    };
    // An earlier input's seal may come behind a later one's: with its total the batch would be complete before all of it is.
    let update = update.only_if("attribute_not_exists(#total) OR #total <= :whole", [("whole", number(seal.total))]);
    match update.carry_out(inner, doing, table::key(table::batch_pk(batch), HEAD)).await? {
        Written::Done(_) | Written::Refused(_) => Ok(()),
    }
}

/// Batches sealed by what a message says, whoever sent it.
#[derive(Debug)]
pub(super) struct ByMessage {
    pub(super) inner: Arc<Inner>,
}

#[async_trait]
impl Seals for ByMessage {
    async fn seal(&self, message: &control::Seal) -> Result<(), StoreError> {
        for (batch, Total { jobs, refused }) in message.totals() {
            let roll = message.roll.as_ref().map(ToString::to_string);
            let told = Seal { total: jobs, refused, roll };
            seal(&self.inner, &batch, &told).await?;
        }
        Ok(())
    }

    async fn wait(&self, batch: &BatchKey, token: &TaskToken) -> Result<(), StoreError> {
        waiting::add(&self.inner, batch, token).await
    }

    async fn answered(&self, batch: &BatchKey, token: &TaskToken) -> Result<(), StoreError> {
        waiting::answered(&self.inner, batch, token).await
    }
}

/// Puts on record that this completion was announced, and how many ends it covered. Another one than the next changes nothing.
pub(super) async fn mark_announced(
    inner: &Inner,
    batch: &BatchKey,
    completion: u64,
    ends: u64,
) -> Result<(), StoreError> {
    let doing = "recording an announcement";
    let ttl = table::ttl(inner.clock.now(), inner.settings.keep);
    let update = Update::default().set("announced", number(completion + 1)).set("ends", number(ends)).set("ttl", ttl);
    let update = match completion {
        0 => update.only_if("attribute_exists(#total) AND attribute_not_exists(#announced)", []),
        _ => update.only_if("#announced = :before", [("before", number(completion))]),
    };
    match update.carry_out(inner, doing, table::key(table::batch_pk(batch), HEAD)).await? {
        Written::Done(_) | Written::Refused(_) => Ok(()),
    }
}

/// Lists the batch among those there are, so that `status` finds it.
pub(super) async fn index(inner: &Inner, batch: &BatchKey) -> Result<(), StoreError> {
    Update::default()
        .set("name", text(batch.batch.as_str()))
        .set_once("first", number(inner.clock.now().0))
        .carry_out(inner, "listing a batch", table::key(table::BATCHES.to_owned(), table::batch_sk(batch)))
        .await?;
    Ok(())
}

/// All of it has ended, and is listed for as long as its rows are kept.
pub(super) async fn leaves_index(inner: &Inner, batch: &BatchKey) -> Result<(), StoreError> {
    stays_in_index(inner, batch, table::ttl(inner.clock.now(), inner.settings.keep)).await
}

async fn stays_in_index(inner: &Inner, batch: &BatchKey, ttl: AttributeValue) -> Result<(), StoreError> {
    let update = Update::default().set("ttl", ttl).only_if("attribute_exists(#name)", []);
    let key = table::key(table::BATCHES.to_owned(), table::batch_sk(batch));
    match update.carry_out(inner, "listing a batch", key).await? {
        Written::Done(_) | Written::Refused(_) => Ok(()),
    }
}

fn read_head(fields: Fields<'_>) -> Result<Head, StoreError> {
    let seal = match fields.number("total")? {
        Some(total) => {
            Some(Seal { total, refused: fields.count("refused")?, roll: fields.text("roll")?.map(str::to_owned) })
        }
        None => None,
    };
    let round = match (fields.text("of")?, fields.text("nth")?) {
        (Some(of), Some(nth)) => Some(Place::parse(of, nth)),
        (None, _) | (_, None) => None,
    };
    Ok(Head { seal, announced: fields.count("announced")?, ends: fields.number("ends")?, round })
}

fn whole(sum: i64) -> u64 {
    u64::try_from(sum).unwrap_or(0)
}
