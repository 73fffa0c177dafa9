//! Do the example scenarios say what they play, and all that can be played?

use std::collections::BTreeSet;
use std::path::PathBuf;

use aquifer::simulate::Scenario;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/scenarios")
}

pub fn example(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `settings.toml` with everything in it that is only an example.
fn everything() -> String {
    let table = |line: &str| line.starts_with("[[") && line.ends_with("]]");
    let setting = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let uncommented = |line: &str| {
        let bare = line.strip_prefix("# ").filter(|bare| table(bare) || setting(bare));
        // Either this or p50 and p99.
        bare.filter(|bare| !bare.starts_with("constant")).unwrap_or(line).to_owned()
    };
    example("settings.toml").lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_example_is_a_scenario() {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Err(error) = Scenario::from_toml(&example(&name)) {
            panic!("{name}: {error}");
        }
        names.insert(name);
    }
    for name in ["brownout", "outage", "quota", "ramp", "replay", "settings", "slow-lane", "storm", "strangers"] {
        assert!(names.contains(&format!("{name}.toml")), "{name}.toml is missing");
    }
}

#[test]
fn what_settings_toml_shows_as_examples_would_be_understood() {
    let text = everything();
    if let Err(error) = Scenario::from_toml(&text) {
        panic!("{error}\n{text}");
    }
    let tables = ["model", "quota", "stranger", "brownout", "fault"].map(|table| format!("\n[[{table}]]\n"));
    assert!(tables.iter().all(|table| text.contains(table)), "{text}");
}

/// Every (table, key) that `settings.toml` sets or shows.
fn explained() -> BTreeSet<(String, String)> {
    let mut table = String::new();
    let mut keys = BTreeSet::new();
    for line in example("settings.toml").lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        if line.starts_with('[') && line.ends_with(']') {
            line.clone_into(&mut table);
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.insert((table.clone(), key.to_owned()));
        }
    }
    keys
}

/// The keys are asked of the reader itself, by a key that no table knows.
#[test]
fn settings_toml_explains_every_key() {
    let explained = explained();
    let tables = ["[latency]", "[answer]", "[[model]]", "[[quota]]", "[[stranger]]", "[[brownout]]", "[[fault]]"];
    for table in tables.into_iter().chain([""]) {
        let error = Scenario::from_toml(&format!("{table}\nno_such_key = 1")).unwrap_err().to_string();
        let (_, known) = error.split_once("expected one of").unwrap_or_else(|| panic!("{error}"));
        let keys: Vec<_> = known.split('`').skip(1).step_by(2).collect();
        assert!(keys.len() >= 3, "{error}");
        for key in keys {
            let own_table = tables.contains(&&*format!("[{key}]")) || tables.contains(&&*format!("[[{key}]]"));
            let shown = explained.contains(&(table.to_owned(), key.to_owned()));
            assert!(shown || (table.is_empty() && own_table), "`{key}` of {table:?} is not explained");
        }
    }
}
