//! Knowledge bases: the real SDK and the real worker, before a service that does not mind two ingestions at once and a proxy that
//! does.

use std::time::Duration;

use aquifer::bedrock::{Credentials, Endpoint, KnowledgeBases};
use aquifer::job::failure::Class;
use aquifer::job::ident::{BatchName, JobId, JobKey, Tenant};
use aquifer::job::ingest::{DataSource, IngestToken, Phase};
use aquifer::ports::{Begun, Ingestions as _};
use aws_sdk_bedrockagent::types::{
    DataSourceConfiguration, DataSourceType, KnowledgeBaseConfiguration, KnowledgeBaseType, S3DataSourceConfiguration,
    VectorKnowledgeBaseConfiguration,
};
use serde_json::json;

use crate::ministack;
use crate::proxy::{Fault, Service};
use crate::world::{World, stop_all, until};

/// A data source of two documents below `docs/` of the world's bucket, in a knowledge base of its own.
pub(crate) fn data_source(world: &World) -> DataSource {
    let agents = aws_sdk_bedrockagent::Client::new(&world.sdk);
    let s3 = aws_sdk_s3::config::Builder::from(&world.sdk).force_path_style(true).build();
    let s3 = aws_sdk_s3::Client::from_conf(s3);
    let bucket = &world.settings.bucket;
    world.wait(async {
        for (key, text) in [("docs/a.txt", "One thing."), ("docs/b.txt", "And another.")] {
            let body = aws_sdk_s3::primitives::ByteStream::from_static(text.as_bytes());
            s3.put_object().bucket(bucket).key(key).body(body).send().await.unwrap();
        }
        let model = VectorKnowledgeBaseConfiguration::builder().embedding_model_arn("arn:aws:bedrock:::m").build();
        let vectors = KnowledgeBaseConfiguration::builder()
            .r#type(KnowledgeBaseType::Vector)
            .vector_knowledge_base_configuration(model.unwrap())
            .build();
        let base = agents.create_knowledge_base().name("base").role_arn("arn:aws:iam::000000000000:role/r");
        let base = base.knowledge_base_configuration(vectors.unwrap()).customize();
        // The emulator knows the path by its last slash alone, which the SDK leaves out.
        let base = base.mutate_request(|request| {
            let uri = format!("{}/", request.uri());
            request.set_uri(uri).unwrap();
        });
        let base = base.send().await.unwrap();
        let base = base.knowledge_base().unwrap().knowledge_base_id().to_owned();
        let place = S3DataSourceConfiguration::builder()
            .bucket_arn(format!("arn:aws:s3:::{bucket}"))
            .inclusion_prefixes("docs/")
            .build();
        let place =
            DataSourceConfiguration::builder().r#type(DataSourceType::S3).s3_configuration(place.unwrap()).build();
        let source = agents.create_data_source().knowledge_base_id(&base).name("source");
        let source = source.data_source_configuration(place.unwrap()).send().await.unwrap();
        let id = source.data_source().unwrap().data_source_id().to_owned();
        let fields = json!({ "knowledge_base_id": base, "data_source_id": id });
        DataSource::read(fields.as_object().unwrap()).unwrap()
    })
}

fn token(id: &str) -> IngestToken {
    let (tenant, batch, id) = (Tenant::unnamed(), BatchName::new("b").unwrap(), JobId::new(id).unwrap());
    IngestToken::of(&JobKey { tenant, batch, id }, 0)
}

