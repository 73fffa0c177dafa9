//! What is to be drained? Jobs of real sizes, each of exactly as many tokens as a request of the trace had.
//!
//! The sizes are from the "Azure LLM inference trace 2023" (code completion) of Microsoft's AzurePublicDataset, licence
//! CC-BY 4.0; `benches/data/README.md` says more. The texts are ours: the simulator counts four bytes as a token, and
//! answers with as many tokens as the prompt asks for in `[answer: N tokens]`.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

const TRACE: &str = include_str!("../data/azure-llm-2023-code.csv");
/// The simulator's own rule.
const BYTES_PER_TOKEN: u64 = 4;
/// Of the prompt that cached jobs have in common; above what the service caches at least.
const PREFIX_TOKENS: u64 = 1_200;
/// Quota tokens per output token where the answers are to cost more than was reserved for them.
pub(crate) const BURNDOWN: u64 = 5;

/// How the sizes become jobs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    /// One prompt and a cap of 1,024 tokens, however short its answer.
    Plain,
    /// A shared prefix up to a cache point, and a cap only a quarter above the answer: with [`BURNDOWN`] most jobs
    /// settle above their reservation.
    Cached,
    /// Not from the trace: 300 tokens in, 200 out on average, a cap of 16,384.
    Generous,
    /// The same, and the cap is for the worker to find.
    RightSized,
}

/// Jobs, and what they cost.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) jobs: Vec<Job>,
    /// What the quota is charged when each is answered once.
    pub(crate) settled: u64,
    /// The jobs as lines.
    pub(crate) file: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Job {
    id: String,
    system: Option<Arc<str>>,
    pub(crate) prompt: String,
    /// `None` is `"auto"`.
    pub(crate) cap: Option<u32>,
    settles: u64,
}

impl Backlog {
    /// As many jobs as settle to `tokens` of quota together, written to a file of this name.
    pub(crate) fn of_tokens(tokens: u64, form: Form, file: PathBuf) -> Arc<Self> {
        let mut left = tokens;
        Self::new(form, file, |job| {
            let wanted = left > 0;
            left = left.saturating_sub(job.settles);
            wanted
        })
    }

    /// So many jobs.
    pub(crate) fn of_jobs(count: usize, form: Form, file: PathBuf) -> Arc<Self> {
        let mut left = count;
        Self::new(form, file, |_| {
            let wanted = left > 0;
            left = left.saturating_sub(1);
            wanted
        })
    }

    fn new(form: Form, file: PathBuf, mut is_wanted: impl FnMut(&Job) -> bool) -> Arc<Self> {
        let jobs: Vec<Job> = jobs(form).take_while(|job| is_wanted(job)).collect();
        // Whoever comes first writes the prefix to the cache; everybody else reads it for nothing.
        let written = if form == Form::Cached { PREFIX_TOKENS } else { 0 };
        let settled = written + jobs.iter().map(|job| job.settles).sum::<u64>();
        write(&file, &jobs);
        Arc::new(Self { jobs, settled, file })
    }
}

fn write(file: &Path, jobs: &[Job]) {
    let mut file = BufWriter::new(File::create(file).unwrap());
    for job in jobs {
        writeln!(file, "{}", job.line()).unwrap();
    }
    file.flush().unwrap();
}

impl Job {
    /// A line of an input.
    fn line(&self) -> Value {
        let cap = self.cap.map_or_else(|| json!("auto"), |cap| json!(cap));
        match &self.system {
            None => json!({ "id": self.id, "prompt": self.prompt, "max_tokens": cap }),
            Some(system) => json!({
                "id": self.id,
                "converse": {
                    "system": [{ "text": system }, { "cachePoint": { "type": "default" } }],
                    "messages": [{ "role": "user", "content": [{ "text": self.prompt }] }],
                },
                "max_tokens": cap,
            }),
        }
    }
}

/// Without end, each with a text of its own.
fn jobs(form: Form) -> impl Iterator<Item = Job> {
    let trace = trace();
    let prefix: Arc<str> = pad(String::new(), PREFIX_TOKENS).into();
    (0..).map(move |number: usize| {
        // A step prime to the length: every request once, in an order that has nothing to do with when it came.
        let (context, generated) = trace[number * 1_301 % trace.len()];
        let id = format!("request-{number}");
        let (input, output, burndown) = match form {
            Form::Plain => (context, generated, 1),
            Form::Cached => (context.saturating_sub(PREFIX_TOKENS), generated, BURNDOWN),
            Form::Generous | Form::RightSized => (300, answer_of_two_hundred(number), 1),
        };
        let head = format!("[answer: {output} tokens] Request {number}. ");
        let input = input.max((head.len() as u64).div_ceil(BYTES_PER_TOKEN));
        Job {
            id,
            system: (form == Form::Cached).then(|| Arc::clone(&prefix)),
            prompt: pad(head, input),
            cap: match form {
                Form::Plain => Some(1_024),
                Form::Cached => Some(u32::try_from(output + output.div_ceil(4)).unwrap()),
                Form::Generous => Some(16_384),
                Form::RightSized => None,
            },
            settles: input + output * burndown,
        }
    })
}

/// From 92 to 292, and one in a hundred of 1,000.
fn answer_of_two_hundred(number: usize) -> u64 {
    if number % 100 == 50 { 1_000 } else { 92 + (number as u64 * 37) % 201 }
}

/// Input and output tokens of each request.
fn trace() -> Vec<(u64, u64)> {
    let sizes = |line: &str| {
        let (context, generated) = line.split_once(',').unwrap();
        (context.parse().unwrap(), generated.parse().unwrap())
    };
    TRACE.lines().skip(1).map(sizes).collect()
}

/// Goes on with words until it is so many tokens long.
fn pad(mut text: String, tokens: u64) -> String {
    const WORDS: &str = "Complete the function below so that its tests pass, and change nothing else in the file. ";
    let length = usize::try_from(tokens * BYTES_PER_TOKEN).unwrap();
    while text.len() < length {
        text.push_str(&WORDS[..WORDS.len().min(length - text.len())]);
    }
    text
}
