//! What does the server let through? Asked without a browser, as somebody might who means no good.

use serde_json::{Value, json};

use crate::support::Place;
use crate::{TOKEN, Worker, ask};

/// Status and body of a POST of JSON with the token, as our own page sends it, with these headers instead or beside.
fn post(worker: &Worker, path: &str, body: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let address = worker.address.as_str();
    let bearer = format!("Bearer {TOKEN}");
    let mut all = vec![("host", address), ("content-type", "application/json"), ("authorization", &bearer)];
    for (name, value) in headers {
        all.retain(|(set, _)| set != name);
        all.push((name, value));
    }
    let lines: String = all.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (status, _, said) = ask(address, &format!("POST {path} HTTP/1.1\r\n{lines}"), body);
    (status, said)
}

#[test]
fn every_answer_forbids_what_the_page_does_not_need() {
    let place = Place::new();
    let worker = Worker::start(&place, "--simulate");
    let address = &worker.address;
    for path in ["/", "/page.js", "/page.css", "/icon.svg", "/api/status", "/metrics", "/healthz", "/nowhere"] {
        let (status, head, _) = ask(address, &format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n"), "");
        assert_eq!(status, if path == "/nowhere" { 404 } else { 200 }, "{path}");
        for line in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
             connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
        ] {
            assert!(head.contains(line), "{path}: {line} is not in\n{head}");
        }
        assert!(!head.contains("access-control"), "no other site may read it: {head}");
    }
    worker.stop();
}

#[test]
fn a_name_that_was_made_to_lead_here_is_not_answered() {
    let place = Place::new();
    let worker = Worker::start(&place, "--simulate");
    for path in ["/", "/api/status", "/api/events", "/api/explain?id=x", "/metrics"] {
        let (status, _, said) =
            ask(&worker.address, &format!("GET {path} HTTP/1.1\r\nhost: evil.example:9464\r\n"), "");
        assert_eq!(status, 421, "{path}: {said}");
        assert!(!said.contains("slots"), "{said}");
    }
    worker.stop();
}

