//! The rules, as arithmetic: time and randomness are arguments, so that they can be proved without waiting.
//!
//! | question | file |
//! |---|---|
//! | May this call be made now, by the quota, and if not, when? | [`pace`] |
//! | How many tokens will it take? | [`estimate`] |
//! | How many tokens are reserved for an answer that may be of any length? | [`rightsize`] |
//! | What will it cost, and where is the batch heading? | [`budget`] |
//! | How long will all of it take, and what will hold it back? | [`forecast`] |
//! | Which lane gets it? | [`route`] |
//! | Is that lane's service well? | [`breaker`] |
//! | How many calls may be open on it at once? | [`concurrency`] |
//! | What do all workers know of it? | [`lane`] |
//! | How long is a lane left alone after a failure? | [`cooldown`] |
//! | How long does a job wait before it is tried again? | [`retry`] |
//! | Does an ingestion of a knowledge base cover a job, and what if none does? | [`ingest`] |
//! | What is known of the few that are in use? | [`recent`] |

pub mod breaker;
pub mod budget;
pub mod concurrency;
pub mod cooldown;
pub mod estimate;
pub mod forecast;
pub mod ingest;
pub mod lane;
pub mod pace;
pub mod recent;
pub mod retry;
pub mod rightsize;
pub mod route;
