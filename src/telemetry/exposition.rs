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
