//! What is a part of a document asked? A text with `{{variables}}`, checked when it is read and not when it is first used.

use std::ops::Range;

/// A variable of a template.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variable {
    /// `{{chunk}}`: the text of the chunk.
    Chunk,
    /// `{{document.name}}`: the file's name, without its folders.
    DocumentName,
    /// `{{chunk.number}}`: its place in the document, from 1.
    ChunkNumber,
    /// `{{chunk.count}}`: how many chunks the document has.
    ChunkCount,
    /// `{{answers}}`: the answers that are brought together.
    Answers,
}

impl Variable {
    const ALL: [Self; 5] = [Self::Chunk, Self::DocumentName, Self::ChunkNumber, Self::ChunkCount, Self::Answers];

    /// As it is written between the braces.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::DocumentName => "document.name",
            Self::ChunkNumber => "chunk.number",
            Self::ChunkCount => "chunk.count",
            Self::Answers => "answers",
        }
    }
}

/// What a template is for, which decides what it may say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Asks about one chunk.
    Chunk,
    /// Asks about a whole file that is sent along.
    Native,
    /// Brings answers together.
    Reduce,
}

impl Purpose {
    fn allows(self, variable: Variable) -> bool {
        match variable {
            Variable::DocumentName => true,
            Variable::Chunk | Variable::ChunkNumber => self == Self::Chunk,
            Variable::ChunkCount => self != Self::Native,
            Variable::Answers => self == Self::Reduce,
        }
    }

    /// What a template of this purpose would be pointless without.
    fn needs(self) -> Option<Variable> {
        match self {
            Self::Chunk => Some(Variable::Chunk),
            Self::Native => None,
            Self::Reduce => Some(Variable::Answers),
        }
    }

    fn allowed(self) -> String {
        let allowed = Variable::ALL.into_iter().filter(|variable| self.allows(*variable));
        allowed.map(|variable| format!("{{{{{}}}}}", variable.word())).collect::<Vec<_>>().join(", ")
    }
}

/// Why a text is no template. Says the variable, never the text around it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TemplateError {
    /// Nobody knows it, or not here.
    #[error("unknown variable {{{{{name}}}}}; there are {allowed}")]
    Unknown {
        /// What stands between the braces.
        name: String,
        /// Those that there are.
        allowed: String,
    },
    /// `{{` without `}}`.
    #[error("`{{{{` at character {at} is not closed by `}}}}`")]
    Open {
        /// Where, from 1.
        at: usize,
    },
    /// Without it, every part would be asked the same.
    #[error("no {{{{{name}}}}}: what it is about would not be sent")]
    Missing {
        /// What is missing.
        name: &'static str,
    },
}

/// A text with variables, all of them known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    text: String,
    variables: Vec<(Range<usize>, Variable)>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`], with the first thing wrong.
    pub fn new(text: &str, purpose: Purpose) -> Result<Self, TemplateError> {
        let mut variables = Vec::new();
        let mut at = 0;
        while let Some(open) = text.get(at..).and_then(|rest| rest.find("{{")).map(|found| at + found) {
            let rest = text.get(open + 2..).unwrap_or_default();
            let Some(length) = rest.find("}}") else {
                return Err(TemplateError::Open { at: text.get(..open).unwrap_or_default().chars().count() + 1 });
            };
            let name = rest.get(..length).unwrap_or_default().trim();
            let known = Variable::ALL.into_iter().find(|variable| variable.word() == name);
            let Some(variable) = known.filter(|variable| purpose.allows(*variable)) else {
                return Err(TemplateError::Unknown {
                    name: name.chars().take(40).collect(),
                    allowed: purpose.allowed(),
                });
            };
            at = open + 2 + length + 2;
            variables.push((open..at, variable));
        }
        match purpose.needs() {
            Some(needed) if !variables.iter().any(|(_, variable)| *variable == needed) => {
                Err(TemplateError::Missing { name: needed.word() })
            }
            Some(_) | None => Ok(Self { text: text.to_owned(), variables }),
        }
    }

    /// The text with every variable replaced, in two parts: what is the same for all chunks of a document, and the rest.
    pub fn fill<'v>(&self, value: impl Fn(Variable) -> std::borrow::Cow<'v, str>) -> (String, String) {
        let (mut shared, mut own) = (String::new(), String::new());
        let (mut from, mut is_own) = (0, false);
        for (range, variable) in &self.variables {
            // What is written once is the same for all of them; what comes from the chunk is not.
            let varies = matches!(variable, Variable::Chunk | Variable::ChunkNumber | Variable::Answers);
            let part = if is_own { &mut own } else { &mut shared };
            part.push_str(self.text.get(from..range.start).unwrap_or_default());
            is_own |= varies;
            let part = if is_own { &mut own } else { &mut shared };
            part.push_str(&value(*variable));
            from = range.end;
        }
        let part = if is_own { &mut own } else { &mut shared };
        part.push_str(self.text.get(from..).unwrap_or_default());
        (shared, own)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn value(variable: Variable) -> std::borrow::Cow<'static, str> {
        match variable {
            Variable::Chunk => "CHUNK".into(),
            Variable::DocumentName => "a.pdf".into(),
            Variable::ChunkNumber => "2".into(),
            Variable::ChunkCount => "7".into(),
            Variable::Answers => "ANSWERS".into(),
        }
    }

    #[test]
    fn what_stands_before_the_first_word_of_a_chunk_is_shared() {
        let template =
            Template::new("Of {{document.name}} ({{ chunk.count }}): {{chunk}} End.", Purpose::Chunk).unwrap();
        assert_eq!(template.fill(value), ("Of a.pdf (7): ".to_owned(), "CHUNK End.".to_owned()));
        let template = Template::new("{{chunk.number}}/{{chunk.count}} {{chunk}}", Purpose::Chunk).unwrap();
        assert_eq!(template.fill(value), (String::new(), "2/7 CHUNK".to_owned()));
    }

    #[test]
    fn a_variable_in_a_chunk_is_text() {
        let template = Template::new("{{chunk}}", Purpose::Chunk).unwrap();
        let (_, own) = template.fill(|_| "say {{chunk}}".into());
        assert_eq!(own, "say {{chunk}}");
    }

    #[test]
    fn an_unknown_variable_is_named_with_those_that_there_are() {
        let error = Template::new("{{chunk}} {{page}}", Purpose::Chunk).unwrap_err().to_string();
        assert!(error.contains("{{page}}") && error.contains("{{chunk.number}}"), "{error}");
        let error = Template::new("{{answers}} {{chunk}}", Purpose::Reduce).unwrap_err().to_string();
        assert!(error.contains("unknown variable {{chunk}}"), "{error}");
        assert_eq!(Template::new("é {{chunk", Purpose::Chunk), Err(TemplateError::Open { at: 3 }));
        assert_eq!(Template::new("Hello", Purpose::Chunk), Err(TemplateError::Missing { name: "chunk" }));
    }
}
