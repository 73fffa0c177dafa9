//! What becomes of files that are put into a watched folder? Each one that is whole is queued as the document job that the first
//! fitting `[[upload]]` rule of its folder says, once: the store queues a job of a name once and for all, so that a worker that
//! dies, starts again, or works beside others on the same state directory pays for nothing twice.
//!
//! What is looked at but not taken (no rule is for it, it was done before) costs nothing until it changes. Trouble with a folder
//! or a file is said once and waited for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Settings;
use crate::document::{Dropped, Drops, News};
use crate::embedded::Store;
use crate::flow::context::Context;
use crate::flow::stop::Stop;
use crate::job::dropped::{DroppedContent, DroppedFile};
use crate::job::upload::{Origin, UploadRule};
use crate::ports::Finding;

use super::args::{Places, RESULTS};
use super::documents::{Content, digest};
use super::exit::Report;
use super::terminal::say;
use super::wiring;

/// Between two looks at a folder. A file is whole when two found it the same, so that this is also how long a program that
/// writes may pause.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Of the time, looking takes no more than one part in so many.
const SHARE: u32 = 20;
const SUBJECT: &str = "folder";

/// The folders of `[[upload]]`.
#[derive(Debug)]
pub(crate) struct Folders {
    watched: Vec<Watched>,
    default_model: Option<Arc<str>>,
}

/// One of them.
#[derive(Clone, Debug)]
struct Watched {
    root: PathBuf,
    rules: Vec<UploadRule>,
    /// What of ours lies in it or around it.
    ours: Vec<PathBuf>,
}

impl Folders {
    /// Those of this configuration; none may be there yet.
    ///
    /// # Errors
    /// A report: what is watched would be our own, or twice the same, or nobody could be asked.
    pub(crate) fn of(settings: &Settings, places: &Places) -> Result<Self, Report> {
        let folders = Self::read(settings, places);
        match folders.mistakes().into_iter().next() {
            Some((what, remedy)) => Err(Report::usage(what).hint(remedy)),
            None => Ok(folders),
        }
    }

    fn read(settings: &Settings, places: &Places) -> Self {
        let config = wiring::config_file(places.config.as_deref()).map(Path::to_owned);
        let ours = [places.state.clone(), PathBuf::from(RESULTS)].into_iter().chain(config);
        let ours: Vec<PathBuf> = ours.map(|path| real(&path)).collect();
        let mut watched: Vec<Watched> = Vec::new();
        for rule in &settings.uploads {
            let Origin::Folder(root) = &rule.origin else { continue };
            match watched.iter_mut().find(|folder| folder.root == *root) {
                Some(folder) => folder.rules.push(rule.clone()),
                None => {
                    watched.push(Watched { root: root.clone(), rules: vec![rule.clone()], ours: ours.clone() });
                }
            }
        }
        Self { watched, default_model: settings.default_model().map(|model| Arc::clone(&model.name)) }
    }

    /// What is wrong with them whatever lies in them, and what mends it.
    fn mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        for (index, folder) in self.watched.iter().enumerate() {
            let (shown, place) = (folder.root.display(), real(&folder.root));
            if let Some(ours) = folder.ours.iter().find(|ours| place.starts_with(ours)) {
                mistakes.push((
                    format!(
                        "the watched folder {shown} lies in {}, which is our own: results would come back as uploads",
                        ours.display()
                    ),
                    "name another folder in [[upload]], or another directory with --state".to_owned(),
                ));
            }
            for other in self.watched.iter().skip(index + 1) {
                let another = real(&other.root);
                if place.starts_with(&another) || another.starts_with(&place) {
                    mistakes.push((
                        format!("the watched folders {shown} and {} hold the same files", other.root.display()),
                        "watch the outer one, and tell what lies deeper by `prefix`".to_owned(),
                    ));
                }
            }
            if self.default_model.is_none() && folder.rules.iter().any(|rule| rule.model.is_none()) {
                mistakes.push((
                    format!("a rule of the watched folder {shown} names no `model`, and there is no default"),
                    "name one there, or as [[model]]".to_owned(),
                ));
            }
        }
        mistakes
    }

    /// Watches them, until the worker stops.
    pub(crate) fn watch(self, store: &Store, context: &Arc<Context>) -> JoinSet<()> {
        let mut watching = JoinSet::new();
        for folder in self.watched {
            say(&format!("watching {}", folder.root.display()));
            for ours in folder.inside() {
                say(&format!("note: {} lies in it and is our own: passed over", ours.display()));
            }
            let desk = Desk {
                folder,
                default_model: self.default_model.clone(),
                store: store.clone(),
                context: Arc::clone(context),
            };
            watching.spawn(desk.watch());
        }
        watching
    }
}

