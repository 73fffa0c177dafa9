//! Where does a state machine go from each state, and how far at most?

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Machine, entries, errors};

/// Where a state may go when all is well: on, or by a rule of a choice.
pub(super) fn onward(state: &Value) -> Vec<&str> {
    let rules = entries(state, "Choices").map(|rule| &rule["Next"]);
    rules.chain([&state["Next"], &state["Default"]]).filter_map(Value::as_str).collect()
}

/// Likewise when it is not.
pub(super) fn caught(state: &Value) -> Vec<&str> {
    entries(state, "Catch").filter_map(|catcher| catcher["Next"].as_str()).collect()
}

/// Where whatever nobody foresaw leads.
pub(super) fn caught_all(state: &Value) -> Option<&str> {
    let last = entries(state, "Catch").last()?;
    errors(last).any(|name| name == "States.ALL").then(|| last["Next"].as_str())?
}

/// All states that may follow, this one included.
pub(super) fn reachable<'a>(machine: &'a Machine, from: &'a str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(name) = open.pop() {
        if let Some(state) = machine.states().get(name)
            && seen.insert(name)
        {
            open.extend(onward(state).into_iter().chain(caught(state)));
        }
    }
    seen
}

/// The states that can come back to themselves.
pub(super) fn cycling(machine: &Machine) -> BTreeSet<&str> {
    let comes_back = |name: &&str| {
        let state = &machine.states()[*name];
        let next = onward(state).into_iter().chain(caught(state)).map(str::to_owned).collect::<Vec<_>>();
        next.iter().any(|next| reachable(machine, next).contains(name))
    };
    machine.states().keys().map(String::as_str).filter(comes_back).collect()
}

/// The way of the most states on which all is well; in a circle it goes round once.
pub(super) fn longest(machine: &Machine) -> Vec<&str> {
    fn from<'a>(
        machine: &'a Machine,
        name: &'a str,
        before: &mut Vec<&'a str>,
        known: &mut BTreeMap<&'a str, Vec<&'a str>>,
    ) -> Vec<&'a str> {
        if let Some(known) = known.get(name) {
            return known.clone();
        }
        let Some(state) = machine.states().get(name) else { return Vec::new() };
        if before.contains(&name) {
            return Vec::new();
        }
        before.push(name);
        let rest = onward(state).into_iter().map(|next| from(machine, next, before, known));
        let rest = rest.max_by_key(Vec::len).unwrap_or_default();
        before.pop();
        let way: Vec<&str> = std::iter::once(name).chain(rest).collect();
        known.insert(name, way.clone());
        way
    }
    from(machine, machine.start(), &mut Vec::new(), &mut BTreeMap::new())
}
