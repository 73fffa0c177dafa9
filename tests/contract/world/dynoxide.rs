//! The AWS back end on ministack, but for its table: that is dynoxide's.

use super::{World, aws};
use crate::dynoxide;

pub(crate) async fn world() -> World {
    aws::with_table_at(dynoxide::url()).await
}
