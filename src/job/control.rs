//! Is this message a job, or does it say something about a batch?
//!
//! `aquifer enqueue` ends an input with a message that seals its batch: that was all, and so many. It travels behind the jobs,
//! so that a batch is sealed even if whoever enqueued it died right after sending. Any producer may send one.
//!
//! ```json
//! {"aquifer": "seal", "batch": "reviews", "total": {"acme": 1200}, "refused": {"acme": 1}, "roll": "4f0c2a9d11e2b874",
//!  "callback": {"task_token": "..."}}
//! ```
//!
//! `total` counts each tenant's jobs in the batch, over all its inputs, each id once. The rest may be left out: `refused` counts
//! the lines that are no jobs and have their results in the roll, `roll` names the list of the input, and `callback` says who waits
//! for the batch in a workflow.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize, Serializer};

use super::ident::{BatchKey, BatchName, RollId, Tenant};
use super::intake::{self, Fault, Field, name, of_object, unknown_key_among};
use super::spec::TaskToken;

/// A message that is no job.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "aquifer", rename_all = "lowercase")]
pub enum Control {
    /// A batch has got all its jobs.
    Seal(Seal),
}

/// See [`Control::Seal`].
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Seal {
    /// The batch, of every tenant that is named in `total`.
    pub batch: BatchName,
    /// Jobs, by tenant.
    pub total: BTreeMap<Tenant, u64>,
    /// Lines that are no jobs, by tenant.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<Tenant, u64>,
    /// The list of its input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roll: Option<RollId>,
    /// Who waits for it; only where there is one tenant.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "callback")]
    pub callback: Option<TaskToken>,
}

/// How much is in one tenant's batch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Total {
    /// Jobs.
    pub jobs: u64,
    /// Lines that are no jobs.
    pub refused: u64,
}

impl Seal {
    /// Each tenant's batch, and how much is in it.
    pub fn totals(&self) -> impl Iterator<Item = (BatchKey, Total)> + '_ {
        self.total.iter().map(|(tenant, jobs)| {
            let refused = self.refused.get(tenant).copied().unwrap_or_default();
            (BatchKey { tenant: tenant.clone(), batch: self.batch.clone() }, Total { jobs: *jobs, refused })
        })
    }
}

/// Why a message that claims to be one of these is none, in words safe to log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`aquifer` makes it a control message, and {0}")]
pub struct NotControl(String);

impl Control {
    /// The message.
    pub fn to_message(&self) -> String {
        // Names and numbers: there is nothing in here that JSON cannot say.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a queue message; `None` if it does not claim to be one, and is to be read as a job.
    ///
    /// # Errors
    /// [`NotControl`], with the first thing wrong, if it has the key `aquifer` and is no message of ours.
    pub fn parse(body: &str) -> Option<Result<Self, NotControl>> {
        #[derive(Deserialize)]
        struct Claim {
            aquifer: Option<IgnoredAny>,
        }
        // Nearly every message is a job: those are not read twice, but for the few whose text holds the word in quotes.
        if !body.contains("\"aquifer\"") || !body.trim_start().starts_with('{') {
            return None;
        }
        let claim: Claim = serde_json::from_str(body).ok()?;
        claim.aquifer?;
        Some(read(body).map(Self::Seal).map_err(|fault| NotControl(fault.reason)))
    }
}

/// By hand, as jobs are: what serde says of a value that does not fit shows the value.
fn read(body: &str) -> Result<Seal, Fault> {
    const KEYS: [&str; 6] = ["aquifer", "batch", "total", "refused", "roll", "callback"];
    let (mut batch, mut total, mut refused) = (None, BTreeMap::new(), BTreeMap::new());
    let (mut roll, mut waits) = (None, None);
    for field in of_object(body, 0)? {
        match field.key.as_str() {
            key if !KEYS.contains(&key) => return Err(unknown_key_among(&field, &KEYS, "a seal")),
            _ if field.is_unset() => {}
            "batch" => batch = Some(name(&field, BatchName::new)?),
            "total" => total = by_tenant(&field)?,
            "refused" => refused = by_tenant(&field)?,
            "roll" => roll = Some(name(&field, RollId::new)?),
            "callback" => waits = Some(intake::callback(&field)?.token),
            _ if field.text()? == "seal" => {}
            _ => return Err(field.fault("the one that there is, is `\"aquifer\": \"seal\"`")),
        }
    }
    let batch = batch.ok_or_else(|| Fault::nowhere("there is no `batch`"))?;
    if total.is_empty() {
        return Err(Fault::nowhere("`total` names no tenant"));
    }
    if let Some(tenant) = refused.keys().find(|tenant| !total.contains_key(tenant)) {
        return Err(Fault::nowhere(format!("`refused` names {tenant}, and `total` does not")));
    }
    if waits.is_some() && total.len() > 1 {
        return Err(Fault::nowhere(format!("`callback` goes with one tenant, and `total` names {}", total.len())));
    }
    Ok(Seal { batch, total, refused, roll, callback: waits })
}

fn by_tenant(field: &Field<'_>) -> Result<BTreeMap<Tenant, u64>, Fault> {
    let count = |field: Field<'_>| {
        let tenant = Tenant::new(&field.key).map_err(|error| field.fault(error.to_string()))?;
        Ok((tenant, field.count()?))
    };
    field.fields()?.into_iter().map(count).collect()
}

