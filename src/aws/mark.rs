//! How far is the roll of a batch written? One item, replaced only by the process that read it last, so that two that enqueue to
//! one batch at the same time do not mix their lists.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;

use super::table::{self, ALONE, Fields, Item, needed, number, text, unreadable};
use super::{Inner, trouble};
use crate::job::ident::{BatchName, Digest, RollId, Tenant};
use crate::ports::{StoreError, StoreTrouble};

/// How far it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mark {
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
}

impl Mark {
    /// Of a batch that never had one.
    pub(super) fn new() -> Self {
        let (totals, earlier) = (BTreeMap::new(), Vec::new());
        Self {
            roll: RollId::of(rand::random()),
            parts: 0,
            lines: 0,
            digest: None,
            sealed: false,
            totals,
            earlier,
            version: 0,
        }
    }

    /// Of the next input of the batch. Nothing is on record before its first part is.
    pub(super) fn next(&self) -> Self {
        let mut earlier = self.earlier.clone();
        if self.parts > 0 {
            earlier.push(self.roll.clone());
        }
        let totals = self.totals.iter().map(|(tenant, (jobs, _))| (tenant.clone(), (*jobs, 0))).collect();
        Self { totals, earlier, version: self.version, ..Self::new() }
    }

    /// Every roll of the batch: the newest that was read to its end first, and last one that is still being written.
    pub(super) fn rolls(&self) -> Vec<RollId> {
        let earlier = self.earlier.iter().rev().cloned();
        match self.sealed {
            true => std::iter::once(self.roll.clone()).chain(earlier).collect(),
            false => earlier.chain(std::iter::once(self.roll.clone())).collect(),
        }
    }

    fn item(&self, batch: &BatchName, own: &str) -> Result<Item, StoreError> {
        let totals = serde_json::to_string(&self.totals).map_err(|_| unreadable("totals"))?;
        let earlier: Vec<&str> = self.earlier.iter().map(RollId::as_str).collect();
        let mut item = key(batch);
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
        ];
        item.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(item)
    }

    fn read(item: &Item) -> Result<Self, StoreError> {
        let fields = Fields(item);
        let roll = |name: &str| RollId::new(name).map_err(|_| unreadable("roll"));
        let totals = needed("totals", fields.text("totals")?)?;
        Ok(Self {
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
        })
    }
}

/// A key may have 2,048 bytes, and a name takes 512 at most.
fn pk(batch: &BatchName) -> String {
    format!("roll/{batch}")
}

/// The key of the mark of a batch.
pub(super) fn key(batch: &BatchName) -> Item {
    table::key(pk(batch), ALONE)
}

/// The mark of a batch, if it has one.
pub(super) async fn read(inner: &Inner, batch: &BatchName) -> Result<Option<Mark>, StoreError> {
    let get = inner.clients.dynamodb.get_item().table_name(&inner.settings.table).consistent_read(true);
    let got = get.set_key(Some(key(batch))).send().await;
    let got = got.map_err(|error| trouble::of_sdk("reading how far a batch was enqueued", &error))?;
    got.item().map(Mark::read).transpose()
}

/// Replaces the mark that this one was made from.
pub(super) async fn write(inner: &Inner, batch: &BatchName, mut mark: Mark) -> Result<Mark, StoreError> {
    let doing = "recording how far a batch was enqueued";
    let before = mark.version;
    mark.version += 1;
    let put = inner.clients.dynamodb.put_item().table_name(&inner.settings.table);
    let put = put.set_item(Some(mark.item(batch, &inner.epoch)?));
    let put = match before {
        0 => put.condition_expression("attribute_not_exists(pk)"),
        before => put.condition_expression("ver = :before").expression_attribute_values(":before", number(before)),
    };
    let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
    let Err(error) = put.send().await else { return Ok(mark) };
    let Some(PutItemError::ConditionalCheckFailedException(refusal)) = error.as_service_error() else {
        return Err(trouble::of_sdk(doing, &error));
    };
    // The SDK repeats a write whose reply was lost; then it is our own that stands there.
    let own = refusal.item().and_then(|item| item.get("own")).is_some_and(|own| *own == text(inner.epoch.as_str()));
    let stands = refusal.item().map(Mark::read).transpose()?;
    if own && stands.as_ref() == Some(&mark) {
        return Ok(mark);
    }
    let why = "another process enqueues to this batch at the same time: let one of them end, and run the other again";
    Err(trouble::of_ours(StoreTrouble::Denied, doing, why))
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
            ..Mark::new()
        }
    }

    #[test]
    fn a_mark_reads_back_as_it_was_written() {
        let batch = BatchName::new("reviews 2026").unwrap();
        for mark in [Mark::new(), written()] {
            assert_eq!(Mark::read(&mark.item(&batch, "own").unwrap()).unwrap(), mark);
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
