//! A service, and workers that live and die.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::relay::{First, Log, Relay};
use crate::support::{Ended, Place, Running};

/// The design's bar: from a restart after `kill -9` to the next call.
pub(crate) const NEXT_CALL_WITHIN: Duration = Duration::from_secs(1);

/// The model of these tests.
pub(crate) const MODEL: &str = "anthropic.claude-haiku-4-5-20251001-v1:0";

/// Dice whose seed is printed, so that a failure can be had again.
pub(crate) fn dice(test: &str) -> StdRng {
    let seed = match std::env::var("CRASH_SEED") {
        Ok(seed) => seed.parse().expect("CRASH_SEED is a number"),
        Err(_) => rand::rng().random(),
    };
    println!("{test}: CRASH_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A moment out of this many milliseconds.
pub(crate) fn moment(dice: &mut StdRng, millis: Range<u64>) -> Duration {
    Duration::from_millis(dice.random_range(millis))
}

/// `aquifer simulate` in a process of its own.
pub(crate) struct Service {
    running: Running,
    pub(crate) address: SocketAddr,
}

impl Service {
    /// Every call takes this long.
    pub(crate) fn start(place: &Place, latency: &str) -> Self {
        Self::start_as(place, latency, "mean = 40.0", "127.0.0.1:0")
    }

    /// Likewise, with answers like these.
    pub(crate) fn start_with(place: &Place, latency: &str, answer: &str) -> Self {
        Self::start_as(place, latency, answer, "127.0.0.1:0")
    }

    fn start_as(place: &Place, latency: &str, answer: &str, listen: &str) -> Self {
        let latency = format!("constant = \"{latency}\"\nper_output_token = \"0s\"");
        Self::playing(place, &format!("[latency]\n{latency}\n[answer]\n{answer}\n"), listen)
    }

    /// That plays this scenario.
    pub(crate) fn playing(place: &Place, scenario: &str, listen: &str) -> Self {
        place.write("scenario.toml", scenario);
        let arguments = ["simulate", "--listen", listen, "--scenario", "scenario.toml"];
        let mut running = Running::start(place.command(arguments));
        let line = running.until_said(&["http://"]);
        let (_, after) = line.split_once("http://").unwrap();
        let address = after.split_whitespace().next().unwrap().parse().unwrap();
        Self { running, address }
    }

    pub(crate) fn signal(&self, name: &str) {
        self.running.signal(name);
    }

    /// Ends it; its own count.
    pub(crate) fn finish(self) -> Count {
        self.running.signal("INT");
        let ended = self.running.finish().exits(0);
        let report = String::from_utf8(ended.stdout).unwrap();
        let number = |after: &str| -> usize {
            let (before, _) = report.split_once(after).unwrap_or_else(|| panic!("no `{after}` in {report}"));
            before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
        };
        Count {
            answered: number(" answered,"),
            twice: number(" bodies answered twice"),
            settled_tokens: number(" settled; "),
            over_quota: number(" calls would have been throttled"),
        }
    }
}

/// What a service counted by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count {
    /// Whole answers.
    pub(crate) answered: usize,
    /// Bodies that it answered more than once.
    pub(crate) twice: usize,
    /// What all calls were charged in the end.
    pub(crate) settled_tokens: usize,
    /// Calls that its quota would have refused, had it been enforced.
    pub(crate) over_quota: usize,
}

/// Writes a configuration for a model without quotas, as this test wants its worker.
pub(crate) fn configure(place: &Place, worker: &str) {
    configure_with(place, "", worker);
}

/// Likewise, with more to say of the model.
pub(crate) fn configure_with(place: &Place, model: &str, worker: &str) {
    place.write(
        "aquifer.toml",
        format!(
            "[[model]]\nname = \"haiku\"\nid = \"{MODEL}\"\nmax_tokens = 100\n\
             price = {{ input = 1.0, output = 5.0 }}\n{model}\n[[endpoint]]\nregion = \"us-west-2\"\n\n[worker]\n{worker}\n"
        ),
    );
}

/// One life of `aquifer run`, from its start to its kill or its end.
pub(crate) struct Life {
    running: Running,
    pub(crate) relay: Relay,
    born: Instant,
}

impl Life {
    pub(crate) fn start(place: &Place, arguments: &[&str], service: &Service) -> Self {
        Self::with(place.command(arguments), &[], service)
    }

    /// With more in its environment.
    pub(crate) fn start_in(place: &Place, environment: &[(&str, &str)], arguments: &[&str], service: &Service) -> Self {
        Self::with(place.command(arguments), environment, service)
    }

    /// Started by a shell, which finds the binary as the last of its arguments.
    pub(crate) fn start_by(place: &Place, shell: &[&str], service: &Service) -> Self {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(env!("CARGO_BIN_EXE_aquifer")).current_dir(place.path("")).env_clear();
        command.env("HOME", place.path("")).env("PATH", std::env::var_os("PATH").unwrap());
        Self::with(command, &[], service)
    }

    /// Credentials are such as nobody issued.
    fn with(mut command: Command, environment: &[(&str, &str)], service: &Service) -> Self {
        let relay = Relay::start(service.address);
        command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "not-a-secret");
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", format!("http://{}", relay.address()));
        command.envs(environment.iter().copied());
        let born = Instant::now();
        Self { running: Running::start(command), relay, born }
    }

    /// Waits until it has made its first call.
    pub(crate) fn until_asked(&self) {
        self.relay.until("a first call", |log| !log.requests.is_empty());
    }

    /// Waits for a moment of its life. The one timer of these tests: a random moment is nothing but a time.
    pub(crate) fn sleep_until_aged(&self, age: Duration) {
        if let Some(left) = age.checked_sub(self.born.elapsed()) {
            std::thread::sleep(left);
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        self.running.signal(name);
    }

    /// Waits for a line on stderr that holds this.
    pub(crate) fn until_said(&mut self, words: &str) -> String {
        self.running.until_said(&[words])
    }

    /// `kill -9`, should it still be alive.
    pub(crate) fn end(mut self) -> Log {
        self.running.child.kill().unwrap();
        self.running.child.wait().unwrap();
        self.relay.finish()
    }

    /// `kill -9`. It must have been alive.
    pub(crate) fn kill(mut self) -> Dead {
        self.running.child.kill().unwrap();
        let status = self.running.child.wait().unwrap();
        let age = self.born.elapsed();
        if status.signal() != Some(9) {
            panic!("it ended before it was killed: {:?}", self.running.finish());
        }
        Dead { relay: self.relay, age }
    }

    /// Waits for its own end.
    pub(crate) fn finish(self) -> (Ended, Log) {
        let ended = self.running.finish();
        (ended, self.relay.finish())
    }
}

/// What a life leaves; calls that it sent may still be open.
pub(crate) struct Dead {
    pub(crate) relay: Relay,
    age: Duration,
}

impl Dead {
    /// Waits until the service is done with its calls; what it asked.
    pub(crate) fn bury(self) -> Log {
        let log = self.relay.finish();
        assert!(!log.requests.is_empty() || self.age <= 10 * NEXT_CALL_WITHIN, "no call within {:?}", self.age);
        assert_prompt(&log);
        log
    }
}

/// The first call of a life came soon enough. Tests share their machine: while something waits for a
/// processor or the disk, a second is not one, but it is never ten.
pub(crate) fn assert_prompt(log: &Log) {
    if let Some(First { after, starved }) = log.first {
        let own = after.saturating_sub(starved);
        assert!(own <= NEXT_CALL_WITHIN, "{after:?} from start to first call, of which {starved:?} starved");
        assert!(after <= 10 * NEXT_CALL_WITHIN, "{after:?} from start to first call");
    }
}
