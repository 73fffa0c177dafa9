//! How far is the roll of a batch written? One item, replaced only by the process that read it last, so that two that enqueue to
//! one batch at the same time do not mix their lists.
//!
//! An input that is enqueued for one tenant has a mark of that tenant's: two tenants may call their batches alike and know nothing of
//! each other. A file that a person enqueues may hold any tenant's lines, so that its mark is the batch's. A batch has marks of one of
//! these kinds: where a tenant has one, a word in the place of the batch's says so, and is written together with it.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem};

use super::table::{self, ALONE, Fields, Item, needed, number, text, unreadable};
use super::transact::{InTheWay, Transacted, in_words, pauses, transact};
use super::update::{Update, Written};
use super::{Inner, look_up, trouble};
use crate::job::ident::{BatchKey, BatchName, Digest, RollId, Tenant};
use crate::ports::{StoreError, StoreTrouble};

const DOING: &str = "recording how far a batch was enqueued";
/// What the sort key of a tenant's mark begins with; nothing else here holds a slash.
const OF: &str = "of/";
/// The attribute of the word that tenants have marks: how often one was begun.
const TENANTS: &str = "tenants";

/// How far it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mark {
    /// For whom alone all of it is enqueued.
    pub(super) of: Option<Tenant>,
    /// The roll in the making, or made last.
    pub(super) roll: RollId,
    pub(super) parts: u64,
    /// Of input; `digest` is theirs, and `None` while nothing is written.
    pub(super) lines: u64,
    pub(super) digest: Option<Digest>,
    pub(super) sealed: bool,
    /// Jobs of the batch, each once over all its rolls, and refused lines of this roll.
    pub(super) totals: BTreeMap<Tenant, (u64, u64)>,
    /// The batch's rolls before this one, oldest first; all of them are sealed.
    pub(super) earlier: Vec<RollId>,
    /// Grows with every write; 0 is not written yet.
    pub(super) version: u64,
    /// How often a tenant had begun a mark of his own when the batch's own was looked for in vain.
    pub(super) begun: u64,
}

impl Mark {
    /// Of a batch that never had one.
    pub(super) fn new(of: Option<Tenant>) -> Self {
        let (totals, earlier) = (BTreeMap::new(), Vec::new());
        Self {
            of,
            roll: RollId::of(rand::random()),
            parts: 0,
            lines: 0,
            digest: None,
            sealed: false,
            totals,
            earlier,
            version: 0,
            begun: 0,
        }
    }

    /// Of the next input of the batch. Nothing is on record before its first part is.
    pub(super) fn next(&self) -> Self {
        let mut earlier = self.earlier.clone();
        if self.parts > 0 {
            earlier.push(self.roll.clone());
        }
        let totals = self.totals.iter().map(|(tenant, (jobs, _))| (tenant.clone(), (*jobs, 0))).collect();
        Self { totals, earlier, version: self.version, ..Self::new(self.of.clone()) }
    }

    /// Every roll of the batch: the newest that was read to its end first, and last one that is still being written.
    pub(super) fn rolls(&self) -> Vec<RollId> {
        let earlier = self.earlier.iter().rev().cloned();
        match self.sealed {
            true => std::iter::once(self.roll.clone()).chain(earlier).collect(),
            false => earlier.chain(std::iter::once(self.roll.clone())).collect(),
        }
    }

    fn item(&self, batch: &BatchName, own: &str, ttl: AttributeValue) -> Result<Item, StoreError> {
        let totals = serde_json::to_string(&self.totals).map_err(|_| unreadable("totals"))?;
        let earlier: Vec<&str> = self.earlier.iter().map(RollId::as_str).collect();
        let mut item = key(batch, self.of.as_ref());
        let fields = [
            ("roll", Some(text(self.roll.as_str()))),
            ("parts", Some(number(self.parts))),
            ("lines", Some(number(self.lines))),
            ("dig", self.digest.map(|digest| table::bytes(digest.as_bytes()))),
            ("sealed", self.sealed.then(|| number(1))),
            ("totals", Some(text(totals))),
            ("earlier", (!earlier.is_empty()).then(|| text(earlier.join(" ")))),
            ("ver", Some(number(self.version))),
            ("own", Some(text(own))),
            ("ttl", Some(ttl)),
        ];
        item.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(item)
    }

