//! What other services put into the queue by themselves, in their own words.

use crate::support::{job, json_lines};
use crate::world::{World, stop_all, until};

async fn send(world: &World, body: &str) {
    let sqs = aws_sdk_sqs::Client::new(&world.sdk);
    sqs.send_message().queue_url(&world.settings.queue_url).message_body(body).send().await.unwrap();
}

#[test]
fn a_message_without_a_model_is_asked_of_the_first_one_and_one_that_is_no_job_is_logged_with_its_id() {
    let world = World::new("10ms");
    world.configure("", "");
    let told = job(1);
    assert_eq!(told.get("model"), None, "{told}");
    world.wait(send(&world, &told.to_string()));
    let mut worker = world.worker();
    let id = told["id"].as_str().unwrap();
    until("its end", || {
        let explained = world.run(&["explain", id, "--json"]);
        explained.code == 0 && json_lines(&explained.stdout).iter().any(|job| job["state"] == "succeeded")
    });

    world.wait(send(&world, "no job at all"));
    let logged = worker.until_said("dead-lettered");
    let names = logged.matches("\"message\":").count();
    assert_eq!(
        (names, logged.contains("\"message_id\":")),
        (1, true),
        "a name twice is read by nobody alike: {logged}"
    );
    stop_all(vec![worker]);
    assert_eq!(world.depth().dead, 1, "that is the only one");
}
