//! Who may import whom, and what may not be named where: read from the source itself.
//!
//! The sources are read as tokens, so that a path in a comment or in a string is no import, and one in a macro or in
//! a grouped `use` is. Test modules are no layer and are left out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A layer, and the layers it may import beside itself.
const IMPORTS: &[(&str, &[&str])] = &[
    ("job", &[]),
    ("rules", &["job"]),
    ("ports", &["job"]),
    ("telemetry", &["job", "ports"]),
    ("flow", &["job", "rules", "ports", "telemetry"]),
    ("document", &["job", "rules", "ports", "telemetry"]),
    ("bedrock", &["job", "ports"]),
    ("embedded", &["job", "ports"]),
    ("aws", &["job", "ports"]),
    ("simulate", &["job"]),
    ("config", &["job", "rules"]),
    ("cli", EVERY),
    ("page", EVERY),
    ("main", EVERY),
];
const EVERY: &[&str] = &[
    "job",
    "rules",
    "ports",
    "telemetry",
    "flow",
    "document",
    "bedrock",
    "embedded",
    "aws",
    "simulate",
    "config",
    "cli",
    "page",
];

/// The steps of the flow: none knows another; `worker` alone knows their order.
const STEPS: &[&str] = &["receive", "lease", "admit", "route", "infer", "record", "notify", "acknowledge"];

/// Where the SDK's types may be named, and which of its crates.
const SDK: &[(&str, &[&str])] =
    &[("bedrock", &["aws_"]), ("aws", &["aws_"]), ("simulate", &["aws_smithy_eventstream", "aws_smithy_types"])];

/// What nobody names but the layers beside it.
const FORBIDDEN: &[(&[&str], &[&str])] = &[
    (&["println", "!"], &["cli", "main"]),
    (&["eprintln", "!"], &["cli", "main"]),
    (&["print", "!"], &["cli", "main"]),
    (&["eprint", "!"], &["cli", "main"]),
    // The thread of the database waits for another process's lock: nothing else runs on it.
    (&["thread", "::", "sleep"], &["embedded"]),
    (&["process", "::", "exit"], &["main"]),
    (&["include", "!"], &[]),
];

/// What the words and the rules do without: time and chance are arguments there, and nothing is read or written.
const NOT_PURE: &[&[&str]] = &[
    &["tokio", "::"],
    &["rand", "::"],
    &["Instant", "::", "now"],
    &["SystemTime", "::", "now"],
    &["std", "::", "fs"],
    &["std", "::", "net"],
    &["std", "::", "env"],
    &["std", "::", "process"],
    &["std", "::", "thread"],
];
const PURE: &[&str] = &["job", "rules"];

/// Lines before a file's tests; beyond, it answers two questions.
const LONGEST: usize = 500;

#[test]
fn every_source_keeps_to_its_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &mut sources);
    assert!(sources.len() > 20, "found only {} sources below {}", sources.len(), root.display());
    let mut wrong = Vec::new();
    // Tests that are a file of their own are as little a layer as those inside one.
    sources.retain(|path| !path.ends_with("tests.rs"));
    for path in sources {
        let text = std::fs::read_to_string(&path).unwrap();
        wrong.extend(violations(path.strip_prefix(&root).unwrap(), &text));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(path);
        }
    }
}

/// What is wrong with one source; `path` is relative to `src`.
fn violations(path: &Path, text: &str) -> Vec<String> {
    let module = module_of(path);
    let Some(layer) = module.first() else { return Vec::new() };
    let shown = path.display();
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| name == layer) else {
        return vec![format!("{shown}: there is no layer `{layer}` in the table of imports")];
    };
    let tokens = words(text.parse().unwrap_or_else(|error| panic!("{shown}: {error}")));
    let mut wrong = BTreeSet::new();

    for import in imports(&module, &tokens) {
        let Some(target) = import.first() else { continue };
        if target != layer && EVERY.contains(&target.as_str()) && !allowed.contains(&target.as_str()) {
            wrong.insert(format!("{shown}: `{layer}` must not import `{target}`"));
        }
        if let ([from_layer, from], [to_layer, to, ..]) = (module.as_slice(), import.as_slice())
            && from_layer == "flow"
            && to_layer == "flow"
            && from != to
            && STEPS.contains(&from.as_str())
            && STEPS.contains(&to.as_str())
        {
            wrong.insert(format!("{shown}: the step `{from}` must not import the step `{to}`"));
        }
    }
    for name in sdk_crates(&tokens) {
        let allowed = SDK.iter().filter(|(at, _)| at == layer).flat_map(|(_, crates)| *crates);
        if !allowed.clone().any(|allowed| name.starts_with(allowed)) {
            wrong.insert(format!("{shown}: `{name}` of the SDK must not be named in `{layer}`"));
        }
    }
    let names = |sequence: &[&str]| tokens.windows(sequence.len()).any(|window| window == sequence);
    for (sequence, except) in FORBIDDEN {
        if names(sequence) && !except.contains(&layer.as_str()) {
            wrong.insert(format!("{shown}: `{}` must not be used in `{layer}`", sequence.concat()));
        }
    }
    for sequence in NOT_PURE {
        if names(sequence) && PURE.contains(&layer.as_str()) {
            wrong.insert(format!("{shown}: `{}` in `{layer}`, which is pure", sequence.concat()));
        }
    }
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
    if lines > LONGEST {
        wrong.insert(format!("{shown}: {lines} lines before its tests, at most {LONGEST}"));
    }
    wrong.into_iter().collect()
}

