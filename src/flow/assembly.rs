//! What do the ends of its chunks make of a document? Arithmetic over results: no store, no clock.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::job::document::Partial;
use crate::job::failure::{Class, Failure};
use crate::job::lifecycle::Status;
use crate::job::outcome::{DocumentResult, JobResult, Usage};

/// Between the answers of chunks where they are put one after the other.
const BETWEEN: &str = "\n\n";

/// Where a chunk stands in its document.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Piece {
    /// The page on which it begins, from 1.
    pub page: Option<u32>,
    /// Its first character, from 0.
    pub offset: Option<u64>,
    /// Its characters.
    pub length: Option<u64>,
}

/// A part of a document that has ended.
#[derive(Clone, Debug)]
pub struct Part {
    /// As people call it: `document#3`.
    pub id: String,
    /// How it ended.
    pub status: Status,
    /// Its answer.
    pub text: Option<String>,
    piece: Piece,
    line: JobResult,
}

impl Part {
    /// From its own result.
    pub fn of(id: String, piece: Piece, mut line: JobResult) -> Self {
        let text = line.text.take().filter(|_| line.status == Status::Succeeded);
        Self { id, status: line.status, text, piece, line }
    }

    /// As it stands in the document's result.
    fn told(&self) -> Value {
        let Piece { page, offset, length } = self.piece;
        json!({
            "id": self.id, "status": self.status, "page": page, "offset": offset, "length": length, "text": self.text,
            "stop_reason": self.line.stop_reason, "usage": self.line.usage, "error": self.line.error,
        })
    }
}

/// What a document came to.
#[derive(Debug)]
pub struct Assembled {
    /// How it ended.
    pub status: Status,
    /// Why not better.
    pub error: Option<Failure>,
    /// What is said of the document.
    pub document: DocumentResult,
    /// The last answer, else all of them in order.
    pub text: Option<String>,
    /// Every chunk with its answer, in order.
    pub output: Option<Value>,
    /// Of all answers.
    pub usage: Usage,
    /// Why the model stopped, where there is one last answer.
    pub stop_reason: Option<String>,
    /// Who gave the last answer, or the first.
    pub model_used: Option<String>,
    /// Where.
    pub region: Option<String>,
    /// Whether another model than the one asked for gave any of them.
    pub degraded: bool,
    /// In calls, over all parts, in milliseconds.
    pub model_ms: u64,
    /// Bytes of text that were sent, in all.
    pub text_bytes: Option<u64>,
}

impl Assembled {
    /// A document that never came to chunks.
    pub fn without_parts(error: Failure, document: DocumentResult) -> Self {
        Self {
            status: error.class.end(),
            error: Some(error),
            document,
            text: None,
            output: None,
            usage: Usage::default(),
            stop_reason: None,
            model_used: None,
            region: None,
            degraded: false,
            model_ms: 0,
            text_bytes: None,
        }
    }
}

/// Brings them together: `last` is the one answer over all answers, or what failed on the way to it.
pub fn assemble(policy: Partial, document: DocumentResult, chunks: Vec<Part>, last: Option<Part>) -> Assembled {
    let parts = || chunks.iter().chain(&last);
    let short = parts().filter(|part| part.status != Status::Succeeded);
    let failed = short.clone().count();
    let status = status(policy, chunks.iter().chain(&last).map(|part| part.status));
    let error = short.clone().next().map(|first| {
        let class = first.line.error.as_ref().map_or(Class::Unknown, |error| error.class);
        let why = first.line.error.as_ref().map_or("", |error| error.message.as_str());
        let request_id = first.line.error.as_ref().and_then(|error| error.request_id.clone());
        let message = format!("{failed} of its {} parts did not succeed; {}: {why}", parts().count(), first.id);
        Failure { class, message, request_id }
    });
    let joined = || {
        let texts: Vec<&str> = chunks.iter().filter_map(|part| part.text.as_deref()).collect();
        (!texts.is_empty()).then(|| texts.join(BETWEEN))
    };
    let reduced = last.as_ref().filter(|part| part.status == Status::Succeeded);
    let one = reduced.or_else(|| chunks.first().filter(|_| chunks.len() == 1));
    let answered = reduced.or_else(|| chunks.iter().find(|part| part.status == Status::Succeeded));
    let sum = |of: fn(&Usage) -> u64| parts().map(|part| of(&part.line.usage)).sum();
    Assembled {
        status,
        error,
        document,
        text: reduced.map_or_else(joined, |part| part.text.clone()),
        output: Some(json!({ "chunks": chunks.iter().map(Part::told).collect::<Vec<_>>() })),
        usage: Usage {
            input_tokens: sum(|usage| usage.input_tokens),
            output_tokens: sum(|usage| usage.output_tokens),
            cache_read_tokens: sum(|usage| usage.cache_read_tokens),
            cache_write_tokens: sum(|usage| usage.cache_write_tokens),
        },
        stop_reason: one.and_then(|part| part.line.stop_reason.clone()),
        model_used: answered.and_then(|part| part.line.model_used.clone()),
        region: answered.and_then(|part| part.line.region.clone()),
        degraded: parts().any(|part| part.line.degraded),
        model_ms: parts().map(|part| part.line.timing.model_ms).sum(),
        text_bytes: parts().map(|part| part.line.text_bytes).sum(),
    }
}

/// Partial is not success, and what nobody answered is not partial.
fn status(policy: Partial, parts: impl Iterator<Item = Status> + Clone) -> Status {
    let is_all = |status: Status| parts.clone().all(|part| part == status);
    if is_all(Status::Succeeded) {
        return Status::Succeeded;
    }
    if let Some(same) = [Status::Expired, Status::Rejected].into_iter().find(|status| is_all(*status)) {
        return same;
    }
    let answered = parts.clone().any(|part| part == Status::Succeeded);
    if answered && policy == Partial::Keep { Status::Partial } else { Status::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f11_partial_is_not_success() {
        use Status::{Expired, Failed, Partial as Some_, Rejected, Succeeded};
        for (policy, parts, ends) in [
            (Partial::Keep, &[Succeeded, Succeeded][..], Succeeded),
            (Partial::Keep, &[Succeeded, Failed], Some_),
            (Partial::Fail, &[Succeeded, Failed], Failed),
            (Partial::Keep, &[Failed, Expired], Failed),
            (Partial::Keep, &[Expired, Expired], Expired),
            (Partial::Fail, &[Rejected], Rejected),
            (Partial::Keep, &[Succeeded, Expired], Some_),
        ] {
            assert_eq!(status(policy, parts.iter().copied()), ends, "{policy:?} {parts:?}");
        }
    }
}
