//! What does the source do? Which operations of the services it calls, and which warnings and errors it writes: read as
//! tokens, so that neither a comment nor a text is one.

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

use crate::reader::{read, root};

/// What only a person's commands call: `check`, `dead` and `forget`.
const OPERATORS: [&str; 3] = ["check", "dead", "forget"];

/// The operations that `src/aws` calls for a worker, by the client that it calls them on. What `check --create` makes is
/// nobody's to make who has a role of `infra/`.
pub(crate) fn workers_operations() -> BTreeSet<(String, String)> {
    operations(|file| !is_operators(file))
}

/// Likewise for an operator.
pub(crate) fn operators_operations() -> BTreeSet<(String, String)> {
    operations(is_operators)
}

fn is_operators(file: &Path) -> bool {
    let below = file.strip_prefix(root().join("src/aws")).unwrap().with_extension("");
    let first = below.components().next().unwrap();
    OPERATORS.iter().any(|name| first.as_os_str() == *name)
}

fn operations(is_meant: impl Fn(&Path) -> bool) -> BTreeSet<(String, String)> {
    let mut operations = BTreeSet::new();
    let mut folders = vec![root().join("src/aws")];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap().path();
            if file.is_dir() {
                folders.push(file);
            } else if is_meant(&file) && !(file.ends_with("provision.rs") || file.ends_with("tests.rs")) {
                collect_operations(read(&file).parse().unwrap(), &mut operations);
            }
        }
    }
    operations
}

fn collect_operations(source: TokenStream, operations: &mut BTreeSet<(String, String)>) {
    const CLIENTS: [&str; 5] = ["sqs", "dynamodb", "s3", "sns", "sfn"];
    const NO_OPERATIONS: [&str; 2] = ["clone", "config"];
    let tokens: Vec<TokenTree> = source.into_iter().collect();
    for (place, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let before: Vec<String> = tokens[place.saturating_sub(3)..place].iter().map(ToString::to_string).collect();
        match &before[..] {
            [.., module, name] if module == "mod" && name == "tests" => continue,
            [client, dot, operation]
                if dot == "." && CLIENTS.contains(&client.as_str()) && !NO_OPERATIONS.contains(&operation.as_str()) =>
            {
                operations.insert((client.clone(), operation.clone()));
            }
            _ => {}
        }
        collect_operations(group.stream(), operations);
    }
}

/// The texts in `warn!` and `error!` of the list of events.
pub(crate) fn warnings_and_errors() -> Vec<String> {
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
