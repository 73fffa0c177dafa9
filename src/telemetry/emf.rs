//! What of the figures goes to CloudWatch? A few lines of the worker's log a minute, in the embedded metric format, from which
//! CloudWatch makes metrics by itself: no agent, no call that could fail, no permission. Few on purpose, since every name
//! with every value of its dimension is paid for by the month. Counts of these are those since the line before, so that the sum
//! over all workers is right.
//!
//! All that is scraped stands in the same lines, under the names and with the values of the scrape, as fields that are no metrics: a query
//! of the log finds them, and they cost what a line costs.

use serde_json::{Map, Value, json};

use crate::job::lifecycle::Status;
use crate::job::units::{Timestamp, Usd};

use super::figures::{BreakerState, Figures, LaneNow};
use super::metrics::{self, is_throttle};

/// The namespace of all of them.
pub const NAMESPACE: &str = "Aquifer";

/// A metric as CloudWatch knows it.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// By what it is told apart, if at all: `Lane` is `region/model-id`, `Status` that of a job.
    pub dimension: Option<&'static str>,
    /// CloudWatch's word for it.
    pub unit: &'static str,
}

const BREAKER_OPEN: Metric = Metric { name: "BreakerOpen", dimension: Some("Lane"), unit: "None" };
const QUOTA_UTILISATION: Metric = Metric { name: "QuotaUtilisation", dimension: Some("Lane"), unit: "Percent" };
const THROTTLES: Metric = Metric { name: "Throttles", dimension: Some("Lane"), unit: "Count" };
const JOBS_ENDED: Metric = Metric { name: "JobsEnded", dimension: Some("Status"), unit: "Count" };
const OLDEST_JOB: Metric = Metric { name: "OldestJobSeconds", dimension: None, unit: "Seconds" };
const COST: Metric = Metric { name: "CostUsd", dimension: None, unit: "None" };

/// All of them.
pub const ALL: &[Metric] = &[BREAKER_OPEN, QUOTA_UTILISATION, THROTTLES, JOBS_ENDED, OLDEST_JOB, COST];

/// Writes down what has changed from line to line.
#[derive(Debug, Default)]
pub struct Emf {
    throttles: std::collections::BTreeMap<String, u64>,
    ended: [u64; Status::ALL.len()],
    spent: Usd,
}

impl Emf {
    /// The lines of this moment, each a JSON object.
    pub fn lines(&mut self, now: Timestamp, figures: &Figures) -> Vec<Value> {
        let mut lines = Vec::new();
        for lane in &figures.lanes {
            let name = lane.lane.to_string();
            let throttles = lane.tally.failed(is_throttle);
            let before = self.throttles.insert(name.clone(), throttles).unwrap_or_default();
            let mut values = vec![(THROTTLES, json!(throttles.saturating_sub(before)))];
            if let Some(LaneNow { breaker, utilisation, .. }) = lane.now {
                values.push((BREAKER_OPEN, json!(u8::from(BreakerState::is_open(breaker)))));
                values.extend(utilisation.map(|share| (QUOTA_UTILISATION, json!(share * 100.0))));
            }
            let beside = metrics::ALL.iter().flat_map(|metric| metric.on_lane(lane));
            lines.push(line(now, Some(("Lane", &name)), &values, beside));
        }
        for status in Status::ALL {
            let ended: u64 = figures.tenants.iter().map(|(_, tally)| tally.ended[status as usize]).sum();
            let more = ended.saturating_sub(std::mem::replace(&mut self.ended[status as usize], ended));
            // Success always, so that a share can be taken of it; a status that never occurs is no metric to pay for.
            if more > 0 || status == Status::Succeeded {
                lines.push(line(now, Some(("Status", status.word())), &[(JOBS_ENDED, json!(more))], []));
            }
        }
        let oldest = figures.oldest_in_hand.unwrap_or_default().as_secs_f64();
        let spent: Usd = figures.lanes.iter().map(|lane| lane.tally.spent).sum();
        let more = spent.saturating_sub(std::mem::replace(&mut self.spent, spent));
        let beside =
            metrics::ALL.iter().filter_map(|metric| Some((metric.name.to_owned(), metric.on_worker(figures)?)));
        lines.push(line(now, None, &[(OLDEST_JOB, json!(oldest)), (COST, json!(more.dollars()))], beside));
        lines
    }
}

