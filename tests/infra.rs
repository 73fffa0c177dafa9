//! Does what Terraform makes fit the program? Alarms and the dashboard watch only what somebody emits, and workers get only
//! settings that the configuration knows.
//!
//! `infra/metrics.json` says where each metric comes from: AWS's documentation, by its address, or a line of the workers'
//! log, by its words. The Terraform files are read as tokens, so that a name in a comment is no use of it. Whether they
//! apply is for `.ci/terraform.py` to say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aquifer::config::{self, Backend};
use proc_macro2::{TokenStream, TokenTree};
use serde::Deserialize;

/// What O4 asks for and something emits. Breakers, budgets, and utilisation and success as the worker itself counts them
/// come with metrics of its own.
const O4: &[&str] = &["dead_letters", "oldest_job", "throttled_often", "throttled_steadily", "utilisation", "success"];

/// A metric as it is named to CloudWatch: with the wrong dimensions there is no such metric either.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Metric {
    namespace: String,
    name: String,
    dimensions: BTreeSet<String>,
}

/// An entry of `metrics.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    namespace: String,
    name: String,
    dimensions: BTreeSet<String>,
    source: Source,
    documented: Option<String>,
    event: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Source {
    Aws,
    Log,
}

#[test]
fn f21_every_metric_that_is_watched_is_one_that_somebody_emits() {
    let blocks = terraform();
    let used: BTreeSet<Metric> = blocks.iter().flat_map(metrics_of).chain(charted()).collect();
    let listed: BTreeSet<Metric> = listed().into_iter().map(|entry| entry.metric()).collect();
    assert!(used.len() > 15, "found only {} metrics in infra/*.tf", used.len());
    let unlisted: Vec<_> = used.difference(&listed).collect();
    assert!(unlisted.is_empty(), "watched, and not in infra/metrics.json: {unlisted:#?}");
    let unused: Vec<_> = listed.difference(&used).collect();
    assert!(unused.is_empty(), "in infra/metrics.json, and not watched: {unused:#?}");
}

#[test]
fn f21_a_metric_of_a_service_names_its_documentation() {
    for entry in listed().iter().filter(|entry| entry.source == Source::Aws) {
        let documented = entry.documented.as_deref().unwrap_or_default();
        assert!(documented.starts_with("https://docs.aws.amazon.com/"), "{entry:?}");
        assert!(entry.namespace != "Aquifer" && entry.event.is_none(), "{entry:?}");
    }
}

#[test]
fn f21_a_metric_of_the_log_counts_a_line_that_workers_write() {
    let written = warnings_and_errors();
    assert!(written.len() > 3, "found only {written:?} in src/telemetry.rs");
    let filters: BTreeMap<Metric, String> = terraform().iter().filter_map(filter_of).collect();
    let entries: Vec<Listed> = listed().into_iter().filter(|entry| entry.source == Source::Log).collect();
    for entry in &entries {
        let event = entry.event.as_deref().unwrap_or_default();
        assert!(!event.is_empty() && entry.documented.is_none(), "{entry:?}");
        // Lower levels are off unless somebody asks for them.
        assert!(written.iter().any(|line| line.contains(event)), "no warning or error says {event:?}: {written:?}");
        // In quotes it is a phrase, whatever the form of the line around it.
        assert_eq!(filters.get(&entry.metric()), Some(&format!("\"{event}\"")), "the filter of {entry:?}");
    }
    assert_eq!(filters.len(), entries.len(), "a filter counts what infra/metrics.json does not list: {filters:#?}");
}

#[test]
fn o4_the_alarms_are_there_and_each_says_what_to_do_and_to_whom() {
    let alarms: Vec<Block> = terraform()
        .into_iter()
        .filter(|block| block.header.get(..2) == Some(&["resource".into(), "aws_cloudwatch_metric_alarm".into()]))
        .collect();
    let names: BTreeSet<&str> = alarms.iter().map(|alarm| alarm.header[2].as_str()).collect();
    for wanted in O4 {
        assert!(names.contains(wanted), "no alarm `{wanted}` among {names:?}");
    }
    for alarm in &alarms {
        // A service that is asleep emits nothing: each must say what silence means.
        for attribute in ["alarm_description", "treat_missing_data", "alarm_actions"] {
            assert!(alarm.names.contains(attribute), "{:?} lacks {attribute}", alarm.header);
        }
        assert!(alarm.attributes["alarm_description"].len() > 20, "{:?}", alarm.header);
    }
}

