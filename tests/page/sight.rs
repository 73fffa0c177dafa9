//! What does a person see, and can they do everything without a mouse?

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::chromium::{Browser, Screen, Tab};
use crate::support::{Place, job};
use crate::{TOKEN, Worker};

/// Every figure on the page, by where it stands.
const FIGURES: &str = "(() => {
    const all = {};
    const take = (root, name) => {
        for (const node of root.querySelectorAll('[data-figure]')) all[name + node.dataset.figure] = node.textContent;
    };
    take(document.getElementById('tiles'), '');
    take(document.getElementById('failures'), 'failure ');
    for (const card of document.querySelectorAll('#lanes article')) take(card, `lane ${card.dataset.lane} `);
    for (const table of ['models', 'tenants', 'batches'])
        for (const row of document.querySelectorAll(`#${table} tr`)) take(row, `${table} ${row.dataset.row} `);
    for (const node of document.querySelectorAll('[data-step]')) all['step ' + node.dataset.step] = node.textContent;
    return all;
})()";

/// As the page writes a whole number: 1,234.
fn count(value: &Value) -> String {
    let Some(number) = value.as_u64() else { return "–".to_owned() };
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap());
    groups.collect::<Vec<_>>().join(",")
}

fn dollars(value: &Value) -> String {
    format!("${:.4}", value.as_f64().unwrap())
}

/// What a page must show that shows this status: everything that does not change from second to second.
fn expected(status: &Value) -> BTreeMap<String, String> {
    fn each<'s>(status: &'s Value, list: &str) -> impl Iterator<Item = &'s Value> {
        status[list].as_array().unwrap_or_else(|| panic!("{list}: {status}")).iter()
    }
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = BTreeMap::new();
    for field in ["in_hand", "slots", "ended", "without_success", "model_calls", "throttled", "call_failures"] {
        all.insert(field.to_owned(), count(&status[field]));
    }
    for field in ["ready", "in_flight", "delayed", "dead"] {
        all.insert(format!("queue.{field}"), count(&status["queue"][field]));
    }
    for field in ["input_tokens", "output_tokens"] {
        all.insert(field.to_owned(), count(&status[field]));
    }
    all.insert("cost_usd".to_owned(), dollars(&status["cost_usd"]));
    for step in each(status, "steps") {
        all.insert(format!("step {}", word(&step["step"])), count(&step["jobs"]));
    }
    for failure in each(status, "failures") {
        let s = if failure["jobs"] == 1 { "" } else { "s" };
        all.insert(format!("failure {}", word(&failure["class"])), format!("{} job{s}", count(&failure["jobs"])));
    }
    let mut rows = |table: &str, name: String, row: &Value, fields: &[&str]| {
        for field in fields {
            all.insert(format!("{table} {name} {field}"), count(&row[*field]));
        }
        all.insert(format!("{table} {name} cost_usd"), dollars(&row["cost_usd"]));
    };
    for lane in each(status, "lanes") {
        let fields = ["answered", "throttled", "call_failures", "tokens_reserved"];
        rows("lane", word(&lane["lane"]), lane, &fields);
    }
    for model in each(status, "models") {
        rows("models", word(&model["model"]), model, &["answered", "input_tokens", "output_tokens"]);
    }
    for tenant in each(status, "tenants") {
        let fields = ["ended", "without_success", "input_tokens", "output_tokens"];
        rows("tenants", word(&tenant["tenant"]), tenant, &fields);
    }
    for batch in each(&status["batches"], "known") {
        let name = format!("{}/{}", word(&batch["tenant"]), word(&batch["batch"]));
        rows("batches", name, batch, &["total", "succeeded", "failed", "rejected", "expired"]);
    }
    for batch in each(&status["batches"], "known").filter(|batch| batch["eta_s"] == 0.0) {
        let name = format!("{}/{}", word(&batch["tenant"]), word(&batch["batch"]));
        all.insert(format!("batches {name} eta_s"), "done".to_owned());
    }
    for lane in each(status, "lanes") {
        let limit = &lane["tokens_per_minute"];
        let limit = if limit.is_null() { "not known".to_owned() } else { count(limit) };
        all.insert(format!("lane {} tokens_per_minute", word(&lane["lane"])), limit);
    }
    all
}