/// One line: the metrics, and what stands beside them.
fn line(
    now: Timestamp,
    dimension: Option<(&str, &str)>,
    values: &[(Metric, Value)],
    beside: impl IntoIterator<Item = (String, f64)>,
) -> Value {
    let metrics: Vec<Value> =
        values.iter().map(|(metric, _)| json!({ "Name": metric.name, "Unit": metric.unit })).collect();
    let names: Vec<&str> = dimension.iter().map(|(name, _)| *name).collect();
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), json!(now.to_string()));
    line.insert("level".to_owned(), json!("INFO"));
    line.insert("message".to_owned(), json!("metrics"));
    line.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": now.0,
            "CloudWatchMetrics": [{ "Namespace": NAMESPACE, "Dimensions": [names], "Metrics": metrics }],
        }),
    );
    line.extend(dimension.map(|(name, value)| (name.to_owned(), json!(value))));
    line.extend(beside.into_iter().map(|(name, value)| (name, json!(value))));
    line.extend(values.iter().map(|(metric, value)| (metric.name.to_owned(), value.clone())));
    Value::Object(line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::job::failure::{Class, Failure};
    use crate::job::ident::{BatchName, JobId, JobKey, Tenant};
    use crate::job::outcome::Usage;
    use crate::job::units::Tokens;
    use crate::ports::{Depth, LaneId};
    use crate::telemetry::{Answered, Ended, Meter, exposition};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    #[test]
    fn o4_lines_are_the_embedded_metric_format_and_name_only_what_is_listed() {
        let meter = Meter::default();
        let lane = LaneId { region: "us-east-1".into(), model_id: "m".into() };
        let stands = LaneNow {
            open: 0,
            concurrency: 8,
            reserved: 100,
            used: 85,
            tokens_per_minute: Some(100),
            utilisation: Some(0.85),
            breaker: BreakerState::Held,
            opens_in: None,
            cools_for: None,
            out: None,
        };
        let mut emf = Emf::default();
        let cent = Usd::from_dollars(0.01).unwrap();
        let mut seen = BTreeSet::new();
        let throttle = Failure::new(Class::QuotaMinute, "Too many tokens");
        for round in 1..=3 {
            // Counts are those since the round before, whatever they have come to.
            for _ in 0..round {
                meter.call_failed(&lane, &throttle, cent);
                let key = JobKey {
                    tenant: Tenant::unnamed(),
                    batch: BatchName::new("b").unwrap(),
                    id: JobId::new("job-1").unwrap(),
                };
                let (status, failed) = (Status::Failed, Some(Class::Timeout));
                meter.ended(NOW, &Ended { key: &key, status, failed, usage: Usage::default(), spent: Usd::ZERO });
            }
            let lines = emf.lines(NOW, &meter.figures(NOW, vec![(lane.clone(), stands)]));
            let with =
                |name: &str, value: &str| lines.iter().find(|line| line[name] == value).cloned().unwrap_or_default();
            let of_lane = with("Lane", "us-east-1/m");
            assert_eq!((&of_lane["Throttles"], &of_lane["BreakerOpen"]), (&json!(round), &json!(1)), "{of_lane}");
            assert_eq!(of_lane["QuotaUtilisation"], json!(85.0));
            assert_eq!(with("Status", "failed")["JobsEnded"], json!(round));
            assert_eq!(with("Status", "succeeded")["JobsEnded"], json!(0));
            let cost = lines.iter().find_map(|line| line["CostUsd"].as_f64()).unwrap();
            assert!((cost - 0.01 * f64::from(round)).abs() < 1e-9, "{cost}");
            for line in &lines {
                assert!(!line.to_string().contains('\n') && line["level"] == "INFO" && line["message"] == "metrics");
                assert_eq!(line["_aws"]["Timestamp"], json!(NOW.0));
                let directive = &line["_aws"]["CloudWatchMetrics"][0];
                assert_eq!(directive["Namespace"], NAMESPACE);
                let dimension = directive["Dimensions"][0].as_array().unwrap().first();
                assert!(dimension.is_none_or(|name| line[name.as_str().unwrap()].is_string()), "{line}");
                for named in directive["Metrics"].as_array().unwrap() {
                    let name = named["Name"].as_str().unwrap();
                    let listed = ALL.iter().find(|metric| metric.name == name).unwrap();
                    assert_eq!(
                        (named["Unit"].as_str(), dimension.and_then(Value::as_str)),
                        (Some(listed.unit), listed.dimension)
                    );
                    assert!(line[name].is_number(), "{line}");
                    seen.insert(listed.name);
                }
            }
        }
        assert_eq!(seen.len(), ALL.len(), "some are never emitted: {seen:?}");
    }

    #[test]
    fn o1_all_that_is_scraped_stands_in_the_lines_with_the_same_values() {
        let meter = Meter::default();
        let lane = |model: &str| LaneId { region: "us-east-1".into(), model_id: model.into() };
        let usage = Usage { input_tokens: 10, output_tokens: 5, cache_read_tokens: 2, cache_write_tokens: 1 };
        let (took, cost) = (Duration::from_millis(300), Usd::from_nanos(1_500_000_000));
        meter.answered(&lane("m"), &Answered { usage, reserved: Tokens(110), used: Tokens(16), cost, took });
        meter.answered(&lane("n"), &Answered { usage, reserved: Tokens(110), used: Tokens(16), cost, took });
        for class in [Class::Unavailable, Class::Overloaded] {
            meter.call_failed(&lane("m"), &Failure::new(class, "no"), Usd::ZERO);
        }
        meter.waits(Some(Depth { ready: 7, in_flight: 1, delayed: 2, dead: 4 }));
        let stands = LaneNow {
            open: 3,
            concurrency: 8,
            reserved: 100,
            used: 850,
            tokens_per_minute: Some(1_000),
            utilisation: Some(0.85),
            breaker: BreakerState::Closed,
            opens_in: None,
            cools_for: None,
            out: None,
        };
        let figures = meter.figures(NOW, vec![(lane("m"), stands)]);
        let (scrape, mut emf) = (exposition::text(&figures), Emf::default());
        // The second minute's as well: they go on growing, as those that are scraped do.
        emf.lines(NOW, &figures);
        let lines = emf.lines(NOW, &figures);
        let mut told = 0;
        for metric in metrics::ALL {
            let series: &[&str] = match metric.kind {
                metrics::Kind::Histogram => &["_sum", "_count"],
                metrics::Kind::Counter | metrics::Kind::Gauge => &[""],
            };
            for name in series.iter().map(|end| format!("{}{end}", metric.name)) {
                let of_it = |line: &&str| line.split(['{', ' ']).next() == Some(&*name);
                let samples = scrape.lines().filter(of_it).map(|line| line.rsplit_once(' ').unwrap().1);
                let scraped: f64 = samples.map(|value| value.parse::<f64>().unwrap()).sum();
                let logged: Vec<f64> = lines.iter().filter_map(|line| line.get(&name)?.as_f64()).collect();
                assert!(!logged.is_empty(), "{name} stands in no line");
                assert!((logged.iter().sum::<f64>() - scraped).abs() < 1e-9, "{name}: {logged:?}, scraped {scraped}");
                told += usize::from(scraped > 0.0);
            }
        }
        assert!(told > 15, "only {told} of them are more than nothing");
    }

    #[test]
    fn nothing_is_written_as_zero_and_not_as_less() {
        let lines = Emf::default().lines(NOW, &Figures::default());
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        assert!(!text.is_empty() && text.iter().all(|line| !line.contains("-0.0")), "{text:?}");
    }
}
