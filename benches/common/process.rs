//! The binary in a process of its own, and what the system counted of a process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::worker::{MODEL, REGION};

/// The kernel's unit of CPU time, the same on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process so far.
pub(crate) fn cpu(process: u32) -> Duration {
    ticks(process, &[11, 12])
}

/// User time of a process so far.
pub(crate) fn user_cpu(process: u32) -> Duration {
    ticks(process, &[11])
}

/// User and system time of this process's children that have ended.
pub(crate) fn cpu_of_children() -> Duration {
    ticks(std::process::id(), &[13, 14])
}

/// The sum of fields after the name of the program.
fn ticks(process: u32, fields: &[usize]) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name of the program stands in parentheses and may hold anything.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let rest: Vec<&str> = rest.split_whitespace().collect();
    fields.iter().map(|field| TICK * rest[*field].parse::<u32>().unwrap()).sum()
}

/// The most memory a process ever held, in MiB; `None` once it has ended.
pub(crate) fn peak_memory(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1_024.0)
}

/// The binary under test, in this folder, with dummy credentials and nothing that a machine might add to its environment.
pub(crate) fn aquifer(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aquifer"));
    command.current_dir(folder).env_clear().env("HOME", folder).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_ACCESS_KEY_ID", "bench").env("AWS_SECRET_ACCESS_KEY", "bench");
    command.stdin(Stdio::null());
    command
}

/// A configuration of one model without a quota, at this address.
pub(crate) fn config(address: SocketAddr) -> String {
    format!(
        "[[model]]\nname = 'model'\nid = '{MODEL}'\nprice = {{ input = 1.0, output = 1.0 }}\n\
         [[endpoint]]\nregion = '{REGION}'\nendpoint_url = 'http://{address}'\n"
    )
}

/// The simulator in a process of its own; killed at the end.
pub(crate) struct Simulator {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Simulator {
    /// Starts it with this scenario.
    pub(crate) fn start(folder: &Path, scenario: &str) -> Self {
        let file = folder.join("scenario.toml");
        std::fs::write(&file, scenario).unwrap();
        let mut command = aquifer(folder);
        command.args(["simulate", "--listen", "127.0.0.1:0", "--scenario"]).arg(&file);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        let address = said.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
        Self { child, address }
    }

    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
