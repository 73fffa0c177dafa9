//! Are the metrics that people look at those that workers have? The README's table is the list, and every name in a Grafana
//! panel or a Prometheus rule is on it, with its labels.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use aquifer::telemetry::metrics::{ALL, Kind, Metric};
use aquifer::telemetry::tallies::SERIES;
use serde_json::Value;

use crate::reader::{read, root};

const BEGIN: &str = "<!-- metrics:begin -->\n";
const END: &str = "<!-- metrics:end -->\n";

#[test]
fn o1_the_readme_lists_every_metric_as_it_is() {
    let mut table = String::from("| metric | kind | unit | labels | |\n|---|---|---|---|---|\n");
    for metric in ALL {
        let labels = metric.labels().iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let Metric { name, kind, unit, help, .. } = metric;
        writeln!(table, "| `{name}` | {} | {unit} | {labels} | {help} |", kind.word()).unwrap();
    }
    let readme = read(&root().join("README.md"));
    let (_, rest) = readme.split_once(BEGIN).expect("the README has a table of metrics");
    let (found, _) = rest.split_once(END).expect("the README's table of metrics ends");
    assert!(found == table, "between the markers of README.md belongs:\n{table}");
    assert!(readme.contains(&format!("{SERIES} lanes")), "the README says how many are told apart");
}

#[test]
fn o4_every_panel_and_every_rule_asks_for_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read(&root().join("infra/grafana/aquifer.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(queries.len() > 20 && panels.len() > 10, "found only {queries:?}");
    let rules = read(&root().join("infra/prometheus/alerts.yml"));
    let rules: String = rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    assert!(rules.matches("- alert:").count() > 8, "{rules}");

    let charted: BTreeSet<&str> = queries.iter().flat_map(|query| asked_for(query)).collect();
    let watched: BTreeSet<&str> = asked_for(&rules).collect();
    assert!(watched.len() > 8, "found only {watched:?}");
    for name in charted.union(&watched) {
        assert!(ALL.iter().any(|metric| is_series_of(metric, name)), "nobody emits `{name}`");
    }
    let uncharted: Vec<_> =
        ALL.iter().filter(|metric| !charted.iter().any(|name| is_series_of(metric, name))).collect();
    assert!(uncharted.is_empty(), "in no panel: {uncharted:?}");
}

#[test]
fn o4_each_prometheus_rule_says_whom_it_is_for_and_what_to_do() {
    let rules = read(&root().join("infra/prometheus/alerts.yml"));
    let rules: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule.lines().next().unwrap()).collect();
    // O4, but for the budgets, of which there are none yet.
    for wanted in
        ["DeadLetters", "OldestJob", "ThrottledOften", "ThrottledSteadily", "Utilisation", "Success", "BreakerOpen"]
    {
        assert!(names.contains(&*format!("Aquifer{wanted}")), "no rule for {wanted} among {names:?}");
    }
    assert_eq!(names.len(), rules.len(), "two rules of one name: {names:?}");
    for rule in rules {
        assert!(rule.contains("severity: page") || rule.contains("severity: note"), "{rule}");
        assert!(rule.contains("summary: ") && rule.contains("description: "), "{rule}");
    }
}

/// Every name of a metric of ours in a query.
fn asked_for(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("aquifer_"))
}

/// Whether a series of that name comes of this metric.
fn is_series_of(metric: &Metric, name: &str) -> bool {
    match metric.kind {
        Kind::Counter | Kind::Gauge => name == metric.name,
        Kind::Histogram => {
            name.strip_prefix(metric.name).is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest))
        }
    }
}