#[test]
fn workers_are_told_only_settings_that_there_are() {
    let environment = variables_of("worker.tf");
    let told: BTreeMap<String, String> = environment
        .iter()
        .map(|name| {
            let value = match name.as_str() {
                "AQUIFER_BACKEND" => "aws",
                "AQUIFER_AWS_QUEUE_URL" => "https://sqs.us-west-2.amazonaws.com/123456789012/aquifer",
                "AQUIFER_AWS_DEAD_LETTER_URL" => "https://sqs.us-west-2.amazonaws.com/123456789012/aquifer-dead",
                "AQUIFER_AWS_TABLE" | "AQUIFER_AWS_BUCKET" => "aquifer",
                "AQUIFER_AWS_PREFIX" => "aquifer/",
                "AQUIFER_AWS_TOPIC_ARN" => "arn:aws:sns:us-west-2:123456789012:aquifer-notices",
                "AQUIFER_WORKER_LEASE" => "120s",
                "AQUIFER_WORKER_DRAIN" => "90s",
                other => panic!("what is a value of {other}?"),
            };
            (name.clone(), value.to_owned())
        })
        .collect();
    let example = include_str!("../examples/aquifer.toml");
    let settings = config::resolve(Some(("aquifer.toml", example)), &told, |path| panic!("{path} is read")).unwrap();
    let Backend::Aws(aws) = settings.backend else { panic!("{:?}", settings.backend) };
    assert_eq!((aws.table.as_str(), aws.prefix.as_str()), ("aquifer", "aquifer/"));
    assert!(aws.topic_arn.is_some() && aws.queue_url != aws.dead_letter_url);
    assert_eq!((settings.worker.lease, settings.worker.drain), (Duration::from_secs(120), Duration::from_secs(90)));
}

/// Every `AQUIFER_` name of a file.
fn variables_of(file: &str) -> BTreeSet<String> {
    let names = tokens(&read(&root().join("infra").join(file)));
    let names: BTreeSet<String> = names
        .into_iter()
        .filter_map(|token| match token {
            Token::Word(word) if word.starts_with("AQUIFER_") => Some(word),
            _ => None,
        })
        .collect();
    assert!(names.len() > 5, "found only {names:?}");
    names
}

// --------------------------------------------------------------------------------------------- what is listed, and said

impl Listed {
    fn metric(&self) -> Metric {
        Metric { namespace: self.namespace.clone(), name: self.name.clone(), dimensions: self.dimensions.clone() }
    }
}

fn listed() -> Vec<Listed> {
    serde_json::from_str(&read(&root().join("infra/metrics.json"))).unwrap()
}

/// The texts in `warn!` and `error!` of the list of events.
fn warnings_and_errors() -> Vec<String> {
    let source: TokenStream = read(&root().join("src/telemetry.rs")).parse().unwrap();
    let mut texts = Vec::new();
    collect_texts(source, &mut texts);
    texts
}

fn collect_texts(source: TokenStream, texts: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = source.into_iter().collect();
    for (place, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let before: String = tokens[place.saturating_sub(2)..place].iter().map(ToString::to_string).collect();
        if before == "warn!" || before == "error!" {
            let literals = group.stream().into_iter().filter(|token| matches!(token, TokenTree::Literal(_)));
            texts.extend(literals.map(|literal| literal.to_string()));
        } else {
            collect_texts(group.stream(), texts);
        }
    }
}

// ------------------------------------------------------------------------------------------------ what is watched

/// The metric that a block names by `metric_name`.
fn metrics_of(block: &Block) -> Option<Metric> {
    let name = block.attributes.get("metric_name")?.clone();
    let namespace = block.attributes.get("namespace").unwrap_or_else(|| panic!("{name} has no literal namespace"));
    Some(Metric { namespace: namespace.clone(), name, dimensions: block.dimensions.clone() })
}