#[test]
fn nothing_is_done_without_a_token_in_the_configuration() {
    let place = Place::new();
    let worker = Worker::start(&place, "--simulate");
    for path in ["/api/pause", "/api/resume", "/api/breaker", "/api/redrive"] {
        let (status, said) = post(&worker, path, "{}", &[]);
        assert_eq!((status, said.contains("worker.page_token")), (403, true), "{said}");
        let (status, head, _) = ask(&worker.address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n"), "");
        assert_eq!((status, head.contains("allow: post")), (405, true), "looking does nothing: {head}");
    }
    let status = worker.status();
    assert_eq!((&status["acts"], &status["paused"]), (&json!(false), &json!(false)));
    worker.stop();
}

#[test]
fn only_whoever_knows_the_token_acts_and_no_other_site_does() {
    let place = Place::new();
    let env = [("AQUIFER_WORKER_PAGE_TOKEN", TOKEN)];
    let worker = Worker::listening(&place, "--simulate", "127.0.0.1:0", &env);
    let own = worker.url().trim_end_matches('/').to_owned();
    for (headers, wanted) in [
        (&[("authorization", "Bearer a-token-for-the-tests-of-the-pagE")][..], 401),
        (&[("authorization", "")], 401),
        (&[("authorization", ""), ("cookie", TOKEN)], 401),
        (&[("origin", "http://evil.example")], 403),
        (&[("origin", "null")], 403),
        (&[("origin", &own), ("sec-fetch-site", "cross-site")], 403),
        (&[("content-type", "text/plain")], 415),
        (&[("content-type", "application/x-www-form-urlencoded")], 415),
        (&[("host", "evil.example")], 421),
    ] {
        let (status, said) = post(&worker, "/api/pause", "{}", headers);
        assert_eq!(status, wanted, "{headers:?}: {said}");
        assert!(!said.contains(TOKEN), "{said}");
        assert_eq!(worker.status()["paused"], false, "{headers:?}");
    }
    let (status, _) = post(&worker, &format!("/api/pause?token={TOKEN}"), "{}", &[("authorization", "")]);
    assert_eq!(status, 401, "an address is written into logs and histories");

    let (status, said) = post(&worker, "/api/pause", "{}", &[("origin", &own), ("sec-fetch-site", "same-origin")]);
    assert_eq!(status, 200, "{said}");
    assert_eq!(worker.status()["paused"], true);
    let (status, said) = post(&worker, "/api/resume", &"x".repeat(5_000), &[]);
    assert_eq!(status, 413, "{said}");
    assert_eq!(post(&worker, "/api/resume", "{}", &[]).0, 200);
    assert_eq!(worker.status()["paused"], false);

    worker.running.signal("TERM");
    let ended = worker.running.finish().exits(0);
    assert!(ended.stderr.contains("paused from the page"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(TOKEN), "{}", ended.stderr);
}

#[test]
fn b4_a_breaker_is_set_by_hand_only_from_the_state_that_was_seen() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 1);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    let env = [("AQUIFER_WORKER_PAGE_TOKEN", TOKEN)];
    let worker = Worker::listening(&place, "--simulate", "127.0.0.1:0", &env);
    let status = worker.until(|status| status["ended"] == 1);
    let lane = status["lanes"].as_array().unwrap().iter().find(|lane| lane["answered"] == 1).unwrap()["lane"].clone();
    let breaker = |worker: &Worker| {
        let status = worker.status();
        let lanes = status["lanes"].as_array().unwrap().clone();
        lanes.into_iter().find(|other| other["lane"] == lane).unwrap()["breaker"].clone()
    };
    let set = |hand: &str, seen: &str| {
        post(&worker, "/api/breaker", &json!({ "lane": lane, "hand": hand, "seen": seen }).to_string(), &[])
    };
    assert_eq!(set("close", "open").0, 409, "it is not open");
    assert_eq!(breaker(&worker), "closed");
    let (status, said) = set("open", "closed");
    assert_eq!((status, &serde_json::from_str::<Value>(&said).unwrap()["breaker"]), (200, &json!("open by hand")));
    assert_eq!(breaker(&worker), "open by hand");
    let (status, said) = set("open", "closed");
    assert_eq!(status, 409, "somebody was faster: {said}");
    assert!(said.contains("open by hand"), "{said}");

    // Nothing goes there, whoever asks, until a person says so.
    let told = place.aquifer(["lanes", "--json"]).exits(0);
    assert!(String::from_utf8_lossy(&told.stdout).contains("open by hand"));
    place.write_jobs("more.jsonl", 3);
    place.aquifer(["enqueue", "more.jsonl", "--simulate"]).exits(0);
    worker.until(|status| status["in_hand"] == 3 && status["gates"][0]["lane"] == lane);
    assert_eq!(set("close", "open by hand").0, 200);
    let status = worker.until(|status| status["ended"] == 4);
    assert_eq!(status["without_success"], 0, "{status}");

    assert_eq!(
        post(&worker, "/api/breaker", "{\"lane\":\"nowhere/m\",\"hand\":\"open\",\"seen\":\"closed\"}", &[]).0,
        404
    );
    for wrong in ["", "{}", "{\"lane\":\"a/b\",\"hand\":\"smash\",\"seen\":\"closed\"}"] {
        assert_eq!(post(&worker, "/api/breaker", wrong, &[]).0, 400, "{wrong}");
    }
    assert_eq!(set("open", "broken").0, 400);
    worker.stop();
}

#[test]
fn what_explain_tells_is_told_here_too_and_holds_neither_prompt_nor_answer() {
    let place = Place::new();
    place.write_jobs("demo.jsonl", 2);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    let worker = Worker::start(&place, "--simulate");
    // Its message goes last.
    worker.until(|status| status["ended"] == 2 && status["in_hand"] == 0);
    let explained = |query: &str| -> Value {
        let address = &worker.address;
        let (status, _, body) = ask(address, &format!("GET /api/explain?{query} HTTP/1.1\r\nhost: {address}\r\n"), "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let told = explained("id=job-1&batch=demo&tenant=default");
    assert_eq!(told["jobs"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(told["jobs"][0]["job"]["state"], "succeeded", "{told}");
    let lines: Vec<&str> =
        told["jobs"][0]["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let by_command = String::from_utf8(place.aquifer(["explain", "job-1"]).exits(0).stdout).unwrap();
    assert_eq!(lines.join("\n"), by_command.trim_end());
    assert!(!told.to_string().contains("Summarise"), "{told}");
    assert_eq!(explained("id=job-1&tenant=other")["jobs"], json!([]));
    let unknown = explained("id=job-%3Cscript%3E");
    assert_eq!(unknown["jobs"], json!([]));
    assert!(unknown["why"].as_str().unwrap().contains("no job is called"), "{unknown}");
    worker.stop();
}
