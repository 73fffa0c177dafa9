//! Every event and metric name in one list.