/// The metric that a filter of the log makes, and its pattern.
fn filter_of(block: &Block) -> Option<(Metric, String)> {
    let (namespace, name) = block.transformation.clone()?;
    Some((Metric { namespace, name, dimensions: BTreeSet::new() }, block.attributes["pattern"].clone()))
}

/// The rows of the dashboard: `["AWS/SQS", "NumberOfMessagesSent", "QueueName", <any expression>, ...]`.
fn charted() -> Vec<Metric> {
    let tokens = tokens(&read(&root().join("infra/dashboard.tf")));
    let mut metrics = Vec::new();
    for (place, window) in tokens.windows(4).enumerate() {
        let [Token::Mark('['), Token::Text(namespace), Token::Mark(','), Token::Text(name)] = window else { continue };
        if !namespace.contains('/') && namespace != "Aquifer" {
            continue;
        }
        let mut dimensions = BTreeSet::new();
        // Names and values take turns up to the options in braces.
        let mut position = 1;
        let mut depth = 0_u32;
        for token in &tokens[place + 4..] {
            match token {
                Token::Mark(']' | '{') if depth == 0 => break,
                Token::Mark('[' | '(') => depth += 1,
                Token::Mark(']' | ')') => depth -= 1,
                Token::Mark(',') if depth == 0 => position += 1,
                Token::Text(text) if depth == 0 && position % 2 == 0 => drop(dimensions.insert(text.clone())),
                _ => {}
            }
        }
        metrics.push(Metric { namespace: namespace.clone(), name: name.clone(), dimensions });
    }
    assert!(metrics.len() > 15, "found only {} rows on the dashboard", metrics.len());
    metrics
}

// ------------------------------------------------------------------------------------------------ Terraform's files

/// `kind "label" "label" { ... }` or `name = { ... }`.
#[derive(Clone, Debug, Default)]
struct Block {
    /// Kind and labels, or the name.
    header: Vec<String>,
    /// What is set in it, itself.
    names: BTreeSet<String>,
    /// Of that, what is a text.
    attributes: BTreeMap<String, String>,
    /// The names in its `dimensions`, in either form.
    dimensions: BTreeSet<String>,
    /// Namespace and name of its `metric_transformation`.
    transformation: Option<(String, String)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Token {
    Word(String),
    /// What stands between the quotes, unescaped; what `${}` holds stays as it is.
    Text(String),
    Mark(char),
}

/// Every block of every file, inner ones before outer ones.
fn terraform() -> Vec<Block> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join("infra")).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "tf"));
    files.sort();
    assert!(files.len() > 10, "found only {files:?}");
    files.iter().flat_map(|file| blocks(&tokens(&read(file)))).collect()
}

fn blocks(tokens: &[Token]) -> Vec<Block> {
    let mut done = Vec::new();
    let mut open = vec![Block::default()];
    for (place, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark('{') => open.push(Block { header: header(&tokens[..place]), ..Block::default() }),
            Token::Mark('}') => {
                let block = open.pop().unwrap();
                let outer = open.last_mut().expect("a brace is closed that was not opened");
                match block.header.first().map(String::as_str) {
                    Some("dimensions") => match (block.attributes.get("name"), block.names.contains("value")) {
                        (Some(name), true) => drop(outer.dimensions.insert(name.clone())),
                        _ => outer.dimensions.extend(block.names.iter().cloned()),
                    },
                    Some("metric_transformation") => {
                        let [namespace, name] = ["namespace", "name"].map(|key| block.attributes[key].clone());
                        outer.transformation = Some((namespace, name));
                    }
                    _ => {}
                }
                done.push(block);
            }
            Token::Mark('=') => {
                let (Some(Token::Word(name)), Some(block)) = (tokens[..place].last(), open.last_mut()) else {
                    continue;
                };
                block.names.insert(name.clone());
                if let Some(Token::Text(text)) = tokens.get(place + 1) {
                    block.attributes.insert(name.clone(), text.clone());
                }
            }
            Token::Word(_) | Token::Text(_) | Token::Mark(_) => {}
        }
    }
    assert_eq!(open.len(), 1, "a brace is not closed");
    done
}