/// `flow/lease.rs` is `[flow, lease]`, `flow/mod.rs` is `[flow]`, `lib.rs` is `[]`.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<_> =
        path.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

/// The tokens as words, with `::` as one, groups opened and closed, and test modules left out.
fn words(stream: TokenStream) -> Vec<String> {
    let mut words = Vec::new();
    append_words(stream, &mut words);
    words
}

fn append_words(stream: TokenStream, words: &mut Vec<String>) {
    let mut after_test_attribute = false;
    for token in stream {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && after_test_attribute => {
                after_test_attribute = false;
            }
            TokenTree::Group(group) => {
                if group.delimiter() == Delimiter::Bracket && group.stream().to_string().replace(' ', "") == "cfg(test)"
                {
                    after_test_attribute = true;
                }
                let (open, close) = match group.delimiter() {
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::None => ("", ""),
                };
                words.push(open.into());
                append_words(group.stream(), words);
                words.push(close.into());
            }
            TokenTree::Punct(punct) => {
                if punct.as_char() == ';' {
                    after_test_attribute = false;
                }
                match words.last_mut() {
                    Some(last) if punct.as_char() == ':' && last == ":" => last.push(':'),
                    Some(_) | None => words.push(punct.as_char().into()),
                }
            }
            TokenTree::Ident(ident) => words.push(ident.to_string().trim_start_matches("r#").into()),
            // A literal keeps its place, so that what stands around it does not run together.
            TokenTree::Literal(_) => words.push("\"\"".into()),
        }
    }
}

/// Every path that begins with `crate` or climbs by `super`, as it reads from the root of the crate.
fn imports(module: &[String], words: &[String]) -> Vec<Vec<String>> {
    let mut imports = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let begins = at == 0 || words[at - 1] != "::";
        let mut base = match words[at].as_str() {
            "crate" | "aquifer" if begins => Vec::new(),
            "super" if begins => module[..module.len() - 1].to_vec(),
            _ => {
                at += 1;
                continue;
            }
        };
        at += 1;
        while words.get(at).is_some_and(|word| word == "::") && words.get(at + 1).is_some_and(|word| word == "super") {
            base.pop();
            at += 2;
        }
        if words.get(at).is_some_and(|word| word == "::") {
            at = follow(base, words, at + 1, &mut imports);
        }
    }
    imports
}

/// Reads what follows a `::`: one more segment, or a group with a path in each place. Returns where it ended.
fn follow(mut base: Vec<String>, words: &[String], mut at: usize, imports: &mut Vec<Vec<String>>) -> usize {
    if words.get(at).is_none_or(|word| word != "{") {
        if let Some(segment) = words.get(at) {
            base.push(segment.clone());
            at += 1;
        }
        if words.get(at).is_some_and(|word| word == "::") {
            return follow(base, words, at + 1, imports);
        }
        imports.push(base);
        return at;
    }
    at += 1;
    while words.get(at).is_some_and(|word| word != "}") {
        at = follow(base.clone(), words, at, imports);
        // `as name`, and the comma.
        while words.get(at).is_some_and(|word| word != "}" && word != ",") {
            at += 1;
        }
        if words.get(at).is_some_and(|word| word == ",") {
            at += 1;
        }
    }
    at + 1
}

/// The crates of the SDK that are named: at the head of a path or of a `use`.
fn sdk_crates(words: &[String]) -> BTreeSet<&str> {
    let is_head = |at: usize| {
        words.get(at + 1).is_some_and(|next| next == "::")
            || at.checked_sub(1).and_then(|before| words.get(before)).is_some_and(|before| before == "use")
    };
    words
        .iter()
        .enumerate()
        .filter(|(at, word)| word.starts_with("aws_") && is_head(*at))
        .map(|(_, word)| word.as_str())
        .collect()
}

// ---------------------------------------------------------------------------- the checker finds what is planted

fn finds(path: &str, text: &str) -> Vec<String> {
    violations(Path::new(path), text)
}