    /// `None` if it is but the word that tenants have marks of their own.
    fn read(item: &Item) -> Result<Option<Self>, StoreError> {
        let fields = Fields(item);
        let of = fields.text("sk")?.and_then(|sk| sk.strip_prefix(OF)).map(Tenant::new).transpose();
        let of = of.map_err(|_| unreadable("sk"))?;
        if begun(item)? > 0 {
            return Ok(None);
        }
        let roll = |name: &str| RollId::new(name).map_err(|_| unreadable("roll"));
        let totals = needed("totals", fields.text("totals")?)?;
        Ok(Some(Self {
            of,
            roll: roll(needed("roll", fields.text("roll")?)?)?,
            parts: fields.count("parts")?,
            lines: fields.count("lines")?,
            digest: fields.digest("dig")?,
            sealed: fields.count::<u8>("sealed")? > 0,
            totals: serde_json::from_str(totals).map_err(|_| unreadable("totals"))?,
            earlier: fields
                .text("earlier")?
                .unwrap_or_default()
                .split_whitespace()
                .map(roll)
                .collect::<Result<_, _>>()?,
            version: needed("ver", fields.number("ver")?)?,
            begun: 0,
        }))
    }
}

/// The partition of the marks of a batch. A key may have 2,048 bytes, and a name takes 512 at most.
pub(super) fn pk(batch: &BatchName) -> String {
    format!("roll/{batch}")
}

fn key(batch: &BatchName, of: Option<&Tenant>) -> Item {
    table::key(pk(batch), of.map_or_else(|| ALONE.to_owned(), |tenant| format!("{OF}{tenant}")))
}

fn begun(item: &Item) -> Result<u64, StoreError> {
    Fields(item).count(TENANTS)
}

async fn items(inner: &Inner, batch: &BatchName) -> Result<Vec<Item>, StoreError> {
    look_up::partition(inner, "reading how far a batch was enqueued", &pk(batch)).await
}

fn marks(items: &[Item]) -> Result<Vec<Mark>, StoreError> {
    items.iter().filter_map(|item| Mark::read(item).transpose()).collect()
}

/// The marks of all batches of that name.
pub(super) async fn all(inner: &Inner, batch: &BatchName) -> Result<Vec<Mark>, StoreError> {
    marks(&items(inner, batch).await?)
}

/// The mark of a batch, if it has one.
pub(super) async fn of_batch(inner: &Inner, batch: &BatchKey) -> Result<Option<Mark>, StoreError> {
    let marks = all(inner, &batch.batch).await?;
    Ok(marks.into_iter().find(|mark| mark.of.as_ref().is_none_or(|tenant| *tenant == batch.tenant)))
}

/// The mark that an input is to go on with: of one tenant, or of whoever stands in its lines.
pub(super) async fn to_go_on(inner: &Inner, batch: &BatchName, of: Option<&Tenant>) -> Result<Mark, StoreError> {
    let items = items(inner, batch).await?;
    let mut marks = marks(&items)?;
    if let Some(of) = of {
        let own = marks.into_iter().find(|mark| mark.of.as_ref().is_none_or(|tenant| tenant == of));
        return Ok(own.unwrap_or_else(|| Mark::new(Some(of.clone()))));
    }
    let last = marks.pop();
    if marks.is_empty() {
        // The word may have outlived the marks.
        let begun = items.iter().map(begun).sum::<Result<u64, _>>()?;
        return Ok(last.unwrap_or_else(|| Mark { begun, ..Mark::new(None) }));
    }
    let why = "several tenants' workflows have enqueued batches of this name, each for itself: name another batch";
    Err(trouble::of_ours(StoreTrouble::Denied, "enqueueing a batch", why))
}

/// Replaces the mark that this one was made from.
pub(super) async fn write(inner: &Inner, batch: &BatchName, mut mark: Mark) -> Result<Mark, StoreError> {
    let (before, begun) = (mark.version, std::mem::take(&mut mark.begun));
    mark.version += 1;
    let ttl = table::ttl_while_open(inner.clock.now(), inner.settings.keep);
    let item = mark.item(batch, &inner.epoch, ttl.clone())?;
    if let (0, Some(_)) = (before, &mark.of) {
        return create(inner, batch, item, ttl).await.map(|()| mark);
    }
    let put = inner.clients.dynamodb.put_item().table_name(&inner.settings.table).set_item(Some(item));
    let put = match before {
        0 => put
            .condition_expression("attribute_not_exists(pk) OR (attribute_not_exists(roll) AND tenants = :begun)")
            .expression_attribute_values(":begun", number(begun)),
        before => put.condition_expression("ver = :before").expression_attribute_values(":before", number(before)),
    };
    let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
    let Err(error) = put.send().await else { return Ok(mark) };
    let Some(PutItemError::ConditionalCheckFailedException(refusal)) = error.as_service_error() else {
        return Err(trouble::of_sdk(DOING, &error));
    };
    // The SDK repeats a write whose reply was lost; then it is our own that stands there.
    let own = refusal.item().and_then(|item| item.get("own")).is_some_and(|own| *own == text(inner.epoch.as_str()));
    let stands = refusal.item().map(Mark::read).transpose()?.flatten();
    if own && stands.as_ref() == Some(&mark) { Ok(mark) } else { Err(another()) }
}

