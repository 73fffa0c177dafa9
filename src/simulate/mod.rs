//! Can everything be tried without AWS? A Bedrock-shaped server with Bedrock's quota rules, and faults on order.
//!
//! It speaks the wire format, so that a run against it goes through the real SDK with its real errors, and it counts
//! by itself what it has admitted, charged and answered, so that the client's books can be checked against somebody
//! else's. Nothing of the pacing rules is shared with it: a wrong rule must not agree with itself.
//!
//! Same seed and same requests, same answers, latencies and faults by chance, in whatever order they arrive.
//! What AWS does not document is a setting of the scenario (see `examples/scenarios/`).
//!
//! A call comes in by [`http`] (the wire) or [`door`] (a caller in this process, whose clock may stand still), and is
//! [`call`] from there on: [`request`] (what is asked), [`service`] (admission by the [`lane`]'s [`ledger`] and [`cache`],
//! [`unseen`] charges, faults by [`fault`]), [`open`] until it is settled, [`answer`] and [`respond`].

mod answer;
mod brownout;
mod cache;
mod call;
mod chance;
mod door;
mod errors;
mod fault;
mod file;
mod http;
mod lane;
mod ledger;
mod open;
mod report;
mod request;
mod respond;
mod scenario;
mod scope;
mod service;
mod unseen;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use door::{ErrorResponse, InProcess, NoAnswer, Operation};
pub use report::{LaneReport, MinuteReport, ModelReport, Report};
pub use scenario::{Scenario, ScenarioError};
use service::Service;

/// A running simulator; dropping it stops it.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    service: Arc<Service>,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// Starts a simulator; its clock starts with it, and unless the scenario has a `minute_offset`, fixed minutes turn with
/// those of UTC, as the service's may. Port 0 takes a free one, see [`Simulator::address`].
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(listen: SocketAddr, scenario: Scenario) -> io::Result<Simulator> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let service = Arc::new(Service::new(scenario.starting_at(since_epoch)));
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(accept(listener, Arc::clone(&service), tasks.clone(), stop.clone()));
    Ok(Simulator { address, service, tasks, stop: stop.drop_guard() })
}

impl Simulator {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The count up to now.
    pub fn report(&self) -> Report {
        self.service.report()
    }

    /// Closes every connection, answered or not, and gives the last count.
    pub async fn stop(self) -> Report {
        drop(self.stop);
        self.tasks.close();
        self.tasks.wait().await;
        self.service.report()
    }
}

async fn accept(listener: TcpListener, service: Arc<Service>, tasks: TaskTracker, stop: CancellationToken) {
    /// Accepting fails when the process is out of file handles; trying at once again would only burn time.
    const BREATH: Duration = Duration::from_millis(20);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        if let Ok((stream, _)) = accepted {
            let service = Arc::clone(&service);
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(http::serve(service, stream)).await });
        } else {
            tokio::time::sleep(BREATH).await;
        }
    }
}
