//! What `forget` leaves of a batch: nothing; and of one that is not complete: all of it.

use aquifer::aws::{Forgotten, Unforgotten};
use aquifer::job::ident::{BatchName, JobKey};
use aquifer::job::lifecycle::Status;

use crate::ministack;
use crate::stored::{Place, batch, enqueue, job, listed};

impl Place {
    /// The keys of all objects, and the partitions of all rows, that are of the batch.
    async fn left(&self) -> (Vec<String>, Vec<String>) {
        let sdk = ministack::sdk(ministack::url());
        let listed = ministack::s3(&sdk).list_objects_v2().bucket(&self.settings.bucket).send().await.unwrap();
        let objects = listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect();
        let scan = aws_sdk_dynamodb::Client::new(&sdk).scan().table_name(&self.settings.table).send().await.unwrap();
        let text = |item: &std::collections::HashMap<_, aws_sdk_dynamodb::types::AttributeValue>, name: &str| {
            item[name].as_s().unwrap().clone()
        };
        let rows = scan.items().iter().map(|item| format!("{} {}", text(item, "pk"), text(item, "sk")));
        (objects, rows.filter(|row| !row.starts_with("calls/")).collect())
    }

    /// Enqueued, worked and announced, as a whole.
    async fn complete(&self, jobs: &[JobKey]) {
        let lines: Vec<_> = jobs.iter().enumerate().map(|(place, job)| listed(place, job)).collect();
        let mut roll = self.fleet.rolls().begin(&batch(), None).await.unwrap();
        enqueue(&mut *roll, &lines, 40).await;
        self.seal(&mut *roll).await;
        self.finish_all(jobs).await;
        for tenant in ["acme", "beta"] {
            self.manifest(tenant).await;
            self.announced(tenant).await;
        }
    }

    async fn announced(&self, tenant: &str) {
        let batch = job(tenant, 0).batch_key();
        let complete = self.fleet.ledger().complete_unannounced(&batch).await.unwrap().unwrap();
        self.fleet.ledger().mark_announced(&batch, complete.completion).await.unwrap();
    }
}

fn jobs(count: usize) -> Vec<JobKey> {
    (0..count).map(|n| job(if n % 3 == 0 { "acme" } else { "beta" }, n)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_batch_leaves_nothing_and_its_neighbour_everything() {
    let place = Place::new().await;
    let neighbour = JobKey { batch: BatchName::new("reviews").unwrap(), ..job("acme", 1) };
    place.finish(&neighbour, Status::Succeeded).await;
    let others = place.left().await;
    place.complete(&jobs(100)).await;
    let (objects, rows) = place.left().await;
    assert!(objects.len() > others.0.len() + 4 && rows.len() > others.1.len() + 100, "{objects:?} {rows:?}");

    let forgotten = place.fleet.forget(&batch()).await.unwrap();
    let gone = (objects.len() - others.0.len()) as u64;
    assert_eq!(forgotten, Forgotten { jobs: 100, objects: gone });
    assert_eq!(place.left().await, others);
    let error = place.fleet.forget(&batch()).await.unwrap_err();
    assert_eq!(error, Unforgotten::NotYet(format!("there is no batch {}", batch())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_not_complete_or_not_announced_is_left_alone() {
    let place = Place::new().await;
    let all: Vec<JobKey> = (0..3).map(|n| job("acme", n)).collect();
    let lines: Vec<_> = all.iter().enumerate().map(|(place, job)| listed(place, job)).collect();
    let mut roll = place.fleet.rolls().begin(&batch(), None).await.unwrap();
    enqueue(&mut *roll, &lines, 40).await;
    place.finish_all(&all[..2]).await;
    let why = async || place.fleet.forget(&batch()).await.unwrap_err().to_string();
    assert!(why().await.contains("nobody said yet that all of it is sent"), "{}", why().await);
    place.seal(&mut *roll).await;
    assert!(why().await.contains("1 jobs of"), "{}", why().await);
    place.finish_all(&all[2..]).await;
    assert!(why().await.contains("announced"), "{}", why().await);
    assert_eq!(place.left().await.1.iter().filter(|row| row.starts_with("job/")).count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgetting_goes_on_where_it_was_interrupted() {
    let place = Place::new().await;
    place.complete(&jobs(60)).await;
    // As a kill between the rows and the entry of the index leaves it, with a count gone that says how many had ended.
    let sdk = ministack::sdk(ministack::url());
    let proxy = crate::proxy::Proxy::start(ministack::url(), 1);
    let through = aquifer::aws::Fleet::connect_to(
        &ministack::emulated(proxy.url()),
        place.settings.clone(),
        std::sync::Arc::new(crate::Stopped),
    );
    proxy.take_away(crate::proxy::Service::S3);
    through.forget(&batch()).await.unwrap_err();
    let dynamodb = aws_sdk_dynamodb::Client::new(&sdk);
    for row in place.left().await.1.iter().filter(|row| row.starts_with("batch/") && row.contains(" count/")) {
        let (pk, sk) = row.rsplit_once(" ").unwrap();
        let text = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
        let gone = dynamodb.delete_item().table_name(&place.settings.table).key("pk", text(pk)).key("sk", text(sk));
        gone.send().await.unwrap();
    }
    place.fleet.forget(&batch()).await.unwrap();
    assert_eq!(place.left().await, (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_producers_sent_is_found_by_its_results() {
    let place = Place::new().await;
    let all = jobs(30);
    place.finish_all(&all).await;
    for (tenant, total) in [("acme", 10), ("beta", 20)] {
        let seal = aquifer::aws::Seal { total, refused: 0, roll: None };
        place.fleet.seal(&job(tenant, 0).batch_key(), &seal).await.unwrap();
        place.announced(tenant).await;
    }
    assert_eq!(place.fleet.forget(&batch()).await.unwrap().jobs, 30);
    assert_eq!(place.left().await, (vec![], vec![]));
}