/// A tenant's first mark, and the word that there is one.
async fn create(inner: &Inner, batch: &BatchName, item: Item, ttl: AttributeValue) -> Result<(), StoreError> {
    let put = Put::builder().table_name(&inner.settings.table).set_item(Some(item));
    let put = put.condition_expression("attribute_not_exists(pk)").build();
    let put = put.map_err(|error| trouble::of_ours(StoreTrouble::Other, DOING, error.to_string()))?;
    let word = Update::default().add(TENANTS, number(1)).set("ttl", ttl).only_if("attribute_not_exists(#roll)", []);
    let items =
        vec![TransactWriteItem::builder().put(put).build(), word.in_transaction(inner, DOING, key(batch, None))?];
    let mut pauses = pauses();
    loop {
        let reasons = match transact(inner, DOING, items.clone()).await? {
            Transacted::Done => return Ok(()),
            Transacted::Cancelled(reasons) => reasons,
        };
        let ways: Vec<InTheWay> = reasons.iter().map(InTheWay::of).collect();
        if ways.contains(&InTheWay::Condition) {
            return Err(another());
        }
        // Another tenant's first one is written at this very moment.
        match pauses.next().filter(|_| !ways.contains(&InTheWay::Other)) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(trouble::of_ours(StoreTrouble::Away, DOING, in_words(&reasons))),
        }
    }
}

/// Every job of the batch has ended: from now on its mark is kept for as long as their rows are.
pub(super) async fn ends(inner: &Inner, batch: &BatchKey) -> Result<(), StoreError> {
    let Some(mark) = of_batch(inner, batch).await? else { return Ok(()) };
    let ttl = table::ttl(inner.clock.now(), inner.settings.keep);
    // If more is being enqueued to it, that stands.
    let update = Update::default().set("ttl", ttl);
    let update = update.only_if("#ver = :seen", [("seen", number(mark.version))]);
    match update.carry_out(inner, DOING, key(&batch.batch, mark.of.as_ref())).await? {
        Written::Done(_) | Written::Refused(_) => Ok(()),
    }
}

fn another() -> StoreError {
    let why = "another process enqueues to this batch at the same time: let one of them end, and run the other again";
    trouble::of_ours(StoreTrouble::Denied, DOING, why)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn written() -> Mark {
        Mark {
            parts: 3,
            lines: 12_345,
            digest: Some(Digest::of(b"lines")),
            sealed: true,
            totals: BTreeMap::from([(Tenant::unnamed(), (12_000, 5))]),
            earlier: vec![RollId::of(1), RollId::of(2)],
            version: 9,
            ..Mark::new(None)
        }
    }

    #[test]
    fn a_mark_reads_back_as_it_was_written() {
        let batch = BatchName::new("reviews 2026").unwrap();
        for mark in [Mark::new(None), written(), Mark { of: Tenant::new("-").ok(), ..written() }] {
            assert_eq!(Mark::read(&mark.item(&batch, "own", number(5)).unwrap()).unwrap(), Some(mark));
        }
    }

    #[test]
    fn the_next_input_has_its_own_refusals_and_adds_to_the_jobs() {
        let (mark, next) = (written(), written().next());
        assert_eq!(next.totals[&Tenant::unnamed()], (12_000, 0));
        assert_eq!((next.parts, next.lines, next.digest, next.sealed), (0, 0, None, false));
        assert_eq!(next.earlier.len(), mark.earlier.len() + 1);
        assert_eq!(next.version, mark.version, "it replaces that one");
    }

    #[test]
    fn results_follow_the_newest_input_that_was_read_to_its_end() {
        let mark = written();
        let this = mark.roll.clone();
        assert_eq!(mark.rolls(), [this.clone(), RollId::of(2), RollId::of(1)]);
        let unsealed = Mark { sealed: false, ..mark };
        assert_eq!(unsealed.rolls(), [RollId::of(2), RollId::of(1), this]);
    }
}