fn callback<S: Serializer>(token: &Option<TaskToken>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(token.iter().map(|token| ("task_token", token)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name).unwrap()
    }

    fn seal() -> Seal {
        Seal {
            batch: BatchName::new("reviews 2026").unwrap(),
            total: BTreeMap::from([(tenant("acme"), 1_200), (tenant("default"), 3)]),
            refused: BTreeMap::from([(tenant("acme"), 1)]),
            roll: Some(RollId::new("4f0c2a9d11e2b874").unwrap()),
            callback: None,
        }
    }

    #[test]
    fn a_seal_reads_back_as_it_was_written() {
        let seal = Control::Seal(seal());
        let message = seal.to_message();
        assert!(message.starts_with(r#"{"aquifer":"seal","batch":"reviews 2026","total":{"acme":1200,"default":3}"#));
        assert_eq!(Control::parse(&message), Some(Ok(seal)));
    }

    #[test]
    fn a_task_token_goes_there_and_back_and_is_never_shown() {
        let token = TaskToken::new("secret");
        let total = BTreeMap::from([(tenant("acme"), 1)]);
        let seal = Control::Seal(Seal { total, refused: BTreeMap::new(), callback: token, ..seal() });
        assert_eq!(Control::parse(&seal.to_message()), Some(Ok(seal)));
        let bad = r#"{"aquifer":"seal","batch":"b","total":{"a":1},"callback":"secret"}"#;
        let error = Control::parse(bad).unwrap().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn a_producer_needs_no_roll_and_refuses_nothing() {
        let read = Control::parse(r#"{"total":{"acme":7},"batch":"b", "aquifer":"seal"}"#).unwrap().unwrap();
        let Control::Seal(seal) = read;
        let totals: Vec<_> = seal.totals().map(|(key, total)| (key.tenant.to_string(), total)).collect();
        assert_eq!(totals, [("acme".to_owned(), Total { jobs: 7, refused: 0 })]);
    }

    #[test]
    fn every_tenants_batch_has_its_own_total() {
        let totals: Vec<_> = seal().totals().map(|(key, total)| (key.tenant.to_string(), total)).collect();
        let acme = ("acme".to_owned(), Total { jobs: 1_200, refused: 1 });
        assert_eq!(totals, [acme, ("default".to_owned(), Total { jobs: 3, refused: 0 })]);
    }

    #[test]
    fn what_does_not_claim_to_be_one_is_a_job_or_garbage() {
        for body in [
            r#"{"id":"a","prompt":"x"}"#,
            r#"{"id":"a","prompt":"say \"aquifer\" twice: \"aquifer\""}"#,
            r#"{"id":"a","prompt":"x","metadata":{"aquifer":"seal"}}"#,
            r#""aquifer""#,
            r#"["aquifer"]"#,
            r#"{"aquifer":"#,
            "",
        ] {
            assert_eq!(Control::parse(body), None, "{body}");
        }
    }

    #[test]
    fn what_claims_to_be_one_and_is_not_is_refused_by_name() {
        for (body, said) in [
            (r#"{"aquifer":"open","batch":"b","total":{"a":1}}"#, "`\"aquifer\": \"seal\"`"),
            (r#"{"aquifer":7,"batch":"b","total":{"a":1}}"#, "`aquifer` must be a string"),
            (r#"{"aquifer":"seal","total":{"a":1}}"#, "there is no `batch`"),
            (r#"{"aquifer":"seal","batch":"a/b","total":{"a":1}}"#, "`batch` holds '/'"),
            (r#"{"aquifer":"seal","batch":"b","total":{}}"#, "`total` names no tenant"),
            (r#"{"aquifer":"seal","batch":"b","total":{"a":-1}}"#, "`a` must be a whole number from 0"),
            (r#"{"aquifer":"seal","batch":"b","total":{"a b":1}}"#, "`tenant` holds ' '"),
            (r#"{"aquifer":"seal","batch":"b","total":{"a":1,"c":1},"callback":{"task_token":"t"}}"#, "one tenant"),
            (
                r#"{"aquifer":"seal","batch":"b","total":{"a":1},"callback":{"task_token":"t","more":1}}"#,
                "`callback` has no key `more`",
            ),
            (r#"{"aquifer":"seal","batch":"b","total":{"a":1},"refused":{"c":0}}"#, "`refused` names c"),
            (r#"{"aquifer":"seal","batch":"b","total":{"a":1},"sealed":true}"#, "unknown key `sealed`"),
        ] {
            let error = Control::parse(body).unwrap().unwrap_err().to_string();
            assert!(error.contains(said), "{body}: {error}");
        }
    }

    #[test]
    fn what_stands_in_the_wrong_place_is_not_shown() {
        for body in [
            r#"{"aquifer":"secret","batch":"b","total":{"a":1}}"#,
            r#"{"aquifer":{"secret":1},"batch":"b","total":{"a":1}}"#,
            r#"{"aquifer":"seal","batch":["secret"],"total":{"a":1}}"#,
            r#"{"aquifer":"seal","batch":"b","total":"secret"}"#,
            r#"{"aquifer":"seal","batch":"b","total":{"a":"secret"}}"#,
            r#"{"aquifer":"seal","batch":"b","total":{"a":1},"refused":["secret"]}"#,
            r#"{"aquifer":"seal","batch":"b","total":{"a":1},"roll":{"secret":1}}"#,
            r#"{"aquifer":"seal","batch":"b","total":{"a":1},"callback":{"task_token":["secret"]}}"#,
        ] {
            let error = Control::parse(body).unwrap().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{body}: {error}");
        }
    }
}