/// The page that is shown is at least as new as this status.
fn until_shown(tab: &mut Tab<'_>, status: &Value) {
    tab.until(&format!("Number(document.documentElement.dataset.at) > {}", status["at"]));
}

/// The page and the status say the same. What changes between the two looks at the status is looked at again.
fn assert_same(tab: &mut Tab<'_>, worker: &Worker) {
    for _ in 0..30 {
        let before = worker.status();
        until_shown(tab, &before);
        let shown: BTreeMap<String, String> = serde_json::from_value(tab.value(FIGURES)).unwrap();
        let (wanted, after) = (expected(&before), expected(&worker.status()));
        if wanted != after {
            continue;
        }
        for (name, value) in &wanted {
            assert_eq!(shown.get(name), Some(value), "{name} of {shown:#?}");
        }
        return;
    }
    panic!("the status does not come to rest: {}", worker.status());
}

/// Nothing went wrong behind the scenes, and nobody else was asked.
fn assert_quiet(tab: &mut Tab<'_>, worker: &Worker, allowed: &[&str]) {
    let complaints = tab.complaints();
    let unexpected: Vec<_> = complaints.iter().filter(|said| !allowed.iter().any(|part| said.contains(part))).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    let requests = tab.requests();
    assert!(requests.iter().any(|url| url.ends_with("/api/events")), "{requests:?}");
    let elsewhere: Vec<_> =
        requests.iter().filter(|url| !url.starts_with(&worker.url()) && *url != "about:blank").collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

/// Jobs of two tenants, of which the simulator refuses two, and a worker that has ended them all.
fn worked(place: &Place, env: &[(&str, &str)]) -> (Worker, Value) {
    place.write("faults.toml", "[[fault]]\nkind = \"ValidationException\"\ncalls = \"every 20\"\n");
    let tenants = ["acme", "globex"];
    let jobs: Vec<Value> = (1..=40_usize)
        .map(|n| {
            let mut job = job(n);
            job["tenant"] = json!(tenants[usize::from(n % 4 == 0)]);
            job
        })
        .collect();
    place.write_lines("reviews.jsonl", &jobs);
    place.aquifer(["enqueue", "reviews.jsonl", "--simulate"]).exits(0);
    let worker = Worker::listening(place, "--simulate=faults.toml", "127.0.0.1:0", env);
    let is_over = |status: &Value| status["ended"] == 40 && status["in_hand"] == 0 && status["queue"]["ready"].is_u64();
    let status = worker.until(is_over);
    assert_eq!((&status["without_success"], &status["failures"][0]["class"]), (&json!(2), &json!("invalid")));
    (worker, status)
}

#[test]
fn o1_the_figures_on_the_page_are_those_of_the_status() {
    let place = Place::new();
    let (worker, _) = worked(&place, &[]);
    let mut browser = Browser::start();
    let mut tab = browser.tab(Screen::DESK);
    tab.go(&worker.url());
    tab.until("document.getElementById('state').textContent === 'ready'");
    assert_same(&mut tab, &worker);

    // It keeps up by itself.
    place.write_jobs("more.jsonl", 1_000);
    place.aquifer(["enqueue", "more.jsonl", "--simulate"]).exits(0);
    tab.until("document.querySelector('[data-figure=ended]').textContent === '1,040'");
    assert_same(&mut tab, &worker);
    let over = "batches acme/reviews eta_s".to_owned();
    assert_eq!(expected(&worker.status()).get(&over).map(String::as_str), Some("done"), "it has an end to compare");
    let shown = tab.text("main");
    assert!(shown.contains("acme") && shown.contains("globex") && shown.contains("reviews"), "{shown}");
    assert!(!shown.contains("Summarise"), "no prompt is shown: {shown}");
    let newest = tab.value("[...document.querySelectorAll('#failures a')].map((link) => link.textContent)");
    let after = worker.status();
    let failures = after["failures"].as_array().unwrap().iter().map(|failure| failure["newest"].clone());
    let ids: Vec<Value> =
        failures.flat_map(|jobs| jobs.as_array().unwrap().clone()).map(|job| job["id"].clone()).collect();
    assert_eq!(newest, json!(ids));

    assert!(tab.bytes() < 150.0 * 1_024.0, "{} bytes", tab.bytes());
    assert_quiet(&mut tab, &worker, &[]);
    worker.stop();
}

#[test]
fn b2_a_breaker_that_opens_shows_with_its_time_left_and_closes() {
    let place = Place::new();
    place.write("away.toml", "[[fault]]\nkind = \"ServiceUnavailableException\"\nuntil = \"12s\"\n");
    place.write_jobs("demo.jsonl", 30);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    let env = [("AQUIFER_BREAKER_OPEN_FOR", "5s"), ("AQUIFER_ROUTING_COOL_DOWN", "1s")];
    // Before the worker: a browser may have to be installed first, and the service is away for so long only.
    let mut browser = Browser::start();
    let worker = Worker::listening(&place, "--simulate=away.toml", "127.0.0.1:0", &env);
    let mut tab = browser.tab(Screen::DESK);
    tab.go(&worker.url());
    let breaker = |look: &str| {
        format!(
            "[...document.querySelectorAll('#lanes [data-figure=breaker]')].find((node) => {look})?.className || false"
        )
    };
    let open = tab.until(&breaker("/^open, [1-9] s left$/.test(node.textContent)"));
    assert_eq!(open, "bad");
    let waits = tab.until("document.querySelector('#waits li')?.textContent");
    assert!(waits.as_str().unwrap().contains(" left"), "{waits}");
    tab.until("document.querySelector('[data-figure=ended]').textContent === '30'");
    let all =
        "![...document.querySelectorAll('#lanes [data-figure=breaker]')].some((node) => node.textContent !== 'closed')";
    tab.until(all);
    assert_same(&mut tab, &worker);
    assert_quiet(&mut tab, &worker, &[]);
    worker.stop();
}

#[test]
fn the_page_recovers_when_the_worker_is_started_again() {
    let place = Place::new();
    let worker = Worker::start(&place, "--simulate");
    let (url, address) = (worker.url(), worker.address.clone());
    let mut browser = Browser::start();
    let mut tab = browser.tab(Screen::DESK);
    tab.go(&url);
    tab.until("document.getElementById('link').textContent === 'live'");
    tab.value("window.untouched = true");
    worker.running.signal("KILL");
    drop(worker);
    tab.until("document.getElementById('link').textContent.includes('does not answer')");

    place.write_jobs("demo.jsonl", 7);
    place.aquifer(["enqueue", "demo.jsonl", "--simulate"]).exits(0);
    let worker = Worker::listening(&place, "--simulate", &address, &[]);
    tab.until("document.getElementById('link').textContent === 'live'");
    tab.until("document.querySelector('[data-figure=ended]').textContent === '7'");
    assert_eq!(tab.value("window.untouched"), true, "it is the page that was there, not one loaded anew");
    assert_same(&mut tab, &worker);
    // A browser says so itself when it reaches nobody.
    assert_quiet(&mut tab, &worker, &["/api/events"]);
    worker.stop();
}

#[test]
fn a_keyboard_is_enough_to_find_a_failure_and_what_became_of_it() {
    let place = Place::new();
    let (worker, status) = worked(&place, &[]);
    let failed = &status["failures"][0]["newest"][0];
    let mut browser = Browser::start();
    let mut tab = browser.tab(Screen::DESK);
    tab.go(&worker.url());
    tab.until("document.querySelectorAll('#failures a').length === 2");
    tab.press("Tab");
    assert_eq!(tab.value("document.activeElement.className"), "skip", "the first stop leads past the head");
    tab.press("Enter");
    assert_eq!(tab.value("document.activeElement.id"), "main");
    tab.tab_to("#failures a");
    tab.press("Enter");
    tab.until("document.getElementById('explained').textContent.includes('ValidationException')");
    assert_eq!(tab.value("document.activeElement.id"), "explained", "a reader is taken to the answer");
    let told = tab.text("#explained");
    let by_command = place.aquifer(["explain", failed["id"].as_str().unwrap()]).exits(0);
    assert_eq!(told, String::from_utf8(by_command.stdout).unwrap().trim_end());

    // The address says which job it was, so that it can be sent to somebody.
    let address = tab.value("location.href");
    tab.go(address.as_str().unwrap());
    tab.until("document.getElementById('explained').textContent.includes('ValidationException')");

    tab.go(&worker.url());
    tab.until("document.getElementById('link').textContent === 'live'");
    tab.tab_to("#explain-id");
    tab.type_in("job-1");
    tab.press("Enter");
    tab.until("document.getElementById('explained').textContent.includes('succeeded at')");
    tab.tab_to("#explain-id");
    tab.value("document.getElementById('explain-id').select()");
    tab.type_in("<img src=x onerror=alert(1)>");
    tab.press("Enter");
    tab.until("document.getElementById('explained').textContent.includes('no job is called `<img')");
    assert_eq!(tab.value("document.querySelectorAll('img').length"), 0, "text stays text");
    assert_quiet(&mut tab, &worker, &[]);
    worker.stop();
}

#[test]
fn b4_with_the_token_a_keyboard_is_enough_to_act() {
    let place = Place::new();
    let (worker, _) = worked(&place, &[("AQUIFER_WORKER_PAGE_TOKEN", TOKEN)]);
    let mut browser = Browser::start();
    let mut tab = browser.tab(Screen::DESK);
    tab.go(&worker.url());
    let state = |word: &str| format!("document.getElementById('state').textContent === '{word}'");
    tab.until(&state("ready"));
    tab.tab_to("#token");
    tab.type_in("not the token that it wants");
    tab.tab_to("#pause");
    tab.press("Space");
    tab.until("document.getElementById('acted').textContent.startsWith('not done: this is not the token')");
    assert_eq!(worker.status()["paused"], false);

    tab.value("document.getElementById('token').value = ''; document.getElementById('token').focus()");
    tab.type_in(TOKEN);
    tab.tab_to("#pause");
    tab.press("Space");
    tab.until(&state("paused"));
    // A question to the queue that was under way when the pause began may still be answered, within half a second.
    let paused = worker.status()["at"].as_i64().unwrap();
    until_shown(&mut tab, &json!({ "at": paused + 3_000 }));
    place.write_jobs("more.jsonl", 5);
    place.aquifer(["enqueue", "more.jsonl", "--simulate"]).exits(0);
    let received = worker.until(|status| status["queue"]["ready"] == 5);
    assert_eq!((&received["ended"], &received["paused"]), (&json!(40), &json!(true)));
    tab.press("Space");
    tab.until(&state("ready"));
    tab.until("document.querySelector('[data-figure=ended]').textContent === '45'");

    tab.value("document.activeElement.blur()");
    let lane = tab.value("[...document.querySelectorAll('#lanes article')].find((card) => card.querySelector('[data-figure=answered]').textContent !== '0').dataset.lane");
    let card = format!("#lanes article[data-lane={lane}]");
    let breaker = |word: &str| {
        format!("document.querySelector({} + ' [data-figure=breaker]').textContent === '{word}'", json!(card))
    };
    tab.tab_to(&format!("{card} [data-hand=open]"));
    tab.press("Enter");
    tab.until(&breaker("open by hand"));
    tab.tab_to(&format!("{card} [data-hand=close]"));
    tab.press("Enter");
    tab.until(&breaker("closed"));
    assert!(!tab.value("document.documentElement.outerHTML").as_str().unwrap().contains(TOKEN));
    assert!(tab.requests().iter().all(|url| !url.contains(TOKEN)), "it is in no address");
    assert_quiet(&mut tab, &worker, &["401"]);
    worker.stop();
}

/// Of two colours, as WCAG has it; 4.5 and more can be read.
const CONTRASTS: &str = "(() => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).map((part) => {
            const share = Number(part) / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!colour.endsWith(', 0)')) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const texts = document.createTreeWalker(document.querySelector('body'), NodeFilter.SHOW_TEXT);
    const poor = [];
    for (let text = texts.nextNode(); text; text = texts.nextNode()) {
        const node = text.parentElement;
        if (!text.data.trim() || !node.checkVisibility() || node.closest('svg, noscript, :disabled')) continue;
        const [one, two] = [light(getComputedStyle(node).color), light(behind(node))];
        const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        if (contrast < 4.5) poor.push(`${text.data.trim()}: ${contrast.toFixed(2)}`);
    }
    return { ground: light(getComputedStyle(document.body).backgroundColor), poor };
})()";