/// What `aquifer check` says of the watched folders.
pub(crate) fn check(settings: &Settings, places: &Places) -> Vec<Finding> {
    let folders = Folders::read(settings, places);
    let mistakes = folders.mistakes().into_iter().map(|(what, remedy)| Finding::error(SUBJECT, what, remedy));
    mistakes.chain(folders.watched.iter().flat_map(Watched::check)).collect()
}

impl Watched {
    /// What of ours lies in it.
    fn inside(&self) -> Vec<&PathBuf> {
        let place = real(&self.root);
        self.ours.iter().filter(|ours| ours.starts_with(&place) && **ours != place && ours.exists()).collect()
    }

    fn check(&self) -> Vec<Finding> {
        let shown = self.root.display();
        if let Err(error) = std::fs::read_dir(&self.root) {
            let what = format!("{shown} cannot be watched: {error}");
            return vec![Finding::error(
                SUBJECT,
                what,
                "make it, or mount it, and let the worker's user read it; a worker waits for that",
            )];
        }
        let mut drops = Drops::new(&self.root, self.ours.clone());
        // Whole is what two looks find the same.
        let news = drops.look().news;
        let found = drops.look().whole;
        let wanted = found.iter().filter(|file| self.rule_for(file).is_some()).count();
        let mut findings = vec![Finding::ok(
            SUBJECT,
            format!("{shown} is watched by `aquifer worker`; files in it that a rule is for: {wanted}"),
        )];
        findings.extend(self.inside().into_iter().map(|ours| {
            let what = format!("{} lies in {shown} and is our own: it is passed over", ours.display());
            Finding::advice(SUBJECT, what, "watch a folder of its own")
        }));
        findings.extend(news.into_iter().filter_map(|news| match news {
            News::Unreadable { path, why } => {
                let what = format!("{} cannot be read: {why}", path.display());
                Some(Finding::error(SUBJECT, what, "let the worker's user read it"))
            }
            News::Readable { .. } => None,
        }));
        findings
    }

    fn rule_for(&self, file: &Dropped) -> Option<&UploadRule> {
        let name = name_of(file)?;
        self.rules.iter().find(|rule| rule.is_for(&name))
    }
}

/// Takes in what is dropped into one folder.
struct Desk {
    folder: Watched,
    default_model: Option<Arc<str>>,
    store: Store,
    context: Arc<Context>,
}

impl Desk {
    async fn watch(self) {
        let stop = &self.context.stop;
        let mut drops = Drops::new(&self.folder.root, self.folder.ours.clone());
        let mut took = Duration::ZERO;
        loop {
            let began = Instant::now();
            let looked = blocking(stop, move || {
                let look = drops.look();
                (drops, look)
            });
            let Some((back, look)) = looked.await else { return };
            let before = std::mem::replace(&mut took, began.elapsed());
            drops = back;
            look.news.iter().for_each(tell);
            for dropped in look.whole {
                match self.take_in(&dropped).await {
                    Taken::Done => drops.taken(&dropped),
                    Taken::Later(None) => {}
                    Taken::Later(Some(why)) => drops.put_off(&dropped, &why).iter().for_each(tell),
                    Taken::NoneNow => break,
                }
            }
            tokio::select! {
                () = stop.drained() => return,
                () = tokio::time::sleep(pause_after(before, took)) => {}
            }
        }
    }