#[test]
fn the_sdk_lists_begins_and_tells_of_ingestions_and_a_conflict_is_no_failure() {
    let world = World::new("1ms");
    let source = data_source(&world);
    let endpoint = Endpoint { region: ministack::REGION.into(), endpoint_url: Some(world.proxy.url().to_owned()) };
    let service = KnowledgeBases::new(endpoint, Credentials::Simulator);
    world.wait(async {
        assert_eq!(service.region().await, ministack::REGION);
        assert!(service.newest(&source).await.unwrap().is_empty());
        world.proxy.next(Service::BedrockAgent, "StartIngestionJob", Fault::Conflict);
        assert_eq!(service.begin(&source, &token("a")).await.unwrap(), Begun::Busy);
        assert!(service.newest(&source).await.unwrap().is_empty(), "nothing was begun");
        assert_eq!(service.begin(&source, &token("a")).await.unwrap(), Begun::Yes);
        let newest = service.newest(&source).await.unwrap();
        let [ingestion] = &newest[..] else { panic!("{newest:?}") };
        assert_eq!((ingestion.phase, &ingestion.token), (Phase::Complete, &Some(token("a"))));
        assert_eq!((ingestion.counts.documents_scanned, ingestion.counts.new_documents_indexed), (2, 2));
        assert!(service.reasons(&source, &ingestion.id).await.unwrap().is_empty());
        assert_eq!(service.begin(&source, &token("b")).await.unwrap(), Begun::Yes);
        let newest = service.newest(&source).await.unwrap();
        assert!(newest.len() == 2 && newest[0].began >= newest[1].began, "newest first: {newest:?}");

        let fields = json!({ "knowledge_base_id": "KBNOTTHERE", "data_source_id": "DSNOTTHERE" });
        let nowhere = DataSource::read(fields.as_object().unwrap()).unwrap();
        assert_eq!(service.begin(&nowhere, &token("c")).await.unwrap_err().class, Class::Denied);
        // As often as the SDK tries by itself, and once more.
        for _ in 0..3 {
            world.proxy.next(Service::BedrockAgent, "ListIngestionJobs", Fault::Throttle);
        }
        assert_eq!(service.newest(&source).await.unwrap_err().class, Class::QuotaMinute);
        world.proxy.take_away(Service::BedrockAgent);
        assert_eq!(service.newest(&source).await.unwrap_err().class, Class::Unavailable);
        world.proxy.bring_back(Service::BedrockAgent);
        assert!(service.newest(&source).await.is_ok());
    });
}

#[test]
fn two_overlapping_ingestions_meet_a_conflict_and_one_covers_both() {
    let world = World::new("1ms");
    world.configure("", "slots = 8\nlease = \"10s\"");
    let source = data_source(&world);
    // The first to begin is on its way while the second is refused, however often it asks.
    world.proxy.next(Service::BedrockAgent, "StartIngestionJob", Fault::Delay(Duration::from_secs(2)));
    for _ in 0..5 {
        world.proxy.next(Service::BedrockAgent, "StartIngestionJob", Fault::Conflict);
    }
    let sqs = aws_sdk_sqs::Client::new(&world.sdk);
    world.wait(async {
        for id in ["job-1", "job-2"] {
            let body = json!({ "id": id, "batch": "demo", "ingest": source }).to_string();
            sqs.send_message().queue_url(&world.settings.queue_url).message_body(body).send().await.unwrap();
        }
    });
    let worker = world.worker();
    until("both ends", || world.ended().len() == 2);
    world.until_queue_is_empty();
    stop_all(vec![worker]);
    assert!(world.rows().values().all(|row| row.state == "succeeded"), "{:?}", world.rows());
    let begun = world.proxy.seen_of(Service::BedrockAgent, "StartIngestionJob");
    assert!(begun.calls >= 2, "both would begin one: {begun:?}");
    assert_eq!(begun.calls, begun.faults, "the first was late, and every other was refused");
    let agents = aws_sdk_bedrockagent::Client::new(&world.sdk);
    let listed = agents
        .list_ingestion_jobs()
        .knowledge_base_id(source.knowledge_base_id.as_str())
        .data_source_id(source.data_source_id.as_str());
    let listed = world.wait(listed.send()).unwrap();
    assert_eq!(listed.ingestion_job_summaries().len(), 1);
}