#[test]
fn it_can_be_read_by_day_by_night_and_on_a_phone() {
    let place = Place::new();
    let (worker, _) = worked(&place, &[("AQUIFER_WORKER_PAGE_TOKEN", TOKEN)]);
    let mut browser = Browser::start();
    let mut tab = browser.tab(Screen::DESK);
    tab.go(&worker.url());
    tab.until("document.querySelectorAll('#failures a').length === 2");
    for (screen, is_dark) in [(Screen::DESK, false), (Screen::DESK_AT_NIGHT, true), (Screen::PHONE, false)] {
        tab.on(screen);
        let seen = tab.value(CONTRASTS);
        assert_eq!(seen["poor"], json!([]), "{screen:?}");
        assert_eq!(seen["ground"].as_f64().unwrap() < 0.2, is_dark, "{screen:?}: {seen}");
        let wide = tab.value("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= u64::from(screen.width), "{screen:?} must be scrolled sideways: {wide}");
    }
    let unnamed = "[...document.querySelectorAll('button, input, a, svg, progress, meter')].filter((node) =>
        !(node.textContent.trim() || node.getAttribute('aria-label') || node.labels?.length)).map((node) => node.outerHTML)";
    assert_eq!(tab.value(unnamed), json!([]), "all that can be used or seen has a name");
    let heads =
        tab.value("[...document.querySelectorAll('table')].every((table) => table.querySelector('th[scope=col]'))");
    assert_eq!(heads, true);
    assert_quiet(&mut tab, &worker, &[]);
    worker.stop();
}

