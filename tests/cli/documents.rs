//! `run --documents`, and `document` lines, as a person uses them.

use serde_json::{Value, json};

use crate::made;
use crate::support::{Place, json_lines};

const CONFIG: &str = r#"
[[model]]
name = "haiku"
id = "anthropic.claude-haiku-4-5-20251001-v1:0"
price = { input = 1.0, output = 5.0 }
[[endpoint]]
region = "us-west-2"
# Not for files that are named: one would be asked once, and the other is watched by workers alone.
[[upload]]
bucket = "drop"
chunk_tokens = 100000
[[upload]]
folder = "in"
chunk_tokens = 100000
[[upload]]
suffix = ".pdf"
template = "Sum up part {{chunk.number}} of {{document.name}}: {{chunk}}"
chunk_tokens = 200
reduce = "Bring these together: {{answers}}"
[[upload]]
"#;

fn named<'r>(results: &'r [Value], name: &str) -> &'r Value {
    let of = |result: &&Value| result["document"]["source"].as_str().is_some_and(|source| source.ends_with(name));
    results.iter().find(of).unwrap_or_else(|| panic!("no result of {name}"))
}

#[test]
fn a_folder_of_documents_gives_one_result_a_file_and_costs_nothing_twice() {
    let place = Place::new();
    place.write("aquifer.toml", CONFIG);
    std::fs::create_dir_all(place.path("in/more")).unwrap();
    place.write("in/report.pdf", made::pages(3));
    place.write("in/more/letter.docx", made::word_file());
    place.write("in/page.html", "<!doctype html><html><body><h1>News</h1><p>All is well.</p></body></html>");
    place.write("in/notes.md", "# Notes\n\nAll is well.\n");
    place.write("in/plain.txt", encoding_rs::WINDOWS_1252.encode("Schöne Grüße aus der Straße").0);
    place.write("in/.hidden", "not for anybody");
    let run = ["run", "--documents", "in", "--simulate", "--json"];
    let summary = place.aquifer(run).exits(0).json();
    assert_eq!(summary["succeeded"], 5, "{summary}");
    let results = place.results();
    let report = named(&results, "report.pdf");
    assert_eq!(report["document"]["type"], "pdf");
    assert_eq!(report["document"]["pages"], 3);
    let chunks = report["document"]["chunks"].as_u64().unwrap();
    assert!(chunks > 3, "{report}");
    assert_eq!(report["model_calls"], chunks + 1, "each chunk, and what brings them together");
    assert_eq!(report["output"]["chunks"].as_array().unwrap().len() as u64, chunks);
    let (id, page) = (report["id"].as_str().unwrap(), &report["output"]["chunks"][chunks as usize - 1]["page"]);
    assert!(id.starts_with("in:report.pdf-"), "{id}");
    assert_eq!(page, 3);
    for (name, kind) in
        [("letter.docx", "docx"), ("page.html", "html"), ("notes.md", "markdown"), ("plain.txt", "text")]
    {
        let result = named(&results, name);
        assert_eq!((&result["status"], &result["document"]["type"]), (&json!("succeeded"), &json!(kind)), "{name}");
    }

    let again = place.aquifer(run).exits(0).json();
    assert_eq!(again["model_calls"], 0, "{again}");
    place.write("in/notes.md", "# Notes\n\nAll is better.\n");
    let edited = place.aquifer(run).exits(0).json();
    assert_eq!(edited["model_calls"], 1, "only the file that changed: {edited}");

    let told = place.aquifer(["explain", &format!("{id}#2"), "--json", "--state", ".aquifer/simulated"]).exits(0);
    let told = json_lines(&told.stdout).pop().unwrap();
    assert_eq!((&told["id"], &told["state"]), (&json!(format!("{id}#2")), &json!("succeeded")));
    let text = place.aquifer(["explain", id, "--state", ".aquifer/simulated"]).exits(0);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(&format!("{chunks} of {chunks} ended")), "{text}");
    let status = place.aquifer(["status", "--json", "--state", ".aquifer/simulated"]).exits(0);
    assert_eq!(json_lines(&status.stdout).len(), 1, "batches of chunks are not listed");
}