    async fn take_in(&self, dropped: &Dropped) -> Taken {
        let Some(name) = name_of(dropped) else {
            return Taken::Later(Some("its name is no Unicode text; rename it".to_owned()));
        };
        let Some(rule) = self.folder.rule_for(dropped) else { return Taken::Done };
        let Some(folder) = dropped.folder.to_str() else {
            return Taken::Later(Some("its folder's name is no Unicode text; rename it".to_owned()));
        };
        let read = {
            let dropped = dropped.clone();
            blocking(&self.context.stop, move || content_of(&dropped)).await
        };
        let content = match read {
            None => return Taken::NoneNow,
            Some(Ok(Some(content))) => content,
            // Gone, or written to meanwhile: the next look tells.
            Some(Ok(None)) => return Taken::Later(None),
            Some(Err(error)) => return Taken::Later(Some(error.to_string())),
        };
        let file = DroppedFile { folder: folder.to_owned(), name, content };
        let mut job = match rule.job_of_file(&file, self.default_model.as_deref()) {
            Ok(job) => job,
            Err(error) => return Taken::Later(Some(error.to_string())),
        };
        let id = job.key.id.clone();
        let span = self.context.meter.traces().creates(&job);
        job.trace = span.context();
        match self.store.take_in(job).await {
            Ok(true) => {
                tracing::info!(%id, "a file was dropped in and is queued");
                Taken::Done
            }
            // At each start that is all that lies there.
            Ok(false) => {
                tracing::debug!(%id, "a file that is known already");
                span.not_sent();
                Taken::Done
            }
            Err(error) => {
                self.context.meter.store_trouble(&error);
                span.not_sent();
                Taken::NoneNow
            }
        }
    }
}

/// Between a look and the next, when this one and the one before took so long. Of a large folder, or one on a slow mount, every
/// look takes long; if one alone did, the machine stood still, and a folder is not left for a minute because of that.
fn pause_after(before: Duration, took: Duration) -> Duration {
    LOOK_EVERY.max(took.min(before).saturating_mul(SHARE))
}

/// What became of a file that was offered.
enum Taken {
    /// Nothing is left to do with it until it changes.
    Done,
    /// It is to be offered again; if something is in the way, what that is.
    Later(Option<String>),
    /// Neither it nor any other can be taken just now.
    NoneNow,
}

/// Its content, if it is the file that was seen and nobody wrote to it meanwhile. Blocks.
fn content_of(dropped: &Dropped) -> io::Result<Option<DroppedContent>> {
    let read = digest(&dropped.path()).and_then(|content| Ok((content, dropped.is_unchanged()?)));
    let content = match read {
        Ok((content, true)) => content,
        Ok((_, false)) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(match content {
        Content::Whole(digest) => DroppedContent::Whole(digest),
        Content::TooLarge => DroppedContent::TooLarge {
            bytes: dropped.stamp.bytes,
            modified: dropped.stamp.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis(),
        },
    }))
}

/// Its name below the folder, with `/` between folders; `None` if it is no Unicode text.
fn name_of(dropped: &Dropped) -> Option<String> {
    let names: Option<Vec<&str>> = dropped.name.iter().map(|name| name.to_str()).collect();
    names.map(|names| names.join("/"))
}

fn tell(news: &News) {
    match news {
        News::Unreadable { path, why } => {
            say(&format!("warning: {} cannot be read ({why}); it is waited for", path.display()));
        }
        News::Readable { path } => say(&format!("{} can be read again", path.display())),
    }
}

/// What blocks, where it holds nobody up; `None` once the worker stops, for a network mount may never answer.
async fn blocking<T: Send + 'static>(stop: &Stop, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.drained() => None,
        done = tokio::task::spawn_blocking(work) => {
            done.inspect_err(|error| tracing::error!(%error, "a folder is watched no longer")).ok()
        }
    }
}

/// The path from the root and without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for above in path.ancestors() {
        if let (Ok(real), Ok(below)) = (above.canonicalize(), path.strip_prefix(above)) {
            return if below.as_os_str().is_empty() { real } else { real.join(below) };
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that stood still for three seconds during a look left the folder alone for a minute.
    #[test]
    fn one_look_that_took_long_does_not_put_off_the_next() {
        let (quick, slow) = (Duration::from_millis(1), Duration::from_secs(3));
        assert_eq!(pause_after(quick, slow), LOOK_EVERY);
        assert_eq!(pause_after(slow, quick), LOOK_EVERY);
        assert_eq!(pause_after(slow, slow), slow * SHARE);
    }
}
