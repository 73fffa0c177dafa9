//! What does a scrape see? The figures in Prometheus' text format, version 0.0.4.
//!
//! Written out here and not by a library: the format is three kinds of line, while what a library would bring, families of
//! series that live in a registry, is what bounded names and values read at the moment of the scrape have no use for. The
//! list of metrics is needed in our own form anyway, for the README and for the tests of what watches them.

use std::fmt::{self, Write as _};

use crate::job::failure::{Class, Consequence};
use crate::job::lifecycle::Status;

use super::figures::{Figures, LaneFigures};
use super::metrics::{ALL, Metric, Series, number};
use super::tallies::{Histogram, SECONDS};

/// The media type of [`text`].
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics, each with its help and its kind; one without a value has no line.
pub fn text(figures: &Figures) -> String {
    let mut text = Text(String::with_capacity(64 * 1024));
    for metric in ALL {
        // Writing into a string does not fail.
        let _ = text.metric(metric, figures);
    }
    text.0
}

struct Text(String);

impl Text {
    fn metric(&mut self, metric: &Metric, figures: &Figures) -> fmt::Result {
        let name = metric.name;
        writeln!(self.0, "# HELP {name} {}", metric.help.replace('\\', "\\\\"))?;
        writeln!(self.0, "# TYPE {name} {}", metric.kind.word())?;
        match metric.series {
            Series::Whole(read) => self.line(name, &[], read(figures))?,
            Series::Lane(read) => {
                for lane in &figures.lanes {
                    self.line(name, &by_lane(lane), read(lane))?;
                }
            }
            Series::LaneClass(is_such) => {
                for lane in &figures.lanes {
                    for class in Class::ALL.into_iter().filter(|class| is_such(*class)) {
                        let [region, model] = by_lane(lane);
                        let count = number(lane.tally.failures[class as usize]);
                        self.line(name, &[region, model, ("class", class.word())], Some(count))?;
                    }
                }
            }
            Series::LaneHistogram(read) => {
                for lane in &figures.lanes {
                    self.histogram(name, &by_lane(lane), read(lane))?;
                }
            }
            Series::Tenant(read) => {
                for (tenant, tally) in &figures.tenants {
                    self.line(name, &[("tenant", tenant)], Some(read(tally)))?;
                }
            }
            Series::TenantStatus => {
                for (tenant, tally) in &figures.tenants {
                    for status in Status::ALL {
                        let labels = [("tenant", &**tenant), ("status", status.word())];
                        self.line(name, &labels, Some(number(tally.ended[status as usize])))?;
                    }
                }
            }
            Series::FailedClass => {
                for class in Class::ALL.into_iter().filter(|class| class.consequence() != Consequence::HandBack) {
                    self.line(name, &[("class", class.word())], Some(number(figures.failed[class as usize])))?;
                }
            }
            Series::Fallback => {
                for ((from, to), times) in &figures.fallbacks {
                    self.line(name, &[("from", from), ("to", to)], Some(number(*times)))?;
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: Option<f64>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        self.0.push_str(name);
        self.labels(labels, None)?;
        writeln!(self.0, " {value}")
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) -> fmt::Result {
        let counts = histogram.up_to();
        for (place, count) in counts.iter().enumerate() {
            write!(self.0, "{name}_bucket")?;
            self.labels(labels, Some(SECONDS.get(place).copied().unwrap_or(f64::INFINITY)))?;
            writeln!(self.0, " {count}")?;
        }
        write!(self.0, "{name}_sum")?;
        self.labels(labels, None)?;
        writeln!(self.0, " {}", histogram.sum)?;
        write!(self.0, "{name}_count")?;
        self.labels(labels, None)?;
        writeln!(self.0, " {}", counts.last().copied().unwrap_or_default())
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<f64>) -> fmt::Result {
        let mut mark = '{';
        for (name, value) in labels {
            write!(self.0, "{mark}{name}=\"")?;
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
            mark = ',';
        }
        match bound {
            Some(bound) if bound.is_finite() => write!(self.0, "{mark}le=\"{bound}\"}}"),
            Some(_) => write!(self.0, "{mark}le=\"+Inf\"}}"),
            None if labels.is_empty() => Ok(()),
            None => write!(self.0, "}}"),
        }
    }
}

fn by_lane(lane: &LaneFigures) -> [(&'static str, &str); 2] {
    [("region", &lane.lane.region), ("model", &lane.lane.model_id)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::job::failure::Failure;
    use crate::job::ident::{BatchName, JobId, JobKey, Tenant};
    use crate::job::outcome::Usage;
    use crate::job::units::{Timestamp, Tokens, Usd};
    use crate::ports::{Depth, LaneId};
    use crate::telemetry::figures::{BreakerState, LaneNow};
    use crate::telemetry::metrics::Kind;
    use crate::telemetry::{Answered, Ended, Meter};

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn lane(model: &str) -> LaneId {
        LaneId { region: "us-east-1".into(), model_id: model.into() }
    }

    fn stands() -> LaneNow {
        LaneNow {
            open: 3,
            concurrency: 8,
            reserved: 100,
            used: 850,
            tokens_per_minute: Some(1_000),
            utilisation: Some(0.85),
            breaker: BreakerState::Open,
            opens_in: None,
            cools_for: None,
            out: None,
        }
    }

    fn count_something(meter: &Meter, lane: &LaneId, tenant: &str) {
        let usage = Usage { input_tokens: 10, output_tokens: 5, cache_read_tokens: 2, cache_write_tokens: 1 };
        let took = Duration::from_millis(300);
        let cost = Usd::from_nanos(1_500_000_000);
        meter.answered(lane, &Answered { usage, reserved: Tokens(110), used: Tokens(16), cost, took });
        meter.call_failed(lane, &Failure::new(Class::QuotaMinute, "Too many tokens"), Usd::ZERO);
        meter.call_failed(lane, &Failure::new(Class::Unavailable, "503"), Usd::ZERO);
        meter.tried_again(lane);
        meter.paced(lane, Duration::from_secs(70));
        meter.breaker(lane, BreakerState::Open, Some(NOW));
        meter.fell_back("own", "other one");
        let key = JobKey {
            tenant: Tenant::new(tenant).unwrap(),
            batch: BatchName::new("b").unwrap(),
            id: JobId::new("job-1").unwrap(),
        };
        meter
            .ended(NOW, &Ended { key: &key, status: Status::Failed, failed: Some(Class::Timeout), usage, spent: cost });
        meter.waits(Some(Depth { ready: 7, in_flight: 1, delayed: 2, dead: 4 }));
    }

    /// Every line that is no comment: name, labels, value.
    fn samples(text: &str) -> Vec<(&str, &str, f64)> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = series.find('{').map_or((series, ""), |at| series.split_at(at));
                (name, labels, value.parse().unwrap_or_else(|_| panic!("{line}")))
            })
            .collect()
    }

    #[test]
    fn o1_a_scrape_shows_every_metric_under_its_labels() {
        let meter = Meter::default();
        let id = lane("m");
        count_something(&meter, &id, "acme");
        let _in_hand = meter.takes_in_hand(Timestamp(NOW.0 - 90_000));
        let text = text(&meter.figures(NOW, vec![(id, stands())]));
        for wanted in [
            "# TYPE aquifer_calls_answered_total counter\n",
            "aquifer_calls_answered_total{region=\"us-east-1\",model=\"m\"} 1\n",
            "aquifer_throttles_total{region=\"us-east-1\",model=\"m\",class=\"quota_minute\"} 1\n",
            "aquifer_throttles_total{region=\"us-east-1\",model=\"m\",class=\"quota_day\"} 0\n",
            "aquifer_call_failures_total{region=\"us-east-1\",model=\"m\",class=\"unavailable\"} 1\n",
            "aquifer_call_duration_seconds_bucket{region=\"us-east-1\",model=\"m\",le=\"0.25\"} 0\n",
            "aquifer_call_duration_seconds_bucket{region=\"us-east-1\",model=\"m\",le=\"0.5\"} 1\n",
            "aquifer_call_duration_seconds_bucket{region=\"us-east-1\",model=\"m\",le=\"+Inf\"} 1\n",
            "aquifer_call_duration_seconds_sum{region=\"us-east-1\",model=\"m\"} 0.3\n",
            "aquifer_pacing_wait_seconds_count{region=\"us-east-1\",model=\"m\"} 1\n",
            "aquifer_quota_utilisation_ratio{region=\"us-east-1\",model=\"m\"} 0.85\n",
            "aquifer_breaker_state{region=\"us-east-1\",model=\"m\"} 2\n",
            "aquifer_reserved_tokens_total{region=\"us-east-1\",model=\"m\"} 110\n",
            "aquifer_settled_tokens_total{region=\"us-east-1\",model=\"m\"} 16\n",
            "aquifer_cost_usd_total{region=\"us-east-1\",model=\"m\"} 1.5\n",
            "aquifer_jobs_ended_total{tenant=\"acme\",status=\"failed\"} 1\n",
            "aquifer_jobs_unsuccessful_total{class=\"timeout\"} 1\n",
            "aquifer_jobs_cost_usd_total{tenant=\"acme\"} 1.5\n",
            "aquifer_fallbacks_total{from=\"own\",to=\"other one\"} 1\n",
            "aquifer_oldest_job_in_hand_seconds 90\n",
            "aquifer_queue_ready 7\n",
            "aquifer_queue_dead 4\n",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in\n{text}");
        }
        let shown: BTreeSet<&str> = samples(&text).into_iter().map(|(name, ..)| name).collect();
        for Metric { name, kind, .. } in ALL {
            let series = if *kind == Kind::Histogram { format!("{name}_bucket") } else { (*name).to_owned() };
            assert!(shown.contains(&*series), "{series} has no value in\n{text}");
        }
    }

    #[test]
    fn o1_names_are_those_of_prometheus_and_each_is_there_once() {
        let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for Metric { name, kind, unit, help, .. } in ALL {
            assert!(name.starts_with("aquifer_") && name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(name.contains("_seconds"), *unit == "seconds", "{name}");
            assert!(help.ends_with('.') && !help.contains(['\n', '|']), "{name}: {help}");
        }
    }

    #[test]
    fn a_name_from_outside_cannot_break_out_of_its_label() {
        let meter = Meter::default();
        let id = lane("a\"} 1\nevil{x=\"\\");
        meter.tried_again(&id);
        let text = text(&meter.figures(NOW, Vec::new()));
        let line = r#"aquifer_retries_total{region="us-east-1",model="a\"} 1\nevil{x=\"\\"} 1"#;
        assert!(text.lines().any(|found| found == line), "{text}");
        assert!(text.lines().all(|line| line.starts_with("aquifer_") || line.starts_with("# ")), "{text}");
    }

    #[test]
    fn o1_lanes_beyond_the_bound_show_as_one_with_the_worst_of_them() {
        let meter = Meter::default();
        let lanes = (0..250).map(|n| (lane(&format!("m-{n:03}")), stands()));
        let mut lanes: Vec<_> = lanes.collect();
        lanes[249].1.utilisation = Some(0.99);
        lanes[240].1.breaker = BreakerState::Closed;
        let text = text(&meter.figures(NOW, lanes));
        let samples = samples(&text);
        let of = |wanted: &str| samples.iter().filter(|(name, ..)| *name == wanted).count();
        assert_eq!((of("aquifer_retries_total"), of("aquifer_quota_utilisation_ratio")), (201, 201));
        for wanted in [
            "calls_open{region=\"other\",model=\"other\"} 150",
            "utilisation_ratio{region=\"other\",model=\"other\"} 0.99",
        ] {
            assert!(text.contains(wanted), "{text}");
        }
    }

    /// The bar is 10 ms in a release build, with what asking the lanes takes; this prints how long writing it out takes here.
    #[test]
    fn o1_a_scrape_of_100_lanes_and_100_tenants() {
        let meter = Meter::default();
        let lanes: Vec<_> = (0..100).map(|n| (lane(&format!("us.anthropic.model-{n}-v1:0")), stands())).collect();
        for (n, (lane, _)) in lanes.iter().enumerate() {
            count_something(&meter, lane, &format!("tenant-{n}"));
        }
        let started = Instant::now();
        let text = text(&meter.figures(NOW, lanes));
        println!("{} series, {} KiB in {:?}", samples(&text).len(), text.len() / 1_024, started.elapsed());
        assert!(samples(&text).len() > 100 * 40, "all of them are there");
    }
}