#[test]
fn f13_each_bad_document_is_one_rejected_result_with_type_and_reason() {
    let place = Place::new();
    place.write("aquifer.toml", CONFIG);
    std::fs::create_dir(place.path("in")).unwrap();
    let cases: [(&str, Vec<u8>, &str, &str); 7] = [
        ("empty.txt", Vec::new(), "bad_input", "empty"),
        ("picture.pdf", b"\x89PNG\r\n\x1a\n\0\0\0\0\0".to_vec(), "bad_input", "image/png"),
        ("scanned.pdf", made::scanned(), "no_text", "native"),
        ("encrypted.pdf", made::encrypted(), "bad_input", "encrypted"),
        ("truncated.pdf", made::truncated(), "bad_input", "damaged"),
        ("bomb.docx", made::bomb_docx(), "too_large", "split"),
        ("bomb.pdf", made::bomb_pdf(), "too_large", "split"),
    ];
    for (name, file, _, _) in &cases {
        place.write(&format!("in/{name}"), file);
    }
    place.write("in/good.txt", "All is well.");
    let summary = place.aquifer(["run", "--documents", "in", "--simulate", "--json"]).exits(3).json();
    assert_eq!((&summary["succeeded"], &summary["rejected"]), (&json!(1), &json!(7)), "{summary}");
    let results = place.results();
    for (name, _, class, said) in cases {
        let result = named(&results, name);
        assert_eq!(
            (&result["status"], &result["error"]["class"]),
            (&json!("rejected"), &json!(class)),
            "{name}: {result}"
        );
        assert!(result["error"]["message"].as_str().unwrap().contains(said), "{name}: {result}");
        assert_eq!(result["model_calls"], 0, "{name}");
    }
    assert_eq!(named(&results, "picture.pdf")["document"]["type"], "image/png");
    let events = String::from_utf8(place.read(".aquifer/simulated/events.jsonl")).unwrap();
    assert!(events.contains("no_text"), "the notice says so");
}

#[test]
fn a_document_is_a_line_among_others() {
    let place = Place::new();
    place.write("aquifer.toml", CONFIG);
    place.write("a.pdf", made::text_pdf());
    place.write_lines(
        "jobs.jsonl",
        &[
            json!({ "id": "prompt", "prompt": "Hello" }),
            json!({ "id": "doc", "document": { "source": "a.pdf" } }),
            json!({ "id": "native", "document": { "source": "a.pdf", "mode": "native", "template": "What is this?" } }),
            json!({ "id": "gone", "document": { "source": "gone.pdf" } }),
            json!({ "id": "wrong", "document": { "source": "a.pdf", "template": "{{chunck}}" } }),
        ],
    );
    place.aquifer(["run", "jobs.jsonl", "--simulate"]).exits(3);
    let results = place.results();
    let of = |id: &str| results.iter().find(|result| result["id"] == id).unwrap();
    for id in ["prompt", "doc", "native"] {
        assert_eq!(of(id)["status"], "succeeded", "{}", of(id));
    }
    assert_eq!((&of("doc")["document"]["chunks"], &of("doc")["document"]["pages"]), (&json!(1), &json!(2)));
    assert!(of("gone")["error"]["message"].as_str().unwrap().contains("no such file"), "{}", of("gone"));
    assert!(of("wrong")["error"]["message"].as_str().unwrap().contains("{{chunck}}"), "{}", of("wrong"));
}

#[test]
fn a_rule_with_an_unknown_variable_is_named_at_the_start() {
    let place = Place::new();
    place.write("aquifer.toml", "[[upload]]\ntemplate = \"Sum up {{page}}\"\n");
    place.write("a.txt", "All is well.");
    let ended = place.aquifer(["run", "--documents", "a.txt", "--simulate"]).exits(2);
    assert!(ended.stderr.contains("{{page}}") && ended.stderr.contains("{{chunk.number}}"), "{}", ended.stderr);
}