/// `PICTURE=... cargo test --test page picture -- --ignored`: a worker that is busy, for the README.
#[test]
#[ignore = "it checks nothing: it takes the README's picture, in three minutes"]
fn picture() {
    let name = std::env::var("PICTURE").expect("PICTURE names the file that is written");
    let place = Place::new();
    place.write(
        "busy.toml",
        "[latency]\np50 = \"1s\"\np99 = \"3s\"\n\n[answer]\nmean = 60\nspread = 20\n\n\
         [[model]]\nid = \"us.anthropic.claude-haiku-4-5-20251001-v1:0\"\ntokens_per_minute = 60_000\n\n\
         [[model]]\nid = \"us.amazon.nova-lite-v1:0\"\ntokens_per_minute = 40_000\n\n\
         [[fault]]\nkind = \"ServiceUnavailableException\"\nmodel = \"us.amazon.nova-lite-v1:0\"\nfrom = \"120s\"\nuntil = \"400s\"\n\n\
         [[fault]]\nkind = \"ValidationException\"\ncalls = \"every 190\"\n",
    );
    place.write(
        "aquifer.toml",
        "[worker]\nslots = 96\n\n[[endpoint]]\nregion = \"us-east-1\"\nregion_profile_prefix = \"us\"\n\n\
         [[model]]\nname = \"haiku\"\nid = \"anthropic.claude-haiku-4-5-20251001-v1:0\"\ntokens_per_minute = 60_000\n\
         price = { input = 1.00, output = 5.00 }\n\n[[model]]\nname = \"nova-lite\"\nid = \"amazon.nova-lite-v1:0\"\n\
         tokens_per_minute = 40_000\nprice = { input = 0.06, output = 0.24 }\n",
    );
    let tenants = ["acme", "globex", "initech"];
    for (file, jobs) in [("reviews.jsonl", 2_000), ("claims.jsonl", 1_500)] {
        let jobs: Vec<Value> = (1..=jobs)
            .map(|n| {
                let mut job = job(n);
                job["tenant"] = json!(tenants[[0, 0, 0, 0, 1, 1, 2][n % 7]]);
                job["model"] = json!(if n % 3 == 0 { "haiku" } else { "nova-lite" });
                job
            })
            .collect();
        place.write_lines(file, &jobs);
        place.aquifer(["enqueue", file, "--simulate"]).exits(0);
    }
    let worker = Worker::start(&place, "--simulate=busy.toml");
    let mut browser = Browser::start();
    let mut tab = browser.tab(Screen { width: 1_000, height: 1_700, is_dark: false });
    tab.go(&worker.url());
    tab.until("samples.length >= 30");
    std::fs::write(name, tab.picture()).unwrap();
    worker.stop();
}
