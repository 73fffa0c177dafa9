//! What does a person see and do at a page, and what does the page do behind their back?

use serde_json::{Value, json};

use super::Browser;

/// What the page is looked at on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) is_dark: bool,
}

impl Screen {
    pub(crate) const DESK: Self = Self { width: 1_200, height: 900, is_dark: false };
    pub(crate) const DESK_AT_NIGHT: Self = Self { is_dark: true, ..Self::DESK };
    pub(crate) const PHONE: Self = Self { width: 360, height: 780, is_dark: false };
}

/// A page that is open.
pub(crate) struct Tab<'b> {
    browser: &'b mut Browser,
    session: String,
    /// Addresses that were asked for.
    requests: Vec<String>,
    /// Errors and warnings of the console, uncaught exceptions, what a policy forbade.
    complaints: Vec<String>,
    /// Bytes that came over the wire.
    bytes: f64,
}

impl<'b> Tab<'b> {
    pub(super) fn open(browser: &'b mut Browser, screen: Screen) -> Self {
        let target = browser.call(None, "Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call(None, "Target.attachToTarget", &attach)["sessionId"].as_str().unwrap().to_owned();
        let mut tab = Self { browser, session, requests: Vec::new(), complaints: Vec::new(), bytes: 0.0 };
        for domain in ["Page", "Runtime", "Network", "Log"] {
            tab.call(&format!("{domain}.enable"), &json!({}));
        }
        tab.on(screen);
        tab
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.browser.call(Some(&self.session), method, params)
    }

    /// Looks at it on another screen.
    pub(crate) fn on(&mut self, screen: Screen) {
        let Screen { width, height, is_dark } = screen;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media);
    }

    /// Goes there.
    pub(crate) fn go(&mut self, url: &str) {
        let went = self.call("Page.navigate", &json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{url}: {went}");
    }

    /// The value of an expression in the page, promises awaited.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let ask = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &ask);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    pub(crate) fn text(&mut self, selector: &str) -> String {
        let value = self.value(&format!("document.querySelector({})?.textContent", json!(selector)));
        value.as_str().unwrap_or_else(|| panic!("there is no {selector}")).to_owned()
    }

    /// Waits until an expression is true, which is looked at whenever the document changes; its value. A page that is just
    /// being left takes the wait with it, which then begins anew.
    pub(crate) fn until(&mut self, expression: &str) -> Value {
        let wait = format!(
            "new Promise((resolve) => {{
                const look = () => {{
                    let value;
                    try {{ value = ({expression}); }} catch {{ return; }}
                    if (value) {{ watch.disconnect(); resolve(value); }}
                }};
                const watch = new MutationObserver(look);
                watch.observe(document, {{ subtree: true, childList: true, characterData: true, attributes: true }});
                look();
            }})"
        );
        let ask = json!({ "expression": wait, "awaitPromise": true, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", &ask);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Presses a key, by the name that browsers give it.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Space" => (32, " "),
            other => panic!("no such key here: {other}"),
        };
        let name = if key == "Space" { " " } else { key };
        let mut event = json!({ "type": "keyDown", "key": name, "code": key, "windowsVirtualKeyCode": code });
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", &event);
        event["type"] = json!("keyUp");
        self.call("Input.dispatchKeyEvent", &event);
    }

    /// Types where the focus is.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// Presses Tab until the focus is on what the selector matches; how often.
    pub(crate) fn tab_to(&mut self, selector: &str) -> u32 {
        const FAR: u32 = 200;
        let is_there = format!("document.activeElement.matches({})", json!(selector));
        for presses in 0..FAR {
            if self.value(&is_there) == true {
                return presses;
            }
            self.press("Tab");
        }
        panic!("{selector} cannot be reached by keyboard");
    }

    /// A picture of all of the page, as PNG.
    #[allow(dead_code, reason = "one of the tests keeps it")]
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        use base64::Engine as _;
        let shot = self.call("Page.captureScreenshot", &json!({ "format": "png", "captureBeyondViewport": false }));
        base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    fn hear(&mut self) {
        let told: Vec<Value> = self.browser.told().collect();
        for message in told.iter().filter(|message| message["sessionId"] == self.session.as_str()) {
            let params = &message["params"];
            match message["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    self.requests.push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
                }
                "Network.loadingFinished" => self.bytes += params["encodedDataLength"].as_f64().unwrap_or_default(),
                "Log.entryAdded" => {
                    let entry = &params["entry"];
                    self.complaints.push(format!("{}: {} {}", entry["level"], entry["text"], entry["url"]));
                }
                "Runtime.consoleAPICalled" => self.complaints.push(params.to_string()),
                "Runtime.exceptionThrown" => self.complaints.push(params["exceptionDetails"].to_string()),
                _ => {}
            }
        }
    }

    /// What was complained of so far, by the page, the browser or a policy.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        self.hear();
        self.complaints.clone()
    }

    /// The addresses that were asked for so far.
    pub(crate) fn requests(&mut self) -> Vec<String> {
        self.hear();
        self.requests.clone()
    }

    /// What came over the wire so far, in bytes.
    pub(crate) fn bytes(&mut self) -> f64 {
        self.hear();
        self.bytes
    }
}
