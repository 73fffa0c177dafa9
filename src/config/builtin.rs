//! Which models does the simulator know without a configuration file?
//!
//! Prices (US dollars per million tokens) and quotas are those that AWS published for US regions when this was
//! written. They make a simulated run look like a real one; a real run never uses them.

use std::sync::Arc;

use super::{EndpointSettings, ModelSettings, Settings};
use crate::job::units::{PerMinute, Price, Usd};

struct Builtin {
    name: &'static str,
    id: &'static str,
    tokens_per_minute: u64,
    /// 0 is none.
    requests_per_minute: u64,
    /// Input, output, cache read, cache write: thousandths of a cent.
    price: [u64; 4],
}

const MODELS: [Builtin; 6] = [
    Builtin {
        name: "haiku",
        id: "anthropic.claude-haiku-4-5-20251001-v1:0",
        tokens_per_minute: 5_000_000,
        requests_per_minute: 10_000,
        price: [100_000, 500_000, 10_000, 125_000],
    },
    Builtin {
        name: "sonnet",
        id: "anthropic.claude-sonnet-4-6",
        tokens_per_minute: 6_000_000,
        requests_per_minute: 10_000,
        price: [300_000, 1_500_000, 30_000, 375_000],
    },
    Builtin {
        name: "nova-micro",
        id: "amazon.nova-micro-v1:0",
        tokens_per_minute: 8_000_000,
        requests_per_minute: 4_000,
        price: [3_500, 14_000, 875, 3_500],
    },
    Builtin {
        name: "nova-lite",
        id: "amazon.nova-lite-v1:0",
        tokens_per_minute: 8_000_000,
        requests_per_minute: 4_000,
        price: [6_000, 24_000, 1_500, 6_000],
    },
    Builtin {
        name: "nova-pro",
        id: "amazon.nova-pro-v1:0",
        tokens_per_minute: 2_000_000,
        requests_per_minute: 500,
        price: [80_000, 320_000, 20_000, 80_000],
    },
    Builtin {
        name: "titan-embed",
        id: "amazon.titan-embed-text-v2:0",
        tokens_per_minute: 0, // not in the published table that the others are from
        requests_per_minute: 0,
        price: [2_000, 0, 2_000, 2_000],
    },
];

/// The settings of a simulated run without a configuration file: six models with prices and quotas, one endpoint.
pub fn simulated() -> Settings {
    let dollars = |thousandths_of_a_cent: u64| Usd::from_nanos(thousandths_of_a_cent * 10_000);
    let models = MODELS.iter().map(|builtin| {
        let [input, output, cache_read, cache_write] = builtin.price.map(dollars);
        ModelSettings {
            name: Arc::from(builtin.name),
            tokens_per_minute: PerMinute::new(builtin.tokens_per_minute),
            requests_per_minute: PerMinute::new(builtin.requests_per_minute),
            price: Some(Price { input, output, cache_read, cache_write }),
            ..ModelSettings::bare(builtin.id)
        }
    });
    // As in an account: these models are called by the inference profile of a geography, not by their bare ids.
    let endpoint =
        EndpointSettings { region_profile_prefix: Some("us".to_owned()), ..EndpointSettings::bare("us-east-1") };
    Settings { models: models.collect(), endpoints: vec![endpoint], ..Settings::default() }
}