/// The words and texts right before a brace: what the block is called.
fn header(before: &[Token]) -> Vec<String> {
    let before = before.strip_suffix(&[Token::Mark('=')]).unwrap_or(before);
    let mut header: Vec<String> = Vec::new();
    for token in before.iter().rev() {
        match token {
            Token::Text(text) => header.push(text.clone()),
            Token::Word(word) => {
                header.push(word.clone());
                break;
            }
            Token::Mark(_) => break,
        }
    }
    header.reverse();
    header
}

/// The language's tokens, as far as they matter here: no comments, and a word is all that numbers and names are made of.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if first == '#' {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if let Some(named) = rest.strip_prefix("<<-").or_else(|| rest.strip_prefix("<<")) {
            let (name, text) = named.split_once('\n').unwrap();
            let end = text.lines().position(|line| line.trim() == name.trim()).expect("a heredoc ends");
            let length: usize = text.split_inclusive('\n').take(end + 1).map(str::len).sum();
            tokens.push(Token::Text(text.lines().take(end).collect::<Vec<_>>().join("\n")));
            rest = &text[length..];
        } else if first == '"' {
            let end = end_of_text(&rest[1..]) + 1;
            tokens.push(Token::Text(rest[1..end].replace("\\\"", "\"")));
            rest = &rest[end + 1..];
        } else if first.is_alphanumeric() || first == '_' {
            let end = rest.find(|c: char| !(c.is_alphanumeric() || "_-.".contains(c))).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Mark(first));
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

/// Where the quote is that ends the text; `${}` may hold texts of its own.
fn end_of_text(text: &str) -> usize {
    let mut depth = 0_u32;
    let mut place = 0;
    while let Some(next) = text[place..].chars().next() {
        let rest = &text[place..];
        match next {
            '\\' => place += 1,
            '"' if depth == 0 => return place,
            '"' => place += end_of_text(&rest[1..]) + 1,
            '$' if rest.starts_with("${") => {
                depth += 1;
                place += 1;
            }
            '{' if depth > 0 => depth += 1,
            '}' if depth > 0 => depth -= 1,
            _ => {}
        }
        place += text[place..].chars().next().map_or(0, char::len_utf8);
    }
    panic!("a text does not end: {text:.60}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_reader_sees_what_terraform_sees() {
    let source = r#"
        # metric_name = "Commented"
        resource "aws_cloudwatch_metric_alarm" "one" {
          alarm_name  = "${var.name}-${replace("a{", "a", "b")}"
          metric_name = "One"
          namespace   = "AWS/SQS"
          dimensions  = { QueueName = aws_sqs_queue.jobs.name }
          metric_query {
            metric {
              metric_name = "Two"
              namespace   = "AWS/SQS"
              dimensions {
                name  = "TableName"
                value = "x"
              }
            }
          }
          metric_transformation {
            namespace = "Aquifer"
            name      = "Three"
          }
          pattern = "\"said\""
        }
    "#;
    let blocks = blocks(&tokens(source));
    let metric = |namespace: &str, name: &str, dimensions: &[&str]| Metric {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        dimensions: dimensions.iter().map(ToString::to_string).collect(),
    };
    let found: Vec<Metric> = blocks.iter().filter_map(metrics_of).collect();
    assert_eq!(found, [metric("AWS/SQS", "Two", &["TableName"]), metric("AWS/SQS", "One", &["QueueName"])]);
    let filters: Vec<_> = blocks.iter().filter_map(filter_of).collect();
    assert_eq!(filters, [(metric("Aquifer", "Three", &[]), "\"said\"".to_owned())]);
    let outer = blocks.last().unwrap();
    assert_eq!(outer.header, ["resource", "aws_cloudwatch_metric_alarm", "one"]);
    assert!(outer.names.contains("pattern") && !outer.names.contains("value"));
}
