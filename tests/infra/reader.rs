//! What do Terraform's files say? Blocks and the texts in them, as far as these tests ask; no expression is worked out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `kind "label" "label" { ... }` or `name = { ... }`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    /// Kind and labels, or the name.
    pub(crate) header: Vec<String>,
    /// What is set in it, itself.
    pub(crate) names: BTreeSet<String>,
    /// Of that, what is a text.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The names in its `dimensions`, in either form.
    pub(crate) dimensions: BTreeSet<String>,
    /// Namespace and name of its `metric_transformation`.
    pub(crate) transformation: Option<(String, String)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Token {
    Word(String),
    /// What stands between the quotes, unescaped; what `${}` holds stays as it is.
    Text(String),
    Mark(char),
}

/// Every block of every file, inner ones before outer ones.
pub(crate) fn terraform() -> Vec<Block> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root().join("infra")).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "tf"));
    files.sort();
    assert!(files.len() > 10, "found only {files:?}");
    files.iter().flat_map(|file| blocks(&tokens(&read(file)))).collect()
}

pub(crate) fn blocks(tokens: &[Token]) -> Vec<Block> {
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
pub(crate) fn tokens(source: &str) -> Vec<Token> {
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

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
