//! Do the state machines of `statemachine/` keep the rules that validators which are not ours do not know? Those run in
//! `.ci/definitions.py`; here stands what makes a workflow durable: nothing fails in silence, nothing waits for ever, nothing
//! grows with the document.
//!
//! Every rule is broken once on purpose, in `planted`: a rule that sees nothing would be no rule.

mod graph;
mod planted;
mod rules;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use crate::reader::{Token, read, root, tokens};

/// A definition, with the placeholders in it.
#[derive(Clone, Debug)]
struct Machine {
    name: &'static str,
    kind: Kind,
    text: String,
    definition: Value,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Standard,
    Express,
}

/// Which rule is broken, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Fault {
    rule: Rule,
    at: String,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rule {
    /// A task tries again what is transient, with full jitter and a bound.
    Retry,
    /// It tries again nothing else: a worker's answer is final.
    RetriesTransient,
    /// Whatever else happens is caught, and leads to the one way on which it is made known.
    Catch,
    /// Every task ends some time; one that waits for a worker has no heartbeat.
    Timeout,
    /// A task that waits gives its token away, and in an Express workflow none waits.
    Token,
    /// What a task waits for bears a deadline before its timeout, so that nothing is paid for that nobody waits for any more.
    Deadline,
    /// The machine as a whole outlives its tasks, so that none of them is cut off before its `Catch`.
    Overtime,
    /// The action exists, and the role may take it.
    Action,
    /// Every state is reached.
    Reached,
    /// Every way ends.
    Ends,
    /// Every placeholder is filled in, and nothing looks like a directive of Terraform's.
    Placeholder,
    /// A document takes at most 15 transitions, whatever its chunks.
    Transitions,
    /// A history stays below 25,000 events.
    Events,
    /// What travels between states is picked, and does not grow with the work.
    Data,
    /// A cause that is not there is an empty one, or the machine would fail while it catches.
    Cause,
    /// A row is written on a condition: whoever comes again finds it.
    Conditional,
    /// A notice has the attributes that filter policies ask for.
    Attributes,
    /// One language.
    Language,
}

impl Rule {
    const ALL: [Self; 18] = [
        Self::Retry,
        Self::RetriesTransient,
        Self::Catch,
        Self::Timeout,
        Self::Token,
        Self::Deadline,
        Self::Overtime,
        Self::Action,
        Self::Reached,
        Self::Ends,
        Self::Placeholder,
        Self::Transitions,
        Self::Events,
        Self::Data,
        Self::Cause,
        Self::Conditional,
        Self::Attributes,
        Self::Language,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.rule, self.at)
    }
}

#[test]
fn w1_w2_the_definitions_keep_every_rule() {
    for machine in all() {
        let faults: Vec<String> = rules::faults(&machine).iter().map(ToString::to_string).collect();
        assert!(faults.is_empty(), "{}: {faults:#?}", machine.name);
    }
}

#[test]
fn w1_the_pipeline_has_the_stages_of_the_reference_in_their_order() {
    let [document, ..] = all();
    let path = graph::longest(&document);
    let tasks: Vec<&str> = path.iter().copied().filter(|name| document.states()[*name]["Type"] == "Task").collect();
    assert_eq!(tasks, ["Document", "Ingest", "Analyse", "Record", "Publish"]);
}

#[test]
fn w1_every_placeholder_is_filled_in_by_terraform_and_no_other() {
    let used: BTreeSet<String> = all().iter().flat_map(|machine| rules::placeholders(&machine.text)).collect();
    let source = tokens(&read(&root().join("infra/workflows.tf")));
    let start = source.iter().position(|token| *token == Token::Word("filled_in".to_owned())).unwrap();
    let given: BTreeSet<String> = source[start..]
        .windows(2)
        .take_while(|pair| pair[0] != Token::Mark('}'))
        .filter_map(|pair| match pair {
            [Token::Word(name), Token::Mark('=')] if name != "filled_in" && !name.contains('.') => Some(name.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(used, given);
}

/// The three of them; a fourth file would be one that nobody checks.
fn all() -> [Machine; 3] {
    let files = std::fs::read_dir(root().join("statemachine")).unwrap();
    let files = files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "json"));
    assert_eq!(files.count(), 3);
    [("document-pipeline", Kind::Standard), ("batch-inference", Kind::Standard), ("express-inference", Kind::Express)]
        .map(|(name, kind)| Machine::of(name, kind, read(&root().join(format!("statemachine/{name}.asl.json")))))
}

impl Machine {
    fn of(name: &'static str, kind: Kind, text: String) -> Self {
        let definition = serde_json::from_str(&text).unwrap();
        Self { name, kind, text, definition }
    }

    fn states(&self) -> &Map<String, Value> {
        self.definition["States"].as_object().unwrap()
    }

    fn start(&self) -> &str {
        self.definition["StartAt"].as_str().unwrap()
    }

    fn tasks(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.states().iter().filter(|(_, state)| state["Type"] == "Task")
    }
}

/// The entries of a list of a state, such as its `Retry`.
fn entries<'a>(state: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    state[list].as_array().into_iter().flatten()
}

/// The names of errors that a retrier or a catcher is for.
fn errors(entry: &Value) -> impl Iterator<Item = &str> {
    entries(entry, "ErrorEquals").map(|name| name.as_str().unwrap())
}

fn waits(state: &Value) -> bool {
    state["Resource"].as_str().is_some_and(|resource| resource.ends_with(".waitForTaskToken"))
}
