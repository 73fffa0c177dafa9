//! What will a fleet's own services cost, beside the models? What the back end says of its requests, for what is planned.

use crate::aws::{Bill, Traffic};
use crate::config::{AwsSettings, ResultObjects, Settings};
use crate::rules::forecast::Forecast;
use crate::rules::pace::Limits;

use super::load::ModelLoad;
use super::outlook::LaneTerms;

/// Bytes of a message beside the text it carries, as most are: names, ids, and the request around the text.
const ENVELOPE: u64 = 256;

/// The requests that one worker makes who drains all of it.
pub(super) fn bill(
    settings: &Settings,
    aws: &AwsSettings,
    models: &[ModelLoad],
    lanes: &[LaneTerms],
    now: &Forecast,
) -> Bill {
    let sum = |of: fn(&ModelLoad) -> u64| models.iter().map(of).sum::<u64>();
    let (jobs, text) = (sum(|model| model.jobs), sum(|model| model.bytes));
    let is_paced = |lane: &&LaneTerms| lane.limits != Limits::default();
    let traffic = Traffic {
        jobs,
        message_bytes: text.saturating_add(ENVELOPE.saturating_mul(jobs)),
        drained_in: now.finish,
        slots: usize::try_from(settings.worker.slots.get()).unwrap_or(usize::MAX),
        lease: settings.worker.lease,
        paced_lanes: lanes.iter().filter(is_paced).count(),
        an_object_each: aws.results == ResultObjects::Object,
        notices: settings.notify.jobs && aws.topic_arn.is_some(),
    };
    traffic.bill()
}
