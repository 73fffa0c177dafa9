//! What notices must do; see `ports::Notices`.

use aquifer::job::lifecycle::Status;
use aquifer::job::notice::Notice;
use aquifer::job::outcome::Tally;

use crate::world::{World, key};

pub(crate) async fn d9_notices_may_be_repeated(w: World) {
    let ending = w.ending("a", Status::Succeeded).await;
    let notice = Notice::of_job(&key("a"), 0, &Tally::default(), &ending);
    for _ in 0..2 {
        w.notices.publish(&notice).await.unwrap();
    }
    let published = w.place.published(2).await;
    assert_eq!(published.len(), 2);
    assert_eq!(published[0], published[1]);
    assert_eq!(published[0]["kind"], "job");
}