#[test]
fn an_import_that_is_not_allowed_is_found_in_every_form() {
    for text in [
        "use crate::flow::worker;",
        "use crate::{job::units::Tokens, flow::worker};",
        "use crate::{\n    job::{units, outcome::{Usage, Tally}},\n    flow,\n};",
        "fn f() { crate::flow::worker::run(); }",
        "fn f() { assert_eq!(1, crate::flow::worker::ONE); }",
        "pub(in crate::flow) fn f() {}",
        "use super::flow::worker;",
        "use crate::job as words; use crate::{job as other, flow as work};",
        "fn f() -> aquifer::flow::Worker {}",
    ] {
        let wrong = finds("simulate/mod.rs", text);
        assert_eq!(wrong, ["simulate/mod.rs: `simulate` must not import `flow`"], "{text}");
    }
    assert_eq!(finds("embedded/queue.rs", "use super::super::rules::pace;").len(), 1);
    assert_eq!(finds("job/units.rs", "use crate::ports::Queue;").len(), 1);
    assert_eq!(finds("rules/pace.rs", "use crate::config::Settings;").len(), 1);
    assert_eq!(finds("config.rs", "use super::ports::Queue;").len(), 1);
    assert_eq!(finds("bedrock/mod.rs", "use crate::embedded::Store;").len(), 1);
}

#[test]
fn what_is_allowed_or_no_import_is_let_through() {
    for (path, text) in [
        ("flow/worker.rs", "use crate::{job::units::Tokens, rules::pace, ports::Queue, telemetry};"),
        ("cli/run.rs", "use crate::{bedrock, embedded, simulate::Server, flow, config};"),
        ("simulate/mod.rs", "// use crate::flow;\n/* crate::flow */ const A: &str = \"crate::flow::x\";"),
        ("simulate/mod.rs", "#[cfg(test)]\nmod tests { use crate::flow::worker; fn f() { println!(); } }"),
        ("embedded/mod.rs", "use crate::embedded::settings::Settings; use super::ports;"),
        ("embedded/queue.rs", "use super::rules;"),
        ("lib.rs", "pub mod flow;"),
    ] {
        assert_eq!(finds(path, text), [""; 0], "{text}");
    }
}

#[test]
fn what_follows_a_test_module_is_read_again() {
    let text =
        "#[cfg(test)]\n#[allow(clippy::unwrap_used, reason = \"tests\")]\nmod tests {}\nuse crate::flow::worker;";
    assert_eq!(finds("simulate/mod.rs", text).len(), 1);
    let text = "#[cfg(test)]\nuse std::fmt;\nfn f() { crate::flow::run() }";
    assert_eq!(finds("simulate/mod.rs", text).len(), 1);
}

#[test]
fn a_step_that_imports_a_step_is_found() {
    for text in ["use crate::flow::lease::Lease;", "use super::lease;", "use crate::flow::{proof, lease::Lease};"] {
        assert_eq!(
            finds("flow/record.rs", text),
            ["flow/record.rs: the step `record` must not import the step `lease`"]
        );
    }
    assert_eq!(finds("flow/record.rs", "use super::proof::Receipt; use crate::flow::record::x;"), [""; 0]);
    assert_eq!(finds("flow/worker.rs", "use super::{lease, record};"), [""; 0]);
    assert_eq!(finds("flow/mod.rs", "pub use self::lease::Lease; use crate::flow::record;"), [""; 0]);
}

#[test]
fn a_crate_of_the_sdk_outside_its_place_is_found() {
    for text in ["use aws_sdk_bedrockruntime::Client;", "use aws_config;", "fn f(c: aws_config::SdkConfig) {}"] {
        assert_eq!(finds("flow/infer.rs", text).len(), 1, "{text}");
        assert_eq!(finds("simulate/mod.rs", text).len(), 1, "{text}");
        assert_eq!(finds("bedrock/client.rs", text), [""; 0], "{text}");
    }
    assert_eq!(finds("simulate/stream.rs", "use aws_smithy_eventstream::frame;"), [""; 0]);
    assert_eq!(finds("flow/infer.rs", "let aws_region = 1;"), [""; 0]);
}

#[test]
fn forbidden_words_and_impure_rules_are_found() {
    for text in ["fn f() { println!(\"x\"); }", "fn f() { std::thread::sleep(d); }", "fn f() { std::process::exit(1) }"]
    {
        assert_eq!(finds("flow/worker.rs", text).len(), 1, "{text}");
    }
    for text in ["fn f() { Instant::now(); }", "use tokio::time;", "fn f() { rand::random() }", "use std::fs;"] {
        assert_eq!(finds("rules/pace.rs", text).len(), 1, "{text}");
        assert_eq!(finds("flow/worker.rs", text), [""; 0], "{text}");
    }
}

#[test]
fn a_layer_without_a_rule_and_a_file_that_is_too_long_are_found() {
    assert_eq!(finds("helpers.rs", "").len(), 1);
    let long = "\n".repeat(LONGEST + 1);
    assert_eq!(finds("flow/worker.rs", &long).len(), 1);
    assert_eq!(finds("flow/worker.rs", &format!("{}#[cfg(test)]\n{long}", "\n".repeat(LONGEST))), [""; 0]);
}
